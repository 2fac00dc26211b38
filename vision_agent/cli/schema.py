"""The command `vision-agent schema invoice.pdf`: a JSON schema to start from."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from vision_agent.batch.records import replacing
from vision_agent.cli.documents import PagesOption, PasswordOption
from vision_agent.cli.exits import told
from vision_agent.documents.options import OcrOptions
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.result import OcrResult
from vision_agent.errors import InputError, bad_argument
from vision_agent.extract.schema_draft import draft_schema


def register(app: typer.Typer) -> None:
    """Add the command to `vision-agent`."""
    app.command()(schema)


def schema(
    path: Annotated[Path, typer.Argument(help="An image, a TIFF or a PDF, such as those to extract from.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write this .json file instead of printing.")] = None,
    force: Annotated[bool, typer.Option("--force", help="With --out, replace a file that is there.")] = False,
    pages: PagesOption = None,
    password: PasswordOption = None,
) -> None:
    """Draft a JSON schema from a document: print it, or write it with --out, for `vision-agent extract --schema`."""
    if out is not None:
        _check(out, force=force)
    elif force:
        raise InputError("`force` goes with --out: it is about its file")
    read = DocumentReader().read(path, OcrOptions(pages=pages, password=password))
    if not isinstance(read, OcrResult):
        raise InputError(bad_argument("path", "one document, not a folder", str(path)))
    draft = draft_schema(read)
    if not draft["properties"]:
        told(f"vision-agent: {str(path)!r}: no labels and no tables were found: the draft is empty")
    text = json.dumps(draft, ensure_ascii=False, indent=2)
    if out is None:
        print(text)
        return
    with replacing(out) as part:
        part.write_text(f"{text}\n", "utf-8")


def _check(out: Path, *, force: bool) -> None:
    if out.suffix.lower() != ".json":
        raise InputError(bad_argument("out", "a file that ends in .json", str(out)))
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise InputError(bad_argument("out", "a file in a folder that exists and may be written to", str(out)))
    if out.is_dir() or (out.exists() and not force):
        raise InputError(bad_argument("out", "a file that is not there yet, or --force to replace it", str(out)))
