"""Every way of asking an InternVL, one function each.

    python examples/quickstart.py [--model default] [--video FILE] [NAME ...]

Without names all run, in this order. The default model is the small one inside the package; its words are poor, and
`--model OpenGVLab/InternVL3-2B-hf` (or any other InternVL checkpoint) answers well. Without `--video` the photos stand
in for the frames of one.
"""

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path

from vision_agent import AnswerDone, GenerationOptions, TextDelta, VisionAgent
from vision_agent.images.video import VideoSource

PHOTOS = [Path(__file__).parent / "photos" / name for name in ("000000139872.jpg", "000000423617.jpg")]
SHORT = GenerationOptions(max_new_tokens=48)


def words_only(agent: VisionAgent) -> list[str]:
    """Talk without any image."""
    chat = agent.chat(options=SHORT)
    return [chat.ask("Hello, who are you?").text, chat.ask("Can you tell me a story?").text]


def one_image(agent: VisionAgent) -> list[str]:
    """Ask one question about one image, and caption it."""
    answer = agent.ask("Please describe the image shortly.", PHOTOS[0], options=SHORT)
    return [answer.text, agent.caption(PHOTOS[0], length="short").text]


def several_rounds(agent: VisionAgent) -> list[str]:
    """Talk about one image. It is encoded once; later rounds pay for their own words only."""
    chat = agent.chat(options=SHORT)
    first = chat.ask("Please describe the image in detail.", PHOTOS[0])
    return [first.text, chat.ask("Please write a poem according to the image.").text]


def images_combined(agent: VisionAgent) -> list[str]:
    """Show two images as one: the model sees a single run of tiles."""
    return [agent.ask("Describe the two images in detail.", PHOTOS, combine=True, max_tiles=3, options=SHORT).text]


def images_apart(agent: VisionAgent) -> list[str]:
    """Show two images that the model can name: `Image-1`, `Image-2`. A third one may join later."""
    chat = agent.chat(options=SHORT)
    first = chat.ask("Describe the two images in detail.", PHOTOS, max_tiles=3)
    return [first.text, chat.ask("What are the similarities and differences between these two images?").text]


def batch(agent: VisionAgent) -> list[str]:
    """Ask many questions at once: a list of them, and an image (or a list of images) for each."""
    questions = ["Describe the image in detail."] * len(PHOTOS)
    return [answer.text for answer in agent.ask(questions, PHOTOS, max_tiles=3, options=SHORT)]


def video(agent: VisionAgent, source: VideoSource = PHOTOS) -> list[str]:
    """Talk about a video: eight frames of it, evenly, from a file, its bytes, or a list of frames."""
    chat = agent.chat(options=SHORT)
    first = chat.ask("What is happening?", video=source, segments=8)
    return [first.text, chat.ask("Describe this video in detail. Don't repeat.").text]


def streaming(agent: VisionAgent) -> list[str]:
    """Print an answer as it is written. Leaving the loop early stops the model."""
    pieces = []
    for event in agent.ask("Please describe the image in detail.", PHOTOS[1], options=SHORT, stream=True):
        match event:
            case TextDelta(text=text):
                pieces.append(text)
            case AnswerDone(answer=answer):
                pieces.append(f" [{answer.finish_reason}: {answer.completion_tokens} tokens]")
    return ["".join(pieces)]


def asynchronous(agent: VisionAgent) -> list[str]:
    """Await the same verbs."""

    async def ask() -> list[str]:
        answers = [await agent.aio.ask("Is there a dog?", photo, choices=["yes", "no"]) for photo in PHOTOS]
        return [answer.text for answer in answers]

    return asyncio.run(ask())


USES: dict[str, Callable[[VisionAgent], list[str]]] = {
    use.__name__: use
    for use in (
        words_only,
        one_image,
        several_rounds,
        images_combined,
        images_apart,
        batch,
        video,
        streaming,
        asynchronous,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default", help="the default, a checkpoint folder or a hub name")
    parser.add_argument("--video", help="a video file; needs the extra `video`")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(USES)}")
    options = parser.parse_args()
    if unknown := set(options.names) - set(USES):
        parser.error(f"NAME must be one of {', '.join(USES)}, but got {', '.join(sorted(unknown))}")
    agent = VisionAgent() if options.model == "default" else VisionAgent.from_pretrained(options.model)
    for name in options.names or USES:
        texts = video(agent, options.video) if name == "video" and options.video else USES[name](agent)
        print(f"# {name}", *(f"- {text}" for text in texts), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
