"""LangChain documents of scans and PDFs: text, page and boxes, through LangChain's own interfaces."""

import io
from pathlib import Path

import pytest
from langchain_core.document_loaders import BaseLoader
from langchain_core.documents.base import Blob
from PIL import Image, ImageDraw, ImageFont
from reportlab.pdfgen.canvas import Canvas

from vision_agent import ArgumentTypeError, DocumentError, InputError
from vision_agent.tools.langchain.loaders import VisionBlobParser, VisionLoader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, a PDF of two pages, and a broken PDF."""
    folder = tmp_path_factory.mktemp("scans")
    image = Image.new("RGB", (300, 80), "white")
    ImageDraw.Draw(image).text((20, 24), "Green grocer", fill="black", font=ImageFont.load_default(24))
    image.save(folder / "a.png")
    canvas = Canvas(str(folder / "b.pdf"), pagesize=(300, 200))
    for number in (1, 2):
        canvas.setFont("Helvetica", 14)
        canvas.drawString(40, 150, f"Letter number {number}")
        canvas.drawString(40, 60, "Yours truly")
        canvas.showPage()
    canvas.save()
    (folder / "c.pdf").write_bytes(b"%PDF-1.4 broken")
    return folder


def test_a_document_for_each_page_with_boxes(folder: Path) -> None:
    loader = VisionLoader([folder / "a.png", folder / "b.pdf"])
    assert isinstance(loader, BaseLoader)
    image, first, second = loader.load()
    assert image.page_content == "Green grocer"
    assert image.metadata["source"] == str(folder / "a.png")
    assert [image.metadata[key] for key in ("page", "width", "height", "kind", "untrusted")] == [
        1,
        300,
        80,
        "page",
        True,
    ]
    (line,) = image.metadata["boxes"]
    assert line["text"] == "Green grocer"
    assert line["box"][:2] == pytest.approx([20, 28], abs=8)  # the reader draws boxes a little wider
    assert [document.metadata["page"] for document in (first, second)] == [1, 2]
    assert "Letter number 2" in second.page_content
    assert [each["text"] for each in second.metadata["boxes"]] == ["Letter number 2", "Yours truly"]


def test_a_document_for_each_block_of_a_blob_in_memory(folder: Path) -> None:
    parser = VisionBlobParser(by="block", pages=2)
    blob = Blob.from_data((folder / "b.pdf").read_bytes(), metadata={"customer": "7", "source": "mail"})
    upper, lower = parser.lazy_parse(blob)
    assert (upper.page_content, lower.page_content) == ("Letter number 2", "Yours truly")
    assert upper.metadata["customer"] == "7"
    assert upper.metadata["source"] == "mail"
    assert upper.metadata["page"] == 2
    scale = upper.metadata["width"] / 300  # pixels a point
    assert upper.metadata["box"][0] == pytest.approx(40 * scale, abs=4)
    assert upper.metadata["box"][3] < lower.metadata["box"][1]


def test_pages_are_read_as_they_are_asked_for(folder: Path) -> None:
    documents = VisionLoader([folder / "a.png", folder / "c.pdf"], boxes=False).lazy_load()
    assert "boxes" not in next(documents).metadata
    with pytest.raises(DocumentError):
        next(documents)


def test_a_broken_file_may_be_skipped(folder: Path) -> None:
    with pytest.warns(RuntimeWarning, match=r"c\.pdf is skipped"):
        documents = VisionLoader(folder, on_error="warn").load()
    assert [Path(document.metadata["source"]).name for document in documents] == ["a.png", "b.pdf", "b.pdf"]


async def test_asynchronously(folder: Path) -> None:
    documents = [document async for document in VisionLoader(folder / "a.png").alazy_load()]
    assert [document.page_content for document in documents] == ["Green grocer"]


def test_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="by"):
        VisionLoader(folder, by="word")
    with pytest.raises(InputError, match="on_error"):
        VisionLoader(folder, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="exist"):
        VisionLoader(folder / "none")
    with pytest.raises(ArgumentTypeError, match="parser"):
        VisionLoader(folder, parser=VisionBlobParser(), by="page")
    blank = io.BytesIO()
    Image.new("RGB", (40, 40), "white").save(blank, "PNG")
    assert list(VisionBlobParser(by="block").lazy_parse(Blob.from_data(blank.getvalue()))) == []
