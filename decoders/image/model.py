"""The small generator: words to slots by flow matching, slots to an image by painting; and how both are taught.

While it learns, a word encoder gives the condition. Afterwards a mapper learns to give the same tokens from a language
model's states, and the encoder is not needed any longer.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import flow
from .network import SOURCE, Denoiser, Painter, WordEncoder
from .slots import CODE, COLOUR_BITS, LOOK_BITS, NUMBERS, ROWS, codes, compose, rows_of
from .words import LENGTH, Words

if TYPE_CHECKING:
    from .samples import Sample

_DROPPED = 0.1  # share of training samples without a condition: what guidance moves away from


class Generator(nn.Module):
    """Draws and changes images of the objects it was taught, given condition tokens.

    Args:
        words: the words it was taught.
        looks: how many ways for an object to look it knows.
        colours: how many colours, an object's own included.
        size: pixels a side, of the images it makes where no other size is asked for.
        width, depth: see `Denoiser`.
        channels: of the painter.
    """

    looks: Tensor
    colours: Tensor

    def __init__(
        self,
        words: Sequence[str],
        looks: int,
        colours: int,
        size: int = 128,
        width: int = 256,
        depth: int = 5,
        channels: int = 96,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "words": list(words),
            "looks": looks,
            "colours": colours,
            "size": size,
            "width": width,
            "depth": depth,
            "channels": channels,
        }
        self.words = Words(words)
        self.size, self.width = size, width
        self.denoiser = Denoiser(width, depth)
        self.painter = Painter(channels)
        self.register_buffer("looks", codes(looks, LOOK_BITS, seed=0))
        self.register_buffer("colours", codes(colours, COLOUR_BITS, seed=1))

    @property
    def condition_shape(self) -> tuple[int, int]:
        """(T, D) of a condition."""
        return LENGTH, self.width

    def flow_loss(self, samples: Sequence["Sample"], condition_BTD: Tensor) -> Tensor:
        """Return flow-matching loss of samples that are all new images, or all edits.

        One condition in ten is dropped.
        """
        device = condition_BTD.device
        rows, weights = (part.to(device) for part in rows_of(samples, self.looks.cpu(), self.colours.cpu()))
        dropped = (torch.rand(len(rows), device=device) < _DROPPED)[:, None, None]
        condition_BTD = torch.where(dropped, self.denoiser.nothing.to(condition_BTD.dtype), condition_BTD)
        noisy, time_B = flow.noised(rows)
        predicted = self.denoiser(noisy, time_B, condition_BTD, _sources(samples, device))
        loss: Tensor = flow.velocity_loss(rows, predicted, time_B, weights)
        return loss

    def paint_loss(self, looks_B: Tensor, paints_B: Tensor, sprites_B4SS: Tensor) -> Tensor:
        """Return mean absolute error of the painter on objects as they look, premultiplied, 0..1."""
        return F.l1_loss(self.painter(torch.cat([self.looks[looks_B], self.colours[paints_B]], dim=1)), sprites_B4SS)

    def nearest(self, codes_BC: Tensor) -> Tensor:
        """Return the codes of a known look and a known colour that are nearest to what the flow gave, (B, bits)."""
        bits = self.looks.shape[1]
        look, colour = codes_BC[:, :bits], codes_BC[:, bits:]
        # All codes are equally long, so the nearest one has the largest product.
        known = [
            table[(given @ table.T).argmax(dim=1)] for given, table in ((look, self.looks), (colour, self.colours))
        ]
        return torch.cat(known, dim=1)

    def noise(self, seed: int) -> Tensor:
        """Return the noise (R, F) that a seed starts an image from; drawn on the CPU, so the same on every device."""
        return torch.randn(ROWS, NUMBERS, generator=torch.Generator().manual_seed(seed % 2**63))

    def draw(
        self,
        condition_BTD: Tensor,
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        size: tuple[int, int] | None = None,
        under_3HW: Tensor | None = None,
        mask_HW: Tensor | None = None,
        away_BTD: Tensor | None = None,
        progress: Callable[[int, int, Tensor], None] | None = None,
    ) -> list[Tensor]:
        """Draw images, each (3, H, W), 0..1.

        Args:
            seeds: one for each image.
            size: (height, width); None for the generator's own, or for the old image's.
            under_3HW: an image to change, 0..1.
            mask_HW: True where it may change, everywhere if None.
            away_BTD: the condition that guidance moves away from; one that says nothing if None.
            progress: told the step, the number of steps and the first image as expected so far.
        """
        device = condition_BTD.device
        away = self.denoiser.nothing.expand(len(seeds), -1, -1) if away_BTD is None else away_BTD
        source = None
        if under_3HW is not None:
            size = (under_3HW.shape[1], under_3HW.shape[2])
            source = _seen(under_3HW, mask_HW).to(device).expand(len(seeds), -1, -1, -1)
        size = (self.size, self.size) if size is None else size

        def finish(rows_RF: Tensor) -> Tensor:
            drawn = compose(rows_RF, self.painter(self.nearest(rows_RF[1:-1, CODE])), size, under_3HW)
            if under_3HW is None or mask_HW is None:
                return drawn
            return torch.where(mask_HW.to(device), drawn, under_3HW)

        rows = flow.sample(
            lambda z, time: self.denoiser(z, time, condition_BTD, source),
            lambda z, time: self.denoiser(z, time, away, source),
            torch.stack([self.noise(seed) for seed in seeds]).to(device),
            steps,
            guidance,
            None if progress is None else lambda step, steps, rows: progress(step, steps, finish(rows[0])),
        )
        return [finish(each) for each in rows]


class TaughtGenerator(nn.Module):
    """A generator together with the encoder of the words it is taught."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self.encoder = WordEncoder(len(generator.words), generator.width)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return condition tokens (B, T, D) of prompts."""
        condition: Tensor = self.encoder(self.generator.words.ids(prompts).to(self.encoder.places.device))
        return condition

    def flow_loss(self, samples: Sequence["Sample"]) -> Tensor:
        """Return `Generator.flow_loss` for the encoder's own condition."""
        return self.generator.flow_loss(samples, self.encode([sample.prompt for sample in samples]))


def _sources(samples: Sequence["Sample"], device: torch.device) -> Tensor | None:
    """The images to change (B, 4, S, S) as the denoiser sees them; None for new images."""
    if samples[0].source is None:
        return None
    seen = []
    for sample in samples:
        assert sample.source is not None
        image = torch.from_numpy(sample.source.copy()).permute(2, 0, 1).float() / 255
        seen.append(_seen(image, None if sample.mask is None else torch.from_numpy(sample.mask)))
    return torch.cat(seen).to(device)


def _seen(image_3HW: Tensor, mask_HW: Tensor | None) -> Tensor:
    """An image of 0..1 and its mask as the denoiser sees them, (1, 4, S, S)."""
    mask = torch.ones_like(image_3HW[:1]) if mask_HW is None else mask_HW[None].to(image_3HW)
    both = torch.cat([image_3HW * 2 - 1, mask])[None]
    if both.shape[-2:] != (SOURCE, SOURCE):
        both = F.interpolate(both, (SOURCE, SOURCE), mode="area")
    return both
