"""`Chat`: a conversation of several rounds, about images, a video, or nothing but words."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, Unpack, overload

from vision_agent.errors import InputError, bad_argument
from vision_agent.generation.options import GenerationOptions
from vision_agent.images.loading import ImageLimits
from vision_agent.images.video import VideoSource, sample_frames
from vision_agent.inference.answering import AnswerPipeline
from vision_agent.inference.conversation import Conversation, load_images
from vision_agent.inference.settings import ChatSettings, Images
from vision_agent.model.prompt import PLACEHOLDER
from vision_agent.model.tile_bounds import MultiScale
from vision_agent.results.answers import Answer
from vision_agent.results.events import AnswerDone, AnswerEvent
from vision_agent.routing.policy import RouteChoice
from vision_agent.validation import check_options, check_request


class Chat:
    """A conversation with one model. Make one with `agent.chat()`.

    Each round is answered on top of the rounds before, whose keys and values are cached. A round that fails, or whose
    stream is closed before its end, is not part of the history. One chat is for one thread at a time.

    Attributes:
        history: the rounds so far, (question, answer); questions hold an `<image>` placeholder for each image.
    """

    def __init__(self, answer_pipeline: AnswerPipeline, limits: ImageLimits, options: GenerationOptions) -> None:
        self._pipeline = answer_pipeline
        self._limits = limits
        self._options = options
        self.history: list[tuple[str, str]] = []
        self._last = Conversation()

    @overload
    def ask(
        self, question: str, images: Images = None, *, stream: Literal[False] = False, **settings: Unpack[ChatSettings]
    ) -> Answer: ...

    @overload
    def ask(
        self, question: str, images: Images = None, *, stream: Literal[True], **settings: Unpack[ChatSettings]
    ) -> Iterator[AnswerEvent]: ...

    def ask(
        self,
        question: str,
        images: Images = None,
        *,
        video: VideoSource | None = None,
        segments: int = 8,
        bounds: tuple[float, float] | None = None,
        placed: bool = False,
        tiles: MultiScale | None = None,
        max_tiles: int | Sequence[int] | None = None,
        routes: Sequence[str] = (),
        options: GenerationOptions | None = None,
        stream: bool = False,
    ) -> Answer | Iterator[AnswerEvent]:
        """Ask the next question of the conversation.

        Args:
            question: stands after its new images, numbered where the conversation has several. A typed `<image>` is
                text: people write it.
            placed: the question places its new images itself, with one `<image>` for each.
            images: images that are new in this round.
            video: a video that is new in this round: path, bytes, file object, or a list of frames. `segments` frames
                are taken, evenly, between `bounds` (start, end) in seconds; each is one tile.
            tiles: "multi-scale" shows new images in two tilings; see `VisionAgent.ask`. Not for videos.
            max_tiles: most tiles of a new image; one number, or one for each. Not for videos.
            routes: names of the routes that the answer may take, as for `VisionAgent.run`; words alone by default.
                Images of this round are what they are about, or, without any, all images so far.
            options: how this answer is written; the chat's own if None.
            stream: yield the events of `VisionAgent.run`.

        Raises:
            RouteError: a name in `routes` is not loaded.
            InputError: as for `VisionAgent.ask`; images or `max_tiles` together with a video; `bounds` without one;
                a video without frames; a stream that is read on after a later round was asked.
        """
        check_request("question", question, images)
        settings = check_options(options, None) if options is not None else self._options
        choice = RouteChoice.of(self._pipeline.routes, self._pipeline.model, routes, None, None)
        if video is None and bounds is not None:
            raise InputError(bad_argument("bounds", "left out where there is no `video`", bounds))
        new = load_images(images, self._limits, "images")
        bound = self._pipeline.backbone.bound_of(tiles, max_tiles)
        if video is not None:
            if new:
                raise InputError("`images` and `video` exclude each other within one round")
            if bound is not None:
                expected = "left out where there is a `video`, whose frames are one tile each"
                raise InputError(bad_argument("max_tiles" if tiles is None else "tiles", expected, bound))
            new = list(sample_frames(video, segments=segments, bounds=bounds, limits=self._limits).images)
        so_far = replace(self._last, turns=tuple(self.history))
        if placed and question.count(PLACEHOLDER) != len(new):
            expected = f"text with one {PLACEHOLDER} for each of its {len(new)} images, because of `placed`"
            raise InputError(bad_argument("question", expected, question))
        conversation = Conversation.build(
            question, new, after=so_far, max_tiles=bound, frames=video is not None, placed=placed
        )
        if stream:
            return self._stream(conversation, settings, choice)
        return self._added(conversation, self._pipeline.answers([conversation], settings, choice)[0])

    def _stream(
        self, conversation: Conversation, options: GenerationOptions, choice: RouteChoice
    ) -> Iterator[AnswerEvent]:
        for event in self._pipeline.stream(conversation, options, choice):
            if isinstance(event, AnswerDone):
                self._added(conversation, event.answer)
            yield event

    def _added(self, conversation: Conversation, answer: Answer) -> Answer:
        if conversation.turns[:-1] != tuple(self.history):
            raise InputError("the chat went on before this stream was read to its end; close a stream to give it up")
        self.history.append((conversation.turns[-1][0], answer.text))
        self._last = conversation
        return answer
