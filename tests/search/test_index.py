"""`Index`: built, resumed, brought up to date, searched by words, images and boxes, saved and read with mistrust."""

import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from dual_encoders import make_dual_encoder
from PIL import Image

from vision_agent import ArgumentTypeError, Box, Index, InputError, RouteError, SearchResults, VisionAgent, load_image
from vision_agent.search.nearest import nearest, searcher

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
BUS = "000000423617.jpg"


class MeanColour:
    """Embeds an image as its mean colour and a constant, and counts how many it embedded."""

    name, width, fingerprint = "mean colour", 4, "mean-colour-1"
    embeds_texts, logit_scale, logit_bias = True, None, None

    def __init__(self) -> None:
        self.count = 0
        self.breaks_at: int | None = None

    def embed_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        self.count += len(images)
        if self.breaks_at is not None and self.count > self.breaks_at:
            raise KeyboardInterrupt
        return self._unit([np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images])

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
        return self._unit([colours.get(text, (128, 128, 128)) for text in texts])

    def _unit(self, colours: Sequence[Any]) -> npt.NDArray[np.float32]:
        rows = np.column_stack([np.array(colours, dtype=np.float32).reshape(-1, 3), np.full(len(colours), 9.0)])
        unit: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit


@pytest.fixture(scope="module")
def coloured(agent: VisionAgent) -> tuple[VisionAgent, MeanColour]:
    """The default's model with an embedder that counts."""
    embedder = MeanColour()
    seeing = VisionAgent.__new__(VisionAgent)
    seeing.__dict__.update(vars(agent), _embedder=embedder)
    return seeing, embedder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of one colour each, in two folders, one of them damaged; and what is no image."""
    photos = tmp_path / "photos"
    (photos / "deep er").mkdir(parents=True)
    for number in range(11):
        colour = (23 * number, 255 - 20 * number, (number * 67) % 256)
        place = photos / "deep er" if number % 3 == 0 else photos
        Image.new("RGB", (40 + number, 30), colour).save(place / f"{number:02}.png")
    (photos / "damaged.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    (photos / "notes.txt").write_text("no image", "utf-8")
    return photos


def names(found: Sequence[Any]) -> list[str]:
    return [Path(each.file).name for each in found]


def test_a_folder_is_built_and_a_damaged_file_is_a_record(
    folder: Path, coloured: tuple[VisionAgent, MeanColour]
) -> None:
    index = Index.build(folder, coloured[0])
    assert len(index) == 11 and len(index.files) == 11
    assert list(index.errors) == [str(folder / "damaged.jpg")]
    assert index.errors[str(folder / "damaged.jpg")]
    assert all(Path(file).is_file() for file in index.files)


def test_names_of_any_kind_are_kept_or_told(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 20), "red")
    for name in ("фото 1.png", "new\nline.png", "%2e..png", "a;b.png"):
        image.save(tmp_path / name)
    image.save(os.fsencode(tmp_path) + b"/\xff.png", "PNG")  # no text in UTF-8
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    index = Index.build(tmp_path, out=tmp_path / "photos.index")
    again = Index.load(tmp_path / "photos.index")
    assert {Path(file).name for file in again.files} == {"фото 1.png", "new\nline.png", "%2e..png", "a;b.png"}
    assert {Path(file).name for file in again.errors} == {r"\udcff.png", "pipe.png", "gone.png"}
    assert again.errors == index.errors and again.update().unchanged == 7
    (group,) = again.duplicates()
    assert group.exact and len(group.files) == 4 and group.model_dump_json()


def test_search_is_the_order_of_brute_force(folder: Path, coloured: tuple[VisionAgent, MeanColour]) -> None:
    agent, embedder = coloured
    index = Index.build(folder, agent)
    every = {file: embedder.embed_images([load_image(file)])[0] for file in index.files}
    for query in ("red", "green", folder / "01.png", Image.new("RGB", (8, 8), (10, 200, 30))):
        vector = agent.embed(query)
        expected = sorted(((float(row @ vector), file) for file, row in every.items()), reverse=True)[:4]
        found = index.search(query, limit=4)
        assert found.method == "embedder" and found.images == 11 and found.model == "mean colour"
        assert [hit.score for hit in found] == pytest.approx([score for score, _ in expected], abs=1e-6)
        assert [hit.file for hit in found] == [file for _, file in expected]
    assert len(index.search("red", limit=1000)) == 11
    assert SearchResults.model_validate_json(found.model_dump_json()) == found


def test_a_part_of_an_image_is_looked_for(folder: Path, coloured: tuple[VisionAgent, MeanColour]) -> None:
    index = Index.build(folder, coloured[0])
    shown = Image.new("RGB", (100, 50), "white")
    shown.paste(load_image(folder / "05.png").resize((20, 20)), (60, 10))
    for box in ((60, 10, 80, 30), Box(x0=60, y0=10, x1=80, y1=30), np.array([60.2, 10.1, 79.8, 30.4])):
        (best,) = index.search(shown, box=box, limit=1)
        assert Path(best.file).name == "05.png" and best.score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("query", "settings", "error", "says"),
    [
        ("", {}, InputError, "some words"),
        ("red", {"limit": 0}, InputError, "`limit` must be a whole number of at least 1"),
        ("red", {"limit": True}, InputError, "`limit` must be"),
        ("red", {"box": (0, 0, 1, 1)}, InputError, "`box` must be left out where words are looked for"),
        (Image.new("RGB", (9, 9)), {"box": (20, 20, 30, 30)}, InputError, "inside the image of 9 x 9 pixels"),
        (Image.new("RGB", (9, 9)), {"box": (0, 0, 4, 9)}, InputError, "`box` must be .* at least 8 pixels a side"),
        (Image.new("RGB", (9, 9)), {"box": (5, 5, 2, 2)}, InputError, "`box` must be x0, y0, x1, y1"),
        (Image.new("RGB", (9, 9)), {"box": (0, 0, float("nan"), 5)}, InputError, "`box` must be x0, y0, x1, y1"),
        (Image.new("RGB", (9, 9)), {"box": "all"}, InputError, "`box` must be x0, y0, x1, y1"),
        ("no_such.jpg", {}, InputError, "`query`"),
        ("red", {"engine": "magic"}, InputError, "`engine` must be 'numpy' or 'faiss'"),
        (None, {}, ArgumentTypeError, "`query`"),
    ],
)
def test_queries_that_are_none_are_named(
    folder: Path,
    coloured: tuple[VisionAgent, MeanColour],
    query: Any,
    settings: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        Index.build(folder, coloured[0]).search(query, **settings)


def test_only_what_changed_is_read_again(folder: Path, coloured: tuple[VisionAgent, MeanColour]) -> None:
    agent, embedder = coloured
    index = Index.build(folder, agent)
    before, embedder.count = len(index.files), 0
    assert index.update().unchanged == 12
    os.utime(folder / "01.png", ns=(1, 1))  # another time, the same bytes
    assert index.update().unchanged == 12 and embedder.count == 0
    Image.new("RGB", (8, 8), (255, 0, 0)).save(folder / "01.png")
    Image.new("RGB", (8, 8), (0, 0, 255)).save(folder / "new.png")
    (folder / "02.png").unlink()
    shutil.copy(folder / "04.png", folder / "04 again.png")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "damaged.jpg")
    changes = index.update()
    assert (changes.added, changes.changed, changes.removed, changes.unchanged) == (2, 2, 1, 9)
    assert changes.damaged == 0 and index.errors == {}
    assert embedder.count == 3  # a copy has its twin's vector
    assert len(index) == before + 2
    assert names(index.search("red", limit=1)) == ["01.png"] and names(index.search("blue", limit=1)) == ["new.png"]
    assert names(index.search(folder / "04.png", limit=2)) == ["04.png", "04 again.png"]


def test_images_are_added_and_removed(folder: Path, coloured: tuple[VisionAgent, MeanColour]) -> None:
    index = Index(folder, coloured[0])
    assert len(index) == 0 and len(index.search("red")) == 0
    assert index.add([folder / "01.png", folder / "damaged.jpg"]).added == 2
    assert index.add([folder / "01.png"]).unchanged == 1
    assert names(index.search("red")) == ["01.png"]
    assert index.remove([folder / "01.png"]).removed == 1
    assert len(index) == 0 and len(index.search("red")) == 0
    with pytest.raises(InputError, match=r"`files` must be files of the index, but got '01\.png'"):
        index.remove([folder / "01.png"])
    with pytest.raises(InputError, match="inside the folder of the index"):
        index.add([PHOTOS / BUS])
    with pytest.raises(ArgumentTypeError, match="a list of paths"):
        index.remove("01.png")
    with pytest.raises(InputError, match="files and folders that exist"):
        index.add([folder / "no.png"])


def test_a_folder_whose_images_all_went_is_empty_and_one_that_went_is_told(folder: Path, agent: VisionAgent) -> None:
    index = Index.build(folder)
    for file in folder.rglob("*.*"):
        file.unlink()
    assert index.update().removed == 12 and len(index) == 0
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="a folder that exists"):
        index.update()
    with pytest.raises(InputError, match="a folder that exists"):
        Index.build(folder)


def test_a_saved_index_finds_the_same(folder: Path, tmp_path: Path, coloured: tuple[VisionAgent, MeanColour]) -> None:
    agent, embedder = coloured
    index = Index.build(folder, agent)
    file = tmp_path / "photos.index"
    index.save(file)
    again = Index.load(file, agent)
    assert again.files == index.files and again.errors == index.errors
    assert again.search("red") == index.search("red")
    embedder.count = 0
    assert again.update().unchanged == 12 and embedder.count == 0
    again.save(file)
    assert [each.name for each in tmp_path.iterdir()] != [] and not list(tmp_path.glob(".*"))
    moved = folder.rename(tmp_path / "moved")
    found = Index.load(file, agent, folder=moved).search("red", limit=1)
    assert Path(found[0].file).parent.parent in (tmp_path, moved) and Path(found[0].file).is_file()
    alone = Index.load(file)  # without an agent: duplicates alone, and nothing is lost when it is saved
    with pytest.raises(RouteError, match="without an agent finds duplicates alone"):
        alone.search("red")
    alone.save(file)
    assert Index.load(file, agent).search("red") == index.search("red")


def test_another_embedder_is_refused(folder: Path, tmp_path: Path, coloured: tuple[VisionAgent, MeanColour]) -> None:
    file = tmp_path / "photos.index"
    Index.build(folder, coloured[0]).save(file)
    other = VisionAgent.__new__(VisionAgent)
    second = MeanColour()
    second.fingerprint = "mean-colour-2"
    other.__dict__.update(vars(coloured[0]), _embedder=second)
    with pytest.raises(InputError, match="was made by 'mean colour', and vectors of 'mean colour' cannot be compared"):
        Index.load(file, other)
    with pytest.raises(InputError, match="was made by 'mean colour'"):
        Index.build(folder, other, out=file)
    Index.build(folder).save(file)
    with pytest.raises(InputError, match="was made by no embedder"):
        Index.load(file, coloured[0])


def test_a_build_that_was_stopped_goes_on(
    folder: Path, tmp_path: Path, coloured: tuple[VisionAgent, MeanColour]
) -> None:
    agent, embedder = coloured
    file = tmp_path / "photos.index"
    embedder.count, embedder.breaks_at = 0, 7
    with pytest.raises(KeyboardInterrupt):
        Index.build(folder, agent, out=file, save_every=3)
    embedder.breaks_at = None
    assert 0 < len(Index.load(file, agent)) < 11
    done, embedder.count = len(Index.load(file, agent)), 0
    seen: list[tuple[int, int]] = []
    index = Index.build(folder, agent, out=file, progress=lambda *each: seen.append(each))
    assert embedder.count == 11 - done and seen[-1] == (12, 12)
    whole = Index.build(folder, agent)
    assert set(index.files) == set(whole.files) and index.search("red") == whole.search("red")
    with pytest.raises(InputError, match="`out` must be an index of"):
        Index.build(folder / "deep er", agent, out=file)
    with pytest.raises(InputError, match="`out` must be a file in a folder that exists"):
        Index.build(folder, agent, out=tmp_path / "no" / "photos.index")


def test_a_build_that_was_killed_goes_on(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "photos.index"
    program = (
        "import os, signal, sys; from vision_agent import Index\n"
        "stop = lambda done, of: os.kill(os.getpid(), signal.SIGKILL) if done == 8 else None\n"
        f"Index.build({str(folder)!r}, out={str(file)!r}, save_every=2, progress=stop)"
    )
    killed = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert 4 <= len(Index.load(file)) <= 8
    assert len(Index.build(folder, out=file)) == 11


# Files that are no index ---------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("unpickled",)


def _members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write(file: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _array(array: npt.NDArray[Any], *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def _content(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        members = _members(file)
        read = np.load(io.BytesIO(members["content.npy"]))
        content = json.loads(read.tobytes())
        change(content)
        members["content.npy"] = _array(np.frombuffer(json.dumps(content).encode(), dtype=np.uint8))
        _write(file, members)

    return damage


def _member(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda file: _write(file, _members(file) | {name: data})


def _huge_header() -> bytes:
    data = bytearray(_array(np.zeros((11, 4), dtype=np.float32)))
    return bytes(data.replace(b"(11, 4), ", b"(999999999999, 4), ").replace(b" " * 11, b"", 1))


HOSTILE: dict[str, Callable[[Path], None]] = {
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("photos", "utf-8"),
    "pickle": lambda file: file.write_bytes(pickle.dumps(Bomb())),
    "pickled array": _member("vectors.npy", _array(np.array([Bomb()], dtype=object), pickled=True)),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-700]),
    "cut in two": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "another part": _member("more.npy", b"x"),
    "a part less": lambda file: _write(file, {k: v for k, v in _members(file).items() if k != "small.npy"}),
    "compressed": lambda file: _write(file, _members(file), zipfile.ZIP_DEFLATED),
    "huge": _member("vectors.npy", _huge_header()),
    "fewer rows": _member("vectors.npy", _array(np.zeros((3, 4), dtype=np.float32))),
    "doubles": _member("vectors.npy", _array(np.zeros((11, 4)))),
    "nan": _member("vectors.npy", _array(np.full((11, 4), np.nan, dtype=np.float32))),
    "not unit": _member("vectors.npy", _array(np.full((11, 4), 7, dtype=np.float32))),
    "no json": _member("content.npy", _array(np.frombuffer(b"{", dtype=np.uint8))),
    "nested json": _member("content.npy", _array(np.frombuffer(b"[" * 100_000, dtype=np.uint8))),
    "a list": _member("content.npy", _array(np.frombuffer(b"[]", dtype=np.uint8))),
    "out of the folder": _content(lambda content: content["images"][0].update(file="../../etc/passwd")),
    "absolute": _content(lambda content: content["images"][0].update(file="/etc/passwd")),
    "twice": _content(lambda content: content["images"][1].update(file=content["images"][0]["file"])),
    "a later version": _content(lambda content: content.update(version=2)),
    "more fields": _content(lambda content: content.update(run="rm -rf /")),
    "no hash": _content(lambda content: content["images"][0].update(sha256="x")),
}


@pytest.fixture(scope="module")
def saved(coloured: tuple[VisionAgent, MeanColour], tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = tmp_path_factory.mktemp("saved") / "photos"
    photos.mkdir()
    for number in range(11):
        Image.new("RGB", (9, 9), (number * 20, 9, 9)).save(photos / f"{number}.png")
    Index.build(photos, coloured[0]).save(photos.parent / "photos.index")
    return photos.parent / "photos.index"


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE)
def test_hostile_and_damaged_files_are_refused(
    damage: Callable[[Path], None], saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path(shutil.copy(saved, tmp_path / "photos.index"))
    damage(file)
    with pytest.raises(InputError, match="`index` must be an index that `vision-agent index` wrote"):
        Index.load(file)
    assert not Path("unpickled").exists()


def test_random_damage_is_refused_or_harmless(saved: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = saved.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        file = tmp_path / "photos.index"
        file.write_bytes(data)
        try:
            assert len(Index.load(file)) == 11
        except InputError as error:
            assert "photos.index" in str(error)


def test_what_is_there_stays_where_saving_fails(saved: Path, tmp_path: Path) -> None:
    index = Index.load(saved)
    with pytest.raises(InputError, match="`out` must be a file that can be written"):
        index.save(tmp_path / "no" / "photos.index")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="`out` must be a file that can be written"):
        index.save(tmp_path / "folder")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder"]
    with pytest.raises(InputError, match="there is no such file"):
        Index.load(tmp_path / "no.index")


# Real models ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos of the repository, and one of them smaller and more compressed."""
    folder = tmp_path_factory.mktemp("real") / "photos"
    folder.mkdir()
    for file in [PHOTOS / BUS, *sorted(each for each in PHOTOS.glob("*.jpg") if each.name != BUS)[:2]]:
        shutil.copy(file, folder)
    small = load_image(PHOTOS / BUS)
    small.resize((small.width // 2, small.height // 2)).save(folder / "small.jpg", quality=60)
    return folder


def test_the_default_finds_words_by_looking_and_keeps_what_it_found(
    photos: Path, tmp_path: Path, agent: VisionAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index.build(photos, agent)
    assert index.search(photos / BUS, limit=2).hits[1].file == str(photos / "small.jpg")
    seen: list[tuple[int, int]] = []
    found = index.search("bus", progress=lambda *each: seen.append(each))
    assert found.method == "presence" and found.images == 4 and seen[-1] == (4, 4)
    assert {BUS, "small.jpg"} <= set(names(found))
    for hit in found:
        alone = agent.detect("bus", hit.file, threshold=0.05, tiles=False)
        assert hit.box is not None and hit.score == pytest.approx(max(each.score for each in alone), abs=1e-3)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    assert found.threshold is not None and min(hit.score for hit in found) >= found.threshold
    index.save(tmp_path / "photos.index")
    again = Index.load(tmp_path / "photos.index", agent)
    monkeypatch.setattr(agent, "detect", lambda *_, **__: pytest.fail("a phrase was looked for twice"))
    assert again.search("bus") == found
    assert len(again.search("bus", threshold=0.999)) == 0
    monkeypatch.undo()
    nothing = again.search("qwrtzpl")
    assert len(nothing) == 0 and nothing.unknown_words == ("qwrtzpl",)
    with pytest.raises(InputError, match="`threshold` must be"):
        again.search("bus", threshold=0.01)
    with pytest.raises(InputError, match="one phrase"):
        again.search("bus; dog")
    sheet = found.sheet(columns=2, side=96)
    assert sheet.mode == "RGB" and sheet.width == 2 * 96 + 3 * 6 and len(set(sheet.tobytes())) > 100
    with pytest.raises(InputError, match="`columns` must be"):
        found.sheet(columns=0)


def test_an_embedder_of_texts_finds_words_at_once(
    photos: Path, tmp_path: Path, agent: VisionAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeing = VisionAgent.from_pretrained("default", embedder=make_dual_encoder("siglip", tmp_path / "siglip"))
    index = Index.build(photos, seeing)
    monkeypatch.setattr(seeing, "detect", lambda *_, **__: pytest.fail("images were looked at"))
    found = index.search("a red car", limit=3)
    assert found.method == "embedder" and found.model == "siglip" and len(found) == 3
    assert found[0].score == pytest.approx(float(seeing.embed("a red car") @ seeing.embed(found[0].file)), abs=1e-5)
    index.save(tmp_path / "photos.index")
    with pytest.raises(InputError, match="was made by 'siglip'"):
        Index.load(tmp_path / "photos.index", agent)


# Duplicates ----------------------------------------------------------------------------------------------------------


def test_copies_and_versions_are_found_and_others_are_not(photos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    original = load_image(folder / BUS)
    shutil.copy(folder / BUS, folder / "copy.jpg")
    original.point(lambda value: min(255, value + 12)).save(folder / "brighter.png")
    for colour in ("white", "black", "red"):  # without structure: alike in nothing but that
        Image.new("RGB", (64, 64), colour).save(folder / f"{colour}.png")
    index = Index.build(folder)
    assert len(index) == 4 + 5
    found = index.duplicates()
    assert found.images == 9 and found.bits == 24
    (group,) = found
    assert {Path(each).name for each in group.files} == {BUS, "copy.jpg", "brighter.png", "small.jpg"}
    assert not group.exact and len(found.extra_files) == 3
    (exact,) = index.duplicates(bits=None)
    assert {Path(each).name for each in exact.files} == {BUS, "copy.jpg"} and exact.exact
    assert len(set(found.sheet(side=64).tobytes())) > 100
    with pytest.raises(InputError, match="`bits` must be"):
        index.duplicates(bits=65)


def test_pages_of_text_are_no_duplicates(tmp_path: Path) -> None:
    """White pages differ in few cells: by the hash alone all of them would be one."""
    rng = np.random.default_rng(3)
    for number in range(8):
        page = np.full((200, 150), 255, dtype=np.uint8)
        for line in range(10 + 10 * (number % 3), 190, 12):
            page[line : line + 5, 10 : 10 + int(rng.integers(40, 130))] = rng.integers(0, 90)
        Image.fromarray(page).save(tmp_path / f"{number}.png")
    assert len(Index.build(tmp_path).duplicates()) == 0


# Vectors alone -------------------------------------------------------------------------------------------------------


def test_the_nearest_rows_are_exact_over_blocks_and_ties_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(-2, 3, (500, 4)).astype(np.float32)  # many ties
    query = np.array([1, 2, -1, 0], dtype=np.float32)
    expected = sorted(range(500), key=lambda row: (-float(rows[row] @ query), row))
    for block in (7, 64, 500, 10_000):
        monkeypatch.setattr("vision_agent.search.nearest._BLOCK", block)
        for limit in (1, 10, 499, 500, 9999):
            scores, found = nearest(rows, query, limit)
            assert found.tolist() == expected[:limit]
            assert scores.tolist() == [float(rows[row] @ query) for row in expected[:limit]]
    scores, found = searcher(rows, "faiss")(query, 10)  # of ties any may come first
    np.testing.assert_allclose(scores, nearest(rows, query, 10)[0], atol=1e-5)
    np.testing.assert_allclose(rows[found] @ query, scores, atol=1e-5)
    scores, found = nearest(np.empty((0, 4), dtype=np.float32), query, 3)
    assert len(scores) == len(found) == 0


def test_a_folder_that_was_moved_is_taken_over_and_one_that_is_still_there_is_not(
    folder: Path, tmp_path: Path, coloured: tuple[VisionAgent, MeanColour]
) -> None:
    agent, embedder = coloured
    out, moved = tmp_path / "photos.index", tmp_path / "moved"
    files = [Path(each).name for each in Index.build(folder, agent, out=out).files]
    shutil.copytree(folder, moved)
    with pytest.raises(InputError, match=r"`out` must be an index of .*moved.*but is one of .*photos"):
        Index.build(moved, agent, out=out)
    shutil.rmtree(moved)
    folder.rename(moved)
    gone = Index.load(out, agent).search("red", limit=3)
    assert len(gone) == 3 and gone.missing == tuple(hit.file for hit in gone)
    there = Index.load(out, agent, folder=moved).search("red", limit=3)
    assert there.missing == () and [Path(hit.file).name for hit in there] == [Path(hit.file).name for hit in gone]
    embedder.count = 0
    taken = Index.build(moved, agent, out=out)
    assert embedder.count == 0 and taken.folder == moved and [Path(each).name for each in taken.files] == files
    assert Index.load(out, agent).folder == moved


def test_images_that_are_gone_are_told_and_looked_for_again(agent: VisionAgent, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in (("bus.png", (240, 180)), ("small.png", (120, 90))):
        load_image(PHOTOS / BUS).resize(size).save(photos / name)
    index = Index.build(photos, agent)
    (photos / "bus.png").rename(tmp_path / "bus.png")
    found = index.search("bus")
    assert found.missing == (str(photos / "bus.png"),) and found.images == 2
    (tmp_path / "bus.png").rename(photos / "bus.png")
    again = index.search("bus")
    assert again.missing == () and str(photos / "bus.png") in {hit.file for hit in again}


def test_a_damaged_output_says_how_to_begin_anew(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos.index"
    Index.build(folder, out=out)
    out.write_bytes(out.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"not a zip file.*name another `out`, or delete it to begin anew"):
        Index.build(folder, out=out)
    assert out.stat().st_size == 1000
