"""Original-format folders through the public door: prompts, ids, pixels, logits, verbs."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import original_format as official
import pytest
import torch
from PIL import Image

from vision_agent import CheckpointError, ConfigError, GenerationOptions, VisionAgent
from vision_agent.cli.main import main
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.streaming import TextStream
from vision_agent.model.chat_templates import OFFICIAL_TEMPLATES
from vision_agent.model.original import convert

FAMILIES = ["qwen2", "internlm2", "llama", "yi", "phi3", "gpt_oss"]
SHORT = GenerationOptions(max_new_tokens=6)


def image(seed: int, width: int = 60, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_ids_pixels_and_logits_are_official(tmp_path: Path, family: str) -> None:
    content, state = official.write_folder(tmp_path, family, "6b" if family in ("internlm2", "yi") else "300m")
    backbone = VisionAgent.from_pretrained(tmp_path).backbone
    template = OFFICIAL_TEMPLATES[official.TEMPLATES[family]]
    image_id = backbone.model.config.image_token_id
    images = [image(1), image(2, 28, 28)]
    cases = {
        "single": backbone.encode("What is it?", images[0]),
        "apart": backbone.encode("What differs?", images),
        "rounds": backbone.encode("and now?", images[0], history=[("<image>\nWhat?", "A dog."), ("Why?", "So.")]),
        "video": backbone.encode("Frame1: <image>\nFrame2: <image>\nWhat happens?", images, max_tiles=1),
        "combined": backbone.encode("What differs?", images, max_tiles=[2, 1], combine=True),
        "words": backbone.encode("Hello  <ref>you</ref>", []),
    }
    per_tile = backbone.tokens_per_tile

    def block(*tiles: int) -> str:
        return f"<img>{'<IMG_CONTEXT>' * (per_tile * sum(tiles))}</img>"

    def shown(name: str) -> list[str]:
        return [block(count) for count in cases[name].num_tiles]

    expected = {
        "single": [(f"{shown('single')[0]}\nWhat is it?", None)],
        "apart": [("Image-1: {}\nImage-2: {}\nWhat differs?".format(*shown("apart")), None)],
        "rounds": [(f"{shown('rounds')[0]}\nWhat?", "A dog."), ("Why?", "So."), ("and now?", None)],
        "video": [("Frame1: {}\nFrame2: {}\nWhat happens?".format(*shown("video")), None)],
        "combined": [(f"{block(*cases['combined'].num_tiles)}\nWhat differs?", None)],
        "words": [("Hello  <ref>you</ref>", None)],
    }
    assert cases["video"].num_tiles == (1, 1)
    for name, encoded in cases.items():
        assert encoded.prompt == template.render(expected[name]), name
        assert encoded.input_ids.tolist() == official.official_ids(tmp_path, encoded.prompt), name
        logits = backbone.logits(encoded.input_ids, encoded.pixel_values)
        reference = official.reference_logits(
            state, content, encoded.input_ids.tolist(), encoded.pixel_values, image_id
        )
        torch.testing.assert_close(logits, reference, atol=2e-4, rtol=0)
        first = backbone.generate_ids(encoded.input_ids, encoded.pixel_values, max_new_tokens=1)
        assert first == [int(reference[-1].argmax())]


def test_the_verbs_work_on_an_original_folder_and_on_its_conversion(tmp_path: Path) -> None:
    official.write_folder(tmp_path / "original", "internlm2", ps_version="v1")
    convert(tmp_path / "original", tmp_path / "native")
    before, after = (VisionAgent.from_pretrained(tmp_path / name) for name in ("original", "native"))
    for agent in (before, after):
        assert agent.backbone.end_ids == before.backbone.end_ids
        assert agent.detect("dog", image(1)).decoder == "grounding"
    assert before.ask("what?", image(1), options=SHORT).text == after.ask("what?", image(1), options=SHORT).text
    chats = [agent.chat(options=SHORT) for agent in (before, after)]
    for question in ("what?", "and now?"):
        assert len({chat.ask(question).text for chat in chats}) == 1
    encoded = [agent.backbone.encode("what?", image(3)) for agent in (before, after)]
    assert encoded[0].prompt == encoded[1].prompt
    assert encoded[0].input_ids.tolist() == encoded[1].input_ids.tolist()
    torch.testing.assert_close(encoded[0].pixel_values, encoded[1].pixel_values)


def test_version_1_pixel_shuffle_is_transposed(tmp_path: Path) -> None:
    content, state = official.write_folder(tmp_path, "qwen2", ps_version="v1", force_image_size=56)
    backbone = VisionAgent.from_pretrained(tmp_path).backbone
    tokens, _ = backbone.see(official.random_tiles(2, 56))
    expected = official.reference_image_tokens(state, content, official.random_tiles(2, 56))
    torch.testing.assert_close(tokens.flatten(0, 1), expected, atol=1e-4, rtol=0)


def test_what_a_checkpoint_asks_for_and_does_not_get(tmp_path: Path) -> None:
    official.write_folder(tmp_path / "a", "qwen2")
    waiting = {"": "cpu", "model.vision_tower": "disk"}
    with pytest.raises(ConfigError, match=r"`device_map`.*wait on disk.*vision-agent convert"):
        VisionAgent.from_pretrained(tmp_path / "a", device_map=waiting, offload_folder=tmp_path / "off")
    with pytest.raises(ConfigError, match=r"wait on disk.*vision-agent convert"):
        VisionAgent.from_pretrained(
            tmp_path / "a", device_map="auto", max_memory={"cpu": "60KB"}, offload_folder=tmp_path / "off"
        )
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "florence2", "auto_map": {"AutoModel": "code.Model"}}')
    with pytest.raises(CheckpointError, match=r"'florence2'.*never run"):
        VisionAgent.from_pretrained(folder)
    (folder / "config.json").write_text("[1, 2]")
    with pytest.raises(CheckpointError, match=r"config.json .*damaged: expected an object"):
        VisionAgent.from_pretrained(folder)


@pytest.mark.parametrize("places", [{"": "cpu"}, "auto", "balanced", "sequential"])
def test_a_device_map_takes_an_original_folder(places: Any, tmp_path: Path) -> None:
    official.write_folder(tmp_path, "internlm2")
    plain, mapped = VisionAgent.from_pretrained(tmp_path), VisionAgent.from_pretrained(tmp_path, device_map=places)
    assert mapped.backbone.fingerprint == plain.backbone.fingerprint
    assert set(mapped.backbone.model.hf_device_map.values()) == {"cpu"}
    assert mapped.ask("what?", image(2), options=SHORT) == plain.ask("what?", image(2), options=SHORT)


def test_convert_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    official.write_folder(tmp_path / "a", "qwen2")
    monkeypatch.setattr(sys, "argv", ["vision-agent", "convert", str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    assert VisionAgent.from_pretrained(tmp_path / "b").ask("hello", options=SHORT).text is not None
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_give_the_text_whatever_the_tokens(tmp_path: Path, family: str) -> None:
    official.write_folder(tmp_path, family)
    backbone = VisionAgent.from_pretrained(tmp_path).backbone
    engine, size = InferenceEngine(backbone), len(backbone.tokenizer)
    said = backbone.text_ids("Hello   world 中文 😀👍🏽 naïve\n\n  a , b . ")
    single = [i for i in range(size) if str(backbone.tokenizer.convert_ids_to_tokens(i)).startswith("<0x")] or said
    draw = random.Random(0)
    for number in range(120):
        ids = [draw.choice([draw.choice(said), draw.choice(single), draw.randrange(size)]) for _ in range(20)]
        ids = said[: number + 1] if number < len(said) else ids
        whole = engine.visible_text(ids, ())
        stop = () if number % 2 or len(whole) < 4 else (whole[len(whole) // 2 :][:3],)
        whole = engine.visible_text(ids, stop)
        stream = TextStream(engine, stop)
        pieces = [stream.push(ids[:count]) for count in range(1, len(ids) + 1)]
        assert "".join(pieces) + stream.finish(whole) == whole
