"""A document inbox: sort what comes in, read its fields, a page on which a person checks what is in doubt, an export.

    python examples/document_inbox.py INBOX OUT [corrections.json]

writes OUT/export.json and OUT/review.html, whose button saves corrections.json for the next run. Only fields below SURE
are on the page, each beside the piece of the document that it was read from. Needs the extra `ocr`.
"""

import datetime
import json
import sys
from decimal import Decimal
from html import escape
from pathlib import Path

from pydantic import BaseModel

from vision_agent import VisionAgent
from vision_agent.results.export import image_tag, preview

SURE = 0.8
SORTS = {"invoice": ("invoice", "rechnung", "facture"), "receipt": ("receipt", "cash", "change"), "other": ("",)}
PAGE = """<!doctype html><meta charset=utf-8><title>Inbox</title><h1>To check</h1><form>%s</form><button onclick="
const a=document.createElement('a');a.download='corrections.json';a.href='data:application/json,'+encodeURIComponent(
JSON.stringify(Object.fromEntries(new FormData(document.forms[0]))));a.click()">Save</button>"""


class Fields(BaseModel):
    invoice_number: str | None = None
    date: datetime.date | None = None
    total: Decimal | None = None


def inbox(agent: VisionAgent, folder: Path, out: Path, corrections: dict[str, str]) -> list[dict[str, object]]:
    """Write the review page and the export; return the rows of the export."""
    rows, doubts = list[dict[str, object]](), ""
    for file in sorted(folder.iterdir()):
        read = agent.ocr(file)
        sort = next(sort for sort, hints in SORTS.items() if any(hint in read.text.lower() for hint in hints))
        found = agent.extract(read, Fields)
        values = found.value.model_dump(mode="json")
        corrected = {name: corrections[key] for name in values if (key := f"{file.name}/{name}") in corrections}
        for name, field in found.fields.items():
            if name in corrected or field.confidence >= SURE:
                continue
            key, value, shown = escape(f"{file.name}/{name}"), escape(str(values[name] or "")), "not found"
            if field.page and field.box:
                piece = read.draw(page=field.page, level="blocks").crop(field.box.xyxy)
                shown = image_tag(preview(piece, ".png"), field.text)
            doubts += f"<p><label>{key} {shown} <input name='{key}' value='{value}'></label>"
        rows.append({"file": file.name, "sort": sort} | Fields(**values | corrected).model_dump(mode="json"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "review.html").write_text(PAGE % doubts, "utf-8")
    (out / "export.json").write_text(json.dumps(rows, indent=2), "utf-8")
    return rows


if __name__ == "__main__":
    source, target, *saved = map(Path, sys.argv[1:])
    inbox(VisionAgent(), source, target, json.loads(saved[0].read_text("utf-8")) if saved else {})
