"""The decoder of the `[OCR]` route: where the model writes the token, a page reader reads the image.

It has nothing to learn: the whole image is read, whatever the states say. The reader is loaded when it is first
needed, so that a model with the route loads without the packages.
"""

import threading
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from vision_agent.documents.page_reader import PageReader
from vision_agent.documents.reader import read_page
from vision_agent.documents.result import OcrResult, Page
from vision_agent.documents.source import PageImage
from vision_agent.errors import RouteError
from vision_agent.plugins.decoder import Decoder, DecodeRequest, DenseFeatures
from vision_agent.plugins.registry import load_reader
from vision_agent.plugins.route import RouteSpec

READ = RouteSpec(token="[OCR]", decoder="ocr", num_queries=0, read="self", ends=True)
"""The route: one state, the token's own."""


class OcrDecoder(Decoder):
    """A decoder that reads the image itself.

    Args:
        reader: name of a reader in the group `vision_agent.readers`.
    """

    def __init__(self, reader: str = "rapidocr") -> None:
        super().__init__()
        self.settings = {"reader": reader}
        self._reader: PageReader | None = None
        self._loading = threading.Lock()

    needs_features = False

    @classmethod
    def for_backbone(cls, route: RouteSpec, hidden_size: int, feature_widths: tuple[int, ...]) -> "OcrDecoder":
        """Return the same decoder for every backbone."""
        return cls()

    def prepare(self, features: DenseFeatures) -> Any:
        """Raise RouteError: features are not enough to read."""
        raise RouteError("the decoder of '[OCR]' reads the image itself, not its features")

    def prepare_image(self, features: DenseFeatures, image: Image.Image) -> Page:
        """Read the page, once for an image."""
        with self._loading:
            if self._reader is None:
                self._reader = load_reader(self.settings["reader"])(None)
        return read_page(PageImage(image), self._reader)

    def decode(self, states_KNC: Tensor, prepared: Page, request: DecodeRequest) -> OcrResult:
        """Return the page that `prepare_image` has read, as a document of one page."""
        return OcrResult.of([prepared], self.settings["reader"])

    def loss(self, states_KNC: Tensor, rows_K: Sequence[int], prepared: Any, targets: Sequence[Any]) -> Tensor:
        """Return zero, with a gradient of zero: there is nothing to learn."""
        return states_KNC.sum() * 0.0
