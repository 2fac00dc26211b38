"""Settings as published: tiles, pixels, prompts and ids, against transformers' own processor and the official rules."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import original_format as official
import pytest
import torch
from PIL import Image
from published_checkpoints import NATIVE, ORIGINAL, UNSUPPORTED, published, write_published
from reference_processor import answered, asked, reference_inputs, reference_processor
from safetensors.torch import load_file, save_file
from transformers import InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from vision_agent.cli.describe import describe
from vision_agent.errors import CheckpointError, ConfigError
from vision_agent.images.video import frame_prompt
from vision_agent.model import prompt
from vision_agent.model.checkpoint import load_backbone
from vision_agent.model.original import native_config
from vision_agent.model.original.weights import empty_original, load_weights
from vision_agent.model.weight_files import open_weights

# Width and height, and the tiles with the thumbnail. 448 px tiles, 1 to 12 of them.
SIZES = {(1000, 700): 7, (448, 448): 1, (300, 1200): 5, (4000, 500): 9, (37, 23): 7, (1600, 1200): 13, (9, 999): 13}
# Of 255, over the smallest standard deviation: so far are torch's and Pillow's resizing apart at hard edges.
TWO_LEVELS = 2 / 255 / 0.224 + 1e-5
QUESTION = "where is the red car?"

Write = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Tiny checkpoints by their published names, each written once."""
    written: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in written:
            written[name] = write_published(name, tmp_path_factory.mktemp("published"))
        return written[name]

    return write


def picture(width: int, height: int) -> Image.Image:
    """Smooth colours with hard edges in them."""
    random = np.random.default_rng(width * 7919 + height)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize((width, height))
    pixels = np.array(coarse)
    pixels[:: max(2, height // 9)] = 255
    pixels[:, :: max(2, width // 11)] = 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", NATIVE)
def test_native_tiles_ids_and_pixels_are_those_of_transformers(
    name: str, size: tuple[int, int], folder_of: Write
) -> None:
    folder, image = folder_of(name), picture(*size)
    expected = reference_inputs(reference_processor(folder), [asked(QUESTION, images=1)], [image])
    found = load_backbone(folder).encode(QUESTION, image)
    assert found.num_tiles == (SIZES[size],) == (len(expected["pixel_values"]),)
    assert found.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert found.pixel_values is not None
    torch.testing.assert_close(found.pixel_values, expected["pixel_values"], rtol=0, atol=TWO_LEVELS)


@pytest.mark.parametrize("size", [(1000, 700), (448, 448), (4000, 500), (37, 23)])
def test_native_pixels_are_those_of_pillow_to_the_last_bit(size: tuple[int, int], folder_of: Write) -> None:
    folder, image = folder_of("InternVL3-2B-hf"), picture(*size)
    processor = GotOcr2ImageProcessorPil.from_pretrained(folder)
    expected = processor(image, crop_to_patches=True, return_tensors="pt")["pixel_values"]
    found = load_backbone(folder).encode(QUESTION, image).pixel_values
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NATIVE)
def test_native_conversations_with_several_images_are_those_of_transformers(name: str, folder_of: Write) -> None:
    folder, images = folder_of(name), [picture(1000, 700), picture(448, 448), picture(300, 1200)]
    messages = [
        asked("two cars?", images=2),
        answered("no, a car and a dog"),
        asked("is there a bus?", images=1),
    ]
    expected = reference_inputs(reference_processor(folder), messages, images)
    history = [("<image>\n<image>\ntwo cars?", "no, a car and a dog")]
    found = load_backbone(folder).encode("<image>\nis there a bus?", images, history=history)
    assert found.num_tiles == (7, 1, 5)
    assert found.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert found.pixel_values is not None
    torch.testing.assert_close(found.pixel_values, expected["pixel_values"], rtol=0, atol=TWO_LEVELS)


@pytest.mark.parametrize("name", NATIVE)
def test_native_video_is_that_of_transformers(name: str, folder_of: Write) -> None:
    folder, frames = folder_of(name), [picture(640, 360 + step) for step in range(4)]
    frames = [frame.resize((640, 360)) for frame in frames]
    expected = reference_inputs(reference_processor(folder), [asked(QUESTION, video=True)], [], frames)
    found = load_backbone(folder).encode(frame_prompt(4) + QUESTION, frames, max_tiles=1)
    assert found.num_tiles == (1, 1, 1, 1)
    assert found.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert found.pixel_values is not None
    torch.testing.assert_close(found.pixel_values, expected["pixel_values"], rtol=0, atol=TWO_LEVELS)


@pytest.mark.parametrize("name", NATIVE)
@torch.inference_mode()
def test_native_logits_are_those_of_transformers(name: str, folder_of: Write) -> None:
    folder, image = folder_of(name), picture(900, 450)
    backbone = load_backbone(folder, dtype="fp32")
    inputs = backbone.encode(QUESTION, image)
    model: Any = InternVLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    expected = model(input_ids=inputs.input_ids[None], pixel_values=inputs.pixel_values).logits[0]
    torch.testing.assert_close(backbone.logits(inputs.input_ids, inputs.pixel_values), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [*ORIGINAL, *NATIVE])
def test_info_says_what_the_loaded_model_has(name: str, folder_of: Write) -> None:
    folder = folder_of(name)
    found, backbone = describe(folder), load_backbone(folder)
    assert (found.tiles.size, found.tiles.max_tiles, found.tiles.thumbnail) == (448, 12, True)
    assert found.tiles.tokens_per_tile == backbone.tokens_per_tile == 256
    assert found.tiles.most_tokens == 13 * 256
    assert found.parameters.total == sum(parameter.numel() for parameter in backbone.model.parameters())


ENDS = {
    "InternVL2-1B": ["<|im_end|>"],
    "InternVL2-2B": ["<|im_end|>"],
    "InternVL3-2B": ["<|im_end|>"],
    "InternVL3_5-8B": ["<|im_end|>"],
    "InternVL2_5-2B-MPO-hf": ["</s>", "<|im_end|>"],
    "InternVL3-2B-hf": ["<|im_end|>"],
    "InternVL3_5-8B-HF": ["<|im_end|>"],
    "InternVL3_5-GPT-OSS-20B-A4B-Preview": ["<|return|>"],
    "InternVL3_5-GPT-OSS-20B-A4B-Preview-HF": ["<|return|>"],
}


@pytest.mark.parametrize("name", ENDS)
def test_answers_end_where_the_published_settings_say(name: str, folder_of: Write) -> None:
    backbone = load_backbone(folder_of(name))
    assert backbone.tokenizer.convert_ids_to_tokens(backbone.end_ids) == ENDS[name]


OLD = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"  # noqa: RUF001
NEW = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001
HARMONY = (
    "You are InternVL, a large language model trained by Shanghai AI Laboratory.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: 2025-08-06\n\nReasoning: low\n\n"
    "# Valid channels: final. Channel must be included for every message."
)
CHATML = "<|im_start|>system\n{0}{2}<|im_start|>user\n{1}{2}<|im_start|>assistant\n"
# The prompt around the system message and the user's part, the former, and what ends both.
TURNS = {
    "Hermes-2": (CHATML, OLD, "<|im_end|>"),
    "internlm2-chat": (CHATML, OLD, "<|im_end|>"),
    "internvl2_5": (CHATML, NEW, "<|im_end|>\n"),
    "internvl3_5_gpt_oss": (
        "<|start|>system<|message|>{0}{2}<|start|>user<|message|>{1}{2}<|start|>assistant",
        HARMONY,
        "<|end|>",
    ),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", ORIGINAL)
def test_original_prompts_tiles_and_pixels_are_official(name: str, size: tuple[int, int], folder_of: Write) -> None:
    folder, image = folder_of(name), picture(*size)
    found = load_backbone(folder).encode(QUESTION, image)
    prompt, system, end = TURNS[published(name)["config.json"]["template"]]
    places = "<img>" + "<IMG_CONTEXT>" * 256 * SIZES[size] + "</img>"
    assert found.num_tiles == (SIZES[size],)
    assert found.prompt == prompt.format(system, f"{places}\n{QUESTION}", end)
    processor = GotOcr2ImageProcessorPil(
        size={"height": 448, "width": 448}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    processor.resize = _as_pillow_12  # type: ignore[method-assign]
    expected = processor(image, crop_to_patches=True, return_tensors="pt")["pixel_values"]
    assert found.pixel_values is not None
    torch.testing.assert_close(found.pixel_values, expected, rtol=0, atol=1e-6)


def _as_pillow_12(pixels: np.ndarray, size: Any, resample: Any = None, **_: Any) -> np.ndarray:
    """Along the rows, then along the columns, which Pillow 13 does the other way round for some sizes."""
    image = Image.fromarray(pixels.transpose(1, 2, 0))
    wide = image.resize((size.width, image.height), Image.Resampling.BICUBIC)
    return np.array(wide.resize((size.width, size.height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_refused_before_weights_are_read(name: str, folder_of: Write) -> None:
    folder = folder_of(name)
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError, match=r"quantized|names the language model"):
            load(folder)
    documented = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text("utf-8")
    assert name in documented


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"auto_map": {"AutoModel": "modeling_internvl_chat_hico2.InternVLChatModel"}}, "hico2.*InternVideo2.5"),
        ({"auto_map": {"AutoModel": "me/mine--modeling_internvl_chat_hico2.InternVLChatModel"}}, "hico2"),
        ({"auto_map": {"AutoModel": "modeling_hovle_chat.HoVLEChatModel"}}, "modeling_hovle_chat"),
        ({"architectures": ["InternVLRewardModel"]}, "InternVLRewardModel"),
        ({"model_type": "internvl_chat_audio", "architectures": ["InternVLChatAudioModel"]}, "internvl_chat_audio"),
        ({"model_type": "hovle_chat", "architectures": ["HoVLEChatModel"]}, "hovle_chat"),
        ({"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"]}, "qwen2_5_vl"),
        ({"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}, "llava"),
        ({"model_type": "intern_vit_6b", "architectures": ["InternVisionModel"]}, "intern_vit_6b"),
        ({"model_type": "internvl", "architectures": ["InternVLModel"], "qllama_config": {}}, "InternVL-14B"),
        ({"template": "internvl3_5_gptoss"}, "internvl3_5_gptoss"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_relatives_are_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = write_published("InternVL2_5-2B", tmp_path)
    change(folder, "config.json", **changes)
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError, match=named):
            load(folder)


def test_copies_name_the_repository_of_their_code(tmp_path: Path) -> None:
    folder = write_published("InternVL3-2B", tmp_path)
    code = "sensenova/SenseNova-SI-1.1-InternVL3-2B--modeling_internvl_chat.InternVLChatModel"
    change(folder, "config.json", auto_map={"AutoConfig": "configuration_internvl_chat.X", "AutoModel": code})
    assert load_backbone(folder).name == folder.name == "InternVL3-2B"


# Variants that were published or saved by other versions of transformers ------------------------------------------


@pytest.fixture
def native(tmp_path: Path) -> Path:
    return write_published("InternVL3-2B-hf", tmp_path)


def change(folder: Path, file: str, **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def equals_transformers(folder: Path) -> None:
    image = picture(1000, 700)
    expected = reference_inputs(reference_processor(folder), [asked(QUESTION, images=1)], [image])
    found = load_backbone(folder).encode(QUESTION, image)
    assert found.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert found.pixel_values is not None
    torch.testing.assert_close(found.pixel_values, expected["pixel_values"], rtol=0, atol=TWO_LEVELS)


@pytest.mark.parametrize("written", [{}, {"crop_to_patches": True}, {"crop_to_patches": None}])
def test_the_processor_cuts_tiles_whatever_the_image_processor_says(native: Path, written: dict[str, Any]) -> None:
    change(native, "preprocessor_config.json", **written)
    equals_transformers(native)
    assert describe(native).tiles.max_tiles == 12


def test_other_bounds_of_tiles_hold(native: Path) -> None:
    change(native, "preprocessor_config.json", min_patches=2, max_patches=6)
    equals_transformers(native)
    assert load_backbone(native).encode(QUESTION, picture(448, 448)).num_tiles == (5,)
    assert describe(native).tiles.max_tiles == 6


def test_the_joint_file_of_transformers_5_wins_over_the_older_one(native: Path) -> None:
    older = json.loads((native / "preprocessor_config.json").read_text("utf-8"))
    change(native, "processor_config.json", image_processor={**older, "max_patches": 4})
    equals_transformers(native)
    assert describe(native).tiles.max_tiles == 4


@pytest.mark.parametrize("place", ["chat_template.json", "processor_config.json", "tokenizer_config.json"])
def test_the_chat_template_is_found_wherever_transformers_finds_it(native: Path, place: str) -> None:
    template = (native / "chat_template.jinja").read_text("utf-8")
    (native / "chat_template.jinja").unlink()
    if place == "chat_template.json":
        (native / place).write_text(json.dumps({"chat_template": template}), "utf-8")
        # That of the language model, which speaks of no images, is beside it.
        other = "{% for message in messages %}{{ 'SAID ' + message['content'][0]['text'] }}{% endfor %}"
        change(native, "tokenizer_config.json", chat_template=other)
    else:
        change(native, place, chat_template=template)
    equals_transformers(native)


FIRST_NAMES = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}


@pytest.mark.parametrize("first", [False, True], ids=["today's", "first"])
def test_weights_load_under_todays_names_and_under_those_first_published(native: Path, first: bool) -> None:
    model = load_backbone(native, dtype="fp32").model
    state = {}
    for key, tensor in model.state_dict().items():
        today = next(name for name in FIRST_NAMES if key.startswith(name))
        state[key.replace(today, FIRST_NAMES[today], 1) if first else key] = tensor.clone()
    save_file(state, native / "model.safetensors", metadata={"format": "pt"})
    ids = torch.arange(20)
    again = load_backbone(native, dtype="fp32")
    torch.testing.assert_close(again.logits(ids), model(input_ids=ids[None]).logits[0], rtol=0, atol=1e-5)
    assert describe(native).parameters.total == sum(parameter.numel() for parameter in model.parameters())


def test_one_table_for_words_in_and_out_is_one_table(native: Path) -> None:
    file = native / "model.safetensors"
    two = describe(native).parameters.total
    words = load_backbone(native).model.lm_head.weight.numel()
    save_file(
        {key: tensor for key, tensor in load_file(file).items() if "lm_head" not in key},
        file,
        metadata={"format": "pt"},
    )
    backbone = load_backbone(native)
    assert describe(native).parameters.total == two - words
    assert backbone.model.lm_head.weight is backbone.model.get_input_embeddings().weight


def test_a_template_that_writes_the_first_token_itself_does_not_get_two(tmp_path: Path) -> None:
    folder = write_published("InternVL2_5-2B-MPO-hf", tmp_path)
    expected = load_backbone(folder).encode(QUESTION).input_ids.tolist()
    template = folder / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text("utf-8"), "utf-8")
    backbone = load_backbone(folder)
    assert backbone.encode(QUESTION).input_ids.tolist() == expected
    assert expected[0] == backbone.tokenizer.bos_token_id
    before, after = backbone.prompt_parts([])
    assert (before + after).count(expected[0]) == 1


def test_a_template_for_words_alone_gets_words(native: Path) -> None:
    expected = load_backbone(native).encode(QUESTION, picture(448, 448))
    words = (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message.role + '\n' + (message.content | string) + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    (native / "chat_template.jinja").write_text(words, "utf-8")
    assert load_backbone(native).encode(QUESTION, picture(448, 448)).prompt == expected.prompt


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LONG = "{% for a in range(99999) %}{{ messages[0]['content'] }}{% endfor %}"
# Each one step, of a text that no memory holds.
HUGE = ("{{ 'a' * 10 ** 11 }}", "{{ 'a' * 99999999999 }}", "{{ 'a'.center(99999999999) }}", "{{ 9 ** 9 ** 9 }}")
DEEP = "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}"


@pytest.mark.parametrize(
    "template",
    [None, "{{ 1 / 0 }}", "{% for", "{{ raise_exception('no') }}", "no words", ENDLESS, LONG, DEEP, *HUGE],
    ids=["none", "division", "syntax", "its own error", "no words", "endless", "long", "deep", *HUGE],
)
def test_templates_that_are_missing_or_fail_are_errors_of_the_checkpoint(
    native: Path, template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if template is None:
        (native / "chat_template.jinja").unlink()
    else:
        (native / "chat_template.jinja").write_text(template, "utf-8")
    monkeypatch.setattr(prompt, "_MOST_SECONDS", 0.5)
    with pytest.raises(CheckpointError, match="template"):
        load_backbone(native).encode(QUESTION)


def test_a_typed_token_without_a_row_is_text(native: Path) -> None:
    """`<video>` has the first id after the published table of words."""
    backbone = load_backbone(native)
    rows = backbone.model.get_input_embeddings().weight.shape[0]
    assert backbone.tokenizer.convert_tokens_to_ids("<video>") == rows
    found = backbone.encode("what does <video> mean?")
    assert int(found.input_ids.max()) < rows
    assert backbone.logits(found.input_ids).isfinite().all()


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("damage", ["nested", "list", "cut", "endless"])
def test_damaged_settings_are_errors_of_the_checkpoint(native: Path, name: str, damage: str) -> None:
    file = native / name
    if damage == "endless":
        file.unlink()
        file.symlink_to("/dev/zero")
    else:
        file.write_text({"nested": '{"a":' * 100_000, "list": "[]", "cut": '{"a'}[damage], "utf-8")
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError, match=name):
            load(native)


def test_an_endless_tokenizer_is_refused(native: Path) -> None:
    (native / "tokenizer.json").unlink()
    (native / "tokenizer.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_backbone(native)


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", 7])
def test_weights_outside_the_folder_are_refused(native: Path, place: Any) -> None:
    names = load_file(native / "model.safetensors")
    (native / "model.safetensors").rename(native.parent / "model.safetensors")
    index = {"weight_map": dict.fromkeys(names, place)}
    (native / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError, match="names the file"):
            load(native)


@pytest.mark.parametrize(
    ("part", "setting"),
    [
        ("text_config", "vocab_size"),
        ("text_config", "num_hidden_layers"),
        ("text_config", "intermediate_size"),
        ("vision_config", "image_size"),
        ("vision_config", "num_hidden_layers"),
        ("vision_config", "hidden_size"),
    ],
)
@pytest.mark.parametrize("name", ["InternVL3-2B-hf", "InternVL3-2B"])
def test_absurd_sizes_are_refused_at_once(name: str, part: str, setting: str, tmp_path: Path) -> None:
    folder = write_published(name, tmp_path)
    content = json.loads((folder / "config.json").read_text("utf-8"))
    part = "llm_config" if part == "text_config" and part not in content else part
    content[part][setting] = 10_000_000
    if name == "InternVL3-2B":
        content["force_image_size"] = None
    (folder / "config.json").write_text(json.dumps(content), "utf-8")
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError, match=setting):
            load(folder)


def test_loading_says_nothing(native: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_backbone(native)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("resample", 2),
        ("do_normalize", False),
        ("do_rescale", False),
        ("do_resize", False),
        ("rescale_factor", 1 / 127.5),
        ("size", {"height": 448, "width": 224}),
        ("size", {"shortest_edge": 448}),
        ("size", {"height": 224, "width": 224}),
        ("image_mean", [0.5]),
        ("image_std", [0.2, 0.0, 0.2]),
        ("max_patches", 0),
        ("min_patches", 13),
        ("max_patches", "12"),
    ],
)
def test_settings_of_images_that_are_not_followed_are_refused(native: Path, setting: str, value: Any) -> None:
    change(native, "preprocessor_config.json", **{setting: value})
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError, match=setting):
            load(native)


# Names and options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_backbone, describe])
def test_a_hub_that_cannot_be_reached_is_asked_once(
    load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for = []

    def fail(url: str, **_: Any) -> None:
        asked_for.append(url)
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(httpx, "head", fail)
    with pytest.raises(CheckpointError, match=r"cannot be reached.*hf download someone/thing"):
        load("someone/thing", cache_dir=tmp_path)
    assert len(asked_for) == 1


@pytest.mark.parametrize("load", [load_backbone, describe])
def test_a_name_that_the_hub_does_not_know_is_said_so(
    load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpx, "head", lambda url, **_: httpx.Response(404))
    with pytest.raises(CheckpointError, match="no model of this name"):
        load("someone/mistyped", cache_dir=tmp_path)
    with pytest.raises(CheckpointError, match="neither a folder nor a hub name"):
        load("path/to/nothing", cache_dir=tmp_path)
    with pytest.raises(CheckpointError, match="neither a folder nor a hub name"):
        load("x" * 300, cache_dir=tmp_path)  # longer than any file's name


@pytest.mark.parametrize(
    "settings",
    [
        {"device_map": {"modle.vision_tower": "cpu"}},
        {"device_map": {"": "gpu"}},
        {"device_map": {"": "auto"}},
        {"device_map": "auto", "max_memory": {"cpu": "infGB"}},
        {"device_map": "auto", "max_memory": {"cpu": "nanGB"}},
        {"device_map": "auto", "max_memory": {"cpu": "lots"}},
        {"device_map": "auto", "max_memory": {"cpu": 0}},
        {"device_map": "auto", "max_memory": {"cpu": -5}},
        {"device_map": "auto", "max_memory": {"nowhere": "2GiB"}},
    ],
    ids=str,
)
def test_maps_and_memories_that_make_no_sense_are_refused(native: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="device_map" if len(settings) == 1 else "max_memory"):
        load_backbone(native, **settings)


@pytest.mark.parametrize("folder", ["/dev/null", "/dev/null/below", "/proc/none/below"])
def test_a_place_for_weights_that_is_no_folder_is_refused(native: Path, folder: str) -> None:
    with pytest.raises(ConfigError, match="offload_folder"):
        load_backbone(native, device_map={"": "disk"}, offload_folder=folder)


def test_weights_that_wait_on_disk_are_no_news(
    native: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    load_backbone(native, device_map={"": "disk"}, offload_folder=tmp_path / "off")
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")


def test_a_map_that_makes_sense_loads(native: Path) -> None:
    backbone = load_backbone(native, device_map={"": "cpu"}, max_memory={"cpu": "2GiB"})
    assert backbone.encode(QUESTION, history=None).input_ids.tolist() == backbone.encode(QUESTION).input_ids.tolist()


def test_positions_are_resized_in_fp32(tmp_path: Path) -> None:
    content = official.tiny_config("qwen2", force_image_size=56)
    state = official.tiny_state(content)
    positions = "vision_model.embeddings.position_embedding"
    state[positions] = state[positions].to(torch.bfloat16)
    official.write_original(tmp_path, content, state)
    model = empty_original(native_config(content), dtype=torch.float32, attn_implementation="sdpa")
    load_weights(model, open_weights(tmp_path), "Qwen2ForCausalLM")
    grid = state[positions].float()[:, 1:].mT.reshape(1, -1, 4, 4)
    expected = torch.nn.functional.interpolate(grid, size=(8, 8), mode="bicubic").flatten(2).mT
    found = model.model.vision_tower.embeddings.position_embeddings
    torch.testing.assert_close(found[:, 1:], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("broken", ["no tokenizer", "other shape", "missing tensor", "other id"])
def test_info_refuses_what_does_not_load(native: Path, broken: str) -> None:
    file = native / "model.safetensors"
    if broken == "no tokenizer":
        for path in native.glob("*token*"):
            path.unlink()
        (native / "vocab.json").unlink()
    elif broken == "other id":
        change(native, "config.json", image_token_id=3)
    else:
        state = load_file(file)
        name = next(key for key in state if key.endswith("layers.0.mlp.down_proj.weight"))
        state[name] = state[name][:, :-1].contiguous()
        if broken == "missing tensor":
            del state[name]
        save_file(state, file, metadata={"format": "pt"})
    for load in (load_backbone, describe):
        with pytest.raises(CheckpointError):
            load(native)
