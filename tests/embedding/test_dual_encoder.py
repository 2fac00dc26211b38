"""Embedders of published layouts, against transformers' own numbers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dual_encoders import KINDS, make_dual_encoder, published_way
from PIL import Image

from vision_agent import CheckpointError, Embedder, InputError
from vision_agent.decoders.dual_encoder import DualEncoder
from vision_agent.plugins.registry import load_embedder

TEXTS = ["a red car", "A Dog and a cat.", "x"]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dual_encoder(request.param, tmp_path_factory.mktemp("dual") / request.param)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    shapes = [(40, 64, 3), (64, 40, 3), (32, 32, 3), (9, 200, 3)]
    return [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


def test_vectors_and_scores_are_those_of_transformers(folder: Path, images: list[Image.Image]) -> None:
    embedder = DualEncoder.from_pretrained(folder, "cpu")
    image_ND, text_ND, logits_NL = published_way(folder, images, TEXTS)
    unit = torch.nn.functional.normalize
    made, said = embedder.embed_images(images), embedder.embed_texts(TEXTS)
    np.testing.assert_allclose(made, unit(image_ND, dim=-1).numpy(), atol=2e-6)
    np.testing.assert_allclose(said, unit(text_ND, dim=-1).numpy(), atol=2e-6)
    assert made.shape == (len(images), embedder.width) and made.dtype == np.float32
    assert embedder.logit_scale is not None
    scores = embedder.logit_scale * made @ said.T + (embedder.logit_bias or 0.0)
    np.testing.assert_allclose(scores, logits_NL.numpy(), atol=1e-4)
    assert np.abs(made[0] - made[1]).max() > 1e-3
    assert isinstance(embedder, Embedder)


def test_a_folder_finds_its_embedder(folder: Path) -> None:
    assert load_embedder(folder) is DualEncoder
    empty = DualEncoder.from_pretrained(folder, "cpu")
    assert empty.embed_images([]).shape == empty.embed_texts([]).shape == (0, empty.width)


def test_a_text_that_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"`text\[1\]` must be of at most \d+ tokens"):
        DualEncoder.from_pretrained(folder, "cpu").embed_texts(["a", "dog and " * 60])


def test_fingerprints_tell_weights_and_preparation_apart(folder: Path, tmp_path: Path) -> None:
    kind = json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
    first = DualEncoder.from_pretrained(folder, "cpu").fingerprint
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    assert DualEncoder.from_pretrained(copied, "cpu").fingerprint == first
    assert DualEncoder.from_pretrained(make_dual_encoder(kind, tmp_path / "other", 1), "cpu").fingerprint != first
    settings = next(path for path in copied.glob("*processor_config.json"))
    settings.write_text(settings.read_text("utf-8").replace("0.5", "0.45").replace("0.48", "0.47"), "utf-8")
    assert DualEncoder.from_pretrained(copied, "cpu").fingerprint != first


def _without(name: str, folder: Path) -> None:
    for file in folder.glob(name):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder"),
        (lambda folder: _without("model.safetensors", folder), "has no weights"),
        (lambda folder: _without("tokenizer*", folder), "tokenizer"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04pickle"), "could not be loaded"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}', "utf-8"), "is no embedder"),
        (lambda folder: (folder / "config.json").write_text("[1]", "utf-8"), "is no embedder"),
    ],
)
def test_damaged_folders_are_named(tmp_path: Path, damage: object, says: str) -> None:
    folder = make_dual_encoder("clip", tmp_path / "clip")
    assert callable(damage)
    damage(folder)
    with pytest.raises(CheckpointError, match=says):
        DualEncoder.from_pretrained(folder, "cpu")
    if says in ("no such folder", "is no embedder"):
        with pytest.raises(CheckpointError, match=says):
            load_embedder(folder)


def test_weights_that_are_pickled_are_not_opened(tmp_path: Path) -> None:
    folder = make_dual_encoder("clip", tmp_path / "clip")
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors"):
        DualEncoder.from_pretrained(folder, "cpu")
