"""`--remote`: commands that ask a model elsewhere print what the same command prints with the model here."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import PHOTOS
from fake_engine import FakeEngine, Faults, running
from PIL import Image
from test_remote import likes_boxes

from vision_agent import Answer, InputError, VisionAgent
from vision_agent.batch import EngineSource, ImageJob
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return likes_boxes(tmp_path_factory.mktemp("commands") / "checkpoint")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[tuple[FakeEngine, str]]:
    engine = FakeEngine(VisionAgent.from_pretrained(folder, dtype="fp32", device="cpu"), "vllm", key="s3cret")
    with running(engine) as url:
        yield engine, url


@pytest.fixture
def remote(
    engine: tuple[FakeEngine, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[object, ...]]:
    """The options, where the key is that of the environment; the engine is well again afterwards."""
    monkeypatch.setenv("VISION_AGENT_KEY", "s3cret")
    yield "--remote", engine[1], "--tokenizer", folder
    engine[0].faults, engine[0].names = Faults(), ("my-internvl",)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two photos in a folder, small enough for one tile each."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("000000139872.jpg", "000000274272.jpg"):
        Image.open(PHOTOS / name).resize((160, 120)).save(folder / name)
    return sorted(folder.iterdir())


def test_verbs_print_what_they_print_with_the_model_here(
    cli: CommandLine, remote: tuple[object, ...], folder: Path, small: list[Path]
) -> None:
    here = ("--model", folder, "--dtype", "float32", "--device", "cpu")
    for command in (
        ("detect", "dog; red car", small[0]),
        ("count", "dog", small[0]),
        ("point", "dog", small[0]),
        ("detect", "dog", small[0].parent),
    ):
        there = cli(*command, *remote)
        assert there.returncode == 0, there.stderr
        assert there.stdout == cli(*command, *here).stdout != ""
    for command in (("ask", "what is it?"), ("caption",)):
        done = cli(*command, small[1], *remote, "--json")
        assert done.returncode == 0, done.stderr
        told = Answer.model_validate_json(done.stdout)
        own = Answer.model_validate_json(cli(*command, small[1], *here, "--json").stdout)
        # Here an answer ends where it only repeats itself; engines have no such end.
        assert told.text.startswith(own.text) and own.text and told.prompt_tokens == own.prompt_tokens
        assert told.model == "my-internvl"


def test_runs_over_many_files_ask_the_engine(
    cli: CommandLine, remote: tuple[object, ...], engine: tuple[FakeEngine, str], small: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "found.jsonl"
    done = cli("batch", "detect", "dog", small[0].parent, *remote, "--out", out)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [Path(record["file"]).name for record in records] == [path.name for path in small]
    assert all(record["error"] is None and record["result"]["detections"] for record in records)
    said = (tmp_path / "found.jsonl.settings.json").read_text("utf-8")
    assert "s3cret" not in said and engine[1] not in said  # it may go on at another address
    assert json.loads(said)["tokenizer"] == str(remote[3])
    direct = tmp_path / "direct.jsonl"
    assert cli("detect", "dog", small[0].parent, *remote, "--out", direct).returncode == 0
    assert direct.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--remote", "URL"), "`tokenizer` must be given with --remote"),
        (("--tokenizer", "FOLDER"), "`tokenizer` goes with --remote"),
        (("--states", "URL"), "`states` goes with --remote"),
        (("--remote", "URL", "--tokenizer", "FOLDER", "--states", "URL"), "`states` goes with --adapter"),
        (("--remote", "URL", "--tokenizer", "FOLDER", "--device", "cuda"), "`device` must be left out"),
        (("--remote", "URL", "--tokenizer", "FOLDER", "--dtype", "float32"), "`dtype` must be left out"),
        (("--remote", "localhost:8000", "--tokenizer", "FOLDER"), "`remote` must be an http or https address"),
        (("--remote", "URL", "--tokenizer", "FOLDER", "--adapter", "x", "--states", "x"), "`states` must be an http"),
        (("--remote", "http://127.0.0.1:9", "--tokenizer", "FOLDER"), "cannot be reached"),
        (("--remote", "URL", "--tokenizer", "default"), "has another tokenizer than 'default'"),
        (("--remote", "URL", "--tokenizer", "FOLDER", "--model", "other"), "has no model 'other', but 'my-internvl'"),
    ],
)
def test_options_that_are_wrong_are_told_in_a_line(
    cli: CommandLine,
    remote: tuple[object, ...],
    engine: tuple[FakeEngine, str],
    folder: Path,
    small: list[Path],
    options: tuple[str, ...],
    words: str,
) -> None:
    named = {"URL": engine[1], "FOLDER": folder}
    before = len(engine[0].asked)
    for verb in (("detect", "dog"), ("run", "what is it?")):
        done = cli(*verb, small[0], *(named.get(each, each) for each in options))
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr and len(done.stderr.splitlines()) == 1
    assert len(engine[0].asked) - before in (0, 2 * 3)  # three requests tell a tokenizer


def test_what_an_engine_cannot_do_is_told(
    cli: CommandLine,
    remote: tuple[object, ...],
    engine: tuple[FakeEngine, str],
    folder: Path,
    small: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = cli("segment", "dog", small[0], *remote)
    assert done.returncode == 2 and "[SEG]" in done.stderr
    default = DEFAULT_CHECKPOINT / "adapters" / "det"
    done = cli("detect", "dog", small[0], *remote, "--adapter", default)
    assert done.returncode == 2 and "block='causal'" in done.stderr
    for verb in ("generate", "edit", "classify"):
        done = cli(verb, "dog", *([] if verb == "generate" else [small[0]]), *remote)
        assert done.returncode == 2 and "No such option: --remote" in done.stderr
    engine[0].faults = Faults(logprobs_off=True)
    done = cli("ask", "what is it?", small[0], *remote)
    assert done.returncode == 0 and "vision-agent: the engine tells no probabilities" in done.stderr
    done = cli("detect", "dog", small[0], *remote)
    assert done.returncode == 2 and "tells no probabilities, which the scores of boxes are made of" in done.stderr
    servers = ("--servers", engine[1], "--out", small[0].parent / "x.jsonl")
    done = cli("batch", "detect", "dog", small[0], *remote, *servers)
    assert done.returncode == 2 and "go without --servers" in done.stderr
    monkeypatch.setenv("VISION_AGENT_KEY", "wr0ng")
    done = cli("ask", "what is it?", small[0], *remote)
    assert done.returncode == 2 and "401" in done.stderr and "wr0ng" not in done.stderr


def test_routes_are_read_through_an_engine(
    cli: CommandLine, small: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISION_AGENT_KEY", raising=False)
    folder = tmp_path / "checkpoint"
    shutil.copytree(DEFAULT_CHECKPOINT, folder)
    adapter = folder / "adapters" / "det"
    content = json.loads((adapter / "adapter.json").read_text("utf-8"))
    content["route"]["block"] = "causal"
    (adapter / "adapter.json").write_text(json.dumps(content), "utf-8")
    engine = FakeEngine(VisionAgent.from_pretrained(folder, dtype="fp32", device="cpu"), "vllm", states=False)
    states = FakeEngine(engine.agent, "vllm")
    photo = PHOTOS / "000000139872.jpg"
    here = cli("detect", "dog; frisbee", photo, "--model", folder, "--dtype", "float32", "--device", "cpu")
    with running(engine) as url, running(states) as other:
        options = ("--remote", url, "--tokenizer", folder, "--adapter", adapter)
        there = cli("detect", "dog; frisbee", photo, *options, "--states", other)
        assert (there.returncode, there.stdout) == (0, here.stdout), there.stderr
        assert len(states.asked_states) == 3 and not engine.asked_states
        refused = cli("detect", "dog", photo, *options)
        assert refused.returncode == 2 and "--runner pooling" in refused.stderr


def test_jobs_name_engines_or_devices() -> None:
    source = EngineSource("http://127.0.0.1:8000/v1/", "default")
    assert source.url == "http://127.0.0.1:8000"
    assert ImageJob("detect", "dog", engine=source).settings()["tokenizer"] == "default"
    for wrong in ({"device": "cuda"}, {"dtype": "bfloat16"}, {"embedder": "./clip"}):
        with pytest.raises(InputError, match="remote engine"):
            ImageJob("detect", "dog", engine=source, **wrong)  # type: ignore[arg-type]  # plain texts
    with pytest.raises(InputError, match="`tokenizer` must be the folder"):
        EngineSource("http://127.0.0.1:8000", " ")
