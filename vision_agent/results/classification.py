"""Which of some labels an image shows."""

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field

from vision_agent.results.base import ResultSequence
from vision_agent.results.box import FROZEN

Probability = Annotated[float, Field(ge=0, le=1)]


class LabelScore(BaseModel):
    """One label.

    Attributes:
        label: as it was given.
        score: its share of what all labels have, 0..1: one of them is right, if any is.
        fit: how likely the image shows this label at all, 0..1, whatever the other labels are; None where the model
            can only compare labels with each other.
    """

    model_config = FROZEN

    label: str
    score: Probability
    fit: Probability | None = None


class Classification(ResultSequence[LabelScore]):
    """What an image shows of some labels: a sequence of `LabelScore`, best first. Their scores sum to one.

    Attributes:
        scores: the labels.
        none_of_these: whether no label fits well enough to be believed, by the model's own threshold; None where the
            model can only compare labels with each other: then the best label may well be wrong.
        none_score: how likely none of the labels fits, 0..1: one minus the best `fit`; None as above.
        threshold: least `fit` of a label that is believed; None as above.
        method: "presence" (the scores of the `[DET]` route), "embedder" (similarity of image and text) or "probe" (a
            head that was trained for these labels).
        model: the model that compared them.
        unknown_words: words of the labels that the model was never taught, where it says which it knows. A label of
            such words alone has a `fit` of 0.
        kind: always "classification"; tells results apart in JSON.
    """

    _field: ClassVar[str] = "scores"

    kind: Literal["classification"] = "classification"
    scores: tuple[LabelScore, ...]
    none_of_these: bool | None
    none_score: Probability | None
    threshold: Probability | None
    method: Literal["presence", "embedder", "probe"]
    model: str
    unknown_words: tuple[str, ...] = ()

    @property
    def label(self) -> str | None:
        """The best label; None where none of them fits."""
        return None if self.none_of_these else self.scores[0].label

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        shares: Iterable[float],
        fits: Sequence[float] | None,
        threshold: float | None,
        *,
        method: Literal["presence", "embedder", "probe"],
        model: str,
        unknown_words: Sequence[str] = (),
    ) -> Self:
        """Make a classification of labels and their parts, in any order.

        Args:
            shares: of each label, at least 0; they are scaled to sum to one.
            fits: of each label, 0..1; None where labels are only compared.
        """
        parts = list(shares)
        whole = sum(parts)
        scored = [
            LabelScore(
                label=label,
                score=min(1.0, part / whole) if whole > 0 else 1 / len(parts),
                fit=None if fits is None else fits[place],
            )
            for place, (label, part) in enumerate(zip(labels, parts, strict=True))
        ]
        scored.sort(key=lambda each: (-each.score, each.label))
        best = None if fits is None else max(fits)
        return cls(
            scores=tuple(scored),
            none_of_these=None if best is None or threshold is None else best < threshold,
            none_score=None if best is None else 1 - best,
            threshold=None if best is None else threshold,
            method=method,
            model=model,
            unknown_words=tuple(unknown_words),
        )
