"""What a run may be about: lists, patterns and tables with images, through `vision-agent batch` and every executor."""

import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from command_line import CommandLine
from conftest import PHOTOS
from PIL import Image

from vision_agent import InputError, VisionAgent
from vision_agent.batch import find_items
from vision_agent.batch.files import IMAGE_SUFFIXES
from vision_agent.batch.lists import read_item
from vision_agent.batch.records import read_records

DOG, BUS, CARS = "000000139872.jpg", "000000423617.jpg", "000000142472.jpg"
_HUGGING_FACE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def items(*paths: object, column: str | None = None) -> list[str]:
    return find_items([str(path) for path in paths], IMAGE_SUFFIXES, "images", column)


def small(name: str) -> bytes:
    """A photo, small enough to be looked at quickly."""
    data = io.BytesIO()
    Image.open(PHOTOS / name).convert("RGB").resize((240, 180)).save(data, "PNG")
    return data.getvalue()


def write_parquet(file: Path, rows: Sequence[Any], kind: pyarrow.DataType, name: str = "image") -> None:
    """Write a column beside one of labels, in groups of two rows as larger sets have several."""
    table = pyarrow.table({"label": pyarrow.array(range(len(rows))), name: pyarrow.array(rows, kind)})
    pyarrow.parquet.write_table(table, file, row_group_size=2)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in: photos, lists of them, and a table as the data sets of Hugging Face are."""
    place = tmp_path_factory.mktemp("inputs")
    (place / "photos" / "été").mkdir(parents=True)
    (place / "photos" / "dog.png").write_bytes(small(DOG))
    (place / "photos" / "été" / "bus.png").write_bytes(small(BUS))
    (place / "photos" / "notes.md").write_text("no image")
    (place / "more").mkdir()
    (place / "more" / "cars.png").write_bytes(small(CARS))
    Image.new("RGB", (60, 40)).save(place / "more" / "blank.png")
    (place / "more" / "list.txt").write_text("cars.png\n\ngone.png\n")  # beside the list
    (place / "list.csv").write_text("\ufefflabel,path\r\n1,photos/dog.png\r\n2,\r\n", "utf-8")  # as Excel writes it
    rows = [
        {"bytes": small(DOG), "path": "dog.jpg"},
        {"bytes": None, "path": "more/cars.png"},
        {"bytes": b"no image", "path": None},
    ]
    write_parquet(place / "train.parquet", rows, _HUGGING_FACE)
    before = Path.cwd()
    os.chdir(place)
    yield place
    os.chdir(before)


GIVEN = ("photos/**/*.png", "more/list.txt", "list.csv", "train.parquet", "-")
STDIN = b"more/cars.png\nmore/blank.png\n"
FOUND = [
    "photos/dog.png",
    "photos/été/bus.png",
    "more/cars.png",
    "gone.png",
    "train.parquet#image#0",
    "train.parquet#image#1",
    "train.parquet#image#2",
    "more/blank.png",
]


@pytest.fixture(scope="module")
def whole(inputs: Path) -> Path:
    """What local workers make of all inputs."""
    return inputs / "local.jsonl"


@pytest.mark.parametrize("kind", ["local", "shards", "ray", "servers"])
def test_every_executor_takes_every_input_and_writes_the_same(
    kind: str, inputs: Path, whole: Path, agent: VisionAgent, cli: CommandLine, request: pytest.FixtureRequest
) -> None:
    asked = ["batch", "detect", "dog; bus", *GIVEN, "--out", f"{kind}.jsonl", "--tiles", "never"]
    how = {"local": ["--workers", "1"], "ray": ["--ray", "--workers", "1"]}
    by = how.get(kind) or ["--servers", request.getfixturevalue("url")]
    if kind == "shards":
        for part in ("1/2", "2/2"):
            assert cli(*asked, *by, "--shard", part, stdin=STDIN).returncode in (0, 1)
        done = cli("batch", "merge", "shards.jsonl")
    else:
        done = cli(*asked, *by, stdin=STDIN)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr == "8 files: 6 done, 2 failed\n"
    records = {record["file"]: record for record in read_records(inputs / f"{kind}.jsonl")}
    assert list(records) == FOUND
    for name, words in (("gone.png", "gone.png"), ("train.parquet#image#2", "no image in a known format")):
        assert words in records[name]["error"]["message"]
        assert records[name]["error"]["message"].endswith(", in 3 attempts")
    labels = {file: {each["label"] for each in found(record)} for file, record in records.items()}
    assert labels["photos/dog.png"] == labels["train.parquet#image#0"] == {"dog"}
    assert labels["photos/été/bus.png"] == {"bus"}
    assert records["train.parquet#image#1"]["result"] == records["more/cars.png"]["result"]
    if kind != "local":
        assert (inputs / f"{kind}.jsonl").read_bytes() == whole.read_bytes()


def found(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of a record."""
    if record["error"]:
        return []
    detections: list[dict[str, Any]] = record["result"]["detections"]
    return detections


def test_verbs_in_pipelines_of_ray_data(inputs: Path, tmp_path: Path) -> None:
    """The columns that Ray's own readers make: bytes, paths, arrays, and structs as Hugging Face has them."""
    import ray
    import ray.data

    import vision_agent.ray

    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        photos = ray.data.read_binary_files([str(inputs / "photos" / "dog.png")], include_paths=True)
        with pytest.raises(InputError, match="column"):
            vision_agent.ray.map(photos, "detect", "dog")  # it is called `bytes` there
        (dog,) = vision_agent.ray.map(photos, "detect", "dog; bus", column="bytes").drop_columns(["bytes"]).take_all()
        assert sorted(dog) == ["error", "path", "result", "text"]
        (of_file,) = [each for each in read_records(inputs / "local.jsonl") if each["file"] == "photos/dog.png"]
        assert json.loads(dog["result"])["detections"] == of_file["result"]["detections"] != []
        assert (dog["error"], dog["text"]) == ("", "")
        cells: list[Any] = [
            {"image": {"bytes": small(BUS), "path": "x.png"}},
            {"image": {"bytes": b"no image", "path": None}},
            {"image": {"bytes": None, "path": str(inputs / "more" / "cars.png")}},
        ]
        asked = vision_agent.ray.map(ray.data.from_items(cells), "ask", "is there a bus?")
        bus, broken, cars = sorted(asked.take_all(), key=lambda row: cells.index({"image": row["image"]}))
        assert bus["text"] == "yes" and json.loads(bus["result"])["text"] == "yes"
        assert broken["error"].startswith("ImageError: ") and (broken["text"], broken["result"]) == ("", "")
        assert cars["error"] == ""
    finally:
        if started:
            ray.shutdown()


def test_lists_name_files_beside_them_or_here_each_once(inputs: Path, cli: CommandLine) -> None:
    assert items(*GIVEN[:-1]) == FOUND[:-1]
    assert items("photos", "photos/dog.png", "list.csv") == FOUND[:2]
    assert items("more/list.txt", "https://example.org/a.png") == [
        "more/cars.png",
        "gone.png",
        "https://example.org/a.png",
    ]
    assert read_item("train.parquet#image#0") == small(DOG)
    assert read_item("train.parquet#image#1") == Path("more/cars.png")
    for beyond in ("train.parquet#image#3", "train.parquet#other#0", "gone.parquet#image#0"):
        with pytest.raises(InputError, match="parquet"):
            read_item(beyond)
    shutil.copy("photos/dog.png", "a.parquet#image#0")  # a file's name may look like a row's
    assert read_item("a.parquet#image#0") == Path("a.parquet#image#0")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "a b.png\r\n\r\n\tc.png\n", ["a b.png", "\tc.png"]),
        ("a.txt", "\ufeffü.png\n".encode(), ["ü.png"]),
        ("a.txt", "ü.png\r\nb.png\r\n".encode("utf-16"), ["ü.png", "b.png"]),  # `dir -name > a.txt` of PowerShell
        ("a.txt", b"\xff\n", ["\udcff"]),  # Linux has names that are no UTF-8
        ("a.csv", "id;image\n1;a.png\n", ["a.png"]),  # as Excel writes it in half of the world
        ("a.csv", "id\timage\n1\ta,b.png\n", ["a,b.png"]),
        ("a.csv", 'image,n\n"a,b;c.png",1\n', ["a,b;c.png"]),
        ("a.csv", "url\nhttps://example.org/a.png\n", ["https://example.org/a.png"]),
        ("a.csv", "file_name\na.png\n\nb.png\n", ["a.png", "b.png"]),
        ("a.jsonl", '{"id": 1, "image": "a.png"}\n\n{"id": 2}\n{"image": null}\n', ["a.png"]),
    ],
)
def test_lists_as_programs_write_them(name: str, content: str | bytes, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert items(tmp_path / name) == expected


@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int8(), "string")]
)
def test_columns_of_paths_in_parquet(kind: pyarrow.DataType, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write_parquet(file, ["a.png", None, "b.png", "a.png"], kind, "file_name")
    assert items(file) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("name", "content", "column", "words"),
    [
        ("a.txt", "\n\n", None, "files, folders or lists with images"),
        ("a.csv", "x,y\n1,2\n", None, r"`column` must be given for .*one of x, y"),
        ("a.csv", "x,y\n1,2\n", "image", r"`column` must be one of x, y in"),
        ("a.txt", "a.png\n", "image", "`column` goes with lists that have columns"),
        ("a.csv", "", None, "files, folders or lists with images"),
        ("a.jsonl", '{"image": 3}\n', None, "one of paths in .*but got 3"),
        ("a.jsonl", "[1]\n", None, "a list of objects at .*line 1"),
        ("a.jsonl", '{"image": "a.png"}\nrest\n', None, "no JSON at .*line 2"),
        ("a.parquet", "no table", None, "cannot be read: .*a.parquet"),
    ],
)
def test_lists_that_are_none_are_told(name: str, content: str, column: str | None, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        items(tmp_path / name, column=column)


def test_tables_without_images_are_told(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write_parquet(file, [1.5], pyarrow.float64())
    with pytest.raises(InputError, match=r"one of paths or of images in .*but got 'image: double'"):
        items(file)
    write_parquet(file, ["a.png"], pyarrow.string(), "picture")
    with pytest.raises(InputError, match=r"`column` must be given for .*one of label, picture"):
        items(file)
    assert items(file, column="picture") == ["a.png"]


def test_an_empty_list_on_stdin(inputs: Path, cli: CommandLine) -> None:
    refused = cli("batch", "detect", "dog", "-", "--out", "stdin.jsonl", stdin=b"\n")
    assert refused.returncode == 2 and "files, folders or lists with images" in refused.stderr
    assert not (inputs / "stdin.jsonl").exists()


def test_options_that_do_nothing_or_cannot_be_are_told(inputs: Path, cli: CommandLine) -> None:
    for option, value, words in (
        ("--column", "image", "`column` goes with lists that have columns, .csv, .jsonl, .parquet; there is none"),
        ("--seconds", "-1", "`seconds` must be a number above 0, or 0 for no bound, but got -1.0"),
        ("--seconds", "nan", "`seconds` must be"),
    ):
        refused = cli("batch", "detect", "dog", "photos", option, value, "--out", "refused.jsonl")
        assert refused.returncode == 2 and words in refused.stderr and refused.stderr.count("\n") == 1
    assert not list(inputs.glob("refused*"))
