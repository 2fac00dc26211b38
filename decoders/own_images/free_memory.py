"""What a run needs of memory, told before its first step."""

from vision_agent.errors import InputError
from vision_agent.model.machine_memory import gib

# Bytes a step keeps for each number of the feature maps of an image: the maps, the pyramid, the describer, twice for
# the way back. Measured with batches of 4, 8 and 16.
_BYTES_A_FEATURE = 160
# What an agent keeps of the images that it is asked about, while the run is measured.
_ANSWERS = 256 * 2**20
# The run's weights: gradients, two of the optimiser, the average, the best, and those of the start.
_COPIES = 7


def needed_memory(weights: int, features: int, batch: int, kept_images: int, kept_regions: int = 0) -> int:
    """Return the bytes that a run will take beside the loaded model.

    Args:
        weights: numbers that learn.
        features: numbers of one image's feature maps.
        batch: images a step.
        kept_images: images whose features are kept, in half precision.
        kept_regions: numbers that describe the regions of the training images.
    """
    kept = 2 * features * kept_images + 4 * kept_regions + _ANSWERS
    return 4 * _COPIES * weights + batch * features * _BYTES_A_FEATURE + kept


def check_memory(
    weights: int, features: int, batch: int, kept_images: int, free: int | None, kept_regions: int = 0
) -> str:
    """Return a sentence with the forecast; the other arguments are those of `needed_memory`.

    Raises:
        InputError: it is more than there is; names a batch that fits.
    """
    need = needed_memory(weights, features, batch, kept_images, kept_regions)
    told = f"needs about {gib(need)} beside the loaded model"
    if free is None:
        return told
    if need <= free:
        return f"{told}; {gib(free)} are free"
    needs = {few: needed_memory(weights, features, few, kept_images, kept_regions) for few in range(1, batch)}
    fits = max((few for few, bytes_needed in needs.items() if bytes_needed <= free), default=None)
    remedy = "no batch fits" if fits is None else f"use a batch of {fits} (--batch {fits})"
    raise InputError(f"training with `batch` {batch} {told}, but {gib(free)} are free: {remedy}")
