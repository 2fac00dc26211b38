"""Flow matching for a network that predicts what is clean: the training loss and the sampler.

Something noisy is z = t x + (1 - t) e, with x clean and e Gaussian noise; its velocity is v = x - e. The network
predicts x and the loss compares velocities, v' = (x' - z) / (1 - t): of the nine pairings of "Back to Basics: Let
Denoising Generative Models Denoise" (https://arxiv.org/abs/2511.13720) the one that small networks learn best.

Shape suffixes: B samples, R rows, F numbers a row.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from vision_agent.plugins.cancellation import raise_if_cancelled

Denoise = Callable[[Tensor, Tensor], Tensor]  # (noisy rows, time (B,)) -> clean rows
_LEAST_NOISE = 0.05  # 1 - t is at least this where the sampler divides by it
_LEAST_NOISE_TAUGHT = 0.4  # and in the loss: codes are plain to see once half of the noise is gone


def noised(clean_BRF: Tensor) -> tuple[Tensor, Tensor]:
    """Return a noisy version and its time (B,), drawn from a logistic normal: what is drawn is decided early."""
    time_B = torch.sigmoid(torch.randn(len(clean_BRF), device=clean_BRF.device) - 0.7)
    share = time_B[:, None, None]
    return share * clean_BRF + (1 - share) * torch.randn_like(clean_BRF), time_B


def velocity_loss(clean_BRF: Tensor, predicted_BRF: Tensor, time_B: Tensor, weights_BRF: Tensor) -> Tensor:
    """Return weighted mean squared error between the velocities of what is true and what is predicted; a scalar."""
    error = (predicted_BRF.float() - clean_BRF) / (1 - time_B).clamp_min(_LEAST_NOISE_TAUGHT)[:, None, None]
    return (error.square() * weights_BRF).sum() / weights_BRF.sum()


def sample(
    denoise: Denoise,
    denoise_open: Denoise,
    noise_BRF: Tensor,
    steps: int,
    guidance: float,
    progress: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """Draw rows (B, R, F) from noise.

    Heun's method with classifier-free guidance (https://arxiv.org/abs/2207.12598): the prediction is moved away from
    the one of `denoise_open`, by `guidance` times their difference; 1 leaves it as it is.

    Args:
        progress: told the step (from 1), the number of steps and the rows expected so far.

    Raises:
        CancelledError: nobody waits for the result any longer; asked before every step.
    """
    rows = noise_BRF
    times = torch.linspace(0.0, 1.0, steps + 1).tolist()

    def velocity(z: Tensor, time: float) -> tuple[Tensor, Tensor]:
        time_B = torch.full((len(z),), time, device=z.device)
        clean = denoise(z, time_B)
        if guidance != 1:
            open_ = denoise_open(z, time_B)
            clean = open_ + guidance * (clean - open_)
        return (clean - z) / max(1 - time, _LEAST_NOISE), clean

    for step, (time, after) in enumerate(pairwise(times), start=1):
        raise_if_cancelled()
        slope, clean = velocity(rows, time)
        ahead = rows + (after - time) * slope
        if step < steps:
            slope = (slope + velocity(ahead, after)[0]) / 2
            ahead = rows + (after - time) * slope
        rows = ahead
        if progress is not None:
            progress(step, steps, clean)
    return rows
