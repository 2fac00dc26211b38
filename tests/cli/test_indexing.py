"""`vision-agent index`, `search` and `duplicates`, as a user runs them."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from vision_agent import VisionAgent
from vision_agent.cli.main import main

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
BUS, OTHER = "000000423617.jpg", "000000139872.jpg"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(each) for each in arguments])
    said = capsys.readouterr()
    return left.value.code, said.out, said.err


def test_a_folder_is_indexed_searched_and_looked_through_for_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, agent: VisionAgent
) -> None:
    # Loading the model takes most of each command's time.
    monkeypatch.setattr("vision_agent.batch.load_agent.load_agent", lambda *_, **__: agent)
    photos, file, sheet = tmp_path / "photos", tmp_path / "photos.index", tmp_path / "found.png"
    photos.mkdir()
    for name in (BUS, OTHER):
        shutil.copy(PHOTOS / name, photos)
    shutil.copy(PHOTOS / BUS, photos / "copy.jpg")
    (photos / "broken.png").write_bytes(b"no image")

    code, out, err = run(capsys, "index", photos, "--out", file)
    assert code == 1 and out == "" and file.is_file()
    assert f"3 images in {str(file)!r}; 1 cannot be read" in err and "broken.png" in err
    (photos / "broken.png").unlink()
    assert run(capsys, "index", photos, "--out", file)[0] == 0

    code, out, err = run(capsys, "search", file, "bus", "--sheet", sheet)
    lines = out.splitlines()
    assert code == 0 and {Path(line.split()[-1]).name for line in lines[:2]} == {BUS, "copy.jpg"}
    score, box, _ = lines[0].split()
    assert 0 < float(score) <= 1 and len(box.split(",")) == 4
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG" and drawn.width > 200
    code, out, _ = run(capsys, "search", file, "bus", "--json", "--limit", "1")
    found = json.loads(out)
    assert found["kind"] == "search" and found["method"] == "presence" and len(found["hits"]) == 1
    code, out, _ = run(capsys, "search", file, photos / OTHER, "--box", "0,0,9999,9999", "--limit", "1")
    assert code == 0 and out.startswith("1.000 ") and out.strip().endswith(OTHER)
    code, out, err = run(capsys, "search", file, "qwrtzpl")
    assert (code, out) == (0, "") and "nothing found" in err and "never taught: qwrtzpl" in err

    photos = photos.rename(tmp_path / "moved")
    code, out, err = run(capsys, "search", file, "dog")
    assert (code, out) == (0, "") and f"the folder {str(tmp_path / 'photos')!r} is not there: --folder" in err
    code, out, err = run(capsys, "search", file, "dog", "--folder", photos, "--limit", "1")
    assert code == 0 and out.strip().endswith(str(photos / OTHER)) and err == ""
    (photos / OTHER).rename(tmp_path / OTHER)
    code, out, err = run(capsys, "search", file, "dog", "--folder", photos, "--json")
    assert str(photos / OTHER) in json.loads(out)["missing"] and "1 of 3 images are not there now" in err
    (tmp_path / OTHER).rename(photos / OTHER)

    code, out, err = run(capsys, "duplicates", photos, "--sheet", sheet)
    assert code == 0 and out.count("\n") == 1 and out.startswith("=\t") and "copy.jpg" in out
    assert "1 files could go" in err and (photos / "copy.jpg").is_file()
    code, out, _ = run(capsys, "duplicates", photos, "--exact", "--json")
    assert json.loads(out)["groups"][0]["exact"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["index", "no/folder", "--out", "photos.index"], "`folder` must be a folder that exists, but got 'no/folder'"),
        (["index", ".", "--out", "no/photos.index"], "`out` must be a file in a folder that exists"),
        (["search", "no.index", "dog"], "`index` must be an index that `vision-agent index` wrote, but got 'no.index'"),
        (["search", "no.index", "dog.jpg", "--box", "1,2"], "`box` must be four numbers, x0,y0,x1,y1, but got '1,2'"),
        (["search", "no.index", "dog", "--sheet", "found.txt"], "must be a file that ends in one of"),
        (["duplicates", "no/folder"], "`folder` must be a folder that exists"),
        (["duplicates", "."], "folders with images"),
        (["duplicates", ".", "--sheet", "no/found.png"], "`sheet` must be a file in a folder that exists"),
        (["search", "no.index", "dog", "--folder", "no"], "`folder` must be a folder that exists, but got 'no'"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_before_a_model_is_loaded(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vision_agent.batch.load_agent.load_agent", lambda *_, **__: pytest.fail("a model was loaded"))
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and says in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
