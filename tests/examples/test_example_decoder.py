"""The examples of decoders in packages of their own: installed by pip, found by name, trained, saved and used."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PHOTOS, tiny_backbone
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from vision_agent import ConfigError, ImageStore, InputError, RouteSpec, ToolError, VisionAgent
from vision_agent.model.backbone import Backbone
from vision_agent.routing.adapter import new_route, save_adapter
from vision_agent.routing.states import read_forced
from vision_agent.train.adapter_training import AdapterSample, AdapterTraining, forced_states, train_adapter

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULES = ("vision_agent_presence", "vision_agent_corners")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the examples."""
    folder = tmp_path_factory.mktemp("example")
    # A build leaves files in the source folder, so it gets a copy.
    without = shutil.ignore_patterns("build", "*.egg-info", "__pyc*")
    sources = [
        shutil.copytree(EXAMPLES / name, folder / name, ignore=without)
        for name in ("presence_decoder", "corners_decoder")
    ]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", folder / "site", *sources], check=True, capture_output=True, timeout=300)
    return folder / "site"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The examples can be imported, and their entry points are seen; the current folder is an empty one."""
    monkeypatch.delenv("VISION_AGENT_DECODERS", raising=False)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in MODULES]:
        del sys.modules[name]


def python_of(readme: Path) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL))


# The presence decoder ------------------------------------------------------------------------------------------------


def test_a_decoder_learns_and_is_rebuilt_from_its_settings(installed: None) -> None:
    from vision_agent_presence import PresenceTarget

    from vision_agent import DecodeRequest, DenseFeatures
    from vision_agent.geometry.frames import TileGrid
    from vision_agent.plugins.registry import load_decoder

    torch.manual_seed(0)
    kind: Any = load_decoder("presence")
    assert kind.__module__ == "vision_agent_presence"
    decoder = kind.for_backbone(RouteSpec(token="[HERE]", decoder="presence", num_queries=2), 32, (8, 16))
    features = DenseFeatures((torch.randn(2, 8, 6, 4), torch.randn(2, 16, 3, 2)))
    states, rows = torch.randn(5, 2, 32, requires_grad=True), [0, 0, 1, 1, 1]
    truth = [PresenceTarget(torch.tensor([True, False])), PresenceTarget(torch.tensor([False, True, True]))]
    first = decoder.loss(states, rows, decoder.prepare(features), truth)
    first.backward()
    for name, tensor in [("states", states), *decoder.named_parameters()]:
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0, name
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        last = decoder.loss(states.detach(), rows, decoder.prepare(features), truth)
        last.backward()
        optimiser.step()
    assert last < first / 10
    again = kind(**decoder.settings)
    again.load_state_dict(decoder.state_dict())
    second = again.prepare(DenseFeatures(tuple(item[1:] for item in features.maps)))
    request = DecodeRequest(("a bus", "a dog", "a cat"), TileGrid(640, 480, 1, 1), "tiny", threshold=0.5)
    found = again.decode(states[2:], second, request)
    assert [(item.phrase, item.model) for item in found.items] == [("a dog", "tiny"), ("a cat", "tiny")]
    with pytest.raises(ValueError):
        found.items[0].score = 0.5


def test_the_command_line_lists_them(site: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "VISION_AGENT_DECODERS"}
    done = subprocess.run(
        [sys.executable, "-c", "from vision_agent.cli.main import main; main()", "decoders"],
        env=environment | {"PYTHONPATH": str(site)},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "presence\tvision_agent_presence.PresenceDecoder" in lines
    assert "corners\tvision_agent_corners.decoder.CornersDecoder" in lines
    assert "box\tvision_agent.decoders.box.BoxDecoder" in lines


def test_the_presence_readme_runs(
    installed: None, checkpoint: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its Python, block by block, on a tiny InternVL: a new route is trained until it separates, saved and read."""
    page = (EXAMPLES / "presence_decoder" / "README.md").read_text("utf-8")
    code = python_of(EXAMPLES / "presence_decoder" / "README.md")
    other = tmp_path / "other.png"
    Image.open(photo).convert("RGB").resize((90, 60)).point(lambda value: 255 - value).save(other)
    for written, here in [
        ("VisionAgent()", f"VisionAgent.from_pretrained({str(checkpoint)!r})"),
        ('"examples/photos/000000139872.jpg"', repr(str(photo))),
        ('"examples/photos/000000142472.jpg"', repr(str(other))),
    ]:
        assert written in code
        code = code.replace(written, here)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["losses"][-1] < 0.1
    assert (tmp_path / "here" / "adapter.safetensors").is_file()
    # What the page promises, on another model.
    (promised,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert [ast.literal_eval(line) for line in printed] == [
        [(phrase, pytest.approx(score, abs=0.2)) for phrase, score in ast.literal_eval(line)]
        for line in promised.splitlines()
    ]
    said = {phrase: score > 0.5 for phrase, score in names["said"].content["scores"].items()}
    assert said == {"dog": True, "bus": False}


# Training an adapter -------------------------------------------------------------------------------------------------

SHORT = AdapterTraining(steps=3, batch=2, rate=1e-2, warm_up=1)


def draw(number: int) -> AdapterSample:
    """Images of several shapes; the truth changes with the number."""
    from vision_agent_presence import PresenceTarget

    size = ((56, 56), (120, 56))[number % 2]
    image = Image.fromarray(np.random.default_rng(number).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    phrases = ("a dog", "the red car")[: 1 + number % 3 % 2]
    return AdapterSample(image, phrases, PresenceTarget(torch.tensor([number % 4 < 2, True][: len(phrases)])))


HERE = RouteSpec(token="[HERE]", decoder="presence", num_queries=2)


def weights(backbone: Backbone, without: int | None = None) -> dict[str, torch.Tensor]:
    """A copy of a model's tensors; `without`, the row of one token."""
    copies = {name: tensor.detach().clone() for name, tensor in backbone.model.state_dict().items()}
    table = backbone.model.get_input_embeddings().weight
    for name, tensor in copies.items():
        if without is not None and tensor.shape == table.shape:
            copies[name][without] = 0
    return copies


def test_the_model_rests_and_the_adapter_learns(installed: None, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    untrained = tiny_backbone()  # the same model with the same token, as training finds it
    token = new_route(untrained, HERE).token_id
    before, row = weights(untrained, token), untrained.embed(torch.tensor([[token]]))
    steps: list[int] = []
    torch.manual_seed(7)
    folder = train_adapter(
        backbone, HERE, draw, tmp_path / "here", SHORT, on_step=lambda step, loss: steps.append(step)
    )
    drawn = torch.randn(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.randn(3))  # the caller's random numbers are left alone
    assert steps == [0, 1, 2] and folder == tmp_path / "here"
    after = weights(backbone, token)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(row, backbone.embed(torch.tensor([[token]])))


def test_a_killed_run_goes_on_as_if_it_was_not(installed: None, tmp_path: Path) -> None:
    whole = load_file(train_adapter(tiny_backbone(), HERE, draw, tmp_path / "whole", SHORT) / "adapter.safetensors")

    def stop(step: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    often = SHORT.model_copy(update={"save_minutes": 1e-9})
    with pytest.raises(KeyboardInterrupt):
        train_adapter(tiny_backbone(), HERE, draw, tmp_path / "killed", often, on_step=stop)
    numbers: list[int] = []

    def drawn_again(number: int) -> AdapterSample:
        numbers.append(number)
        return draw(number)

    folder = train_adapter(tiny_backbone(), HERE, drawn_again, tmp_path / "killed", SHORT)
    assert numbers == [4, 5] or numbers == []  # the last step, unless the kill came after it was saved
    resumed = load_file(folder / "adapter.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert len((folder / "log.jsonl").read_text("utf-8").splitlines()) == 3
    with pytest.raises(ConfigError, match="another recipe: its settings"):
        train_adapter(tiny_backbone(), HERE, draw, folder, AdapterTraining(steps=4))


@pytest.mark.parametrize("read", ["queries", "self", "prev"])
def test_states_are_those_of_a_forced_route(installed: None, read: Any) -> None:
    """Images with different numbers of tokens and phrases, in one pass: what training sees is what is used."""
    backbone = tiny_backbone()
    route = new_route(
        backbone, RouteSpec(token="[HERE]", decoder="presence", num_queries=2 * (read == "queries"), read=read)
    )
    samples = [draw(number) for number in range(3)]
    tokens = [backbone.encode_image(sample.image).tokens_TC.clone() for sample in samples]
    assert len({len(each) for each in tokens}) == 2
    row = backbone.model.get_input_embeddings().weight[route.token_id].clone().requires_grad_(True)
    states = forced_states(backbone, route, row, tokens, [sample.phrases for sample in samples])
    for mine, tokens_TC, sample in zip(states, tokens, samples, strict=True):
        alone = read_forced(backbone, route, tokens_TC, [len(tokens_TC)], sample.phrases)
        assert mine.shape == alone.shape
        assert (mine - alone).abs().max() < 1e-4
    torch.stack([each.sum() for each in states]).sum().backward()
    if read != "prev":  # the state that predicted the token does not see it
        assert row.grad is not None and row.grad.abs().sum() > 0


def test_samples_and_decoders_that_cannot_be_trained_on(installed: None, tmp_path: Path) -> None:
    def unasked(number: int) -> AdapterSample:
        return AdapterSample(Image.new("RGB", (56, 56)), (), None)

    with pytest.raises(InputError, match=r"draw\(0\).phrases"):
        train_adapter(tiny_backbone(), HERE, unasked, tmp_path / "here", SHORT)
    with pytest.raises(ConfigError, match="features alone"):
        train_adapter(tiny_backbone(), RouteSpec(token="[GEN]", decoder="generator"), draw, tmp_path / "gen", SHORT)


# The corners decoder -------------------------------------------------------------------------------------------------


def test_corners_learn_in_three_steps_and_are_read(installed: None, checkpoint: Path, tmp_path: Path) -> None:
    """The package's own command, on a tiny InternVL: train, then use what was saved."""
    from vision_agent.cli.main import command_line

    def command(*arguments: object) -> Any:
        return CliRunner().invoke(command_line(), ["corners", *map(str, arguments), "--model", str(checkpoint)])

    trained = command("train", "corners", "--steps", 3, "--batch", 2, "--workers", 0, "--photos", PHOTOS)
    assert trained.exit_code == 0, trained.output
    assert (tmp_path / "corners" / "adapter.safetensors").stat().st_size < 2**20
    agent = VisionAgent.from_pretrained(checkpoint, adapters=["corners"])
    found = agent.run_route("corners", ["page", "dog"], PHOTOS / "000000139872.jpg", threshold=0)
    assert found.image_size == (640, 480)
    for sheet in found.items:
        assert sheet.phrase in ("page", "dog") and 0 <= sheet.score <= 1
        assert all(0 <= x <= 640 and 0 <= y <= 480 for x, y in sheet.corners)
    assert agent.run_route("corners", "page", PHOTOS / "000000139872.jpg", threshold=1).items == ()


def test_the_corners_loss_is_least_at_the_truth_and_reaches_every_parameter(installed: None) -> None:
    from vision_agent_corners.decoder import ROUTE, CornersDecoder, CornersTarget

    from vision_agent import DecodeRequest, DenseFeatures
    from vision_agent.geometry.frames import TileGrid

    torch.manual_seed(0)
    decoder = CornersDecoder.for_backbone(ROUTE, 32, (8, 16))
    features = DenseFeatures((torch.randn(2, 8, 32, 48), torch.randn(2, 16, 16, 24)))
    states = torch.randn(3, 4, 32, requires_grad=True)
    true = torch.tensor([[[0.2, 0.1], [0.9, 0.2], [0.8, 0.9], [0.1, 0.8]]])
    targets = [
        CornersTarget(true, torch.tensor([True])),
        CornersTarget(torch.cat([true.flip(1), true * 0]), torch.tensor([True, False])),
    ]
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.01)
    for step in range(80):
        optimiser.zero_grad()
        loss = decoder.loss(states, [0, 1, 1], decoder.prepare(features), targets)
        loss.backward()
        for name, tensor in [("states", states), *decoder.named_parameters()] if not step else []:
            assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0, name
        optimiser.step()
    first = decoder.prepare(DenseFeatures(tuple(each[:1] for each in features.maps)))
    (sheet,) = decoder.decode(states[:1], first, DecodeRequest(("page",), TileGrid(480, 320, 1, 1), "tiny")).items
    assert np.abs(np.array(sheet.corners) - true[0].numpy() * (480, 320)).max() < 10  # half a cell
    second = decoder.prepare(DenseFeatures(tuple(each[1:] for each in features.maps)))
    # The second image's corners go round the wrong way, which is no sheet, and its other phrase has none.
    request = DecodeRequest(("page", "dog"), TileGrid(480, 320, 1, 1), "tiny")
    assert decoder.decode(states[1:], second, request).items == ()
    with pytest.raises(ConfigError, match="4 queries"):
        CornersDecoder.for_backbone(RouteSpec(token="[CORNERS]", decoder="corners", num_queries=2), 32, (8,))


def test_scenes_are_drawn_again_and_straighten_to_their_page(installed: None) -> None:
    from vision_agent_corners.pages import draw_scene
    from vision_agent_corners.perspective import is_convex, moved, rectangle, straighten

    page = Image.open(PHOTOS / "000000139872.jpg").convert("RGB").resize((200, 280))
    corners = np.array([(60, 40), (300, 20), (340, 380), (30, 350)], dtype=float)
    flat = straighten(moved(page, rectangle(page.size), corners, (400, 400)), corners).resize(page.size)
    inner = (slice(8, -8), slice(8, -8))
    assert np.abs(np.asarray(flat, dtype=float)[inner] - np.asarray(page, dtype=float)[inner]).mean() < 8
    for refused in (corners[::-1], corners[:3], corners * 0):
        with pytest.raises(InputError, match="corners"):
            straighten(page, refused)
    photos = sorted(PHOTOS.glob("*.jpg"))
    for number in range(6):
        scene, again = (draw_scene(number, hard=number > 3, photos=photos) for _ in range(2))
        assert scene.image.tobytes() == again.image.tobytes()
        other = draw_scene(number, hard=number > 3, photos=photos, held_out=True)
        assert scene.image.tobytes() != other.image.tobytes()
        if scene.corners is not None:
            assert is_convex(scene.corners) and (scene.corners >= 0).all()
            assert (scene.corners <= scene.image.size).all() and scene.words
    assert draw_scene(0, sheet=False).corners is None


def test_figures_of_the_truth_are_perfect_and_of_a_guess_are_not(installed: None) -> None:
    from vision_agent_corners.measure import by_contours, corner_figures

    truth = corner_figures(lambda scene: scene.corners, 17, hard=False)
    assert truth["found"] == truth["close"] == 1 and truth["mean error %"] == truth["false"] == 0
    guess = corner_figures(lambda scene: np.array([(0, 0), (9, 0), (9, 9), (0, 9)]), 17, hard=False)
    assert guess["close"] == 0 and guess["mean error %"] > 20 and guess["false"] == 1
    contours = corner_figures(by_contours, 17, hard=False)
    assert contours["found"] > 0 and contours["mean error %"] < guess["mean error %"]


def test_the_tool_straightens_once_the_route_is_there(
    installed: None, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vision_agent_corners.decoder import ROUTE, Sheet, Sheets

    agent = VisionAgent.from_pretrained(checkpoint)
    store = ImageStore()
    image = store.add(PHOTOS / "000000139872.jpg")
    assert "straighten" not in {tool["name"] for tool in agent.tool_definitions("anthropic")}
    with pytest.raises(ToolError):
        agent.call_tool("straighten", {"image": image}, store=store)
    save_adapter(tmp_path / "corners", new_route(agent.backbone, ROUTE), agent.backbone)
    agent.load_adapter("corners")
    sheet = Sheet(phrase="page", score=0.9, corners=((100, 50), (300, 60), (310, 400), (90, 390)), model="tiny")
    # An untrained head finds no sheet; what the tool does with one is what is tested.
    monkeypatch.setattr(agent, "run_route", lambda *args: Sheets(items=(sheet,), image_size=(640, 480)))
    said = agent.call_tool("straighten", {"image": image, "phrase": "page"}, store=store)
    assert said.images == tuple(said.content["images"]) and len(said.images) == 1
    assert store.get(said.images[0]).size == (220, 340)
    assert said.artifact.items[0] == sheet
