"""How a checkpoint is fine-tuned on dialogues, and the recipes of InternVL's own scripts by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vision_agent.errors import InputError, bad_argument

Method = Literal["lora", "full", "projector"]


class Tuning(BaseModel):
    """Settings of `finetune_dialogues`. The usual ones are those of InternVL's LoRA scripts.

    Attributes:
        method: "lora" learns low-rank changes of the language model; "full" the language model and the projector;
            "projector" the projector alone.
        rank, dropout: of LoRA; its `alpha` is twice the rank.
        tower: learn the vision tower as well: by LoRA, or whole with "full".
        rate: AdamW's highest; warm_up: the share of the steps until it is reached; then it falls along a cosine to 0.
        rounds: over the data; steps: instead of rounds, None for none.
        batch: dialogues a step, over all processes; micro: dialogues at once in a process.
        max_tiles: most tiles of an image, which several images of one dialogue share; None for the checkpoint's own.
        max_length: most tokens of a dialogue, or of a packed row. What is over is cut off; an image is never cut.
        group_by_length: dialogues of like length go together, which wastes less on padding.
        pack: write the dialogues of a step into few rows, each seeing itself alone.
        checkpointing: compute a layer's inner values anew on the way back: less memory, a third more time.
        loss_weight: what a dialogue weighs: "token" as much as its answers have tokens, "sample" one, "square" the
            root of their number.
        min_frames, max_frames: of a video, whose number of frames is drawn anew each round.
        clip: greatest norm of the gradients.
        quantization: "4bit" for QLoRA, on CUDA.
        dtype: what is multiplied in; None for bfloat16 on accelerators, float32 on the CPU.
        evaluations: how often the lines that are kept back are measured, beside the end.
        workers: processes that read images; 0 reads them between the steps.
        seed: of all that is drawn.
        save_minutes: how often the run is saved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "lora"
    rank: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    tower: bool = False
    rate: float = Field(default=4e-5, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warm_up: float = Field(default=0.03, ge=0, lt=1)
    rounds: float = Field(default=1.0, gt=0)
    steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=16, ge=1)
    micro: int = Field(default=4, ge=1)
    max_tiles: int | None = Field(default=None, ge=1, le=40)
    max_length: int = Field(default=8192, ge=8)
    group_by_length: bool = True
    pack: bool = False
    checkpointing: bool = True
    loss_weight: Literal["token", "sample", "square"] = "token"
    min_frames: int = Field(default=8, ge=1)
    max_frames: int = Field(default=32, ge=1)
    clip: float = Field(default=1.0, gt=0)
    quantization: Literal["4bit"] | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    evaluations: int = Field(default=5, ge=0)
    workers: int = Field(default=0, ge=0)
    seed: int = 0
    save_minutes: float = Field(default=10.0, gt=0)

    @classmethod
    def of(cls, recipe: str | None = None, **changes: Any) -> "Tuning":
        """Return the settings of a recipe, with changes; a change to None counts as none.

        Raises:
            InputError: no such recipe, or a value that makes no sense.
        """
        if recipe is not None and recipe not in RECIPES:
            raise InputError(bad_argument("recipe", f"one of {', '.join(RECIPES)}", recipe))
        values = {**({} if recipe is None else RECIPES[recipe])}
        values |= {name: value for name, value in changes.items() if value is not None}
        try:
            settings = cls.model_validate(values)
        except ValueError as error:
            first: Any = error.errors()[0]  # type: ignore[attr-defined]
            name = str(first["loc"][0])
            raise InputError(
                bad_argument(name, first["msg"].removeprefix("Input should be "), first["input"])
            ) from None
        if settings.quantization is not None and settings.method != "lora":
            raise InputError(bad_argument("quantization", "left out unless `method` is 'lora'", settings.quantization))
        if settings.max_frames < settings.min_frames:
            raise InputError(bad_argument("max_frames", f"at least {settings.min_frames}", settings.max_frames))
        return settings

    def steps_for(self, dialogues: int) -> int:
        """Return the number of steps over so many dialogues."""
        return self.steps or max(1, -(-int(dialogues * self.rounds) // self.batch))


# Of the scripts in `internvl_chat/shell/internvl*/2nd_finetune` of OpenGVLab/InternVL: sizes, and the largest of those
# that learn at the higher rate and of those with little weight decay.
_SERIES = {
    "internvl2": ("1b", "2b", "4b", "8b", "26b", "40b", "76b"),
    "internvl2_5": ("1b", "2b", "4b", "8b", "26b", "38b", "78b"),
    "internvl3": ("1b", "2b", "8b", "9b", "14b", "38b", "78b"),
}
_LENGTHS = {"internvl2": 4096, "internvl2_5": 8192, "internvl3": 16384}


def _recipe(series: str, size: str, method: str) -> dict[str, Any]:
    billions, third = int(size.removesuffix("b")), series == "internvl3"
    few = 1 if billions > 70 else 2 if billions > 20 else 4
    high = 1e-5 if third and size == "1b" else 2e-5 if third or billions > 8 else 4e-5
    return {
        "method": method,
        "rank": 16,
        "rate": high,
        "weight_decay": 0.05 if third or billions >= 8 else 0.01,
        "batch": 16 if method == "lora" else 128,
        "micro": few,
        "max_tiles": 12 if third else 6,
        "max_length": _LENGTHS[series],
    }


def _recipes() -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for series, sizes in _SERIES.items():
        # No script fine-tunes InternVL 3 by LoRA; this takes what the series has, with the older rank.
        for method in ("lora", "full"):
            made[f"{series}-{method}"] = _recipe(series, "2b", method)
            made |= {f"{series}-{size}-{method}": _recipe(series, size, method) for size in sizes}
    for series in ("internvl2", "internvl2_5"):
        made[f"{series}-lora-coco"] = {**_recipe(series, "2b", "lora"), "rank": 128, "batch": 512}
    return dict(sorted(made.items()))


RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(_recipes())
"""Settings by the names of InternVL's own scripts: `internvl2-lora`, `internvl2_5-8b-full`, ..."""
