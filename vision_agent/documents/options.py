"""How documents are read: the settings of `VisionAgent.ocr`, as one object."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict, get_args

from vision_agent.documents.page_choice import ChosenPages, PageChoice
from vision_agent.documents.page_reader import PageReader
from vision_agent.errors import ArgumentTypeError, InputError, bad_argument

TextLayer: TypeAlias = Literal["auto", "never", "only"]
"""Whether a PDF's own text is used where the page shows it, never, or alone: then no image is read."""


class OcrSettings(TypedDict, total=False):
    """The fields of `OcrOptions` as keyword arguments, for a verb that passes them on."""

    pages: PageChoice
    password: str | None
    engine: str | PageReader
    workers: int
    text_layer: TextLayer
    recogniser: str | Path | None
    progress: bool


@dataclass(frozen=True)
class OcrOptions:
    """How a document is read.

    Attributes:
        pages: which pages, from 1: `3`, `[1, 2]`, `"1-3,7"`, `"5-"`; None for all.
        password: of an encrypted PDF.
        engine: the name of a reader in the entry-point group `vision_agent.readers`, `"model"` for the agent's own
            model, or a reader.
        workers: how many pages are read side by side.
        text_layer: `"auto"` takes a PDF's own text where the page shows it; `"never"` reads every page's image;
            `"only"` reads no image: a PDF's own text, also a scanned page's that lies unseen under its image.
        recogniser: the path of another recogniser for `engine="rapidocr"`, an ONNX file of RapidOCR's, for scripts that
            the one that comes with it does not know.
        progress: show a bar on stderr.

    Raises:
        InputError: a value that is not allowed.
        ArgumentTypeError: a value of another type.
    """

    pages: PageChoice = None
    password: str | None = field(default=None, repr=False)
    engine: str | PageReader = "rapidocr"
    workers: int = 1
    text_layer: TextLayer = "auto"
    recogniser: str | Path | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        ChosenPages(self.pages)
        if self.password is not None and not isinstance(self.password, str):
            raise ArgumentTypeError(bad_argument("password", "a string", type(self.password).__name__))
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or not 1 <= self.workers <= 256:
            raise InputError(bad_argument("workers", "a whole number from 1 to 256", self.workers))
        if self.recogniser is not None:
            if not isinstance(self.recogniser, str | Path):
                raise ArgumentTypeError(bad_argument("recogniser", "a path", self.recogniser))
            if not Path(self.recogniser).is_file():
                raise InputError(bad_argument("recogniser", "an ONNX file of a RapidOCR recogniser", self.recogniser))
        if self.text_layer not in get_args(TextLayer):
            raise InputError(bad_argument("text_layer", '"auto", "never" or "only"', self.text_layer))
