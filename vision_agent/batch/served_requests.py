"""What a server is asked about a file, and the record that its answer is: the same as of a worker."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision_agent.batch.image_jobs import SEED, ImageJob, content_of_json
from vision_agent.batch.jobs import ExtractJob, Job, OcrJob
from vision_agent.batch.lists import read_item
from vision_agent.batch.records import Record
from vision_agent.documents.result import OcrResult
from vision_agent.errors import AnswerError, EngineError, ExtractionError, InputError, VisionAgentError, bad_argument
from vision_agent.images.loading import load_image

_NO_ANSWER = 422  # of HTTP: what was asked for is right, and still there is none
_OF_SERVERS = ("detect", "segment", "count", "point", "ask", "caption", "run", "classify", "edit")


class ServedRequest:
    """How servers are asked to do a job.

    Args:
        job: one of this package.

    Raises:
        InputError: a job that servers do not do, or settings that they have no words for.
    """

    def __init__(self, job: Job) -> None:
        if isinstance(job, ImageJob):
            self.path, self._fields = _of_images(job)
        elif isinstance(job, OcrJob):
            self.path, self._fields = "ocr", {"pages": job.pages, "password": job.password, "engine": job.engine}
            self._fields["text_layer"] = job.text_layer
        elif isinstance(job, ExtractJob):
            self.path = "extract"
            self._fields = {name: getattr(job, name) for name in ("engine", "pages", "password", "min_confidence")}
            self._fields |= {"date_order": job.date_order, "decimal_mark": job.decimal_mark}
            self._fields["schema"] = job.settings()["schema"]
        else:
            raise InputError(bad_argument("job", "an ImageJob, OcrJob or ExtractJob where servers do it", job))
        self._job = job
        self._source = "image" if isinstance(job, ImageJob) else "document"
        self.path = f"/v1/vision/{self.path}"

    @property
    def model(self) -> str | None:
        """The model that servers must serve; None for the default one."""
        return getattr(self._job, "model", None)

    def body(self, file: str) -> dict[str, Any]:
        """Return the request about a file.

        Raises:
            InputError: what cannot be read; an image that is damaged is not sent.
            OSError: a document that cannot be read.
        """
        source = read_item(file)
        if isinstance(self._job, ImageJob) and not (self._job.verb == "ask" and file.lower().endswith(".pdf")):
            load_image(source, limits=self._job.limits)
        if isinstance(source, str):
            return {**self._fields, self._source: source}
        data = source.read_bytes() if isinstance(source, Path) else source
        address = f"data:{_kind(data)};base64,{base64.b64encode(data).decode()}"
        return {**self._fields, self._source: address}

    def record(self, answer: Any) -> Record:
        """Return what a record says of an answer. Raises TypeError or KeyError for what is none."""
        if isinstance(self._job, ExtractJob):
            return {name: answer[name] for name in ("value", "fields", "engine")}
        if isinstance(self._job, OcrJob):
            return {"text": OcrResult.model_validate(answer).text, "result": answer}
        return content_of_json(answer)

    def refusal(self, error: EngineError) -> VisionAgentError:
        """Return what a worker would have raised where a server refuses a file."""
        if error.status != _NO_ANSWER:
            return InputError(error.said or str(error))
        return (
            ExtractionError(error.said, None, ()) if isinstance(self._job, ExtractJob) else AnswerError(error.said, "")
        )


def _of_images(job: ImageJob) -> tuple[str, dict[str, Any]]:
    if job.verb not in _OF_SERVERS:
        raise InputError(bad_argument("verb", f"one of {', '.join(_OF_SERVERS)} where servers do it", job.verb))
    if job.adapters or job.embedder is not None or job.engine is not None:
        name = "adapters" if job.adapters else "embedder" if job.embedder is not None else "engine"
        raise InputError(f"`{name}` goes without servers, which have loaded theirs")
    own: Mapping[str, Any] = {"threshold": job.threshold, "tiles": job.tiles, "detail": job.detail}
    finding = {"phrase": job.request, "only_known": job.only_known, **own}
    finding["verify"] = job.verify or None
    fields: dict[str, dict[str, Any]] = {
        "ask": {"question": job.request},
        "caption": {"length": job.request},
        "run": {"request": job.request, "verify": job.verify or None},
        "edit": {"prompt": job.request, "seed": SEED},
        "classify": {"labels": job.labels, "templates": list(job.templates) or None},
    }
    return job.verb, {name: value for name, value in fields.get(job.verb, finding).items() if value is not None}


def _kind(data: bytes) -> str:
    return "application/pdf" if b"%PDF-" in data[:1024] else "image/png"
