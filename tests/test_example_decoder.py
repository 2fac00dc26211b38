"""The example of a decoder in a package of its own: installed by pip, found by name, trained, saved and used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "presence_decoder"

LEARN = """
import torch
from vision_agent import DecodeRequest, DenseFeatures, RouteSpec
from vision_agent.geometry import TileGrid
from vision_agent.registry import load_decoder

torch.manual_seed(0)
kind = load_decoder("presence")
assert kind.__module__ == "vision_agent_presence"
spec = RouteSpec(token="[HERE]", decoder="presence", num_queries=2)
decoder = kind.for_backbone(spec, 32, (8, 16))
features = DenseFeatures((torch.randn(2, 8, 6, 4), torch.randn(2, 16, 3, 2)))
states, rows = torch.randn(5, 2, 32, requires_grad=True), [0, 0, 1, 1, 1]
from vision_agent_presence import PresenceTarget
truth = [PresenceTarget(torch.tensor([True, False])), PresenceTarget(torch.tensor([False, True, True]))]

loss = decoder.loss(states, rows, decoder.prepare(features), truth)
loss.backward()
for name, tensor in [("states", states), *decoder.named_parameters()]:
    assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0, name

optimiser = torch.optim.Adam(decoder.parameters(), lr=0.01)
for _ in range(60):
    optimiser.zero_grad()
    last = decoder.loss(states.detach(), rows, decoder.prepare(features), truth)
    last.backward()
    optimiser.step()
assert last < loss / 10, (float(loss), float(last))

again = kind(**decoder.settings)
again.load_state_dict(decoder.state_dict())
request = DecodeRequest(("a bus", "a dog", "a cat"), TileGrid(640, 480, 1, 1), "tiny")
second = DenseFeatures(tuple(item[1:] for item in features.maps))
found = again.decode(states[2:], again.prepare(second), request)
assert [item.phrase for item in found.items] == ["a bus", "a dog", "a cat"]
assert [item.score > 0.5 for item in found.items] == [False, True, True]
assert {item.model for item in found.items} == {"tiny"}
strict = DecodeRequest(request.phrases, request.grid, request.model, threshold=0.5)
assert [item.phrase for item in again.decode(states[2:], again.prepare(second), strict).items] == ["a dog", "a cat"]
try:
    found.items[0].score = 0.5
except ValueError:
    print("all well")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example."""
    folder = tmp_path_factory.mktemp("example")
    # A build leaves files in the source folder, so it gets a copy.
    source = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pyc*"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", folder / "site", source], check=True, capture_output=True, timeout=300)
    return folder / "site"


def fresh(code: str, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A new Python process that has the example installed, outside the repository."""
    environment = {key: value for key, value in os.environ.items() if key != "VISION_AGENT_DECODERS"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment | {"PYTHONPATH": str(site)},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_it_is_found_by_name_and_learns(site: Path) -> None:
    done = fresh(LEARN, site)
    assert done.stdout == "all well\n", done.stderr


def test_the_command_line_lists_it(site: Path) -> None:
    done = fresh("from vision_agent.cli import main; main()", site, "decoders")
    assert done.returncode == 0, done.stderr
    assert "presence\tvision_agent_presence.PresenceDecoder" in done.stdout.splitlines()
    assert "box\tvision_agent.decoders.box.BoxDecoder" in done.stdout.splitlines()


def test_the_readme_runs(
    site: Path, checkpoint: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python, block by block, on a tiny InternVL: a new route is trained, saved, loaded and read."""
    monkeypatch.delenv("VISION_AGENT_DECODERS", raising=False)
    monkeypatch.setitem(sys.modules, "vision_agent_presence", sys)
    del sys.modules["vision_agent_presence"]
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLE / "README.md").read_text("utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    for written, here in [
        ("VisionAgent()", f"VisionAgent.from_pretrained({str(checkpoint)!r})"),
        ('"examples/photos/000000139872.jpg"', repr(str(photo))),
    ]:
        assert written in code
        code = code.replace(written, here)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["losses"][-1] < names["losses"][0] / 2
    assert (tmp_path / "here" / "adapter.safetensors").is_file()
    assert [(item.phrase, item.score > 0.5) for item in names["result"].items] == [
        ("dog", True),
        ("frisbee", True),
        ("bus", False),
    ]
