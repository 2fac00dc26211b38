"""Every error this package raises on purpose.

    VisionAgentError
    ├── InputError (ValueError)            a value that cannot be used
    │   ├── ImageError                     a picture that cannot be read
    │   │   ├── ImageTooLargeError         over the pixel, side or byte limit
    │   │   └── UnsupportedImageError      a format that is not allowed
    │   └── UrlRefusedError                an address that is not fetched
    ├── ArgumentTypeError (TypeError)      a value of the wrong type, or swapped arguments
    ├── ConfigError (ValueError)           a training or model setting that makes no sense
    ├── CheckpointError (ValueError)       a model folder that is missing, broken or half-written
    │   └── AdapterMismatchError           an adapter that was trained on another base model
    ├── AnswerError (RuntimeError)         an answer that cannot be turned into what was asked for
    ├── RouteError (ValueError)            a routing token used where it cannot be
    ├── UnknownDecoderError (LookupError)  no decoder is registered under that name
    └── MissingExtraError (ImportError)    an optional package is not installed

Each also inherits the built-in exception a caller would expect, so `except ValueError` works.
"""


class VisionAgentError(Exception):
    """Base of all errors of this package."""


class InputError(VisionAgentError, ValueError):
    """A value that cannot be used."""


class ImageError(InputError):
    """A picture that cannot be read."""


class ImageTooLargeError(ImageError):
    """A picture over the pixel, side or byte limit."""


class UnsupportedImageError(ImageError):
    """A picture of a format that is not allowed."""


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

    Attributes:
        text: what the model wrote.
    """

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


class RouteError(VisionAgentError, ValueError):
    """A routing token used where it cannot be."""


class UnknownDecoderError(VisionAgentError, LookupError):
    """No decoder is registered under that name."""


class MissingExtraError(VisionAgentError, ImportError):
    """An optional package is not installed; the message has the install line."""


def bad_argument(name: str, expected: str, got: object) -> str:
    """The one sentence shape for bad arguments: name, what was expected, what came (shortened)."""
    shown = repr(got)
    if len(shown) > 120:
        shown = shown[:100] + f"... ({len(shown)} characters)"
    return f"`{name}` must be {expected}, but got {shown}"
