"""What workers do with a file: read it, or extract the caller's own object from it.

A job travels to the workers, so it holds settings and no models; `start` loads them there, once. Neither job needs a
language model unless one is named: then the engine may be "model".
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, get_args

from pydantic import BaseModel

from vision_agent._distribution import DISTRIBUTION
from vision_agent.batch.load_agent import load_agent
from vision_agent.batch.records import Record, head_of
from vision_agent.documents.options import OcrOptions, TextLayer
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.result import OcrResult
from vision_agent.documents.source import DocumentSource
from vision_agent.errors import ExtractionError, InputError, bad_argument
from vision_agent.extract.extractor import Engine, Extractor, check_choice, check_share
from vision_agent.extract.result import Extraction
from vision_agent.extract.schema_loading import load_schema
from vision_agent.extract.target import target_of
from vision_agent.extract.values.amounts import DecimalMark
from vision_agent.extract.values.dates import DateOrder
from vision_agent.plugins.registry import load_reader

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

Work = Callable[[str], Record]
"""A file's path -> its record, without the path: plain JSON. A file that fails raises."""

_READER = "rapidocr"


class Job(Protocol):
    """What a run does with each file. A job is pickled once for each worker."""

    def settings(self) -> dict[str, Any]:
        """Return all that decides what records say, as plain JSON; no secrets."""
        ...

    def start(self, threads: int) -> Work:
        """Load what is needed, in a worker that may use so many threads."""
        ...

    def rows(self, record: Record) -> Iterable[Mapping[str, Any]]:
        """Return a record as the rows of a table."""
        ...


@dataclass(frozen=True)
class OcrJob:
    """Read documents, as `VisionAgent.ocr`. A record has the `text` and, as JSON, the whole `OcrResult` as `result`.

    In tables there is a row for each line of text, with its box; a file without text has one row.

    Attributes:
        engine: a reader's name, or "model".
        pages, password, text_layer: as for `VisionAgent.ocr`.
        model: checkpoint for the engine "model"; None for the default.
        device: for the model.
    """

    engine: str = _READER
    pages: str | None = None
    password: str | None = field(default=None, repr=False)
    text_layer: TextLayer = "auto"
    model: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        self._options()
        if self.model is not None and self.engine != "model":
            raise InputError(bad_argument("engine", '"model" where a model is named', self.engine))

    def settings(self) -> dict[str, Any]:
        return {
            **_common("ocr", self.engine, self.pages, self.model),
            "text_layer": self.text_layer,
        }

    def start(self, threads: int) -> Work:
        options = self._options()
        if self.engine == "model":
            agent = _agent(self.model, self.device, threads)
            reader = DocumentReader(agent.image_limits, agent.ask, agent.model)
        else:
            reader, options = DocumentReader(), replace(options, engine=load_reader(self.engine)(threads))

        def work(file: str) -> Record:
            result = cast(OcrResult, reader.read(Path(file), options))
            return {"text": result.text, "result": result.model_dump(mode="json")}

        return work

    def _options(self) -> OcrOptions:
        return OcrOptions(pages=self.pages, password=self.password, engine=self.engine, text_layer=self.text_layer)

    def rows(self, record: Record) -> Iterable[Mapping[str, Any]]:
        head = head_of(record)
        if record["error"] is not None:
            return [head]
        rows = []
        for page in OcrResult.model_validate(record["result"]).pages:
            number = 0
            for place, block in enumerate(page.blocks, start=1):
                for line in block.lines:
                    number += 1
                    rows.append(
                        head
                        | {"page": page.number, "block": place, "kind": block.kind, "line": number}
                        | {"text": line.text, "score": line.score}
                        | dict(zip(("x0", "y0", "x1", "y1"), line.box.xyxy, strict=True))
                    )
        return rows or [head]


@dataclass(frozen=True)
class ExtractJob:
    """Extract objects, as `VisionAgent.extract`. A record has `value` and `fields`, as an `Extraction` has.

    Where a required value is missing, the record has an error and what was found. In tables a file is one row: its
    values, then for each single one its confidence, page and box; without a schema each pair is one.

    Attributes:
        schema: a Pydantic model that workers can import, "package.module:Model", or the path of a JSON schema; None for
            what stands there, `DocumentContents`.
        engine, pages, password, date_order, decimal_mark, min_confidence: as for `VisionAgent.extract`.
        model: a checkpoint, which then may read; None for none, unless the engine is "model".
        device: for the model.
    """

    schema: type[BaseModel] | str | None = None
    engine: Engine = "auto"
    pages: str | None = None
    password: str | None = field(default=None, repr=False)
    date_order: DateOrder | None = None
    decimal_mark: DecimalMark | None = None
    min_confidence: float = 0.5
    model: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self._model is not None:
            target_of(self._model)
        OcrOptions(pages=self.pages, password=self.password)
        check_choice("engine", self.engine, get_args(Engine) if self._model else ("auto", "layout"))
        check_choice("date_order", self.date_order, (None, *get_args(DateOrder)))
        check_choice("decimal_mark", self.decimal_mark, (None, *get_args(DecimalMark)))
        check_share("min_confidence", self.min_confidence)

    @cached_property
    def _model(self) -> type[BaseModel] | None:
        return load_schema(self.schema) if isinstance(self.schema, str) else self.schema

    def __getstate__(self) -> dict[str, Any]:
        # A model made from a JSON schema cannot be pickled: workers make their own.
        return {name: value for name, value in self.__dict__.items() if name != "_model"}

    def settings(self) -> dict[str, Any]:
        return {
            **_common("extract", self.engine, self.pages, self.model),
            "schema": self._model and self._model.model_json_schema(),
            "date_order": self.date_order,
            "decimal_mark": self.decimal_mark,
            "min_confidence": self.min_confidence,
        }

    def start(self, threads: int) -> Work:
        schema = self._model
        if self.model is not None or self.engine == "model":
            extract = _agent(self.model, self.device, threads).extract
        else:
            reader, engine = DocumentReader(), load_reader(_READER)(threads)

            def read(document: DocumentSource, options: OcrOptions) -> Any:
                return reader.read(document, replace(options, engine=engine))

            extract = Extractor(read).extract

        def work(file: str) -> Record:
            try:
                found: Extraction[Any] = extract(
                    Path(file),
                    schema,
                    engine=self.engine,
                    pages=self.pages,
                    password=self.password,
                    date_order=self.date_order,
                    decimal_mark=self.decimal_mark,
                    min_confidence=self.min_confidence,
                )
            except ExtractionError as error:
                reason = {"type": "ExtractionError", "message": str(error), "missing": list(error.missing)}
                return {"error": reason, **(_found(error.partial) if isinstance(error.partial, Extraction) else {})}
            return _found(found)

        return work

    def rows(self, record: Record) -> Iterable[Mapping[str, Any]]:
        return extracted_rows(record, by_schema=self._model is not None)


def extracted_rows(record: Record, *, by_schema: bool) -> list[Mapping[str, Any]]:
    """Return a record of `ExtractJob` as the rows of a table: one, or without a schema one a pair."""
    if not by_schema and record["error"] is None:
        names = ("key", "value", "checked", "confidence", "page")
        return [
            head_of(record) | {name: pair[name] for name in names} | {"box": list(pair["box"].values())}
            for pair in record["value"]["key_values"]
        ] or [head_of(record)]
    single = {path: field for path, field in record.get("fields", {}).items() if "[" not in path}
    evidence = {
        f"{path} ({name})": field["box"] and list(field["box"].values()) if name == "box" else field[name]
        for path, field in single.items()
        for name in ("confidence", "page", "box")
    }
    return [head_of(record) | record.get("value", {}) | evidence]


def _found(extraction: Extraction[Any]) -> Record:
    dumped = extraction.model_dump(mode="json", include={"value", "fields", "engine"}, fallback=str)
    return {"value": dumped["value"], "fields": dumped["fields"], "engine": dumped["engine"]}


def _common(job: str, engine: str, pages: str | None, model: str | None) -> dict[str, Any]:
    return {"job": job, "version": version(DISTRIBUTION), "engine": engine, "pages": pages, "model": model}


def _agent(model: str | None, device: str, threads: int) -> "VisionAgent":
    import torch

    torch.set_num_threads(threads)
    return load_agent(model, device=device)
