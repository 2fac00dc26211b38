"""From conversations to generated tokens: images encoded once, prompts read once, one thread that owns the model.

Shape suffixes: T image tokens, C hidden size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from vision_agent.generation.decoding import GenerationOutput, PromptInputs, check_context, generate_steps
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.generation.recorded_step import RecordedSteps
from vision_agent.generation.step_batch import Row
from vision_agent.generation.stopping import cut_at_stop
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.image_cache import CachedImage, ImageCache, default_cache_bytes
from vision_agent.inference.joint_reads import MOST_READ, JointReads
from vision_agent.inference.scheduler import StepScheduler
from vision_agent.model.backbone import Backbone, EncodedImage
from vision_agent.model.compile import has_compiled_steps
from vision_agent.model.cuda_graphs import recorder_of
from vision_agent.model.devices import device_memory
from vision_agent.model.prompt import Prompt
from vision_agent.model.tile_bounds import TileBound
from vision_agent.plugins.cancellation import CANCELLED, raise_if_cancelled, until_cancelled
from vision_agent.plugins.constraint import Constraint
from vision_agent.routing.adapter import Route
from vision_agent.routing.states import Emitted, Forced

T = TypeVar("T")

_PREFIX_TOKENS = 16384  # keys and values of at most this many tokens are cached, or of one context
_LEAST_BYTES = 2**29  # of the keys and values of rows that are written at a time
_SHARE = 8  # of the device's memory that they may take
# Requests whose images go through the tower together. A CPU gains little by it, and answers wait for it meanwhile.
_TOGETHER, _TOGETHER_ON_DEVICES = 4, 16


class InferenceEngine:
    """Answers conversations with one backbone. Safe to share between threads: answers are written side by side.

    Attributes:
        images: cache of recent images.
        prefixes: cache of the keys and values of recent prompts.
    """

    def __init__(
        self, backbone: Backbone, routes: Mapping[str, Route] | None = None, image_cache_bytes: int | None = None
    ) -> None:
        """Make the caches.

        Args:
            routes: the loaded routes by name, those that are loaded later too: feature maps of images are kept where
                one of them reads them. None keeps the maps.
            image_cache_bytes: most bytes of `images`; None for what goes with the model and its device.
        """
        self.backbone = backbone
        self._routes = routes
        self.images = ImageCache(default_cache_bytes(backbone) if image_cache_bytes is None else image_cache_bytes)
        tokens = min(backbone.context, _PREFIX_TOKENS)
        a_token = _bytes_per_token(backbone)
        self.prefixes = PrefixCache(max(2**25, tokens * a_token))
        most_bytes = min(max(_LEAST_BYTES, 4 * tokens * a_token), device_memory(backbone.device) // _SHARE)
        together = _TOGETHER if backbone.device.type == "cpu" else _TOGETHER_ON_DEVICES
        self._reads = JointReads(backbone, {} if routes is None else routes, self.prefixes)
        self._scheduler = StepScheduler(a_token, most_bytes, most_together=together)
        record = recorder_of(backbone.model.model.language_model)
        self._recorded = None if record is None else RecordedSteps(backbone, record)

    def run(self, work: Callable[[], T]) -> T:
        """Run a function in the thread that owns the model, between two steps of the answers, and return its result.

        Raises:
            BusyError: too many requests wait already.
        """
        return self._scheduler.run(work)

    def clear(self) -> None:
        """Forget all images and prompts."""
        self.images.clear()
        self.prefixes.clear()
        if self._recorded is not None:
            self._scheduler.run(self._recorded.forget)

    def encode_image(self, image: Image.Image, max_tiles: TileBound = None) -> CachedImage:
        """Return an image's entry in the cache; the image is encoded if there is none."""
        return self.images.get(image, self.backbone.encode_image, max_tiles, maps=self._maps_are_read())

    def encode_images(self, images: Sequence[Image.Image], max_tiles: TileBound = None) -> list[CachedImage]:
        """Return the entries of several images in the cache; those that are new go through the tower together."""

        return self._scheduler.run_together(self._encode_for_all, (tuple(images), max_tiles))

    def _encode_for_all(self, asked: Sequence[tuple[Sequence[Image.Image], TileBound]]) -> list[list[CachedImage]]:
        """The entries of the images of several requests; those that are cut alike go through the tower together."""
        raise_if_cancelled()
        found: dict[int, list[CachedImage]] = {}
        for most in dict.fromkeys(most for _, most in asked):
            rows = [row for row, (_, own) in enumerate(asked) if own == most]
            images = [image for row in rows for image in asked[row][0]]
            with torch.inference_mode():
                entries = iter(self.images.get_all(images, self._encode, most, maps=self._maps_are_read()))
            found |= {row: list(islice(entries, len(asked[row][0]))) for row in rows}
        return [found[row] for row in range(len(asked))]

    def read_forced(self, forced: Forced) -> Tensor:
        """Return the states (K, N, C), fp32, of a forced route, read together with those that others wait for.

        Raises:
            CancelledError: nobody waits for the result any longer.
            BusyError: too many requests wait already.
        """
        return self._scheduler.run_together(self._reads.forced, forced, MOST_READ)

    def read_emitted(self, output: GenerationOutput, emitted: Sequence[Emitted]) -> list[Tensor]:
        """Return the states (N, C) of routing tokens in answers, read together with those that others wait for.

        Raises:
            CancelledError: nobody waits for the result any longer.
            BusyError: too many requests wait already.
        """
        return self._scheduler.run_together(self._reads.emitted, (output, tuple(emitted)), MOST_READ)

    def _maps_are_read(self) -> bool:
        if self._routes is None:
            return True
        decoders = [route.decoder for route in list(self._routes.values())]
        return any(decoder.needs_image and decoder.needs_features for decoder in decoders)

    def answer_room(self, conversation: Conversation) -> int:
        """Return how many tokens the model's context leaves for the answer."""
        counts = self._image_tokens(conversation)
        return self.backbone.context - len(self._prompt(conversation, counts).ids)

    def generate(
        self,
        conversations: Sequence[Conversation],
        options: GenerationOptions,
        forbidden: Sequence[int] = (),
    ) -> tuple[GenerationOutput, list[list[CachedImage]]]:
        """Generate all answers; also returns the images that each is about.

        A single answer is written beside those of other threads. Several are one batch of their own, whose steps take
        turns with those of others.

        Raises:
            InputError: a prompt that does not fit the model's context.
            CancelledError: the event in `CANCELLED` was set.
            BusyError: too many requests wait already.
        """
        inputs, images = self._prepare(conversations, options)
        if len(inputs) == 1:
            return self.write(inputs[0], options, forbidden, conversations[0].constraint), images
        grammars = [conversation.constraint for conversation in conversations]
        return self._write_together(grammars, inputs, options, forbidden), images

    def write(
        self,
        inputs: PromptInputs,
        options: GenerationOptions,
        forbidden: Sequence[int] = (),
        constraint: Constraint | None = None,
    ) -> GenerationOutput:
        """Generate the answer to one prompt, beside those of other threads.

        Args:
            inputs: of `prompt_inputs`, or longer.
            forbidden: token ids that must not be generated.

        Raises:
            InputError: a prompt that does not fit the model's context.
            CancelledError: the event in `CANCELLED` was set.
            BusyError: too many requests wait already.
        """
        if options.num_beams > 1 or self._scheduler.is_owner() or self._is_compiled():
            return self._write_together([constraint], [inputs], options, forbidden)
        return self._scheduler.submit(self._row(inputs, options, forbidden, constraint)).last()

    def stream(
        self, conversation: Conversation, options: GenerationOptions, forbidden: Sequence[int] = ()
    ) -> Iterator[tuple[GenerationOutput, list[CachedImage]]]:
        """Yield one answer as it grows, with its images. Those of others are written beside it, or between its tokens.

        Where the answer may take a route, its cache is that of the tokens so far.
        """
        (inputs,), (images,) = self._prepare([conversation], options)
        free = {route.token_id for route in (self._routes or {}).values()} - set(forbidden)
        if free or options.num_beams > 1 or self._scheduler.is_owner() or self._is_compiled():
            steps = self._steps([conversation.constraint], [inputs], options, forbidden)
            while (output := self.run(lambda: next(steps, None))) is not None:
                yield output, images
            return
        written = self._scheduler.submit(self._row(inputs, options, forbidden, conversation.constraint), stepwise=True)
        try:
            for output in written:
                yield output, images
        finally:
            written.close()

    def prompt_inputs(self, conversation: Conversation, options: GenerationOptions) -> PromptInputs:
        """Return a conversation as the model reads it. Raises InputError where it does not fit the context."""
        (inputs,), _ = self._prepare([conversation], options)
        return inputs

    def visible_text(self, ids: Sequence[int], stop: Sequence[str]) -> str:
        """Return the text of an answer that a user sees."""
        return cut_at_stop(self.decode_text(ids), stop).strip()

    def decode_text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without end tokens and other special ones."""
        return self.backbone.decode_text([i for i in ids if i not in self.backbone.end_ids], skip_special_tokens=True)

    def _prepare(
        self, conversations: Sequence[Conversation], options: GenerationOptions
    ) -> tuple[list[PromptInputs], list[list[CachedImage]]]:
        """Tokenize prompts first: what does not fit the context fails before any image is encoded."""
        raise_if_cancelled()
        prompts = []
        for conversation in conversations:
            counts = self._image_tokens(conversation)
            prompt = self._prompt(conversation, counts)
            check_context(self.backbone, len(prompt.ids), sum(counts), options)
            prompts.append(prompt)
        inputs, images = [], []
        for prompt, cached in zip(prompts, self._encoded(conversations), strict=True):
            with torch.inference_mode():
                tokens_TC = torch.cat([each.encoded.tokens_TC for each in cached]) if cached else None
            marks = tuple(mark for each in cached for mark in each.token_marks)
            inputs.append(PromptInputs(prompt.ids, tokens_TC, marks))
            images.append(cached)
        return inputs, images

    def _encode(self, images: Sequence[Image.Image], max_tiles: TileBound) -> list[EncodedImage]:
        if len(images) == 1:
            return [self.backbone.encode_image(images[0], max_tiles)]
        return self.backbone.encode_images(images, max_tiles)

    def _encoded(self, conversations: Sequence[Conversation]) -> list[list[CachedImage]]:
        """The images of each conversation; those that are cut alike are encoded together."""
        found: dict[tuple[int, int], CachedImage] = {}
        places: dict[TileBound, list[tuple[int, int]]] = {}
        for row, conversation in enumerate(conversations):
            for number, most in enumerate(conversation.max_tiles):
                places.setdefault(most, []).append((row, number))
        for most, some in places.items():
            images = [conversations[row].images[number] for row, number in some]
            found |= zip(some, self.encode_images(images, most), strict=True)
        return [
            [found[row, number] for number in range(len(conversation.images))]
            for row, conversation in enumerate(conversations)
        ]

    def _prompt(self, conversation: Conversation, counts: Sequence[int]) -> Prompt:
        filled = [sum(counts)] if conversation.combine and counts else counts
        return self.backbone.prompt(conversation.turns, filled, conversation.places)

    def _image_tokens(self, conversation: Conversation) -> list[int]:
        pairs = zip(conversation.images, conversation.max_tiles, strict=True)
        counts = [self.backbone.tile_count(*image.size, most) for image, most in pairs]
        return [count * self.backbone.tokens_per_tile for count in counts]

    def _steps(
        self,
        grammars: Sequence[Constraint | None],
        inputs: Sequence[PromptInputs],
        options: GenerationOptions,
        forbidden: Sequence[int],
    ) -> Iterator[GenerationOutput]:
        return generate_steps(
            self.backbone, inputs, options, forbidden=forbidden, constraints=grammars, prefixes=self.prefixes
        )

    def _row(
        self,
        inputs: PromptInputs,
        options: GenerationOptions,
        forbidden: Sequence[int],
        constraint: Constraint | None,
    ) -> Row:
        images = 0 if inputs.tokens_TC is None else len(inputs.tokens_TC)
        check_context(self.backbone, len(inputs.ids), images, options)
        gone = CANCELLED.get()
        raise_if_cancelled(gone)
        row = Row(self.backbone, inputs, options, tuple(forbidden), constraint, self.prefixes, self._recorded)
        if gone is not None:
            row.is_gone = gone.is_set
        return row

    def _write_together(
        self,
        grammars: Sequence[Constraint | None],
        inputs: Sequence[PromptInputs],
        options: GenerationOptions,
        forbidden: Sequence[int],
    ) -> GenerationOutput:
        steps = self._steps(grammars, inputs, options, forbidden)
        return self._scheduler.run_steps(until_cancelled(steps, CANCELLED.get()))

    def _is_compiled(self) -> bool:
        """Whether steps are compiled, for a cache of one batch: such answers are written one after another."""
        return has_compiled_steps(self.backbone.model.model.language_model)


def _bytes_per_token(backbone: Backbone) -> int:
    """Bytes of the keys and values of one token."""
    text = backbone.model.config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * size * backbone.dtype.itemsize)
