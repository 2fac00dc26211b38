"""Phrases, routes and frames are taken once each; a prompt that was read is not read again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vision_agent import InputError, RouteError, RouteSpec, VisionAgent, load_image
from vision_agent.cli.main import command_line
from vision_agent.decoders.mask.decoder import MaskDecoder
from vision_agent.results.segmentation import Segmentation
from vision_agent.train.adapter_training import train_adapter


@pytest.mark.parametrize(
    ("phrase", "asked"),
    [
        (["dog", "dog"], ("dog",)),
        ("dog; frisbee", ("dog", "frisbee")),
        (["frisbee;dog", " Dog ", "fris bee"], ("frisbee", "dog", "fris bee")),
        ("red  car;red car;;", ("red  car",)),
        (("frisbee", "dog", "frisbee"), ("frisbee", "dog")),
        (["a dog", "The dog", "dog.", "d\u200bog", "an  dog!"], ("a dog",)),
    ],
)
def test_each_phrase_is_asked_once(agent: VisionAgent, photo: Path, phrase: Any, asked: tuple[str, ...]) -> None:
    found = agent.detect(phrase, photo)
    assert found.phrases == asked
    alone = [box for each in asked for box in agent.detect(each, photo).xyxy.round(1).tolist()]
    assert found.xyxy.round(1).tolist() == alone
    assert agent.segment(phrase, photo).phrases == asked
    assert len(agent.point(phrase, photo)) == len(agent.segment(phrase, photo))


def test_the_command_line_and_python_have_one_rule(agent: VisionAgent, photo: Path) -> None:
    said = CliRunner().invoke(command_line(), ["detect", "dog; frisbee;dog", str(photo)])
    assert said.exit_code == 0
    assert [line.split("\t")[0] for line in said.stdout.splitlines()] == agent.detect("dog; frisbee;dog", photo).labels
    nonsense = CliRunner().invoke(command_line(), ["detect", "asdfgh", str(photo)])
    assert nonsense.exit_code == 0 and not nonsense.stdout and "'asdfgh'" in nonsense.stderr


@pytest.mark.parametrize("phrase", [";", " ; ", ["dog", ";"]])
def test_a_semicolon_alone_is_no_phrase(agent: VisionAgent, photo: Path, phrase: Any) -> None:
    with pytest.raises(InputError, match="some words"):
        agent.detect(phrase, photo)


def test_one_number_is_of_one_phrase(agent: VisionAgent, photo: Path) -> None:
    with pytest.raises(InputError, match="one phrase"):
        agent.count("dog; frisbee", photo)


def test_a_prompt_is_read_once(agent: VisionAgent, photo: Path) -> None:
    fed: list[int] = []
    language_model = agent.backbone.model.model.language_model
    hook = language_model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    agent.clear_cache()
    image = load_image(photo)
    try:
        first = agent.detect("dog", image)
        whole = sum(fed)
        fed.clear()
        again, other = agent.detect("dog", image), agent.detect("frisbee", image)
        few = sum(fed)
        agent.clear_cache()
        fed.clear()
        assert agent.detect("frisbee", image).scores == pytest.approx(other.scores, abs=1e-5)
    finally:
        hook.remove()
    assert whole > 196 > 40 > few  # 196 tokens are the image's own
    assert again == first and sum(fed) > 196


def test_a_first_route_is_the_only_one_unless_others_are_allowed(agent: VisionAgent, photo: Path) -> None:
    for request in ("find the dog and draw a cat", "outline the dog", "find the dog and the frisbee"):
        taken = {route.token for route in agent.run(request, photo, first_route="det").routes}
        assert taken == {"[DET]"}
    both = agent.run("draw a cat", photo, routes=["det", "seg"], first_route="seg").routes
    assert both[0].token == "[SEG]"


def test_an_existing_token_is_not_trained(agent: VisionAgent, photo: Path, tmp_path: Path) -> None:
    before = agent.detect("dog", photo)
    weight = agent.backbone.model.get_input_embeddings().weight.clone()

    def drawn(number: int) -> Any:
        raise AssertionError("nothing is drawn")

    for token, out in (("[DET]", "det"), ("[SEG]", "seg")):
        spec = RouteSpec(token=token, decoder="box", num_queries=4)
        with pytest.raises(RouteError, match="already"):
            train_adapter(agent.backbone, spec, drawn, tmp_path / out)
        assert not (tmp_path / out).exists()
    assert weight.equal(agent.backbone.model.get_input_embeddings().weight)
    agent.clear_cache()
    assert agent.detect("dog", photo) == before


def test_every_frame_of_a_short_file_is_segmented_once(
    agent: VisionAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def track(self: MaskDecoder, states: Any, frames: Any, prompted: int, request: Any) -> Any:
        return (Segmentation.empty(frame.size, "test", request.phrases) for frame in frames)

    monkeypatch.setattr(MaskDecoder, "track", track)
    shades = [Image.fromarray(np.full((64, 64, 3), 40 * number, np.uint8)) for number in range(5)]
    shades[0].save(tmp_path / "short.gif", save_all=True, append_images=shades[1:], duration=200)
    found = agent.segment_video("dog", tmp_path / "short.gif", segments=32)
    assert found.indices == (0, 1, 2, 3, 4) and len(found.frames) == 5
    assert found.seconds == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    few = agent.segment_video("dog", tmp_path / "short.gif", segments=2)
    assert len(few.frames) == len(set(few.indices)) == 2
