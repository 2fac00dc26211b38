"""How long and how fast routes learn names of a user's own images."""

from pydantic import BaseModel, ConfigDict, Field


class OwnImagesTraining(BaseModel):
    """Settings of `finetune_boxes`.

    Attributes:
        steps: of the stage that learns boxes and names together; None for six rounds over the images, between 60 and
            400 steps.
        batch: images a step.
        rate: AdamW's rate of that stage, after a short warm-up; it falls along a cosine.
        name_steps: of the stage before, which learns what the names are to the decoder, on regions that are read once.
        mask_steps: of the stage that learns outlines; None for a third of `steps`. Sets without outlines have none.
        evaluations: how often the stage of boxes is measured on the validation images; the best weights are kept.
        phrase_steps: of the stage that lets `[SEG]` find what `[DET]` finds.
        keep: weight of what holds the old names where they were.
        kept_names: how many old names stand for all.
        flip: mirror half of the views; not for names that mean a side.
        seed: of all that is drawn.
        save_minutes: how often the run is saved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=8, ge=1)
    rate: float = Field(default=5e-4, gt=0)
    name_steps: int = Field(default=150, ge=1)
    name_rate: float = Field(default=1e-3, gt=0)
    mask_steps: int | None = Field(default=None, ge=1)
    phrase_steps: int = Field(default=120, ge=1)
    evaluations: int = Field(default=5, ge=1)
    keep: float = Field(default=1.0, ge=0)
    kept_names: int = Field(default=160, ge=1)
    flip: bool = True
    seed: int = 0
    save_minutes: float = Field(default=1.0, gt=0)

    def box_steps(self, images: int) -> int:
        """Return the steps of the stage of boxes for so many training images."""
        return self.steps or max(60, min(400, 6 * images // self.batch))

    def outline_steps(self, images: int) -> int:
        """Return the steps of the stage of masks."""
        return self.mask_steps or max(30, self.box_steps(images) // 3)
