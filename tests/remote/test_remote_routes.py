"""Routes whose states a remote engine gives: boxes and masks are those of the model here; each fault is one error."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_engine import FakeEngine, Faults, running
from PIL import Image
from test_remote import likes_boxes

from vision_agent import AnswerError, BusyError, EngineError, RouteError, RouteSpec, VisionAgent, VisionAgentError
from vision_agent.model import empty_model
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT, load_backbone, load_without_layers
from vision_agent.remote.remote_states import normed
from vision_agent.routing.adapter import new_route, save_adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model, with the blocks of boxes and masks read causally, as engines read."""
    folder = tmp_path_factory.mktemp("routes") / "checkpoint"
    shutil.copytree(DEFAULT_CHECKPOINT, folder)
    for name in ("gen", "edit", "ocr"):
        shutil.rmtree(folder / "adapters" / name)
    for path in folder.glob("adapters/*/adapter.json"):
        content = json.loads(path.read_text("utf-8"))
        content["route"]["block"] = "causal"
        path.write_text(json.dumps(content), "utf-8")
    return folder


@pytest.fixture(scope="module")
def local(folder: Path) -> VisionAgent:
    return VisionAgent.from_pretrained(folder, dtype="fp32", device="cpu")


@pytest.fixture(scope="module", params=["vllm", "sglang"])
def served(
    request: pytest.FixtureRequest, local: VisionAgent, folder: Path
) -> Iterator[tuple[FakeEngine, VisionAgent]]:
    """Each engine that hands out states, and an agent that uses it."""
    engine = FakeEngine(local, request.param)
    with running(engine) as url:
        yield engine, VisionAgent.remote(url, folder, adapters=[folder / "adapters" / name for name in ("det", "seg")])


@pytest.fixture
def faults(served: tuple[FakeEngine, VisionAgent]) -> Iterator[Faults]:
    served[0].faults = Faults()
    yield served[0].faults
    served[0].faults = Faults()


@pytest.fixture(scope="module")
def image(photo: Path) -> Image.Image:
    return Image.open(photo).convert("RGB")


def close(one: Any, other: Any) -> None:
    assert len(one) == len(other) > 0
    np.testing.assert_allclose(one.xyxy, other.xyxy, atol=0.02)
    np.testing.assert_allclose([each.score for each in one], [each.score for each in other], atol=1e-4)


def test_boxes_and_masks_are_those_of_the_model_here(
    served: tuple[FakeEngine, VisionAgent], local: VisionAgent, image: Image.Image
) -> None:
    engine, remote = served
    info = remote.engine
    assert info is not None and info.hidden_states
    assert [(each.token, each.causal, each.usable, each.reason) for each in info.adapters] == [
        ("[DET]", True, True, ""),
        ("[SEG]", True, True, ""),
    ]
    assert sorted(remote.routes) == ["det", "seg"]
    before = len(engine.asked)
    close(remote.detect(["dog", "frisbee"], image), local.detect(["dog", "frisbee"], image))
    close(remote.detect("dogs", image), local.detect("dogs", image))
    assert remote.count("dog", image).count == local.count("dog", image).count
    mine, theirs = (agent.segment("dog", image) for agent in (local, remote))
    close(mine, theirs)
    assert (mine[0].mask.to_array() == theirs[0].mask.to_array()).mean() > 0.9999
    mine, theirs = ([(each.x, each.y) for each in agent.point("dog", image).points] for agent in (local, remote))
    np.testing.assert_allclose(theirs, mine, atol=1.0)
    assert len(engine.asked) == before, "routes are forced: nothing is generated"
    assert remote.run_route("det", "dog", image).phrases == ("dog",)
    with pytest.raises(RouteError, match=r"no \[GEN\] route"):
        remote.generate("a dog", seed=1)


def test_only_what_is_needed_is_sent(served: tuple[FakeEngine, VisionAgent], image: Image.Image) -> None:
    engine, remote = served
    engine.asked_states.clear()
    remote.detect(["dog", "cat"], image)
    assert len(engine.asked_states) == 2
    for body in engine.asked_states:
        if engine.dialect == "sglang":
            assert body["return_hidden_states"] is True and body["sampling_params"]["max_new_tokens"] == 1
        else:
            assert [part["type"] for part in body["messages"][-1]["content"]] == ["text", "prompt_embeds"]
            assert body["continue_final_message"] is True and body["add_generation_prompt"] is False


def test_states_before_the_final_norm_are_normed_here(
    served: tuple[FakeEngine, VisionAgent], faults: Faults, local: VisionAgent, image: Image.Image
) -> None:
    faults.before_norm = True
    close(served[1].detect("dog", image), local.detect("dog", image))


FAULTS: dict[str, tuple[dict[str, Any], type[VisionAgentError], str]] = {
    "NaN": ({"nan_states": True}, AnswerError, "NaN or infinite"),
    "wrong width": ({"wrong_width": True}, EngineError, "of width 312, not 320: it runs another checkpoint"),
    "none": ({"no_states": True}, EngineError, "gave no hidden states"),
    "too few": ({"few_states": True}, EngineError, "gave 1 hidden states for a prompt that ends with"),
    "words": ({"words_for_states": True}, EngineError, "hidden states that are no numbers"),
    "busy": ({"busy": 9}, BusyError, r"no room \(status 429\)"),
    "server error": ({"busy": 1, "busy_status": 500}, EngineError, r"status 500\): no room"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_clear_error(
    name: str, served: tuple[FakeEngine, VisionAgent], faults: Faults, image: Image.Image
) -> None:
    changes, error, said = FAULTS[name]
    vars(faults).update(changes)
    with pytest.raises(error, match=said):
        served[1].detect("dog", image)
    vars(faults).update(vars(Faults()))
    assert len(served[1].detect("dog", image)) == 1  # the next call is well


def test_what_an_engine_cannot_give_is_said_when_it_is_connected(
    local: VisionAgent, folder: Path, tmp_path: Path, image: Image.Image
) -> None:
    wide = tmp_path / "wide"
    save_adapter(
        wide, new_route(local.backbone, RouteSpec(token="[WIDE]", decoder="box", num_queries=4)), local.backbone
    )
    det = folder / "adapters" / "det"
    for dialect, remedy in (
        ("vllm", "--runner pooling"),
        ("sglang", "--enable-return-hidden-states"),
        ("lmdeploy", ""),
    ):
        engine = FakeEngine(local, dialect, states=False)
        with running(engine) as url:
            agent = VisionAgent.remote(url, folder, adapters=[wide, det])
            info = agent.engine
            assert info is not None and not info.hidden_states and not agent.routes
            assert [each.usable for each in info.adapters] == [False, False]
            assert "block='causal'" in info.adapters[0].reason and remedy in info.adapters[1].reason
            with pytest.raises(RouteError, match="hands out no hidden states"):
                agent.run_route("det", "dog", image)


def test_vllm_gives_states_at_an_address_of_its_own(local: VisionAgent, folder: Path, image: Image.Image) -> None:
    """One that pools does not write."""
    writing, pooling = FakeEngine(local, "vllm", states=False), FakeEngine(local, "vllm")
    with running(writing) as url, running(pooling) as states:
        agent = VisionAgent.remote(url, folder, adapters=[folder / "adapters" / "det"], states=states)
        close(agent.detect("dog", image), local.detect("dog", image))
        assert agent.ask("hello").completion_tokens > 0
        assert not pooling.asked and writing.asked
        pooling.faults.wrong_width = True
        with pytest.raises(EngineError, match="of width 312, not 320"):
            VisionAgent.remote(url, folder, adapters=[folder / "adapters" / "det"], states=states)


def test_states_of_any_scale_are_normed_only_once(local: VisionAgent) -> None:
    norm = local.backbone.model.model.language_model.norm
    raw = (
        torch.randn(7, 320, generator=torch.Generator().manual_seed(0))
        * torch.tensor([[0.01], [0.1], [1.0], [3.0]] * 2)[:7]
    )
    once = norm(raw)
    torch.testing.assert_close(normed(raw, norm), once)
    torch.testing.assert_close(normed(once, norm), once)
    torch.testing.assert_close(normed(once.bfloat16().float(), norm), once, rtol=0.02, atol=0.02)


def test_the_layers_of_the_language_model_are_never_given_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    place = empty_model._device

    def noted(places: Any, name: str) -> Any:
        given[name] = place(places, name)
        return given[name]

    monkeypatch.setattr(empty_model, "_device", noted)
    original = likes_boxes(tmp_path / "original")
    for source in (folder, original):
        whole = load_backbone(source, dtype="fp32", device="cpu")
        given.clear()
        bare = load_without_layers(source)
        layers = [name for name in given if ".language_model.layers." in name]
        assert layers and {str(given[name]) for name in layers} == {"meta"}
        assert "meta" not in {str(where) for name, where in given.items() if name not in layers}
        assert (bare.fingerprint, bare.former_fingerprint) == (whole.fingerprint, whole.former_fingerprint)
        kept, all_of_it = bare.model.state_dict(), whole.model.state_dict()
        left_out = all_of_it.keys() - kept.keys()
        assert left_out and all(name.startswith("model.language_model.layers.") for name in left_out)
        assert all(torch.equal(tensor.float(), all_of_it[name].float()) for name, tensor in kept.items())
