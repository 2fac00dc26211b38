"""`/v1/documents/page`: one page of a document as an image, to draw on it what the verbs found there."""

import io
from typing import Annotated, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, PositiveInt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vision_agent.documents.source import page_images
from vision_agent.errors import VisionAgentError
from vision_agent.serve.bodies import kind_of, read_form, read_json
from vision_agent.serve.desk import Desk
from vision_agent.serve.gate import record_of
from vision_agent.serve.problems import problem_of
from vision_agent.serve.request_sources import Sources
from vision_agent.serve.verb_forms import Source

DOCUMENT_PAGE_PATH = "/v1/documents/page"
_TEXT_BYTES = 2**20  # of a field of a form that is no file
_LARGEST_PAGE = 10**7 - 1
_OWN_NAMES = {"pages": "page", "source": "document"}


class DocumentPageRequest(BaseModel):
    """A request for a page.

    Attributes:
        document: a PDF, a TIFF or another image.
        page: its number, from 1.
        password: of an encrypted PDF.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    document: Source
    page: Annotated[int, Field(ge=1, le=_LARGEST_PAGE)] = 1
    password: Annotated[str, Field(max_length=1000)] | None = None


class DocumentPage(BaseModel):
    """A page as an image. Places in results of the verbs are in its pixels.

    Attributes:
        page: its number, from 1.
        pages: how many the document has.
        width, height: of the image, pixels.
        png: the image as a PNG file.
    """

    kind: Literal["document_page"] = "document_page"
    page: PositiveInt
    pages: PositiveInt
    width: PositiveInt
    height: PositiveInt
    png: Base64Bytes


class DocumentPageEndpoint:
    """Draws pages of documents."""

    def __init__(self, desk: Desk, sources: Sources) -> None:
        self._desk = desk
        self._sources = sources

    async def answer(self, request: Request) -> Response:
        """Answer with a page."""
        if kind_of(request) == "multipart/form-data":
            asked = await read_form(request, DocumentPageRequest, {"document": False}, _TEXT_BYTES)
        else:
            asked = await read_json(request, DocumentPageRequest)
        async with self._desk.turn(request.receive) as turn:
            record_of(request.scope).numbers |= {"images": 1, "queue_seconds": round(turn.waited, 4)}
            drawn = await turn.run(lambda: self._drawn(asked))
        return JSONResponse(drawn.model_dump(mode="json"))

    def _drawn(self, asked: DocumentPageRequest) -> DocumentPage:
        """The page. Runs in a thread."""
        try:
            data = self._sources.document(asked.document, "document")
            limits = self._sources.limits
            found = next(
                page_images(
                    data, pages=asked.page, password=asked.password, limits=limits, with_layer=False, name="document"
                )
            )
        except VisionAgentError as error:
            raise problem_of(error, _OWN_NAMES) from error
        file = io.BytesIO()
        found.image.save(file, "PNG", compress_level=3)
        width, height = found.image.size
        return DocumentPage.model_construct(
            page=asked.page, pages=found.count, width=width, height=height, png=file.getvalue()
        )
