"""`vision-agent benchmark`: published files in, figures that agree with the reference implementations out."""

import contextlib
import io
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import published_files
import pytest
from command_line import CommandLine
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vision_agent import AnnotationError, InputError, VisionAgent
from vision_agent.benchmark.answer_scoring import (
    anls,
    chosen_option,
    count_answer,
    ocrbench_match,
    relaxed_match,
    vqa_accuracy,
)
from vision_agent.benchmark.benchmark_set import Benchmark, Item
from vision_agent.benchmark.box_sets import BoxSet, precisions
from vision_agent.benchmark.catalog import Target, read_benchmarks, read_target
from vision_agent.benchmark.intervals import wilson
from vision_agent.benchmark.measuring_run import run_benchmarks
from vision_agent.benchmark.question_sets import Pope, TextVqa
from vision_agent.benchmark.referring import ReferringBoxes, ReferringMasks
from vision_agent.geometry.rle import RunLengths

# Answers, and what the reference implementations made of them: InternVL's textvqa_eval.py, eval_pope.py and
# evaluate_grounding.py, VLMEvalKit's vqa_eval.py, matching_util.py and ocrbench.py, lmms-eval's countbench, the lvis
# package. Written once by running these; the answers are random edits of right ones and of what models say.
RECORDED = json.loads(Path(__file__).with_name("recorded.json").read_text("utf-8"))


def read(name: str, path: Path, split: str | None = None, **options: Any) -> Benchmark:
    (benchmark,) = read_benchmarks([Target(name, split, path)], **options)
    return benchmark


def value_of(benchmark: Benchmark, said: dict[str, Any], metric: str) -> float:
    return next(score.value for score in benchmark.scores(said) if score.metric == metric)


def test_answers_are_scored_as_by_the_reference_implementations() -> None:
    for answer, people, score in RECORDED["vqa"]:
        assert vqa_accuracy(answer, people) == pytest.approx(score, abs=1e-9), (answer, people)
    for answer, truths, score in RECORDED["anls"]:
        assert anls(answer, truths) == pytest.approx(score, abs=1e-9), (answer, truths)
    for answer, truth, right in RECORDED["relaxed"]:
        assert relaxed_match(answer, truth) == right, (answer, truth)
    for answer, options, letter in RECORDED["options"]:
        assert chosen_option(answer, options) == letter, (answer, options)
    for answer, truths, kind, right in RECORDED["ocrbench"]:
        assert ocrbench_match(answer, truths, kind) == bool(right), (answer, truths, kind)
    for answer, number, right in RECORDED["counts"]:
        assert (count_answer(answer) == count_answer(number)) == bool(right), (answer, number)


def test_figures_of_sets_are_those_of_the_reference_implementations(tmp_path: Path) -> None:
    """Whole sets of recorded predictions, through the same code that a run's figures come from."""
    items = [Item(str(n), b"", "", {"answers": people}) for n, (_, people, _) in enumerate(RECORDED["vqa"])]
    said: dict[str, Any] = {str(n): {"answer": answer} for n, (answer, _, _) in enumerate(RECORDED["vqa"])}
    textvqa = TextVqa("textvqa", items, "", "official")
    assert value_of(textvqa, said, "VQA accuracy") == pytest.approx(RECORDED["vqa_mean"], abs=1e-9)

    rows = RECORDED["pope"]["rows"]
    items = [Item(str(n), b"", "", {"answers": [label]}, "random") for n, (_, label) in enumerate(rows)]
    pope = Pope("pope", items, "", "official")
    said = {str(n): {"answer": answer} for n, (answer, _) in enumerate(rows)}
    for metric, name in (("F1, random", "f1"), ("accuracy, random", "accuracy"), ("share of yes, random", "yes")):
        assert value_of(pope, said, metric) == pytest.approx(RECORDED["pope"][name], abs=1e-9)

    rows = RECORDED["refcoco"]["rows"]
    items = [Item(str(n), b"", "", {"bbox": box, "hw": size}) for n, (_, box, size) in enumerate(rows)]
    boxes = ReferringBoxes("refcoco:val", items, "", "official")
    said = {str(n): {"answer": answer} for n, (answer, _, _) in enumerate(rows)}
    precision = value_of(boxes, said, "box accuracy at IoU 0.5")
    assert precision == pytest.approx(RECORDED["refcoco"]["precision"], abs=1e-9)
    assert 0.2 < precision < 0.8, "the fixture tells right from wrong"


def test_average_precision_is_that_of_pycocotools_and_lvis() -> None:
    held = RECORDED["lvis"]
    truth, results = held["truth"], held["results"]
    images = [each["id"] for each in truth["images"]]
    mine = precisions(truth, images, results, lvis=True)
    theirs = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "AP small": "APs", "AP medium": "APm", "AP large": "APl"}
    theirs |= {"AP rare": "APr", "AP common": "APc", "AP frequent": "APf"}
    assert mine == {name: pytest.approx(held["reference"][other], abs=1e-9) for name, other in theirs.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**truth, "annotations": [{**each, "iscrowd": 0} for each in truth["annotations"]]}
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes([dict(each) for each in results]), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    names = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large")
    expected = {name: pytest.approx(value, abs=1e-9) for name, value in zip(names, run.stats[:6], strict=True)}
    assert precisions(truth, images, results) == expected


def test_masks_are_measured_as_pycocotools_draws_them(tmp_path: Path) -> None:
    folder = published_files.refcoco(tmp_path)
    masks = read("grefcoco", folder / "grefs(unc).json", "testA")
    (first, _, none) = masks.items
    content = json.loads((folder / "instances.json").read_text())
    drawn = [coco_masks.merge(coco_masks.frPyObjects(a["segmentation"], 480, 640)) for a in content["annotations"]]
    true = coco_masks.decode(coco_masks.merge(drawn)).astype(bool)
    mine = true.copy()
    mine[:200] = False
    runs, empty = RunLengths.from_mask(mine), RunLengths.from_mask(~(true | True))
    said: dict[str, Any] = {
        first.key: {"size": [480, 640], "counts": runs.text},
        none.key: {"size": [480, 640], "counts": empty.text},
    }
    shared, covered = int((mine & true).sum()), int((mine | true).sum())
    assert value_of(masks, said, "cIoU") == pytest.approx(shared / covered, abs=1e-9)
    assert value_of(masks, said, "gIoU") == pytest.approx((shared / covered + 1) / 2, abs=1e-9)
    assert value_of(masks, said, "nothing found where nothing is meant") == 1.0
    assert isinstance(masks, ReferringMasks)


def test_intervals() -> None:
    """Wilson's bounds, as statistics packages give them."""
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(10, 10)
    assert 0.7 < low < 0.75 and high == 1.0


def test_the_default_model_is_measured(cli: CommandLine, tmp_path: Path) -> None:
    """Each kind once, with the command of the docs; the files for servers have the servers' form."""
    for name in ("pope", "textvqa", "gqa", "refcoco", "coco", "tallyqa"):
        getattr(published_files, name)(tmp_path / name)
    out = tmp_path / "out"
    names = ["pope", "textvqa", "gqa", "refcoco:testA", "coco", "tallyqa"]
    names += [f"refcoco-masks:testA={tmp_path / 'refcoco'}", f"lvis={tmp_path / 'coco'}"]
    done = cli("benchmark", "default", *names, "--data", tmp_path, "--out", out, "--prompts", "plain", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    scores = {(each["benchmark"], each["metric"]): each for each in report["scores"]}
    assert scores["refcoco:testA", "box accuracy at IoU 0.5"]["value"] == 1.0
    assert scores["refcoco:testA", "box accuracy at IoU 0.5"]["count"] == 3
    assert scores["pope", "accuracy, popular"]["value"] == 1.0
    assert scores["gqa:testdev_balanced", "accuracy, binary"]["value"] == 1.0
    assert scores["coco:val", "AP50"]["value"] == pytest.approx(1.0)
    assert scores["lvis:val", "AP50"]["value"] == pytest.approx(1.0)
    assert scores["refcoco-masks:testA", "cIoU"]["value"] > 0.3
    for each in report["scores"]:
        assert each["low"] is None or each["low"] - 1e-12 <= each["value"] <= each["high"] + 1e-12, each

    def written(name: str) -> Any:
        return json.loads((out / f"{name}.predictions.json").read_text("utf-8"))

    assert [set(each) for each in written("textvqa_val")] == [{"question_id", "answer"}] * 2
    assert [each["question_id"] for each in written("textvqa_val")] == [34602, 34603]
    assert [each["questionId"] for each in written("gqa_testdev_balanced")] == ["201307251", "201640614"]
    assert {"image_id", "category_id", "bbox", "score"} == set(written("coco_val")[0])
    assert set(written("refcoco_testA")[0]) == {"answer", "gt_bbox", "hw"}
    lines = (out / "pope_random.predictions.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"question", "answer"}] * 2
    # Run again: nothing is asked, all is told again; a table for people.
    again = cli("benchmark", "default", *names, "--data", tmp_path, "--out", out, "--prompts", "plain")
    assert again.returncode == 0
    assert "| refcoco:testA | box accuracy at IoU 0.5 | 1.0000 | 0.4385 to 1.0000 (Wilson) | 3 expressions |" in (
        again.stdout
    )
    other = cli("benchmark", "default", "pope", "--data", tmp_path, "--out", out)
    assert other.returncode == 2 and "another prompts" in other.stderr


def test_other_published_forms_are_read(tmp_path: Path) -> None:
    for name in ("docvqa", "infovqa", "chartqa", "ocrbench", "odinw", "countbenchqa"):
        getattr(published_files, name)(tmp_path / name)
        (benchmark,) = read_benchmarks([read_target(name, tmp_path)])
        assert benchmark.items, name
    assert (
        read("docvqa", tmp_path / "docvqa")
        .items[0]
        .text.endswith("1975? Answer the question using a single word or phrase.")
    )
    assert [item.group for item in read("chartqa", tmp_path / "chartqa").items] == ["augmented", "human"]
    odinw = read("odinw", tmp_path / "odinw")
    assert [item.group for item in odinw.items] == ["AerialMaritimeDrone_large", "Pothole"]
    # InternVL's own lines, and references as Python 3 pickles them.
    line = {"image": "data/coco/train2014/COCO_train2014_000000139872.jpg", "sent": "dog", "height": 480, "width": 640}
    folder = published_files.refcoco(tmp_path / "refcoco", protocol=4)
    (folder / "refcoco_val.jsonl").write_text(json.dumps({**line, "bbox": [152.0, 63.0, 478.0, 427.0]}) + "\n")
    assert read("refcoco", folder / "refcoco_val.jsonl").items[0].truth["bbox"] == [152.0, 63.0, 478.0, 427.0]
    assert [item.text for item in read("refcoco", folder, "testA").items] == ["dog", "the black dog", "frisbee"]


def test_a_hidden_test_set_gives_predictions_and_no_figures(tmp_path: Path) -> None:
    hidden = read("docvqa", published_files.docvqa(tmp_path, answers=False), "test")
    said: dict[str, Any] = {hidden.items[0].key: {"answer": "0.28"}}
    assert hidden.scores(said) == []
    (file,) = hidden.submission(said, tmp_path)
    assert json.loads(file.read_text()) == [{"questionId": 49153, "answer": "0.28"}]


def test_the_hidden_boxes_of_coco_give_results_for_its_server(tmp_path: Path) -> None:
    folder = published_files.coco(tmp_path)
    content = json.loads((folder / COCO_FILE).read_text())
    del content["annotations"]
    (folder / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps({"info": {}, **content}))
    hidden = read("coco", folder, "test-dev")
    said: dict[str, Any] = {item.key: {"boxes": [[18, 1.0, 2.0, 3.0, 4.0, 0.5]]} for item in hidden.items}
    assert hidden.scores(said) == []
    (file,) = hidden.submission(said, tmp_path)
    first = json.loads(file.read_text())[0]
    assert first == {"image_id": 139872, "category_id": 18, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}


def test_official_prompts_are_those_of_internvl(tmp_path: Path) -> None:
    mmbench = read("mmbench", published_files.mmbench(tmp_path))
    assert mmbench.items[0].text == (
        "Which animal is shown?\nA. cat\nB. dog\nC. horse\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert mmbench.items[1].text.startswith("Which animal is shown?\nA. dog\nB. horse\nC. cat\n")
    said: dict[str, Any] = {item.key: {"answer": item.truth["answers"][0]} for item in mmbench.items}
    assert value_of(mmbench, said, "circular accuracy") == 1.0
    said["1000241"] = {"answer": "C"}
    assert value_of(mmbench, said, "circular accuracy") == 0.5
    assert value_of(mmbench, said, "accuracy of the first rotation") == 1.0
    # The text of a formula stays a text.
    said["241"] = {"answer": "=1+1\x07"}
    (file,) = mmbench.submission(said, tmp_path)
    rows = list(openpyxl.load_workbook(file).active.values)
    assert rows[1][rows[0].index("prediction")] == "=1+1"
    assert {"index", "question", "A", "B", "answer", "category"} <= set(rows[0]) and "image" not in rows[0]
    assert [row[0] for row in rows[1:]] == [241, 1000241, 2000241, 252, 1000252]
    assert len(read("mmbench", tmp_path, limit=1).items) == 3, "a question with all its rotations"


COCO_FILE = "annotations/instances_val2017.json"
Spoil = Callable[[Path], object]


def _without_images(folder: Path) -> None:
    for image in folder.rglob("*.jpg"):
        image.unlink()


def _damaged_images(folder: Path) -> None:
    for image in folder.rglob("*.jpg"):
        image.write_bytes(b"\xff\xd8\xff no photo")


def _changed(file: str, old: str, new: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / file
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    return spoil


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        ("pope", _without_images, "3 x missing image"),
        ("pope", _damaged_images, "3 x damaged image"),
        ("pope", _changed("coco_pope_random.json", '"no"', '"maybe"'), "label that is neither yes nor no"),
        ("pope", _changed("coco_pope_random.json", '"question_id": 2', '"question_id": 1'), "duplicate question id"),
        ("pope", _changed("coco_pope_random.json", "Is there a zebra in the image?", " "), "no question"),
        ("pope", _changed("coco_pope_random.json", "COCO_val", "../COCO_val"), "image outside its folder"),
        ("pope", _changed("coco_pope_random.json", '"label": "no"}', '"label": "no"'), "line 2 is no JSON"),
        ("textvqa", lambda folder: published_files.textvqa(folder, answers=9), "2 x not ten answers"),
        ("mmbench", _changed("MMBench_DEV_EN.tsv", "1000252", "x"), "index that is no number"),
        (
            "coco",
            _changed("annotations/instances_val2017.json", '"image_id": 139872', '"image_id": 7'),
            "unknown image",
        ),
        (
            "coco",
            _changed("annotations/instances_val2017.json", '"category_id": 18', '"category_id": 1'),
            "unknown cat",
        ),
        ("coco", _changed(COCO_FILE, "[152.0, 63.0,", "[NaN, 63.0,"), "box of another form"),
        ("coco", _changed(COCO_FILE, '"id": 2', '"id": 1'), "come twice"),
        ("refcoco", _changed("instances.json", '"id": 11', '"id": 10'), "unknown image or object"),
    ],
)
def test_faults_are_told_before_a_model_loads(
    name: str, spoil: Spoil, told: str, cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*arguments: Any, **settings: Any) -> VisionAgent:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(VisionAgent, "from_pretrained", loaded)
    folder = getattr(published_files, name)(tmp_path / name)
    spoil(folder)
    split = ":testA" if name == "refcoco" else ""
    done = cli("benchmark", "default", f"{name}{split}={folder}", "--out", tmp_path / "out")
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_references_that_would_run_code_are_refused(tmp_path: Path) -> None:
    folder = published_files.refcoco(tmp_path)

    class Bad:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'planted'}",)

    (folder / "refs(unc).p").write_bytes(pickle.dumps([Bad()], protocol=2))
    with pytest.raises(AnnotationError, match=r"posix\.system"):
        read("refcoco", folder, "testA")
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("vqav3", "one of refcoco"),
        ("pope", "pope=PATH"),
        ("pope=nowhere", "exists"),
        ("pope:val={0}", "pope has one part"),
        ("textvqa:dev={0}", "one of val, test, train"),
        ("coco={0}", "instances_val2017.json"),
        ("refcoco={0}", "refs(unc).p"),
    ],
)
def test_what_cannot_be_measured_is_told(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read_benchmarks([read_target(text.format(tmp_path), None)])
    assert told in str(raised.value)


_SLOW = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from vision_agent.benchmark.catalog import read_benchmarks, read_target
from vision_agent.benchmark.measuring_run import run_benchmarks

class Agent:
    model, routes = "stand-in", {}
    def ask(self, questions, images, **settings):
        time.sleep(float(sys.argv[3]))
        return [SimpleNamespace(text=f"{len(question)} {image.size}") for question, image in zip(questions, images)]

benchmarks = read_benchmarks([read_target("tallyqa=" + sys.argv[1], None)])
run_benchmarks(Agent, benchmarks, Path(sys.argv[2]), settings={"model": "stand-in"})
"""


def test_a_run_that_was_killed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """SIGKILL while answers are written; a stand-in for the model, whose speed is known."""
    folder = published_files.tallyqa(tmp_path / "tallyqa")
    row = json.loads((folder / "test.json").read_text())[0]
    rows = [{**row, "question_id": n, "question": f"How many dogs{'?' * n}"} for n in range(60)]
    (folder / "test.json").write_text(json.dumps(rows))
    records = tmp_path / "stopped" / "tallyqa_test.jsonl"
    command = [sys.executable, "-c", _SLOW, str(folder), str(tmp_path / "stopped"), "0.3"]
    with subprocess.Popen(command) as running:
        while not (records.exists() and records.stat().st_size):
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
    whole = records.read_bytes()
    count = whole.count(b"\n")
    assert 0 < count < 60
    records.write_bytes(whole + whole[: len(whole) // 3 % 97])  # half a line, as a killed process may leave it
    asked: list[str] = []

    class Quick:
        model, routes = "stand-in", {}  # type: ignore[var-annotated]

        def ask(self, questions: list[str], images: list[Any], **settings: Any) -> list[Any]:
            asked.extend(questions)
            return [type("Said", (), {"text": f"{len(q)} {i.size}"}) for q, i in zip(questions, images, strict=True)]

    def run(out: Path) -> Any:
        agent: Any = Quick
        return run_benchmarks(agent, [read("tallyqa", folder)], out, settings={"model": "stand-in"})

    resumed = run(tmp_path / "stopped")
    assert len(asked) == 60 - count // 8 * 8, "whole batches that were done are not asked again"
    fresh = run(tmp_path / "fresh")
    assert resumed.scores == fresh.scores
    assert records.read_bytes() == (tmp_path / "fresh" / "tallyqa_test.jsonl").read_bytes()


def test_a_question_that_fails_counts_as_wrong_and_is_told(tmp_path: Path) -> None:
    folder = published_files.tallyqa(tmp_path / "tallyqa")

    class Failing:
        model, routes = "stand-in", {}  # type: ignore[var-annotated]

        def ask(self, questions: list[str], images: list[Any], **settings: Any) -> list[Any]:
            if any("grass" in question for question in questions):
                raise RuntimeError("too hard")
            return [type("Said", (), {"text": "one"}) for _ in questions]

    agent: Any = Failing
    benchmark = read("tallyqa", folder)
    report = run_benchmarks(agent, [benchmark], tmp_path / "out", settings={"model": "stand-in"})
    assert report.failed == {"tallyqa:test": 1}
    assert report.scores[0].value == 0.5 and report.scores[0].count == 2
    assert "1 failed, and count as wrong" in report.to_markdown()
    record = json.loads((tmp_path / "out" / "tallyqa_test.jsonl").read_text().splitlines()[1])
    assert record["error"] == {"type": "RuntimeError", "message": "too hard"}


def test_a_model_without_masks_is_told(tmp_path: Path) -> None:
    folder = published_files.refcoco(tmp_path)
    agent: Any = type("Bare", (), {"model": "bare", "routes": {}})
    with pytest.raises(Exception, match=r"needs a model with a \[SEG\] route, but 'bare' has none"):
        run_benchmarks(agent, [read("refcoco-masks", folder, "testA")], tmp_path / "out", settings={"model": "bare"})
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_lvis_asks_what_its_annotators_looked_for(tmp_path: Path) -> None:
    folder = published_files.coco(tmp_path)
    lvis, coco = read("lvis", folder), read("coco", folder)
    assert isinstance(lvis, BoxSet) and isinstance(coco, BoxSet)
    assert [[name for _, name in item.truth["phrases"]] for item in lvis.items] == [["bus", "dog", "frisbee"], ["bus"]]
    assert [[name for _, name in item.truth["phrases"]] for item in coco.items] == [["bus", "dog", "frisbee"]] * 2
    assert not any(math.isnan(score.value) for score in coco.scores({}))
