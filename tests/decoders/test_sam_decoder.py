"""The `[SEG]` route by SAM: states as prompt tokens, all objects in one call, training with SAM at rest, adapters."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numerics import assert_same
from PIL import Image
from safetensors.torch import load_file, save_file
from test_sam import KINDS, original, random_image, tiny_model, tiny_original
from torch import Tensor

from vision_agent import (
    AdapterMismatchError,
    CheckpointError,
    ConfigError,
    DecodeRequest,
    DenseFeatures,
    InputError,
    RouteError,
    VisionAgent,
    new_route,
    save_adapter,
)
from vision_agent.decoders.sam import SamDecoder, load_network
from vision_agent.decoders.sam.loss import mask_loss
from vision_agent.geometry.frames import TileGrid
from vision_agent.model.backbone import Backbone
from vision_agent.model.fingerprint import file_fingerprint
from vision_agent.plugins.route import RouteSpec
from vision_agent.routing.adapter import change_settings

assert original  # a fixture

HIDDEN = 24
SEG = RouteSpec(token="[SEG]", decoder="sam", num_queries=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sam")
    for kind in KINDS:
        torch.manual_seed(0)  # whichever tests ran before
        tiny_model(kind).save_pretrained(root / kind)
    return {kind: root / kind for kind in KINDS}


def decoder_of(path: Path, seed: int = 0, **settings: Any) -> SamDecoder:
    torch.manual_seed(seed)
    return SamDecoder(HIDDEN, str(path), **settings).eval().requires_grad_(False)


def states(count: int, per_token: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, per_token, HIDDEN, generator=torch.Generator().manual_seed(seed)) * 3


def request(phrases: list[str], size: tuple[int, int] = (96, 40), **more: Any) -> DecodeRequest:
    return DecodeRequest(tuple(phrases), TileGrid.for_image(*size), "tiny", **more)


def seen(decoder: SamDecoder, image: Image.Image) -> Any:
    return decoder.prepare_image(DenseFeatures(()), image)


# --- one call -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "original"])
@pytest.mark.parametrize("per_token", [1, 4])
def test_eight_objects_are_one_call_equal_to_eight_and_the_image_is_encoded_once(
    kind: str, per_token: int, folders: dict[str, Path], tmp_path: Path, original: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "original":
        torch.save(tiny_original(original).state_dict(), tmp_path / "sam_vit_b.pth")
        monkeypatch.setitem(original.sam_model_registry, "vit_b", lambda: tiny_original(original))
    decoder = decoder_of(folders.get(kind, tmp_path / "sam_vit_b.pth"))
    network, counts = decoder.network, {"features": 0, "masks_of_tokens": 0}
    made: list[tuple[Tensor, Tensor]] = []

    def counted(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            counts[name] += 1
            result = function(*arguments)
            made.append(result)
            return result

        return call

    for name in counts:
        monkeypatch.setattr(network, name, counted(name, getattr(network, name)))
    image, asked = random_image((96, 40)), states(8, per_token)
    names = [f"thing {number}" for number in range(8)]
    with torch.inference_mode():
        prepared = seen(decoder, image)
        together = decoder.decode(asked, prepared, request(names))
        assert counts == {"features": 1, "masks_of_tokens": 1}
        logits, ratings = made[-1]
        for number in range(8):
            alone = decoder.decode(asked[number : number + 1], prepared, request(names[number : number + 1]))
            one_logits, one_ratings = made[-1]
            assert_same(one_logits[0], logits[number], terms=64)
            assert_same(one_ratings[0], ratings[number], terms=64)
            for segment in alone:
                same = [each for each in together if each.label == segment.label]
                assert len(same) == 1 and same[0].mask.iou(segment.mask) > 0.995
    assert counts == {"features": 1, "masks_of_tokens": 9}
    assert len(together) > 4 and len({segment.mask.counts for segment in together}) > 1
    assert (together.decoder, together.model, together.image_size) == ("sam", "tiny", (96, 40))
    assert {segment.label for segment in together} <= set(names) and together.phrases == tuple(names)


def test_more_objects_than_one_call_holds(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, names = decoder_of(folders["sam2"]), [str(number) for number in range(7)]
    prepared = seen(decoder, random_image((96, 40)))
    whole = decoder.decode(states(7), prepared, request(names))
    monkeypatch.setattr("vision_agent.decoders.sam.decoder.OBJECTS_AT_ONCE", 3)
    pieces = decoder.decode(states(7), prepared, request(names))
    assert whole.labels == pieces.labels and len(whole) > 3
    assert all(a.mask.iou(b.mask) > 0.995 for a, b in zip(whole, pieces, strict=True))


def test_no_phrases_give_an_empty_result(folders: dict[str, Path]) -> None:
    decoder = decoder_of(folders["sam"])
    assert len(decoder.decode(states(0), seen(decoder, random_image((96, 40))), request([]))) == 0


def test_scores_are_the_tokens_own_and_the_threshold_counts(folders: dict[str, Path]) -> None:
    decoder = decoder_of(folders["sam2"])
    prepared = seen(decoder, random_image((96, 40)))
    plain = decoder.decode(states(3), prepared, request(["a", "b", "c"]))
    assert [each.score for each in plain] == [each.mask_score for each in plain]
    told = decoder.decode(states(3), prepared, request(["a", "b", "c"], scores=(0.9, 0.2, 0.6), threshold=0.5))
    assert [(each.label, each.score) for each in told] == [("a", 0.9), ("c", 0.6)]
    assert [each.mask for each in told] == [plain[0].mask, plain[2].mask]
    lenient = decoder_of(folders["sam2"], threshold=0.7)
    assert lenient.decode(states(3), prepared, request(["a", "b", "c"], scores=(0.9, 0.2, 0.6))).labels == ["a"]


def test_a_phrase_without_a_pixel_has_no_segment_however_sure_its_token(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of(folders["sam2"])
    prepared = seen(decoder, random_image((96, 40)))
    drawn = decoder.network.masks_of_tokens

    def second_empty(features: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        logits, ratings = drawn(features, tokens)
        logits[1] = -9.0
        return logits, ratings

    monkeypatch.setattr(decoder.network, "masks_of_tokens", second_empty)
    with torch.inference_mode():
        found = decoder.decode(states(3), prepared, request(["a", "b", "c"], scores=(0.9, 0.9, 0.9)))
    assert found.labels == ["a", "c"]


def test_boxes_and_points_are_prompts_too(folders: dict[str, Path]) -> None:
    decoder = decoder_of(folders["sam2"])
    prepared = seen(decoder, random_image((96, 40)))
    boxes = [[5, 5, 60, 30], [20, 1, 95, 39]]
    found = decoder.decode_boxes(boxes, prepared, request([]), labels=["a", "b"], scores=[0.3, 0.4])
    assert (
        found.labels == ["a", "b"]
        and found.xyxy.tolist() == boxes
        and found.scores.tolist() == pytest.approx([0.3, 0.4])
    )
    assert len(decoder.decode_points([[[10, 10], [20, 20]]], prepared, request([]), point_labels=[[1, 0]])) == 1
    for bad, message in (
        ([[5, 5, 5, 9]], r"`boxes\[0\]`"),
        ([[200, 5, 250, 9]], "inside the image of 96 x 40"),
        ([], "boxes"),
    ):
        with pytest.raises(InputError, match=message):
            decoder.decode_boxes(bad, prepared, request([]))
    with pytest.raises(InputError, match=r"`points\[0\]` must be inside the image of 96 x 40"):
        decoder.decode_points([[97, 3]], prepared, request([]))
    with pytest.raises(InputError, match="`labels` must be 2 of them"):
        decoder.decode_boxes(boxes, prepared, request([]), labels=["a"])


# --- training -------------------------------------------------------------------------------------------------------


def halves(decoder: SamDecoder) -> tuple[list[Any], list[Tensor]]:
    """Two prepared images, and true masks: left and right half of the first one, upper half of the second."""
    prepared = [seen(decoder, random_image(size, number)) for number, size in enumerate([(96, 40), (40, 80)])]
    truth = [torch.zeros(2, 40, 96, dtype=torch.bool), torch.zeros(1, 80, 40, dtype=torch.bool)]
    truth[0][0, :, :48] = truth[0][1, :, 48:] = truth[1][0, :40] = True
    return prepared, truth


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_down_the_gradient_of_the_two_layers_lowers_the_loss(kind: str, folders: dict[str, Path]) -> None:
    torch.manual_seed(0)
    decoder = SamDecoder(HIDDEN, str(folders[kind]))
    prepared, truth = halves(decoder)
    assert {name.split(".")[0] for name, _ in decoder.named_parameters()} == {"prompt"}
    before = decoder.loss(states(3), [0, 1, 0], prepared, truth)
    before.backward()
    slope = sum(
        float(parameter.grad.square().sum()) for parameter in decoder.parameters() if parameter.grad is not None
    )
    assert slope > 0
    step = 1e-4
    with torch.no_grad():
        for parameter in decoder.parameters():
            assert parameter.grad is not None
            parameter -= step / slope * parameter.grad
        after = decoder.loss(states(3), [0, 1, 0], prepared, truth)
    assert float(before.detach() - after) == pytest.approx(step, rel=0.5)


def test_training_draws_the_masks_with_sam_at_rest(folders: dict[str, Path]) -> None:
    torch.manual_seed(0)
    decoder = SamDecoder(HIDDEN, str(folders["sam2"]))
    sam = {name: tensor.clone() for name, tensor in decoder.network.module.state_dict().items()}
    prepared, truth = halves(decoder)
    optimiser = torch.optim.Adam(decoder.parameters(), 0.1)
    losses = []
    for _ in range(16):
        loss = decoder.loss(states(3), [0, 1, 0], prepared, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(tensor, sam[name]) for name, tensor in decoder.network.module.state_dict().items())


def test_the_proposal_that_is_rated_best_is_trained(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(folders["sam"])
    prepared = [seen(decoder, random_image((64, 64)))]
    truth = [torch.zeros(1, 64, 64, dtype=torch.bool)]
    truth[0][0, :, :32] = True
    right = torch.full((16, 16), -20.0)
    right[:, :8] = 20.0
    proposals = torch.stack([-right, right, -right])[None]

    def loss(best: int) -> float:
        rated = proposals, torch.eye(3)[best][None]
        monkeypatch.setattr(decoder.network, "masks_of_tokens", lambda features, tokens: rated)
        return float(decoder.loss(states(1), [0], prepared, truth))

    assert loss(1) < 0.1 and min(loss(0), loss(2)) > 20


def test_the_loss_of_right_and_wrong_masks() -> None:
    truth = torch.zeros(2, 40, 80, dtype=torch.bool)
    truth[:, :20, :40] = True
    right = torch.full((2, 16, 16), -20.0)
    right[:, :8, :8] = 20.0
    assert mask_loss(right, truth, (64, 64), 64).max() < 0.05
    assert mask_loss(-right, truth, (64, 64), 64).min() > 20
    # On a padded canvas the image takes the upper half alone, and what lies below does not count.
    padded = torch.full((2, 16, 16), 20.0)
    padded[:, :8] = -20.0
    padded[:, :4, :8] = 20.0
    assert mask_loss(padded, truth, (64, 32), 64).max() < 0.05
    # All undecided: cross-entropy ln 2, dice by its definition with 32 of 128 cells covered.
    dice = 1 - (2 * 16 + 1) / (64 + 32 + 1)
    expected = 2 * np.log(2) + 0.5 * dice
    assert mask_loss(torch.zeros(1, 16, 16), truth[:1], (64, 32), 64).tolist() == pytest.approx([expected], abs=1e-5)


def test_the_loss_without_objects_is_zero_with_gradients(folders: dict[str, Path]) -> None:
    decoder = SamDecoder(HIDDEN, str(folders["sam"]))
    prepared = [seen(decoder, random_image((96, 40)))]
    loss = decoder.loss(states(0), [], prepared, [torch.zeros(0, 40, 96, dtype=torch.bool)])
    loss.backward()
    assert float(loss) == 0 and all(parameter.grad is not None for parameter in decoder.parameters())
    with pytest.raises(RouteError, match="image 0 has 2 phrases, but 1 true masks"):
        decoder.loss(states(2), [0, 0], prepared, [torch.zeros(1, 40, 96, dtype=torch.bool)])


# --- routes and adapters --------------------------------------------------------------------------------------------


def route_of(backbone: Backbone, path: Path, **settings: Any) -> Any:
    torch.manual_seed(1)
    route = new_route(backbone, SEG, torch.Generator().manual_seed(0), checkpoint=path, **settings)
    return route.eval().requires_grad_(False)


def test_a_route_by_sam_is_saved_small_and_segments(
    checkpoint: Path, folders: dict[str, Path], tmp_path: Path, photo: Path
) -> None:
    agent = VisionAgent.from_pretrained(checkpoint)
    save_adapter(tmp_path / "seg", route_of(agent.backbone, folders["sam2"]), agent.backbone, torch.float32)
    names = load_file(tmp_path / "seg" / "adapter.safetensors")
    assert {name for name in names if name.startswith("decoder.")} == {
        f"decoder.prompt.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")
    }
    agent.load_adapter(tmp_path / "seg")
    phrases = ["a dog", "grass"]
    found = agent.segment(phrases, photo)
    assert found.decoder == "sam" and found.image_size == (640, 480) and found.phrases == tuple(phrases)
    assert len(found) > 0 and found == agent.segment(phrases, photo)
    for phrase in found.labels:
        (alone,) = agent.segment(phrase, photo)
        assert alone.mask.iou(next(each for each in found if each.label == phrase).mask) > 0.99


def test_other_sam_weights_than_those_of_training_are_refused(
    checkpoint: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    agent = VisionAgent.from_pretrained(checkpoint)
    sam = shutil.copytree(folders["sam2"], tmp_path / "sam")
    save_adapter(tmp_path / "seg", route_of(agent.backbone, sam), agent.backbone)
    shutil.move(sam, tmp_path / "moved")
    with pytest.raises(CheckpointError, match="no SAM checkpoint at"):
        agent.load_adapter(tmp_path / "seg")
    change_settings(tmp_path / "seg", checkpoint=str(tmp_path / "moved"))
    assert agent.load_adapter(tmp_path / "seg") == "seg"
    with pytest.raises(AdapterMismatchError, match=r"trained for other SAM weights .*change_settings"):
        change_settings(tmp_path / "seg", checkpoint=str(folders["sam"]))


def test_two_sharded_sam_checkpoints_with_one_index_differ(folders: dict[str, Path], tmp_path: Path) -> None:
    known = decoder_of(folders["sam2"]).settings["fingerprint"]
    former = file_fingerprint(folders["sam2"] / "model.safetensors")
    assert decoder_of(folders["sam2"], fingerprint=former).settings["fingerprint"] == known != former
    tiny_model("sam2").save_pretrained(tmp_path, max_shard_size="50KB")
    decoder = decoder_of(tmp_path)
    index = (tmp_path / "model.safetensors.index.json").read_text("utf-8")
    file = tmp_path / sorted(set(json.loads(index)["weight_map"].values()))[-1]
    state = load_file(file)
    save_file({name: tensor + 0.1 for name, tensor in state.items()}, file, metadata={"format": "pt"})
    with pytest.raises(AdapterMismatchError, match="other SAM weights"):
        decoder_of(tmp_path, fingerprint=decoder.settings["fingerprint"])


def test_sam_weights_of_another_width_do_not_fit_the_adapter(
    checkpoint: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    agent = VisionAgent.from_pretrained(checkpoint)
    save_adapter(tmp_path / "seg", route_of(agent.backbone, folders["sam2"]), agent.backbone)
    wide = tiny_model("sam2").config
    wide.prompt_encoder_config.hidden_size = wide.mask_decoder_config.hidden_size = 32
    wide.vision_config.fpn_hidden_size = 32
    type(tiny_model("sam2"))(wide).save_pretrained(tmp_path / "wide")
    content = json.loads((tmp_path / "seg" / "adapter.json").read_text())
    content["decoder_settings"] |= {"checkpoint": str(tmp_path / "wide"), "fingerprint": ""}
    (tmp_path / "seg" / "adapter.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="does not fit its decoder"):
        agent.load_adapter(tmp_path / "seg")


def test_what_cannot_work_is_refused(backbone: Backbone, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`checkpoint` must be the path of a SAM checkpoint"):
        new_route(backbone, SEG)
    with pytest.raises(CheckpointError, match="no SAM checkpoint at"):
        new_route(backbone, SEG, checkpoint=tmp_path / "nothing")
    decoder = decoder_of(folders["sam"])
    prepared = seen(decoder, random_image((96, 40)))
    with pytest.raises(RouteError, match=r"made for states \(phrases, states, 24\), but got \(1, 1, 25\)"):
        decoder.decode(torch.zeros(1, 1, 25), prepared, request(["a"]))
    with pytest.raises(RouteError, match="2 phrases, but states of 1 routing tokens"):
        decoder.decode(states(1), prepared, request(["a", "b"]))
    with pytest.raises(RouteError, match="call `prepare_image`"):
        decoder.prepare(DenseFeatures(()))
    with pytest.raises(RouteError, match="needs the memory of SAM 2"):
        list(decoder.track(states(1), [random_image((96, 40))], 1, request(["a"])))


def test_a_folder_says_what_it_is(folders: dict[str, Path]) -> None:
    assert [load_network(folders[kind]).pads for kind in KINDS] == [True, False, False]


def test_loading_sam_says_nothing(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert load_network(folders["sam2"]).token_width > 0
    assert capfd.readouterr() == ("", "")
