"""The verbs `embed` and `classify` of a `VisionAgent`, and its embedder."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.embedding.class_labels import check_labels, check_templates
from vision_agent.embedding.classifier import classify_by_embedder, classify_by_presence
from vision_agent.embedding.text_or_image import Kind, is_text
from vision_agent.embedding.tower_embedder import TowerEmbedder
from vision_agent.errors import ArgumentTypeError, InputError, bad_argument, check_characters
from vision_agent.images.loading import ImageLimits, ImageSource, load_image
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.image_series import AT_ONCE, is_series, look_at
from vision_agent.inference.predictor import Predictor
from vision_agent.inference.settings import ImageT, Several
from vision_agent.plugins.cancellation import raise_if_cancelled
from vision_agent.plugins.embedder import Embedder
from vision_agent.plugins.registry import load_embedder
from vision_agent.results.classification import Classification
from vision_agent.routing.adapter import Route

EmbedderSource: TypeAlias = Embedder | str | os.PathLike[str]
"""An embedder, or the folder that one is loaded from."""

_LONGEST_TEXT = 10_000  # characters


def find_embedder(embedder: EmbedderSource | None, device: Any) -> Embedder | None:
    """Return an embedder; one that is named by its folder is loaded.

    Raises:
        CheckpointError: no folder there, or one that no registered embedder reads.
        ArgumentTypeError: neither a folder nor an embedder.
    """
    if embedder is None:
        return None
    if isinstance(embedder, str | os.PathLike):
        loaded: Embedder = load_embedder(Path(embedder)).from_pretrained(Path(embedder), device)
        return loaded
    if not isinstance(embedder, Embedder):
        raise ArgumentTypeError(bad_argument("embedder", "a folder, or an Embedder", embedder))
    return embedder


class EmbeddingVerbs:
    """What `VisionAgent` does with vectors. It is a part of that class, made by it."""

    _engine: InferenceEngine
    _predictor: Predictor
    _routes: dict[str, Route]
    _limits: ImageLimits
    _embedder: Embedder | None = None

    @property
    def embedder(self) -> Embedder:
        """What embeds: the one that was given, else the model's own image tower, which reads no texts."""
        return self._embedder or TowerEmbedder(self._engine)

    def embed(self, item: Any, *, kind: Kind = "auto") -> npt.NDArray[np.float32]:
        """Return the vector of an image or of a text; of a list of them one row each. All have length one.

        Their products are cosines: `agent.embed(a) @ agent.embed(b)`.

        Args:
            item: an image (see `load_image` for the kinds), a text, or a list or an iterator of both.
            kind: what a string is. `"auto"`: an image where it is the path of a file, ends as image files do or is an
                address; else a text. `"text"` and `"image"` say it.

        Returns:
            float32 (D,); of a list (N, D). D is `agent.embedder.width`.

        Raises:
            InputError: a text for an embedder that reads none (the default's is one), an empty or overlong text, an
                empty list, an image that cannot be read; one of several is named by its index, `item[3]`.
            ArgumentTypeError: values of other types.
        """
        if kind not in ("auto", "image", "text"):
            raise InputError(bad_argument("kind", "'auto', 'image' or 'text'", kind))
        embedder = self.embedder
        if not is_series(item):
            vector: npt.NDArray[np.float32] = self._embedded(embedder, [self._read(item, kind, "item")])[0]
            return vector
        rows: list[npt.NDArray[np.float32]] = []
        if not isinstance(item, Iterator):  # what is wrong with a text is known before anything is embedded
            item = list(item)
            for index, each in enumerate(item):
                if isinstance(each, str) and is_text(each, kind):
                    _check_text(each, f"item[{index}]", embedder)
        numbered = enumerate(item)
        while group := list(islice(numbered, AT_ONCE)):
            raise_if_cancelled()
            rows.append(self._embedded(embedder, [self._read(each, kind, f"item[{index}]") for index, each in group]))
        if not rows:
            raise InputError(bad_argument("item", "at least one image or text", item))
        return np.concatenate(rows)

    @overload
    def classify(
        self, image: Several[ImageT], labels: Sequence[str], templates: str | Sequence[str] | None = None
    ) -> list[Classification]: ...

    @overload
    def classify(
        self, image: ImageSource, labels: Sequence[str], templates: str | Sequence[str] | None = None
    ) -> Classification: ...

    @overload
    def classify(
        self, image: Iterator[ImageT], labels: Sequence[str], templates: str | Sequence[str] | None = None
    ) -> Iterator[Classification]: ...

    def classify(
        self, image: Any, labels: Sequence[str], templates: str | Sequence[str] | None = None
    ) -> Classification | list[Classification] | Iterator[Classification]:
        """Say which of some labels an image shows. Nothing is trained for it.

        An agent with an embedder that reads texts compares the image with each label as CLIP does. Any other looks for
        each label by its `[DET]` route: slower by the number of labels, and for things rather than scenes and styles.

        Args:
            image: an image (see `load_image` for the kinds); or a list or an iterator of them, as for `detect`.
            labels: at most 10,000. One that is there twice counts once; their order does not matter.
            templates: a text or several with `{}` for the label, such as `"a blurry photo of a {}."`, which are
                averaged. None for "a photo of a {}.", or for the label itself where it is looked for.

        Returns:
            the labels, best first, with scores that sum to one, also where none of them fits: see `.none_of_these`.

        Raises:
            InputError: no label, an empty or overlong one, a template without `{}`, an image that cannot be read.
            ArgumentTypeError: values of other types.
            RouteError: neither such an embedder nor a `[DET]` route.
        """
        asked, texts = check_labels(labels), check_templates(templates)
        embedder = self._embedder

        def look(images: Sequence[Image.Image]) -> list[Classification]:
            if embedder is not None and embedder.embeds_texts:
                return classify_by_embedder(embedder, asked, texts, images)
            model = self._engine.backbone.name
            return classify_by_presence(self._predictor, self._routes, model, asked, texts, images)

        return look_at(image, self._limits, look)

    def _read(self, item: Any, kind: Kind, name: str) -> Image.Image | str:
        if isinstance(item, str) and is_text(item, kind):
            return _check_text(item, name, self.embedder)
        if kind == "text":
            raise ArgumentTypeError(bad_argument(name, "a text", item))
        return load_image(item, limits=self._limits, name=name)

    def _embedded(self, embedder: Embedder, items: Sequence[Image.Image | str]) -> npt.NDArray[np.float32]:
        """The vectors of images and texts, each kind at once."""
        vectors = np.empty((len(items), embedder.width), dtype=np.float32)
        texts = {place: each for place, each in enumerate(items) if isinstance(each, str)}
        images = {place: each for place, each in enumerate(items) if not isinstance(each, str)}
        if texts:
            vectors[list(texts)] = embedder.embed_texts(list(texts.values()))
        if images:
            vectors[list(images)] = embedder.embed_images(list(images.values()))
        return vectors


def _check_text(text: str, name: str, embedder: Embedder) -> str:
    if not text.strip():
        raise InputError(bad_argument(name, "some words", text))
    if len(text) > _LONGEST_TEXT:
        raise InputError(bad_argument(name, f"at most {_LONGEST_TEXT} characters", text))
    check_characters(name, text)
    if not embedder.embeds_texts:
        embedder.embed_texts([text])  # says why it reads none
    return text
