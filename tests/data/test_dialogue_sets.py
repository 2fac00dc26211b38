"""Dialogues in InternVL's format: every bad line is told, and what is read is what the official loader gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import original_format as official
import pytest
import torch
from PIL import Image

from vision_agent.cli.main import main
from vision_agent.data.dialogues.dialogue_files import is_dialogue_data
from vision_agent.data.dialogues.dialogue_sets import read_dialogues
from vision_agent.errors import AnnotationError, InputError
from vision_agent.model.backbone import Backbone
from vision_agent.model.chat_templates import OFFICIAL_TEMPLATES
from vision_agent.model.checkpoint import load_backbone
from vision_agent.train.tuning.dialogue_encoding import DialogueEncoder, Extent
from vision_agent.train.tuning.step_batches import IGNORED, StepPlan, collate
from vision_agent.train.tuning.tuning_settings import Tuning

Line = dict[str, Any]


def talk(*said: str, system: str | None = None, **more: Any) -> Line:
    turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(said)]
    return {"conversations": ([] if system is None else [{"from": "system", "value": system}]) + turns, **more}


def write(folder: Path, *lines: Line | str, name: str = "train.jsonl") -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / name).write_text("".join(text + "\n" for text in texts))
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, size in enumerate(((80, 40), (40, 80), (30, 30))):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "0.png").read_bytes()[:90])
    (tmp_path / "frames").mkdir()
    for number in range(12):
        Image.new("RGB", (32, 24), (number * 20, 0, 0)).save(tmp_path / "frames" / f"f_{number}.jpg")
    return tmp_path


BOX = "<ref>dog</ref><box>[[{}]]</box>"
FAULTS: list[tuple[Line | str, str]] = [
    ("{not json", "no JSON"),
    ("[1, 2]", "no JSON object"),
    ({"id": 1}, "no conversations"),
    ({"conversations": [{"from": "robot", "value": "hi"}]}, "bad turn"),
    ({"conversations": [{"from": "human", "value": 3}]}, "bad turn"),
    (talk("question without answer"), "turns out of order"),
    ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}, "turns out of order"),
    (talk("q", " "), "empty answer"),
    (talk("q", "a", image="no.png"), "missing image"),
    (talk("q", "a", image="cut.jpg"), "damaged image"),
    (talk("q", "a", image=["0.png", 5]), "bad image"),
    (talk("q", "a", image=["0.png", "1.png"]), "0 <image> in the questions for 2"),
    (talk("<image> and <image>", "a", image="0.png"), "2 <image> in the questions for 1"),
    (talk("<image>\nq", "a"), "1 <image> in the questions for 0"),
    (talk("q", "a", image="0.png", video="frames"), "an image and a video"),
    (talk("q", "a", video="no.mp4"), "missing video"),
    (talk("q", "a", video="frames", clip=[3, 1]), "bad clip"),
    (talk("q", "a", image="0.png", width=81, height=40), "0.png is 80x40, not 81x40"),
    (talk("q", BOX.format("1, 2, 3")), "a <box> of 3 numbers, not 4"),
    (talk("q", BOX.format("0.1, 0.2, 0.3, 0.4")), "not shares of 1"),
    (talk("q", BOX.format("10, 10, 1400, 900")), "are they pixels?"),
    (talk("q", BOX.format("50, 10, 40, 90")), "x1, y1 must not be larger"),
    (talk("q", "<ref>dog<box>[[1, 2, 3, 4]]</box>"), "<box> where </ref> was expected"),
    (talk("q", "<box>somewhere</box>"), "<box> must hold [[x1, y1, x2, y2], ...]"),
]


def test_every_bad_line_is_told_with_its_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = talk("<image>\nwhere?", BOX.format("0, 0, 1000, 500"), image="0.png", width=80, height=40)
    path = write(folder, good, *(line for line, _ in FAULTS), good)
    with pytest.raises(AnnotationError) as raised:
        read_dialogues(path)
    told = raised.value.faults
    for number, (_, said) in enumerate(FAULTS, start=2):
        assert any(f"{path}, line {number}:" in each and said in each for each in told), (number, said)
    assert not any(", line 1:" in each or f", line {len(FAULTS) + 2}:" in each for each in told)
    assert "mend the files, or leave the faulty parts out with --skip-bad" in str(raised.value)

    left = read_dialogues(path, skip_bad=True)
    assert [line.line for line in left.train] == [1, len(FAULTS) + 2] and len(left.left_out) == len(told)

    with pytest.raises(SystemExit) as ended:
        main(["finetune", "nowhere", "--data", str(path), "--out", str(folder / "run")])
    assert ended.value.code == 2 and f"{path}, line 13: 0 <image> in the questions" in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_meta_files(folder: Path) -> None:
    write(folder, *(talk(f"q{number}", "a") for number in range(10)))
    several = {
        "share": {"root": ".", "annotation": "train.jsonl", "repeat_time": 0.35, "length": 99},
        "twice": {"root": ".", "annotation": "train.jsonl", "repeat_time": 2, "max_dynamic_patch": 3},
    }
    (folder / "meta.json").write_text(json.dumps(several))
    read = read_dialogues(folder / "meta.json")
    first = [line.turns[0][0] for line in read.train[:3]]
    assert first == ["q0", "q1", "q2"] and len(read.train) == 3 + 20  # the first part, then all of them twice
    assert read.train[0].max_tiles is None and read.train[3].max_tiles == 3
    held = read_dialogues(folder / "train.jsonl", validation=0.2)
    assert len(held.validation) == 2 and len(held.train) == 8
    assert held == read_dialogues(folder / "train.jsonl", validation=0.2)
    assert is_dialogue_data(folder / "meta.json") and is_dialogue_data("x.jsonl")
    (folder / "coco.json").write_text('{"images": [], "annotations": []}')
    assert not is_dialogue_data(folder / "coco.json")

    for wrong, said in (
        ({"repeat_time": 1.5}, "`repeat_time` must be a share below 1 or a whole number up to 10000, but got 1.5"),
        ({"annotation": "train.json"}, "`annotation` must be a .jsonl that exists"),
        ({"root": 5}, "`root` must be a path, but got 5"),
        ({"max_dynamic_patch": 0}, "`max_dynamic_patch` must be a whole number"),
    ):
        (folder / "meta.json").write_text(json.dumps({"set": several["share"] | wrong}))
        with pytest.raises(AnnotationError) as raised:
            read_dialogues(folder / "meta.json", skip_bad=True)
        assert said in str(raised.value)
    with pytest.raises(InputError, match="`validation` must be a share from 0 to below 1"):
        read_dialogues(folder / "train.jsonl", validation=1.0)


# The official loader's rules, written down anew: see OpenGVLab/InternVL, internvl_chat/internvl/train -------

# Around the system text, a question, and what stands before and after an answer.
MARKS = {
    "internvl2_5": (
        "<|im_start|>system\n",
        "<|im_end|>\n",
        "<|im_start|>user\n",
        "<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "Hermes-2": ("<|im_start|>system\n", "<|im_end|>", "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>"),
    "phi3-chat": ("<|system|>\n", "<|end|>", "<|user|>\n", "<|assistant|>\n", "<|end|>"),
}
MARKS["internlm2-chat"] = MARKS["Hermes-2"]


def tiles_of(width: int, height: int, most: int, side: int = 28) -> int:
    """The official grid: the ratio nearest to the image's; of equal ones the larger where the image fills half."""
    ratios = sorted(
        {(i, j) for n in range(1, most + 1) for i in range(1, n + 1) for j in range(1, n + 1) if 1 <= i * j <= most},
        key=lambda ratio: ratio[0] * ratio[1],
    )
    best, nearest = (1, 1), float("inf")
    for i, j in ratios:
        apart = abs(width / height - i / j)
        if apart < nearest or (apart == nearest and width * height > 0.5 * side * side * i * j):
            best, nearest = (i, j), apart
    count = best[0] * best[1]
    return count + (count > 1)


def expected_ids(
    folder: Path, template: str, line: Line, tiles: list[int], per_tile: int, most: int
) -> tuple[Any, Any]:
    start, end, human, gpt, stop = MARKS[template]
    turns = [turn["value"] for turn in line["conversations"] if turn["from"] != "system"]
    named = [turn["value"] for turn in line["conversations"] if turn["from"] == "system"]
    text = start + (named[0] if named else OFFICIAL_TEMPLATES[template].system_message) + end
    counts, labels = iter(tiles), []
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        while "<image>" in question:
            filled = f"<img>{'<IMG_CONTEXT>' * (per_tile * next(counts))}</img>"
            question = question.replace("<image>", filled, 1)
        text += human + question + end + gpt
        before = len(official.official_ids(folder, text))
        text += answer + end
        labels.append((before, len(official.official_ids(folder, text.removesuffix(end) + stop))))
    ids = official.official_ids(folder, text)
    learned = [token if any(a <= place < b for a, b in labels) else IGNORED for place, token in enumerate(ids)]
    return ids[:most], learned[:most]


@pytest.mark.parametrize("family", ["qwen2", "yi", "internlm2", "phi3"])
def test_batches_are_those_of_the_official_loader(folder: Path, family: str) -> None:
    official.write_folder(folder / "base", family, "6b" if family in ("yi", "internlm2") else "300m")
    backbone: Backbone = load_backbone(folder / "base", device="cpu", dtype="fp32")
    template, per_tile = official.TEMPLATES[family], backbone.tokens_per_tile
    box = BOX.format("100, 200, 300, 400")
    lines = [
        talk("What is it?", "a dog", image="0.png"),  # the placeholder is put before it
        talk("What is\n<image>?", "a dog.\nA cat", image=["1.png"]),
        talk("Image-1: <image>\nImage-2: <image>\nImage-3: <image>\nWhich?", "two", image=["0.png", "1.png", "2.png"]),
        talk("<image>\nWhere?", box, "And now?", "there  ", image="0.png"),
        talk("Say it.", "so", "Again!", "so, so"),
        talk("Count.", "1 2 3", system="You are short."),
        talk("What happens?", "it turns red", video="frames"),
    ]
    most = 700
    settings = Tuning(max_tiles=6, max_length=most, min_frames=8, max_frames=8)
    encoder = DialogueEncoder(backbone, settings, strips=template == "internlm2-chat")
    read = read_dialogues(write(folder, *lines)).train
    encoded = [encoder.encode(line, (0, 0, 0)) for line in read]
    batch = collate([[each] for each in encoded])

    # Six tiles are the bound of one image; three images have two each; a frame is one tile.
    tiles = [[tiles_of(80, 40, 6)], [tiles_of(40, 80, 6)]]
    tiles += [[tiles_of(80, 40, 2), tiles_of(40, 80, 2), tiles_of(30, 30, 2)], [tiles_of(80, 40, 6)], [], [], [1] * 8]
    shown = [json.loads(json.dumps(line)) for line in lines]
    shown[0]["conversations"][0]["value"] = "<image>\nWhat is it?"
    frames = "\n".join(f"Frame-{number}: <image>" for number in range(1, 9))
    shown[6]["conversations"][0]["value"] = f"{frames}\nWhat happens?"
    if template == "internlm2-chat":
        for turn in (turn for line in shown for turn in line["conversations"]):
            turn["value"] = turn["value"].strip()
    for row, (line, counts) in enumerate(zip(shown, tiles, strict=True)):
        ids, labels = expected_ids(folder / "base", template, line, counts, per_tile, most)
        assert batch.ids_BL[row, : len(ids)].tolist() == ids, row
        assert batch.labels_BL[row].tolist() == labels + [IGNORED] * (batch.labels_BL.shape[1] - len(ids)), row
        assert len(encoded[row].tiles_NSS3) == sum(counts), row
        assert encoder.extent(read[row]) == Extent(len(ids), sum(counts), sum(each != IGNORED for each in labels)), row
    assert len(batch.tiles_NSS3) == sum(map(sum, tiles))

    # What is longer is cut, as there; an image is not, where the official loader takes another line instead.
    short = len(encoded[4].ids) - 2
    cut = DialogueEncoder(
        backbone, settings.model_copy(update={"max_length": short}), strips=template == "internlm2-chat"
    )
    ids, labels = expected_ids(folder / "base", template, shown[4], [], per_tile, short)
    assert cut.encode(read[4], (0,)).ids.tolist() == ids and cut.extent(read[4]).cut == 2
    for row, said in ((0, "an image would be cut off; lower --max-tiles"), (6, "lower --max-frames")):
        inside = encoded[row].ids.tolist().index(backbone.model.config.image_token_id) + 2
        with pytest.raises(ValueError, match=said):
            DialogueEncoder(backbone, settings.model_copy(update={"max_length": inside})).extent(read[row])
    with pytest.raises(ValueError, match="no answer is left"):
        DialogueEncoder(backbone, settings.model_copy(update={"max_length": 8})).extent(read[4])


def test_a_system_turn_and_typed_marks_are_text(folder: Path) -> None:
    official.write_folder(folder / "base")
    backbone = load_backbone(folder / "base", device="cpu", dtype="fp32")
    encoder = DialogueEncoder(backbone, Tuning())
    (line,) = read_dialogues(
        write(folder, talk("say <|im_end|> now", "it is <|im_end|> then", system="a <img> b"))
    ).train
    found = encoder.encode(line, (0,))
    end = backbone.tokenizer.convert_tokens_to_ids("<|im_end|>")
    # One after the system text, one after the question, one after the answer: none is what somebody typed.
    assert found.ids.tolist().count(end) == 3 and found.ids[found.learned].tolist().count(end) == 1
    assert backbone.tokenizer.convert_tokens_to_ids("<img>") not in found.ids.tolist()


def test_degraded_images_follow_from_their_numbers(folder: Path) -> None:
    official.write_folder(folder / "base")
    backbone = load_backbone(folder / "base", device="cpu", dtype="fp32")
    write(folder, talk("q", "a", image="0.png"))
    set_ = {"root": str(folder), "annotation": str(folder / "train.jsonl"), "data_augment": True}
    (folder / "meta.json").write_text(json.dumps({"set": set_}))
    (line,) = read_dialogues(folder / "meta.json").train
    encoder = DialogueEncoder(backbone, Tuning())
    tiles = [encoder.encode(line, (0, turn, 0)).tiles_NSS3 for turn in (0, 0, 1)]
    assert torch.equal(tiles[0], tiles[1]) and not torch.equal(tiles[0], tiles[2])
    plain = encoder.encode(read_dialogues(folder / "train.jsonl").train[0], (0, 0, 0)).tiles_NSS3
    assert plain.shape == tiles[0].shape and not torch.equal(plain, tiles[0])


def test_steps_take_every_dialogue_once_a_round() -> None:
    lengths = np.random.default_rng(0).integers(10, 400, 203).tolist()
    extents = [Extent(tokens, tokens // 100, 5) for tokens in lengths]
    for pack in (False, True):
        settings = Tuning(batch=8, micro=3, rounds=2, pack=pack, max_length=500)
        plan = StepPlan(extents, settings)
        seen: list[tuple[int, int]] = []
        for step in range(plan.steps):
            for rows in plan.passes(step):
                seen += [plan.round_and_index(number) for row in rows for number in row]
                tokens = [sum(lengths[plan.round_and_index(number)[1]] for number in row) for row in rows]
                assert max(tokens) <= 500 and len(rows) <= 3
        assert sorted(seen) == [(turn, index) for turn in range(2) for index in range(203)]
        assert plan.steps == 51
    # Dialogues of like length go together: padding takes a fraction of what it takes otherwise.
    waste = {}
    for grouped in (True, False):
        plan = StepPlan(extents, Tuning(batch=8, micro=8, group_by_length=grouped))
        passes = [
            [lengths[plan.round_and_index(n)[1]] for row in rows for n in row]
            for s in range(25)
            for rows in plan.passes(s)
        ]
        waste[grouped] = sum(len(each) * max(each) - sum(each) for each in passes)
    assert waste[True] < waste[False] / 4
