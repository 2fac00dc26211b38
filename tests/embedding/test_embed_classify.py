"""`agent.embed` and `agent.classify`: by an embedder, by the model's own tower and by the scores of `[DET]`."""

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from dual_encoders import make_dual_encoder, published_way
from PIL import Image

from vision_agent import (
    ArgumentTypeError,
    CheckpointError,
    Classification,
    Embedder,
    InputError,
    RouteError,
    VisionAgent,
    load_image,
)
from vision_agent.embedding.tower_embedder import TowerEmbedder
from vision_agent.inference.engine import InferenceEngine

LABELS = ["bus", "dog", "umbrella", "car"]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[VisionAgent, Path]:
    """An agent with an embedder, and the embedder's folder."""
    folder = make_dual_encoder(request.param, tmp_path_factory.mktemp("embedder") / request.param)
    return VisionAgent.from_pretrained("default", embedder=folder, device="cpu"), folder


@pytest.fixture(scope="module")
def photo() -> Path:
    """A street with a bus."""
    return Path(__file__).parents[2] / "examples" / "photos" / "000000423617.jpg"


@pytest.fixture(scope="module")
def blank() -> Image.Image:
    return Image.new("RGB", (64, 64), "white")


# Embed ---------------------------------------------------------------------------------------------------------------


def test_images_and_texts_become_rows_of_one_space(
    seeing: tuple[VisionAgent, Path], photo: Path, blank: Image.Image
) -> None:
    agent, folder = seeing
    image = load_image(photo)
    rows = agent.embed([photo, "a red car", blank, str(photo)])
    assert rows.shape == (4, agent.embedder.width) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    image_ND, text_ND, _ = published_way(folder, [image, blank], ["a red car"])
    unit = torch.nn.functional.normalize
    np.testing.assert_allclose(rows[[0, 2]], unit(image_ND, dim=-1).numpy(), atol=2e-6)
    np.testing.assert_allclose(rows[1], unit(text_ND, dim=-1).numpy()[0], atol=2e-6)
    np.testing.assert_allclose(rows[3], rows[0], atol=2e-6)
    np.testing.assert_allclose(agent.embed("a red car"), rows[1], atol=2e-6)
    assert agent.embed(photo).shape == (agent.embedder.width,)
    np.testing.assert_allclose(agent.embed(iter([photo, "a red car"])), rows[:2], atol=2e-6)
    np.testing.assert_allclose(asyncio.run(agent.aio.embed("a red car")), rows[1], atol=2e-6)
    assert np.abs(agent.embed(str(photo), kind="text") - rows[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("item", "kind", "error", "says"),
    [
        ("", "auto", InputError, "`item` must be some words"),
        ([], "auto", InputError, "`item` must be at least one"),
        (["a", " "], "auto", InputError, r"`item\[1\]` must be some words"),
        ("no_such_photo.jpg", "auto", InputError, "no_such_photo.jpg"),
        ("a dog", "image", InputError, "a dog"),
        ("x" * 10_001, "auto", InputError, "at most 10000 characters"),
        (3, "auto", ArgumentTypeError, "`item` must be"),
        ({"a"}, "auto", ArgumentTypeError, "must be"),
        ("a", "words", InputError, "`kind` must be 'auto', 'image' or 'text'"),
        (Image.new("RGB", (8, 8)), "text", ArgumentTypeError, "`item` must be a text"),
    ],
)
def test_what_cannot_be_embedded_is_named(
    seeing: tuple[VisionAgent, Path], item: Any, kind: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        seeing[0].embed(item, kind=kind)


def test_the_own_tower_embeds_images_alone(agent: VisionAgent, photo: Path, blank: Image.Image) -> None:
    assert isinstance(agent.embedder, Embedder) and not agent.embedder.embeds_texts
    first, second, mirrored = agent.embed([photo, blank, load_image(photo).transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    assert first @ mirrored > first @ second + 0.1
    with pytest.raises(InputError, match="embeds images alone; texts need an embedder such as SigLIP"):
        agent.embed("a red car")


def test_internvit_features_are_the_mean_of_its_patch_tokens(blank: Image.Image) -> None:
    backbone = tiny_backbone()
    embedder = TowerEmbedder(InferenceEngine(backbone))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8))
    made = embedder.embed_images([noise, blank])
    with torch.no_grad():
        tiles = torch.cat([backbone.tiles(each, backbone.grid_for(*each.size, 1))[:1] for each in (noise, blank)])
        tokens = backbone.model.model.vision_tower(pixel_values=tiles).last_hidden_state
    assert tokens.shape[1] == 17  # a class token, and 4 x 4 patches
    pooled = torch.nn.functional.normalize(tokens[:, 1:].mean(dim=1), dim=-1)
    np.testing.assert_allclose(made, pooled.numpy(), atol=1e-5)
    with pytest.raises(InputError, match="images alone"):
        embedder.embed_texts(["a"])


def test_a_tower_that_another_engine_runs_is_told(blank: Image.Image) -> None:
    backbone = tiny_backbone()
    backbone.is_remote = True
    with pytest.raises(RouteError, match="the image tower of 'tiny' is not on this machine"):
        TowerEmbedder(InferenceEngine(backbone))


@pytest.mark.parametrize(
    ("embedder", "error"), [("no/such/folder", CheckpointError), (3, ArgumentTypeError), (object(), ArgumentTypeError)]
)
def test_an_embedder_that_is_none_is_refused_before_a_model_is_loaded(
    embedder: Any, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vision_agent.agent.load_backbone", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(error, match="embedder"):
        VisionAgent(embedder=embedder)
    with pytest.raises(error, match="embedder"):
        VisionAgent.from_pretrained("default", embedder=embedder)


# Classify ------------------------------------------------------------------------------------------------------------


def test_scores_are_the_softmax_of_the_published_logits(seeing: tuple[VisionAgent, Path], photo: Path) -> None:
    agent, folder = seeing
    found = agent.classify(photo, LABELS)
    texts = [f"a photo of a {label}." for label in LABELS]
    _, _, logits = published_way(folder, [load_image(photo)], texts)
    expected = logits[0].softmax(dim=0).tolist()
    assert {each.label: each.score for each in found} == pytest.approx(
        dict(zip(LABELS, expected, strict=True)), abs=1e-4
    )
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert found.method == "embedder" and found.model == agent.embedder.name
    if_sigmoid = dict(zip(LABELS, torch.sigmoid(logits[0]).tolist(), strict=True))
    fits = {each.label: each.fit for each in found}
    whether = max(if_sigmoid.values()) < 0.01
    is_siglip = agent.embedder.logit_bias is not None
    assert fits == (pytest.approx(if_sigmoid, abs=1e-4) if is_siglip else dict.fromkeys(LABELS))
    assert found.none_of_these is (whether if is_siglip else None)
    assert (found.none_score is None) is not is_siglip


def test_templates_are_averaged(seeing: tuple[VisionAgent, Path], blank: Image.Image) -> None:
    agent, _ = seeing
    templates = ["a {}.", "the {} on the grass"]
    vectors = agent.embed([template.replace("{}", "dog") for template in templates])
    vectors = np.stack([vectors.mean(axis=0), agent.embed(["a cat.", "the cat on the grass"]).mean(axis=0)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert agent.embedder.logit_scale is not None
    odds = math.exp(agent.embedder.logit_scale * float((vectors[0] - vectors[1]) @ agent.embed(blank)))
    found = {each.label: each.score for each in agent.classify(blank, ["cat", "dog"], templates=templates)}
    assert found["dog"] / found["cat"] == pytest.approx(odds, rel=1e-3)


@pytest.fixture(scope="module", params=["presence", "embedder"])
def either(request: pytest.FixtureRequest, agent: VisionAgent, tmp_path_factory: pytest.TempPathFactory) -> VisionAgent:
    """The default, and the default with an embedder."""
    if request.param == "presence":
        return agent
    folder = make_dual_encoder("siglip", tmp_path_factory.mktemp("either") / "siglip")
    return VisionAgent.from_pretrained("default", embedder=folder, device="cpu")


def test_neither_the_order_of_labels_nor_saying_one_twice_matters(either: VisionAgent, photo: Path) -> None:
    found = either.classify(photo, LABELS)
    assert either.classify(photo, LABELS[::-1]) == found
    assert either.classify(photo, [*LABELS, "dog", " bus "]) == found
    assert either.classify(photo, tuple(LABELS)) == either.classify(photo, set(LABELS)) == found
    assert sum(each.score for each in found) == pytest.approx(1)
    assert Classification.model_validate_json(found.model_dump_json()) == found


def test_one_label_has_all_of_the_score(either: VisionAgent, photo: Path) -> None:
    (only,) = either.classify(photo, ["bus"])
    assert only.score == 1


@pytest.mark.parametrize(
    ("labels", "templates", "error", "says"),
    [
        ([], None, InputError, "`labels` must be at least one label"),
        (["dog", ""], None, InputError, r"`labels\[1\]` must be some words, but got ''"),
        (["dog", " \n"], None, InputError, r"`labels\[1\]` must be some words"),
        (["dog", "?!"], None, InputError, r"`labels\[1\]` must be some words"),
        ("dog", None, ArgumentTypeError, "`labels` must be a list of strings, but got 'dog'"),
        (["dog", 3], None, ArgumentTypeError, r"`labels\[1\]` must be a string, but got 3"),
        (None, None, ArgumentTypeError, "`labels` must be a list of strings"),
        ({"dog": 1}, None, ArgumentTypeError, "`labels` must be a list of strings"),
        (["x" * 5000], None, InputError, r"`labels\[0\]` must be at most"),
        (map(str, range(10_001)), None, InputError, "at most 10000"),
        (["dog"], "a photo", InputError, r"`templates\[0\]` must be a text with {} for the label"),
        (["dog"], [], InputError, "`templates` must be at least one"),
        (["dog"], [3], ArgumentTypeError, "`templates` must be a string or a list of strings"),
    ],
)
def test_labels_and_templates_that_are_none_are_named(
    agent: VisionAgent, blank: Image.Image, labels: Any, templates: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        agent.classify(blank, labels, templates=templates)


def test_the_default_says_what_is_there_and_that_nothing_is(
    agent: VisionAgent, photo: Path, blank: Image.Image
) -> None:
    found = agent.classify(photo, ["bus", "zebra", "pizza"])
    assert found.method == "presence" and found.label == found[0].label == "bus" and found.none_of_these is False
    best = max(agent.detect("bus", photo, threshold=0.01, tiles=False), key=lambda each: each.score)
    assert found[0].fit == pytest.approx(best.score, abs=1e-6) and found.none_score == pytest.approx(1 - best.score)
    nothing = agent.classify(blank, ["bus", "zebra", "pizza"])
    assert nothing.none_of_these is True and nothing.label is None
    assert sum(each.score for each in nothing) == pytest.approx(1)
    assert nothing.threshold is not None and nothing.none_score is not None
    assert nothing.none_score > 1 - nothing.threshold


def test_words_that_were_never_taught_are_told(agent: VisionAgent, photo: Path) -> None:
    found = agent.classify(photo, ["bus", "qwrtzpl"])
    assert found.unknown_words == ("qwrtzpl",)
    assert found[1].label == "qwrtzpl" and found[1].fit == 0
    alone = agent.classify(photo, ["qwrtzpl", "asdfgh"])
    assert alone.none_of_these is True and alone.none_score == 1
    assert [each.score for each in alone] == [0.5, 0.5]


def test_several_images_give_several_results(either: VisionAgent, photo: Path, blank: Image.Image) -> None:
    one, other = either.classify(photo, LABELS[:2]), either.classify(blank, LABELS[:2])
    listed = either.classify([photo, blank], LABELS[:2])
    for found, alone in zip(listed, (one, other), strict=True):
        assert {each.label: each.score for each in found} == pytest.approx(
            {each.label: each.score for each in alone}, abs=1e-4
        )
    lazily = either.classify(iter([photo, blank]), LABELS[:2])
    assert isinstance(lazily, Iterator) and [each.label for each in lazily] == [each.label for each in listed]

    async def awaited() -> list[Classification]:
        assert await either.aio.classify(photo, LABELS[:2]) == one
        return [each async for each in await either.aio.classify(iter([photo, blank]), LABELS[:2])]

    assert len(asyncio.run(awaited())) == 2
    with pytest.raises(InputError, match=r"image\[1\]"):
        either.classify([photo, "no_such.jpg"], LABELS)


def test_a_thousand_labels_are_compared_in_batches(
    seeing: tuple[VisionAgent, Path], blank: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = seeing
    digits = str.maketrans("0123456789", "abcdefghij")
    labels = [f"{number:03}".translate(digits) for number in range(1000)]
    found = agent.classify(blank, labels)
    assert {each.label for each in found} == set(labels)
    assert sum(each.score for each in found) == pytest.approx(1)
    few = agent.classify(blank, [found[0].label, found[999].label])
    assert few[0].label == found[0].label
    assert few[0].score / few[1].score == pytest.approx(found[0].score / found[999].score, rel=1e-2)


def test_the_detector_is_asked_for_many_labels_in_batches(
    agent: VisionAgent, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vision_agent.embedding.classifier._LABELS_AT_ONCE", 2)
    by_two = agent.classify(photo, LABELS)
    monkeypatch.undo()
    together = {each.label: each.score for each in agent.classify(photo, LABELS)}
    assert {each.label: each.score for each in by_two} == pytest.approx(together, abs=1e-3)


def test_a_model_that_can_do_neither_says_so(checkpoint: Path, blank: Image.Image) -> None:
    with pytest.raises(RouteError, match=r"no \[DET\] route to classify with: .* embedder such as SigLIP"):
        VisionAgent.from_pretrained(checkpoint, device="cpu").classify(blank, ["dog"])
