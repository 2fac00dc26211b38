"""The training recipe: a small TOML file, checked before anything runs."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from vision_agent.data.recipe import DataSection, RecipeSection
from vision_agent.errors import ConfigError

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "default.toml"


class ModelSection(RecipeSection):
    """Shape of a new model. `backbone` names a package with ImageNet weights."""

    backbone: str = Field(default="efficientnet-lite0", pattern=r"^efficientnet-lite0$")
    tile: int = Field(default=448, ge=64, multiple_of=32)
    vocabulary: int = Field(default=6000, ge=300)
    hidden: int = Field(default=320, ge=32, multiple_of=32)
    layers: int = Field(default=6, ge=1)
    heads: int = Field(default=5, ge=1)
    intermediate: int = Field(default=960, ge=32)


class StageSection(RecipeSection):
    """One stage of training.

    Attributes:
        name: names the stage in the log.
        kind: `"text"`, without images; `"images"`: images, text and boxes together; `"language"`: requests and
            answers about images, while the tower is frozen and phrases keep their meaning to the decoder; or
            `"distil"`: images and boxes alone, people's and soft ones, while the language model is frozen (see
            `box_distillation`).
        tile: side of the images in pixels, None for the model's own; smaller ones teach names faster.
        tiles: of a distillation stage: the sides that its steps take in turn.
        rate: of the language model; a distillation stage has none.
        minutes: of a distillation stage: it ends after so long, its schedule laid out for that, or after `steps`.
        without_images: share of a language stage's steps that have text alone.
        share: of a distillation stage: what the weights at its end weigh in the finished model, beside those of other
            stages with a share; where none has one, the last stage's are the finished model's. Ends of stages whose
            rates fell to the same least one lie in one basin, and their mean is better than each
            (https://arxiv.org/abs/1803.05407).
        data: which images it draws; None for the recipe's `data`.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    kind: Literal["text", "images", "language", "distil"]
    tile: int | None = Field(default=None, ge=64, multiple_of=32)
    tiles: tuple[Annotated[int, Field(ge=64, multiple_of=32)], ...] = ()
    steps: int = Field(ge=1)
    minutes: float | None = Field(default=None, gt=0)
    batch: int = Field(ge=1)
    rate: float = Field(default=0.0, ge=0)
    tower_rate: float = Field(default=0.0, ge=0)
    decoder_rate: float = Field(default=0.0, ge=0)
    warm_up: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    ema: float = Field(default=0.998, ge=0, lt=1)
    without_images: float = Field(default=0.0, ge=0, lt=1)
    share: float = Field(default=0.0, ge=0)
    data: DataSection | None = None

    @model_validator(mode="after")
    def _tile_fits_kind(self) -> "StageSection":
        if self.kind == "text" and self.tile is not None:
            raise ValueError(f"stage {self.name!r} has no images, so it takes no `tile`")
        if self.kind != "language" and self.without_images:
            raise ValueError(f"stage {self.name!r} is no language stage, so it takes no `without_images`")
        distils = self.kind == "distil"
        if not distils and (self.tiles or self.minutes is not None or self.share):
            takes = "no `tiles`, no `minutes` and no `share`"
            raise ValueError(f"stage {self.name!r} is no distillation stage, so it takes {takes}")
        if distils == (self.rate > 0):
            raise ValueError(f"stage {self.name!r} must have {'no `rate`' if distils else 'a `rate`'}")
        return self


class TrainConfig(RecipeSection):
    """A whole recipe.

    Attributes:
        init: folder of a checkpoint to start from, relative to the recipe; weights of the same name and shape are
            taken. None starts with random language weights and a tower pretrained on ImageNet.
        init_share: what those weights weigh in the finished model, beside what training made of them. A little keeps
            what training on narrower images forgets (https://arxiv.org/abs/2109.01903).
        leave_out: names that no image of the training shows or is said not to show, so that what the model makes of
            new names can be measured (`python -m vision_agent.evaluate.open_names`). Their words are learned.
        stages: run in order.
    """

    seed: int = 0
    save_minutes: float = Field(default=5.0, gt=0)
    workers: int = Field(default=2, ge=0)
    init: Path | None = None
    init_share: float = Field(default=0.0, ge=0, lt=1)
    leave_out: tuple[str, ...] = ()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    stages: tuple[StageSection, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> "TrainConfig":
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages need different names, got {names!r}")
        if self.init_share and self.init is None:
            raise ValueError("`init_share` needs an `init`")
        return self


def read_config(path: str | Path) -> TrainConfig:
    """Read a recipe.

    Raises:
        ConfigError: no such file, not TOML, or a setting that makes no sense; names the setting.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"the recipe {str(path)!r} is not a file")
    try:
        config = TrainConfig.model_validate(tomllib.loads(path.read_text("utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the recipe {str(path)!r} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "stages"
        # What a rule of ours says names the value already.
        got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
        raise ConfigError(f"the recipe {str(path)!r}: `{where}`: {first['msg']}{got}") from error
    if config.init is None:
        return config
    init = (path.parent / config.init).resolve()
    if not (init / "config.json").is_file():
        raise ConfigError(f"the recipe {str(path)!r}: `init` names {str(init)!r}, which is no checkpoint folder")
    return config.model_copy(update={"init": init})
