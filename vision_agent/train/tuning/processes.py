"""The processes of a training, as `accelerate launch` starts them; one by itself without it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vision_agent.errors import ConfigError
from vision_agent.model.devices import choose_device

_SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


@dataclass(frozen=True)
class Processes:
    """Who takes part.

    Attributes:
        rank: of this process; world: how many there are.
        device: of this process.
    """

    rank: int
    world: int
    device: torch.device

    @classmethod
    def joined(cls, device: str) -> "Processes":
        """Join the processes that were launched together.

        Raises:
            ConfigError: they were launched for weights that are spread over devices, or the device is not there.
        """
        for name, kind in _SHARDED.items():
            if os.environ.get(name, "").lower() in ("true", "1"):
                raise ConfigError(
                    f"weights spread by {kind} are not supported: every process holds the whole model; use `accelerate "
                    "launch --multi_gpu` (or `--cpu`), and for large models LoRA with --quantization 4bit"
                )
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls(0, 1, choose_device(device))
        from accelerate import PartialState

        state: Any = PartialState(cpu=choose_device(device).type == "cpu")
        return cls(int(state.process_index), int(state.num_processes), torch.device(state.device))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.world > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def wait(self) -> None:
        """Wait for all others."""
        if self.world > 1:
            torch.distributed.barrier()
