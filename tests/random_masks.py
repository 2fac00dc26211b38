"""Random masks for property tests."""

import numpy as np
from hypothesis import strategies as st

from vision_agent.geometry.rle import Bools


@st.composite
def masks(draw: st.DrawFn, size: tuple[int, int] | None = None) -> Bools:
    """Noise of any density, in blocks of any size, so that there are specks, holes and straight edges."""
    height, width = size or (draw(st.integers(1, 24)), draw(st.integers(1, 24)))
    tall, wide = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    source = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.8, 0.97, 1.0]))
    cells = source.random((-(-height // tall), -(-width // wide))) < density
    mask: Bools = np.kron(cells, np.ones((tall, wide), dtype=np.bool_))[:height, :width]
    return np.ascontiguousarray(mask)
