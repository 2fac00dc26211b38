"""Benchmarks as InternVL's scripts, the hub and VLMEvalKit lay them out, with what is odd in them.

Layouts: InternVL's evaluation folder (`data/textvqa/textvqa_val.jsonl` with `textvqa_val_annotations.json` beside it,
`data/docvqa/val.jsonl`, `data/chartqa/test_human.jsonl`, whose images are named from where the script starts), the
hub's echo840/OCRBench and HuggingFaceM4's ChartQA, VLMEvalKit's TSV.
"""

import base64
import csv
import json
from pathlib import Path
from typing import Any

import published_files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vision_agent import AnnotationError
from vision_agent.benchmark.catalog import read_benchmarks, read_target
from vision_agent.benchmark.question_sets import QuestionSet

PEOPLE = ["dakota"] * 4 + ["clos culombu", "dakota digital", "nous les gosses", "dakota", "dakota", "cyber"]


def read(name: str, path: Path) -> QuestionSet:
    (found,) = read_benchmarks([read_target(f"{name}={path}", None)])
    assert isinstance(found, QuestionSet)
    return found


def lines(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def table(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def photo() -> str:
    return base64.b64encode((published_files.PHOTOS / published_files.DOG).read_bytes()).decode()


def test_textvqa_as_internvl_has_it(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "textvqa"
    published_files.put(published_files.DOG, folder / "train_images" / "003a8ae2ef43b901.jpg")
    row = {"image": "data/textvqa/train_images/003a8ae2ef43b901.jpg", "question": "what is the brand of this camera?"}
    lines(folder / "textvqa_val.jsonl", {**row, "question_id": 34602, "answer": "dakota"})
    people = [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(PEOPLE, 1)]
    annotation = {"image_id": "003a8ae2ef43b901", "question_id": 34602, "question_type": "", "answers": people}
    published_files.write(folder / "textvqa_val_annotations.json", {"annotations": [annotation], "data_subtype": "val"})
    question = {"image_id": "003a8ae2ef43b901", "question": row["question"], "question_id": 34602}
    published_files.write(folder / "textvqa_val_questions.json", {"questions": [question]})
    found = read("textvqa", folder)
    assert found.items[0].truth["answers"] == PEOPLE
    scored = {said: found.scores({"34602": {"answer": said}})[0].value for said in ("Dakota.", "cyber", "nikon")}
    # VQA's rule by hand: of the ten ways to leave one out, "cyber" is one of three people in nine.
    assert scored == pytest.approx({"Dakota.": 1.0, "cyber": 0.3, "nikon": 0.0}, abs=1e-9)


def test_docvqa_and_chartqa_as_internvl_has_them(tmp_path: Path) -> None:
    page = tmp_path / "data" / "docvqa" / "val" / "documents" / "xnbl0037_1.png"
    published_files.put(published_files.DOG, page)
    row = {"image": "data/docvqa/val/documents/xnbl0037_1.png", "question": "Which\u2028year?", "question_id": 49153}
    lines(tmp_path / "data" / "docvqa" / "val.jsonl", {**row, "answer": ["1975", "in 1975"]})
    (item,) = read("docvqa", tmp_path / "data" / "docvqa").items
    assert item.image == page and item.truth["answers"] == ["1975", "in 1975"] and "\u2028" in item.text

    chart = tmp_path / "data" / "chartqa" / "ChartQA Dataset" / "test" / "png" / "4.png"
    published_files.put(published_files.DOG, chart)
    for kind in ("human", "augmented"):
        named = {"image": "data/chartqa/ChartQA Dataset/test/png/4.png", "question": f"{kind}?", "answer": "0"}
        lines(tmp_path / "data" / "chartqa" / f"test_{kind}.jsonl", named)
    found = read("chartqa", tmp_path / "data" / "chartqa")
    assert [(each.group, each.image) for each in found.items] == [("augmented", chart), ("human", chart)]
    # Nothing is within 5 % of zero: then words are compared, as pix2struct does.
    said = {item.key: {"answer": answer} for item, answer in zip(found.items, ("0", "0.0"), strict=True)}
    assert [score.value for score in found.scores(said)] == [1.0, 0.0, 0.5]


def test_the_hubs_parquet(tmp_path: Path) -> None:
    image = {"bytes": (published_files.PHOTOS / published_files.DOG).read_bytes(), "path": "1.jpg"}
    ocr = {"dataset": "HME100k", "question": "Write the formula.", "answer": ["a + b"], "image": image}
    ocr["question_type"] = "Handwritten Mathematical Expression Recognition"
    (tmp_path / "ocrbench").mkdir()
    pq.write_table(pa.Table.from_pylist([ocr]), tmp_path / "ocrbench" / "test-00000-of-00001.parquet")
    found = read("ocrbench", tmp_path / "ocrbench")
    assert [score.value for score in found.scores({found.items[0].key: {"answer": "it is a+b"}})] == [1.0, 1.0]
    chart = {"image": image, "query": "How many?", "label": ["14"], "human_or_machine": 0}
    (tmp_path / "chartqa").mkdir()
    rows = [chart, {**chart, "human_or_machine": 1}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "chartqa" / "test-00000-of-00001.parquet")
    assert [item.group for item in read("chartqa", tmp_path / "chartqa").items] == ["human", "augmented"]


def test_vlmevalkits_tables(tmp_path: Path) -> None:
    usual = {"index": 0, "image": photo(), "question": 'Who wrote "Emma"?', "split": "val"}
    table(tmp_path / "docvqa" / "DocVQA_VAL.tsv", {**usual, "answer": "['Jane', \"J. Austen's\"]"})
    assert read("docvqa", tmp_path / "docvqa").items[0].truth["answers"] == ["Jane", "J. Austen's"]
    # An answer that begins with a bracket is none of Python's lists.
    for text in ("[CENTRE", "[a b]", "[x for x in y]"):
        row = {**usual, "answer": text, "category": "Regular Text Recognition"}
        table(tmp_path / "ocrbench" / "OCRBench.tsv", row)
        assert read("ocrbench", tmp_path / "ocrbench").items[0].truth["answers"] == [text]


def test_rows_without_what_is_needed_are_told(tmp_path: Path) -> None:
    # A few rows of CountBenchQA's copy on the hub have no image any more.
    rows = [{"image": None, "question": "How many dogs?", "number": 1, "text": "a dog"}]
    (tmp_path / "count").mkdir()
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("question", pa.string())]
    )
    schema = schema.append(pa.field("number", pa.int64())).append(pa.field("text", pa.string()))
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "count" / "test-00000-of-00001.parquet")
    with pytest.raises(AnnotationError, match="no image"):
        read("countbenchqa", tmp_path / "count")
    # InternVL's lines for POPE have no labels: those are in POPE's own files.
    published_files.put(published_files.DOG, tmp_path / "pope" / "val2014" / "COCO_val2014_000000139872.jpg")
    row = {"question_id": 1, "image": "COCO_val2014_000000139872.jpg", "text": "Is there a dog?", "category": "random"}
    lines(tmp_path / "pope" / "llava_pope_test.jsonl", row)
    with pytest.raises(AnnotationError, match="label that is neither yes nor no"):
        read("pope", tmp_path / "pope")
