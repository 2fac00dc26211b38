"""From conversations to written answers: images encoded once, prompts read once, one model for all threads.

Shape suffixes: T image tokens, C hidden size.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from PIL import Image

from vision_agent.generation.decoding import Reading, Written, check_context, cut_at_stop, steps
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.inference.cancellation import ABANDONED, _raise_if_set, _while_wanted
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.image_cache import ImageCache, SeenImage
from vision_agent.model.backbone import Backbone
from vision_agent.model.prompt import Prompt

_PREFIX_TOKENS = 16384  # keys and values of at most this many tokens are remembered, or of one context


class InferenceEngine:
    """Answers conversations with one backbone. Safe to share between threads.

    Attributes:
        images: images seen lately.
        prefixes: prompts read lately.
        lock: held while the model runs.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.images = ImageCache()
        tokens = min(backbone.context, _PREFIX_TOKENS)
        self.prefixes = PrefixCache(max(2**25, tokens * _bytes_per_token(backbone)))
        self.lock = threading.RLock()

    def clear(self) -> None:
        """Forget all images and prompts."""
        self.images.clear()
        self.prefixes.clear()

    def see(self, image: Image.Image, max_tiles: int | None = None) -> SeenImage:
        """An image's entry in the cache; encoded if it is not there."""
        return self.images.get(image, self.backbone.encode_image, max_tiles)

    def room(self, conversation: Conversation) -> int:
        """Tokens that the model's context leaves for the answer."""
        counts = self._image_tokens(conversation)
        return self.backbone.context - len(self._prompt(conversation, counts).ids)

    def write(
        self,
        conversations: Sequence[Conversation],
        options: GenerationOptions,
        forbidden: Sequence[int] = (),
    ) -> tuple[Written, list[list[SeenImage]]]:
        """All answers in one batch, and the images each was about.

        Raises:
            CancelledError: the event in `ABANDONED` was set.
        """
        abandoned = ABANDONED.get()
        with self.lock, torch.inference_mode():
            _raise_if_set(abandoned)  # the model may not have been free for long
            readings, seen = self._read(conversations, options)
            growing = self._steps(conversations, readings, options, forbidden)
            (written,) = deque(_while_wanted(growing, abandoned), maxlen=1)
        return written, seen

    def stream(
        self, conversation: Conversation, options: GenerationOptions, forbidden: Sequence[int] = ()
    ) -> Iterator[tuple[Written, list[SeenImage]]]:
        """One answer, yielded as it grows. The model is free for others between its tokens."""
        with self.lock, torch.inference_mode():
            readings, (seen,) = self._read([conversation], options)
        growing = self._steps([conversation], readings, options, forbidden)
        while True:
            with self.lock:
                written = next(growing, None)
            if written is None:
                return
            yield written, seen

    def reading(self, conversation: Conversation, options: GenerationOptions) -> Reading:
        """A conversation as the model reads it. Raises InputError where it does not fit the context."""
        (reading,), _ = self._read([conversation], options)
        return reading

    def visible_text(self, ids: Sequence[int], stop: Sequence[str]) -> str:
        """What a reader sees of an answer's tokens."""
        return cut_at_stop(self.decoded(ids), stop).strip()

    def decoded(self, ids: Sequence[int]) -> str:
        """The text of tokens, without end tokens and other special ones."""
        return self.backbone.decode_text([i for i in ids if i not in self.backbone.end_ids], skip_special_tokens=True)

    def _read(
        self, conversations: Sequence[Conversation], options: GenerationOptions
    ) -> tuple[list[Reading], list[list[SeenImage]]]:
        """Prompts first: what does not fit the context fails before any image is encoded."""
        prompts = []
        for conversation in conversations:
            counts = self._image_tokens(conversation)
            prompt = self._prompt(conversation, counts)
            check_context(self.backbone, len(prompt.ids), sum(counts), options)
            prompts.append(prompt)
        readings, everything = [], []
        for conversation, prompt in zip(conversations, prompts, strict=True):
            seen = [self.see(p, m) for p, m in zip(conversation.images, conversation.max_tiles, strict=True)]
            tokens_TC = torch.cat([entry.encoded.tokens_TC for entry in seen]) if seen else None
            readings.append(Reading(prompt.ids, tokens_TC, tuple(mark for entry in seen for mark in _marks(entry))))
            everything.append(seen)
        return readings, everything

    def _prompt(self, conversation: Conversation, counts: Sequence[int]) -> Prompt:
        filled = [sum(counts)] if conversation.combine and counts else counts
        return self.backbone.prompt(conversation.turns, filled, conversation.plain)

    def _image_tokens(self, conversation: Conversation) -> list[int]:
        pairs = zip(conversation.images, conversation.max_tiles, strict=True)
        grids = [self.backbone.grid_for(*image.size, most) for image, most in pairs]
        return [grid.tile_count * self.backbone.tokens_per_tile for grid in grids]

    def _steps(
        self,
        conversations: Sequence[Conversation],
        readings: Sequence[Reading],
        options: GenerationOptions,
        forbidden: Sequence[int],
    ) -> Iterator[Written]:
        grammars = [conversation.constraint for conversation in conversations]
        return steps(
            self.backbone, readings, options, forbidden=forbidden, constraints=grammars, prefixes=self.prefixes
        )


def _marks(seen: SeenImage) -> range:
    """A number for each image token, negative (token ids are not), the same whenever the same image is seen."""
    name = int.from_bytes(hashlib.sha256(seen.key.encode()).digest()[:5], "big")
    return range(-(name << 22) - 2, -(name << 22) - 2 - len(seen.encoded.tokens_TC), -1)


def _bytes_per_token(backbone: Backbone) -> int:
    """Bytes of the keys and values of one token."""
    text = backbone.model.config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * size * backbone.dtype.itemsize)
