"""`agent.extract`: from a document to a validated object, by either engine."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, TypeVar, get_args

from PIL import Image
from pydantic import BaseModel, ValidationError

from vision_agent.documents.options import OcrOptions
from vision_agent.documents.page_choice import PageChoice
from vision_agent.documents.result import OcrResult
from vision_agent.documents.source import DocumentSource, page_images
from vision_agent.errors import ArgumentTypeError, ExtractionError, InputError, bad_argument
from vision_agent.extract.by_layout import extract_by_layout
from vision_agent.extract.by_model import Ask, extract_by_model
from vision_agent.extract.contents import contents_of
from vision_agent.extract.filling import Filled, drop, fill_blanks
from vision_agent.extract.result import Extraction, FieldValue
from vision_agent.extract.schema_loading import model_of
from vision_agent.extract.target import Group, target_of
from vision_agent.extract.values.amounts import DecimalMark
from vision_agent.extract.values.dates import DateOrder
from vision_agent.images.loading import ImageLimits

Engine = Literal["auto", "layout", "model"]
ReadDocument = Callable[[DocumentSource, OcrOptions], Any]
T = TypeVar("T", bound=BaseModel)

_BIG = 500_000_000  # parameters from which a model reads documents better than rules do
_LONGEST_SHOWN = 200  # characters of a value in an error
_MOST_IMAGES = 4  # pages whose images a model is shown at once


class ExtractSettings(TypedDict, total=False):
    """The settings of `VisionAgent.extract` as keyword arguments; see there."""

    engine: Engine
    pages: PageChoice
    password: str | None
    date_order: DateOrder | None
    decimal_mark: DecimalMark | None
    min_confidence: float


class Extractor:
    """An extractor for an agent; or, with the layout engine, on its own.

    Args:
        read: reads a document, as `DocumentReader.read`.
        ask: the model's `ask`; None where there is no model.
        parameters: of the model.
        limits: what images are accepted.
    """

    def __init__(
        self, read: ReadDocument, ask: Ask | None = None, parameters: int = 0, limits: ImageLimits | None = None
    ) -> None:
        self._read = read
        self._ask = ask
        self._parameters = parameters
        self._limits = limits or ImageLimits()

    @property
    def reads(self) -> bool:
        """Whether the model is big enough to read documents by itself."""
        return self._ask is not None and self._parameters >= _BIG

    def extract(
        self,
        document: DocumentSource | OcrResult,
        schema: type[T] | dict[str, Any] | None = None,
        *,
        engine: Engine = "auto",
        pages: PageChoice = None,
        password: str | None = None,
        date_order: DateOrder | None = None,
        decimal_mark: DecimalMark | None = None,
        min_confidence: float = 0.5,
    ) -> Extraction[Any]:
        """Extract an object from a document; see `VisionAgent.extract`."""
        model = model_of(schema) if isinstance(schema, dict) else schema
        target = None if model is None else target_of(model)
        check_choice("engine", engine, get_args(Engine))
        check_choice("date_order", date_order, (None, "dmy", "mdy"))
        check_choice("decimal_mark", decimal_mark, (None, ".", ","))
        check_share("min_confidence", min_confidence)
        if model is None or target is None:
            if engine == "model":
                raise InputError(bad_argument("engine", '"layout" or "auto" where there is no schema', engine))
            return contents_of(self.words(document, pages=pages, password=password), min_confidence)
        chosen = engine if engine != "auto" else "model" if self.reads else "layout"
        if chosen == "model" and self._ask is None:
            raise InputError(bad_argument("engine", '"layout" where there is no model', engine))
        words = self.words(document, pages=pages, password=password)
        if chosen == "layout" or self._ask is None:
            filled = extract_by_layout(words, target, date_order=date_order, decimal_mark=decimal_mark)
        else:
            shown = self.images(document, words, password=password)
            filled = extract_by_model(words, target, self._ask, shown, date_order=date_order, decimal_mark=decimal_mark)
        filled = _sure(filled, min_confidence, target)
        return _validated(model, filled, "model" if chosen == "model" else "layout", words)

    def words(
        self, document: DocumentSource | OcrResult, *, pages: PageChoice = None, password: str | None = None
    ) -> OcrResult:
        """Return the document's words; those of an `OcrResult` are there already.

        Raises:
            ArgumentTypeError: several documents, or none.
        """
        if isinstance(document, OcrResult):
            if pages is not None:
                raise InputError(bad_argument("pages", "left out for a document that was read already", pages))
            return document
        if isinstance(document, list | tuple):
            raise ArgumentTypeError(bad_argument("document", "one document", document))
        read = self._read(document, OcrOptions(pages=pages, password=password))
        if not isinstance(read, OcrResult):
            raise ArgumentTypeError(bad_argument("document", "one document, not a folder", document))
        return read

    def images(
        self, document: DocumentSource | OcrResult, words: OcrResult, *, password: str | None = None
    ) -> list[Image.Image]:
        """Return the images of the first pages that were read; none where the document came from no file."""
        numbers = [page.number for page in words.pages][:_MOST_IMAGES]
        source: Any = words.file if isinstance(document, OcrResult) else document
        if not source or not numbers or hasattr(source, "read"):  # a file object was read to its end
            return []
        opened = page_images(source, pages=numbers, password=password, limits=self._limits, with_layer=False)
        return [page.image for page in opened]


def check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise InputError for a value that is none of the allowed ones."""
    if value not in allowed:
        raise InputError(bad_argument(name, f"one of {list(allowed)}", value))


def check_share(name: str, value: object) -> None:
    """Raise InputError for what is no number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(bad_argument(name, "a number from 0 to 1", value))


def _validated(schema: type[T], filled: Filled, engine: Literal["layout", "model"], words: OcrResult) -> Extraction[T]:
    """The caller's object. A value that breaks a rule of the whole model is taken out, once; then the rest must do."""
    fields, data = dict(filled.fields), copy.deepcopy(filled.data)
    target = target_of(schema)
    try:
        value = schema.model_validate(data)
    except ValidationError as error:
        for path in _broken(error, filled, _optional(target, ())):
            drop(data, filled.keys[path])
            fields[path] = FieldValue()
        fill_blanks(target, data)
        try:
            value = schema.model_validate(data)
        except ValidationError as again:
            raise _incomplete(schema, error, again, filled, engine, words) from again
    for path, field in fields.items():
        if not field.found and field.aligned:
            fields[path] = field.model_copy(update={"value": _at(value, path)})
    # Validators of the model may have changed a value: the fields say the same as the object.
    fields = {path: _as_validated(value, path, field) for path, field in fields.items()}
    return Extraction[schema](value=value, fields=fields, engine=engine, document=words)  # type: ignore[valid-type]


def _sure(filled: Filled, least: float, target: Group) -> Filled:
    """What was found, without the values that are less sure than `least`."""
    fields = dict(filled.fields)
    for path, field in filled.fields.items():
        if field.found and field.confidence < least:
            drop(filled.data, filled.keys[path])
            fields[path] = FieldValue()
    fill_blanks(target, filled.data)
    kept = {path: key for path, key in filled.keys.items() if fields[path].found}
    return Filled(filled.data, fields, kept, filled.refused)


def _as_validated(value: BaseModel, path: str, field: FieldValue) -> FieldValue:
    return field.model_copy(update={"value": _at(value, path)}) if field.found else field


def _broken(error: ValidationError, filled: Filled, optional: Sequence[tuple[str, ...]]) -> list[str]:
    """Paths of found values to do without: those an error is about, and all of a group that may be left out whole."""
    broken: list[str] = []
    for detail in error.errors(include_url=False, include_input=False):
        place = detail["loc"]
        groups = [key for key in optional if place[: len(key)] == key]
        broken += [
            path
            for path, key in filled.keys.items()
            if place[: len(key)] == key or any(key[: len(group)] == group for group in groups[:1])
        ]
    return list(dict.fromkeys(broken))


def _optional(group: Group, key: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Keys of the groups that a model can do without, outermost first."""
    found = []
    for name, part in group.parts.items():
        if isinstance(part, Group):
            if not part.required:
                found.append((*key, name))
            found += _optional(part, (*key, name))
    return found


def _incomplete(
    schema: type[BaseModel],
    error: ValidationError,
    again: ValidationError,
    filled: Filled,
    engine: Literal["layout", "model"],
    words: OcrResult,
) -> ExtractionError:
    """What is not stated, and what is stated but refused, with the rule that refuses it; the rest is in `partial`."""
    refused = {
        path: f"{path}: {why} (the document states {told.value!r})" for path, (told, why) in filled.refused.items()
    }
    told: dict[str, str] = {}
    for detail in (*error.errors(include_url=False), *again.errors(include_url=False)):
        path = ".".join(map(str, detail["loc"]))
        if detail["type"] != "missing" and path not in told:
            where = path or f"{schema.__name__} as a whole"
            told[path] = f"{where}: {detail['msg']} (the document states {_short(detail.get('input'))})"
    details = again.errors(include_url=False, include_input=False)
    missing = tuple(dict.fromkeys(".".join(map(str, detail["loc"])) for detail in details))
    broken = [told.get(path) or refused[path] for path in missing if path in told or path in refused]
    unstated = [path for path in missing if path not in told and path not in refused]
    parts = (
        [f"the document does not state what {schema.__name__} requires: {', '.join(unstated[:8])}"] if unstated else []
    )
    parts += [f"{schema.__name__} refuses what the document states: {'; '.join(broken[:8])}"] if broken else []
    fields = dict(filled.fields) | {path: field for path, (field, _) in filled.refused.items()}
    partial = Extraction[dict[str, Any]](value=filled.data, fields=fields, engine=engine, document=words)
    return ExtractionError(
        f"{'. '.join(parts)}. Make these fields optional (`X | None = None`), or read `error.partial`", partial, missing
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _at(value: Any, path: str) -> Any:
    """The value at a path such as "items[0].price"; None where it leads nowhere."""
    for step in path.replace("[", ".[").split("."):
        if value is None:
            return None
        if step.startswith("["):
            index = int(step[1:-1])
            items = list(value)
            value = items[index] if index < len(items) else None
        else:
            value = getattr(value, step, None)
    return value
