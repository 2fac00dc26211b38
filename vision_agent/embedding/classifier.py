"""Which of some labels an image shows: by an embedder that reads texts, else by the scores of the `[DET]` route.

By an embedder it is CLIP's way (https://arxiv.org/abs/2103.00020): a label is the mean of the vectors of its templates,
and a softmax over scaled cosines compares labels. SigLIP's sigmoid says besides whether a label fits at all.

By `[DET]` each label is looked for like any phrase. The score p of its best box says whether it is there, whatever the
others are. That exactly one of the labels is there, and which, goes as the odds p / (1 - p).

Shape suffixes: L labels, N images, D embedding.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.embedding.class_labels import filled
from vision_agent.errors import RouteError
from vision_agent.inference.find_options import FindOptions
from vision_agent.inference.predictor import Predictor
from vision_agent.plugins.cancellation import raise_if_cancelled
from vision_agent.plugins.embedder import Embedder
from vision_agent.results.classification import Classification
from vision_agent.routing.adapter import Route

TEMPLATES = ("a photo of a {}.",)
_SCALE = 100.0  # where an embedder names none: the largest that CLIP's training allows
_FITS = (
    0.01  # least sigmoid of a label that is believed: far under 0.5, for training had a thousand wrong texts an image
)
_LABELS_AT_ONCE = 64
_LEAST_SCORE = 0.01  # of a box; less is as good as nothing
_SURE = 1 - 1e-4


def classify_by_embedder(
    embedder: Embedder, labels: Sequence[str], templates: Sequence[str] | None, images: Sequence[Image.Image]
) -> list[Classification]:
    """Return a classification of each image by similarity of image and text.

    Args:
        labels: each once, in an order of their own.
        templates: with `{}` for the label; None for "a photo of a {}.".
    """
    texts_LD = label_vectors(embedder, labels, templates or TEMPLATES)
    scale = _SCALE if embedder.logit_scale is None else embedder.logit_scale
    found = []
    for vector_D in embedder.embed_images(images):
        logits_L = scale * (texts_LD.astype(np.float64) @ vector_D.astype(np.float64))
        shares = np.exp(logits_L - logits_L.max())
        fits = None if embedder.logit_bias is None else 1 / (1 + np.exp(-(logits_L + embedder.logit_bias)))
        found.append(
            Classification.of(
                labels,
                shares.tolist(),
                None if fits is None else fits.tolist(),
                None if fits is None else _FITS,
                method="embedder",
                model=embedder.name,
            )
        )
    return found


def label_vectors(embedder: Embedder, labels: Sequence[str], templates: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return (L, D), rows of length one: for each label the mean of its templates' vectors."""
    summed = np.zeros((len(labels), embedder.width), dtype=np.float32)
    for template in templates:
        raise_if_cancelled()
        summed += embedder.embed_texts([filled(template, label) for label in labels])
    unit: npt.NDArray[np.float32] = summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)
    return unit


def classify_by_presence(
    predictor: Predictor,
    routes: Mapping[str, Route],
    model: str,
    labels: Sequence[str],
    templates: Sequence[str] | None,
    images: Sequence[Image.Image],
) -> list[Classification]:
    """Return a classification of each image by the scores of the `[DET]` route.

    Args:
        labels: each once, in an order of their own.
        templates: with `{}` for the label, whose scores are averaged; None for the label itself.

    Raises:
        RouteError: no such route.
    """
    if "det" not in routes:
        raise RouteError(
            f"{model!r} has no [DET] route to classify with: load an adapter, or give an embedder such as SigLIP: "
            f"VisionAgent.from_pretrained(..., embedder=FOLDER)"
        )
    settings = routes["det"].decoder.settings
    threshold = float(settings.get("presence") or settings.get("threshold") or 0.5)
    options = FindOptions(threshold=_LEAST_SCORE, tiles=False)
    found = []
    for image in images:
        summed = np.zeros(len(labels))
        unknown: dict[str, None] = {}
        for template in templates or ("{}",):
            best: dict[str, float] = {}
            asked = [filled(template, label) for label in labels]
            for start in range(0, len(asked), _LABELS_AT_ONCE):
                some = tuple(asked[start : start + _LABELS_AT_ONCE])
                (detections,) = predictor.detect_each(some, [image], options)
                unknown |= dict.fromkeys(detections.unknown_words)
                for each in detections:
                    best[each.label] = max(each.score, best.get(each.label, 0.0))
            summed += [best.get(phrase, 0.0) for phrase in asked]
        fits = summed / len(templates or ("{}",))
        bounded = np.minimum(fits, _SURE)
        found.append(
            Classification.of(
                labels,
                (bounded / (1 - bounded)).tolist(),
                fits.tolist(),
                threshold,
                method="presence",
                model=model,
                unknown_words=sorted(unknown),
            )
        )
    return found
