"""Device maps: what makes no sense is named before loading; adapters work on weights that wait on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PHOTOS
from PIL import Image

from vision_agent import RouteSpec, VisionAgent, new_route, save_adapter
from vision_agent.errors import AdapterMismatchError, ConfigError
from vision_agent.model.checkpoint import load_backbone
from vision_agent.model.device_map import fitted_map

WHOLE = {
    "model.vision_tower": "cpu",
    "model.multi_modal_projector": "cpu",
    "model.language_model": "cpu",
    "lm_head": "cpu",
}
WAITING = {**WHOLE, "model.language_model": "disk", "lm_head": "disk"}


@pytest.mark.parametrize(
    ("device_map", "words"),
    [
        ({"": "cpuu"}, r"`device_map\[''\]`.*'cpuu'"),
        ({"": 77}, r"`device_map\[''\]`.*77"),
        ({"": "meta"}, "holds values"),
        ({"": True}, "`device_map`"),
        ({}, "`device_map`"),
        ({"": 1.5}, "`device_map`"),
        ("cpu", "`device_map`"),
        ({**WHOLE, "lm_haed": "cpu"}, "`device_map`.*'lm_haed'"),
        ({"model.language": "cpu", "": "cpu"}, "`device_map`.*'model.language'"),
        ({"model.language_model.layers.3": "cpu", "": "cpu"}, r"layers\.3"),  # it has 0 to 2
        ({**WHOLE, "model.vision_tower": "disk"}, "`offload_folder`"),
        ({"model.language_model": "cpu", "lm_head": "cpu"}, "no device for 'model.vision_tower"),
        ({**WHOLE, "model.language_model": "cuda:99"}, "cuda:99"),
    ],
)
def test_maps_that_make_no_sense_are_named(device_map: Any, words: str, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        load_backbone(checkpoint, device_map=device_map)


@pytest.mark.parametrize(
    ("max_memory", "words"),
    [
        ({}, "room on one device"),
        ({"cpu": 0}, "room on one device"),
        ({"cpu": "lots"}, r"`max_memory\['cpu'\]`.*'lots'"),
        ({"cpu": "20 parsecs"}, "20 parsecs"),
        ({"cpu": -5}, r"`max_memory\['cpu'\]`.*-5"),
        ({"cpu": "-5GiB"}, "-5GiB"),
        ({"cpu": ""}, r"`max_memory\['cpu'\]`"),
        ({"cpu": 1.5}, "`max_memory`"),
        ({"cpu": True}, "`max_memory`"),
        ({"gpu": "1GiB"}, "`max_memory`.*'gpu'"),
        ({"cuda:0": "1GiB"}, "`max_memory`.*'cuda:0'"),
        ({77: "1GiB", "cpu": "1GiB"}, "`max_memory`.*77"),
        ({-1: "1GiB", "cpu": "1GiB"}, "`max_memory`.*-1"),
        ([1], "`max_memory`"),
    ],
)
def test_memory_that_makes_no_sense_is_named(max_memory: Any, words: str, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        load_backbone(checkpoint, device_map="auto", max_memory=max_memory)


def test_tables_that_are_one_tensor_lie_together(backbone: Any) -> None:
    places = {"": "cpu", "model.language_model.embed_tokens": 1, "lm_head": 0}
    assert fitted_map(places, backbone.model)["lm_head"] == 1
    assert fitted_map({"": 0, "lm_head": 1}, backbone.model) == {"": 0, "lm_head": 0}
    assert fitted_map({"": "cpu"}, backbone.model) == {"": "cpu"}
    backbone.model.config.tie_word_embeddings = False
    backbone.model.config.text_config.tie_word_embeddings = False
    assert fitted_map(places, backbone.model)["lm_head"] == 0


def test_a_part_with_a_place_of_its_own_has_no_holder_in_the_map(backbone: Any) -> None:
    fitted = fitted_map({"": "cpu", "model.language_model.layers.1": 1}, backbone.model)
    assert fitted == {
        "model.vision_tower": "cpu",
        "model.multi_modal_projector": "cpu",
        "model.language_model.embed_tokens": "cpu",
        "model.language_model.layers.0": "cpu",
        "model.language_model.layers.1": 1,
        "model.language_model.layers.2": "cpu",
        "model.language_model.norm": "cpu",
        "model.language_model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }


def test_an_adapter_works_on_weights_that_wait_on_disk(checkpoint: Path, tmp_path: Path) -> None:
    photo = Image.open(PHOTOS / "000000139872.jpg").resize((120, 90))
    plain = VisionAgent.from_pretrained(checkpoint, device="cpu")
    route = new_route(plain.backbone, RouteSpec(token="[DET]", decoder="box", num_queries=2), torch.Generator())
    with torch.no_grad():
        plain.backbone.model.get_input_embeddings().weight[route.token_id].normal_()
    save_adapter(tmp_path / "det", route, plain.backbone, torch.float32)
    plain = VisionAgent.from_pretrained(checkpoint, device="cpu", adapters=[tmp_path / "det"])
    waiting = VisionAgent.from_pretrained(checkpoint, device_map=WAITING, offload_folder=tmp_path / "off")
    vocabulary = len(waiting.backbone.tokenizer)
    before = waiting.ask("where is the dog?", photo, max_new_tokens=4)
    assert waiting.load_adapter(tmp_path / "det") == "det" and len(waiting.backbone.tokenizer) == vocabulary + 1
    found, expected = (agent.detect("dog", photo, threshold=0) for agent in (waiting, plain))
    assert len(found) == len(expected) > 0
    assert found.scores == pytest.approx(expected.scores, abs=1e-4)
    # The other weights still wait, and answers are what they were.
    assert waiting.backbone.model.model.language_model.layers[0].mlp.up_proj.weight.is_meta
    assert waiting.ask("where is the dog?", photo, max_new_tokens=4).text == before.text
    # A second one finds the tables in memory.
    assert waiting.load_adapter(tmp_path / "det") == "det"


def test_a_refused_adapter_leaves_a_waiting_model_as_it_was(checkpoint: Path, tmp_path: Path) -> None:
    plain = load_backbone(checkpoint)
    save_adapter(tmp_path / "det", new_route(plain, RouteSpec(token="[DET]", decoder="box", num_queries=2)), plain)
    waiting = VisionAgent.from_pretrained(checkpoint, device_map=WAITING, offload_folder=tmp_path / "off")
    waiting.backbone.fingerprint = "another"
    vocabulary = len(waiting.backbone.tokenizer)
    with pytest.raises(AdapterMismatchError):
        waiting.load_adapter(tmp_path / "det")
    assert len(waiting.backbone.tokenizer) == vocabulary
    assert waiting.ask("where?", max_new_tokens=2).completion_tokens > 0
