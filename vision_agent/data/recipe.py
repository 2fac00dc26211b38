"""The part of a training recipe that says which images are drawn, and how often."""

from pydantic import BaseModel, ConfigDict, Field


class RecipeSection(BaseModel):
    """Base of the sections of a recipe: frozen, and a setting that is unknown is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSection(RecipeSection):
    """How often each kind of image is drawn; the numbers are shares.

    `others` are photos that nobody marked, with soft labels; only a distillation stage has them.
    """

    photos: float = Field(default=0.28, ge=0)
    mosaics: float = Field(default=0.10, ge=0)
    composed: float = Field(default=0.42, ge=0)
    composed_on_photos: float = Field(default=0.14, ge=0)
    animals: float = Field(default=0.06, ge=0)
    others: float = Field(default=0.0, ge=0)
    phrases: int = Field(default=16, ge=2)
