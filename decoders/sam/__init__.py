"""Segment Anything: masks from boxes, points, or the states of a `[SEG]` route, with published weights.

One way in for all generations: checkpoints of the original `segment-anything` package (one file, ViT-B, L or H),
transformers folders of SAM, SAM 2 (video ones too) and SAM 3's tracker, and the SAM 2 inside a Sa2VA folder. The path
decides.

* The image is encoded once and cached; prompts are cheap after that.
* All objects of an image go through the mask decoder together.
* Masks are enlarged strip by strip straight into run lengths, so that no object needs a float mask of the image's
  size.
* Only the image encoder computes in half precision. The coordinates of prompts are positions in sine waves: in
  bfloat16 they would be off by several pixels.

`SamSegmenter` takes boxes and points and needs no training. `SamDecoder` is the decoder of a route: states of the
language model become prompt tokens through a small network, the one part that is trained.

Coordinates are pixels of the upright original and go to the model as they are, scaled. The model itself adds half a
pixel, for it was trained on the numbers of pixels; the published numbers are those of this convention.
"""

from .decoder import PreparedImage, SamDecoder
from .loading import load_network
from .network import Network
from .segmenter import SamSegmenter

__all__ = ["Network", "PreparedImage", "SamDecoder", "SamSegmenter", "load_network"]
