"""The tools without any framework: definitions for a provider's API, and calls as a language model would write them.

    python examples/plain_tools.py [PHOTO] [PHRASE]

A program that talks to a provider sends `definitions` along with its messages, passes every call that comes back to
`call`, and sends `text` as the result. Here the calls are written by hand: find, cut out, describe.
"""

import json
import sys
from pathlib import Path

from vision_agent import ImageStore, ToolError, VisionAgent
from vision_agent.tools import Toolkit

PHOTO = Path(__file__).parent / "photos" / "000000139872.jpg"


def look_closely(agent: VisionAgent, photo: Path, phrase: str) -> list[str]:
    """Return the results of the calls, as a language model would read them."""
    toolkit = Toolkit(agent, store=ImageStore(roots=[photo.parent]))
    definitions = toolkit.definitions("openai")  # or "anthropic"
    assert {each["function"]["name"] for each in definitions} >= {"detect", "crop", "caption"}

    texts = []

    def call(name: str, arguments: str) -> dict[str, object]:
        try:
            result = toolkit.call(name, arguments)
        except ToolError as error:  # says what to do instead; send it back as the result
            texts.append(str(error))
            return {}
        texts.append(result.text)
        return result.content

    found = call("detect", json.dumps({"image": photo.name, "phrases": [phrase]}))
    items = found.get("items")
    if isinstance(items, list) and items:
        cut = call("crop", json.dumps({"image": found["image"], "box": items[0]["box"], "padding": 0.1}))
        (new_image,) = cut["images"]  # type: ignore[misc]
        call("caption", json.dumps({"image": new_image, "length": "short"}))
    call("detect", json.dumps({"image": "../pyproject.toml", "phrases": [phrase]}))  # refused, and says why
    return texts


def main() -> None:
    photo = Path(sys.argv[1]) if len(sys.argv) > 1 else PHOTO
    phrase = sys.argv[2] if len(sys.argv) > 2 else "dog"
    print(*look_closely(VisionAgent(), photo, phrase), sep="\n")


if __name__ == "__main__":
    main()
