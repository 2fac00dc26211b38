"""Dialogues as the world publishes them: InternVL's own meta files, LLaVA's lists, ms-swift's lines, odd texts."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vision_agent.data.dialogues.dialogue_files import is_dialogue_data
from vision_agent.data.dialogues.dialogue_sets import DialogueSet, read_dialogues
from vision_agent.errors import AnnotationError, InputError

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a dog"}]
WORDS = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.jpg")
    (tmp_path / "train.jsonl").write_text((json.dumps({"image": "a.jpg", "conversations": TURNS}) + "\n") * 4)
    return tmp_path


def read(folder: Path, content: str | bytes, name: str = "set.jsonl") -> DialogueSet:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_dialogues(folder / name)


def told(folder: Path, content: str | bytes, name: str = "set.jsonl") -> tuple[str, ...]:
    with pytest.raises(AnnotationError) as raised:
        read(folder, content, name)
    return raised.value.faults


def a_set(folder: Path, **changes: Any) -> dict[str, Any]:
    # The keys of internvl_chat/shell/data/*.json of OpenGVLab/InternVL.
    usual = {"root": str(folder), "annotation": "train.jsonl", "data_augment": False, "repeat_time": 1, "length": 4}
    return usual | changes


@pytest.mark.parametrize(
    "line",
    [
        # ms-swift, "standard" form, and the query-response form of its documentation.
        {"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "a dog"}]},  # noqa: E501
        {"images": [{"path": "a.jpg"}], "query": "<image>\nWhat?", "response": "a dog"},
        # LLaVA and xtuner: the picture's place left out, an id, a path that begins with the folder.
        {"id": "1", "image": "./a.jpg", "conversations": [{"from": "human", "value": "What?"}, TURNS[1]]},
        {"image": ["a.jpg"], "width": [64], "height": [48], "conversations": TURNS},
        {"image": "a.jpg", "conversations": [{**TURNS[0], "from": "user"}, {**TURNS[1], "from": "assistant"}]},
    ],
)  # fmt: skip
def test_lines_of_other_trainers_are_the_same_dialogue(folder: Path, line: dict[str, Any]) -> None:
    (found,) = read(folder, json.dumps(line)).train
    assert found.turns == (("<image>\nWhat?", "a dog"),) and [each.name for each in found.images] == ["a.jpg"]


def test_history_and_system_of_ms_swift(folder: Path) -> None:
    line = {"system": "Be brief.", "history": [["Hello", "Hi"]], "query": "And?", "response": "Bye"}
    (found,) = read(folder, json.dumps(line)).train
    assert found.system == "Be brief." and found.turns == (("Hello", "Hi"), ("And?", "Bye"))
    for wrong in ({"history": "no"}, {"history": [["Hello"]]}, {"query": None}):
        assert "bad turn" in told(folder, json.dumps(line | wrong))[0], wrong
    assert "bad turn" in told(folder, json.dumps({"messages": ["no", {"role": "user"}]}))[0]


def test_texts_of_every_editor(folder: Path) -> None:
    line = json.dumps({"image": "a.jpg", "conversations": TURNS})
    found = read(folder, "\ufeff" + "\r\n".join([line, "", line, "   "]) + "\r\n")
    assert [each.line for each in found.train] == [1, 3]  # a mark at the beginning, other ends, blank lines
    # What JSON need not escape, and `splitlines` would cut at.
    strange = json.dumps({"conversations": [{**WORDS[0], "value": "a\u2028b\x85c\x0c"}, WORDS[1]]}, ensure_ascii=False)
    (found_line,) = read(folder, strange.replace("\\f", "\\u000c")).train
    assert found_line.turns[0][0] == "a\u2028b\x85c\x0c"
    half = '{"conversations": [{"from": "human", "value": "\\ud83d"}, {"from": "gpt", "value": "x"}]}'
    assert "line 2: turn 1 holds half of a character" in told(folder, line + "\n" + half)[0]
    assert "it is not UTF-8" in told(folder, line.encode("utf-16"))[0]
    assert "no JSON" in told(folder, "[" * 100_000)[0]


def test_a_json_list_is_read_as_its_lines_would_be(folder: Path) -> None:
    entries = [{"image": "a.jpg", "conversations": TURNS}, {"conversations": WORDS}]
    found = read(folder, json.dumps(entries, indent=2), "llava.json")
    assert [each.turns for each in found.train] == [(("<image>\nWhat?", "a dog"),), (("Hello", "Hi"),)]
    assert is_dialogue_data(folder / "llava.json")
    faults = told(folder, json.dumps([*entries, {"image": "no.jpg", "conversations": TURNS}, 7]), "llava.json")
    assert "line 3" in faults[1] and "no.jpg" in faults[1] and "line 4" in faults[0]
    assert "no.jpg" in str(told(folder, json.dumps({"a": a_set(folder, annotation="llava.json")}), "meta.json"))
    (folder / "other.json").write_text("{}")
    faults = told(folder, json.dumps({"a": a_set(folder, annotation="other.json")}), "meta.json")
    assert "expected a list of dialogues" in faults[0]


def test_meta_files_as_published(folder: Path) -> None:
    (folder / "words.jsonl").write_text(json.dumps({"conversations": WORDS}) + "\n")
    # Sets of words alone have no root there (dev_mpo/meta_oc_data_241203_with_wh_v11.json).
    sets = {
        "words": a_set(folder, root=None, annotation="words.jsonl"),
        "some": a_set(folder, repeat_time=0.5),
        "twice": a_set(folder, repeat_time=2.0),
    }
    found = read(folder, "\ufeff" + json.dumps(sets), "meta.json")
    assert len(found.train) == 1 + 2 + 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"root": "vc-reader:s3://multi-modal/coco/train2017/"}, "`root` lies in an object store"),
        ({"annotation": "langchao:s3://x/y.jsonl"}, "`annotation` lies in an object store"),
        ({"repeat_time": float("nan")}, "`repeat_time` must be a share below 1 or a whole number"),
        ({"repeat_time": float("inf")}, "`repeat_time` must be"),
        ({"repeat_time": 10**12}, "up to 10000"),
        ({"repeat_times": 3}, "`repeat_times` is unknown; is `repeat_time` meant?"),
        ({"max_dynamic_patches": 3}, "is `max_dynamic_patch` meant?"),
    ],
)
def test_faults_of_a_set_are_told(folder: Path, changes: dict[str, Any], said: str) -> None:
    faults = told(folder, json.dumps({"good": a_set(folder), "bad": a_set(folder, **changes)}), "meta.json")
    assert len(faults) == 1 and "'bad'" in faults[0] and said in faults[0]


def test_two_sets_of_one_name_are_told(folder: Path) -> None:
    one = json.dumps(a_set(folder))
    faults = told(folder, f'{{"x": {one}, "x": {one}}}', "meta.json")
    assert faults[0].endswith("'x': the name stands twice; one would be lost")
    with pytest.raises(InputError, match="is no JSON"):
        read(folder, '{"x": ', "meta.json")
