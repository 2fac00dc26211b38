"""Commands that measure on a folder: a zip file, an empty folder or none at all is an error, no figure of 0."""

import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from vision_agent.errors import InputError
from vision_agent.evaluate import adjacency, document_fields, fields, form_fitting, form_pairs
from vision_agent.evaluate.data_folders import files_in, listed_documents

COMMANDS = [adjacency, document_fields, fields, form_fitting, form_pairs]


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "tables_dev.zip", "w") as archive:
        archive.writestr("eu-001-str.xml", "<document/>")
    return folder / "tables_dev.zip"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda module: module.__name__.rsplit(".")[-1])
@pytest.mark.parametrize("given", ["zip", "empty", "missing", "wrong list"])
def test_what_is_no_folder_of_documents_is_told(
    command: ModuleType, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = {"zip": zipped(tmp_path), "missing": tmp_path / "nowhere"}.get(given, tmp_path / given)
    if given in ("empty", "wrong list"):
        folder.mkdir()
    if given == "wrong list":
        for name in ("documents.json", "receipts_900.json"):
            (folder / name).write_text(json.dumps({"documents": []}))
    monkeypatch.setattr(sys, "argv", ["command", str(folder)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert not told.out
    assert "`folder` must be" in told.err and str(folder)[:60] in told.err
    assert given != "zip" or "unpack it" in told.err


def test_cells_without_their_documents_are_no_folder_to_measure(tmp_path: Path) -> None:
    (tmp_path / "eu-001-str.xml").write_text("<document/>")
    with pytest.raises(InputError, match="no PDF beside"):
        adjacency.documents(tmp_path)
    (tmp_path / "eu-001.pdf").write_bytes(b"%PDF-")
    assert adjacency.documents(tmp_path) == [tmp_path / "eu-001-str.xml"]


def test_a_folder_that_has_what_is_asked_is_read(tmp_path: Path) -> None:
    (tmp_path / "documents.json").write_text('{"documents": [{"id": 1}]}')
    assert listed_documents(tmp_path) == [{"id": 1}]
    assert files_in(tmp_path, "*.json", "lists") == [tmp_path / "documents.json"]
