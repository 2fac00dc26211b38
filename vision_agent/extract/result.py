"""What extraction gives: the caller's own object, and for each of its values where the document says so."""

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, PositiveInt

from vision_agent.documents.result import OcrResult, Quad
from vision_agent.errors import InputError, bad_argument
from vision_agent.results import annotate
from vision_agent.results.box import FROZEN, Box

if TYPE_CHECKING:
    from vision_agent.images.loading import ImageSource

T = TypeVar("T")


class FieldValue(BaseModel):
    """One value and where it comes from.

    Attributes:
        value: as in the object; None where it was not found and the model has no default.
        found: whether the document states it. A default that the model filled in was not found.
        text: the words of the document it was read from, "" where it was not found.
        page: number of the page, from 1.
        box: around those words, pixels of the page as given.
        quads: of the words, one each.
        confidence: 0-1, of the value being the right one.
        aligned: False for a value that a model wrote and the page's words do not show; it is then not used.
    """

    model_config = FROZEN

    value: Any = None
    found: bool = False
    text: str = ""
    page: PositiveInt | None = None
    box: Box | None = None
    quads: tuple[Quad, ...] = ()
    confidence: float = Field(default=0.0, ge=0, le=1)
    aligned: bool = True


class Extraction(BaseModel, Generic[T]):
    """A document as the caller's own type.

    Attributes:
        value: a validated instance of the model that was asked for.
        fields: every value by its path, such as "total", "seller.name" and "items[0].price".
        engine: "layout" or "model": what found them.
        document: the words they were found in.
        untrusted: always True: whoever wrote the document wrote these values.
        kind: always "extraction"; tells results apart in JSON.
    """

    model_config = FROZEN

    kind: Literal["extraction"] = "extraction"
    value: T
    fields: dict[str, FieldValue]
    engine: Literal["layout", "model"]
    document: OcrResult | None = Field(default=None, exclude=True, repr=False)
    untrusted: Literal[True] = True

    @property
    def missing(self) -> list[str]:
        """Paths of the values that the document does not state."""
        return [path for path, field in self.fields.items() if not field.found]

    def draw(self, image: "ImageSource | None" = None, *, page: int = 1, password: str | None = None) -> Image.Image:
        """Draw a box and its field's path for each value that was read on a page, into a new RGB image.

        Args:
            image: the page's image; None opens the document's file again.
            page: its number.
            password: of an encrypted PDF that is opened again.

        Raises:
            InputError: the page was not read, the image is of another size, or there is no file to open.
        """
        from vision_agent.documents.source import page_image
        from vision_agent.images.loading import load_image

        if self.document is None:
            raise InputError("this extraction came without its document; draw the one that `agent.extract` returned")
        read = self.document.page(page)
        if image is None and not read.file:
            raise InputError(bad_argument("image", "the page's image, since it was not read from a file", image))
        size = (read.width, read.height)
        canvas = page_image(read.file, page, size, password=password) if image is None else load_image(image)
        if canvas.size != size:
            raise InputError(bad_argument("image", f"page {page}, {size[0]} x {size[1]} pixels", canvas.size))
        here = [(path, field) for path, field in self.fields.items() if field.page == page and field.box is not None]
        colors = annotate.label_colors([path for path, _ in here])
        boxes = np.array([field.box.xyxy for _, field in here if field.box is not None], dtype=np.float64).reshape(
            -1, 4
        )
        # Thin frames around the words and small tags between the lines: the values must stay legible.
        scale = (size[0] * size[1]) ** 0.5
        line = max(1, round(scale / 700))
        annotate.draw_boxes(
            canvas,
            boxes + np.array([-2.0, -2.0, 2.0, 2.0]) * line,
            [(path, f"{field.confidence:.2f}") for path, field in here],
            [colors[path] for path, _ in here],
            line_width=line,
            font_size=max(9, round(scale / 165)),
        )
        return canvas
