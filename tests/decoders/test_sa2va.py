"""Sa2VA folders: strict names, its own prompts, masks from its own states, phrases in one batch, captions, videos."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import original_format as official
import pytest
import sa2va_format as layout
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from vision_agent import CheckpointError, InputError, RouteError, VideoSegmentation, VisionAgent, save_adapter
from vision_agent.cli.describe import describe
from vision_agent.decoders.sam import SamSegmenter
from vision_agent.decoders.sam.files import IMAGENET
from vision_agent.decoders.sam.memory import track
from vision_agent.decoders.sam.sa2va import Sa2vaNetwork
from vision_agent.decoders.sam.transformers_network import TransformersNetwork
from vision_agent.model.original import native_config, sa2va, sa2va_sam2
from vision_agent.model.original.weights import LANGUAGE_RULES, VISION_RULES, empty_original, load_by_rules
from vision_agent.plugins.route import RouteSpec

ANSWER = ["\n", "S", "[SEG]", ".", "<|im_end|>"]
CAPTION = ["\n", "<p>", "a", "</p>", "[SEG]", "<p>"]  # and so on, round in circles


@pytest.fixture(autouse=True)
def tiny_sam2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sa2va_sam2, "sam2_config", layout.tiny_sam2_config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sa2va") / "Sa2VA-tiny"
    layout.write_sa2va(path, "qwen2", ANSWER)
    return path


@pytest.fixture
def agent(folder: Path) -> VisionAgent:
    return VisionAgent.from_pretrained(folder, device="cpu")


def random_image(seed: int = 0, size: tuple[int, int] = (70, 40)) -> Image.Image:
    """Smooth coloured noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


# --- names ----------------------------------------------------------------------------------------------------------

# vision: InternViT-300M, but 6B for the 26B; language: hidden, layers, heads, key heads, inner, vocabulary
SIZES = {
    "Sa2VA-1B": ("qwen2", 896, 24, 14, 2, 4864, 151679),
    "Sa2VA-4B": ("qwen2", 2048, 36, 16, 2, 11008, 151679),
    "Sa2VA-8B": ("internlm2", 4096, 32, 32, 8, 14336, 92558),
}


class Meta:
    """A weight file of shapes alone."""

    path = Path("model.safetensors")

    def __init__(self, shapes: layout.Shapes) -> None:
        self._shapes = shapes

    def keys(self) -> list[str]:
        return list(self._shapes)

    def tensor(self, key: str) -> Tensor:
        return torch.empty(self._shapes[key], device="meta")


def full_size(name: str) -> dict[str, Any]:
    family, hidden, layers, heads, key_heads, inner, vocabulary = SIZES[name]
    content = layout.sa2va_config(official.tiny_config(family), family)
    content["vision_config"] |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    content["vision_config"] |= {"num_attention_heads": 16, "image_size": 448, "patch_size": 14}
    content["llm_config"] |= {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    content["llm_config"] |= {"num_key_value_heads": key_heads, "intermediate_size": inner, "vocab_size": vocabulary}
    return content | {"force_image_size": 448}


@pytest.mark.parametrize("name", SIZES)
def test_all_names_and_shapes_of_a_full_size_checkpoint_have_a_place(name: str) -> None:
    content = full_size(name)
    hidden = content["llm_config"]["hidden_size"]
    shapes = layout.base_shapes(content) | layout.sam2_shapes(layout.LARGE) | layout.two_layers(hidden, 256)
    with torch.device("meta"):
        model = empty_original(native_config(content), dtype=torch.float32, attn_implementation="eager")
    rules = (*VISION_RULES, *LANGUAGE_RULES[content["llm_config"]["architectures"][0]], *sa2va._BESIDE)
    load_by_rules(dict(model.state_dict()), [Meta(shapes)], rules, model.config)  # raises on any that is left over
    for wrong, message in (
        (shapes | {"grounding_encoder.more": (1,)}, "unexpected: grounding_encoder.more"),
        ({key: shape for key, shape in shapes.items() if key != "mlp1.1.bias"}, r"missing: .*linear_1\.bias"),
        (shapes | {"mlp1.1.bias": (5,)}, r"mlp1\.1\.bias in .* has the shape \(5,\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_by_rules(dict(model.state_dict()), [Meta(wrong)], rules, model.config)


def test_all_names_and_shapes_of_sam2_have_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    shapes = layout.sam2_shapes(layout.LARGE)
    assert len(shapes) == 900 and sum(int(np.prod(shape)) for shape in shapes.values()) == 224430386
    with torch.device("meta"):
        model = Sam2VideoModel(sa2va_sam2.sam2_config())
    sa2va_sam2.fill_sam2(model, [Meta(shapes | {"language_model.lm_head.weight": (9, 9)})])
    gone = "grounding_encoder.sam2_model.sam_prompt_encoder.point_embeddings.2.weight"
    for wrong, message in (
        (
            {key: shape for key, shape in shapes.items() if key != gone},
            r"missing: prompt_encoder\.point_embed\.weight\.2",
        ),
        (shapes | {"grounding_encoder.sam2_model.more": (1,)}, r"unexpected: grounding_encoder\.sam2_model\.more"),
        (shapes | {gone: (1, 128)}, r"point_embeddings\.2\.weight in .* has the shape \(1, 128\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            sa2va_sam2.fill_sam2(model, [Meta(wrong)])


# --- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2", "internlm2", "phi3"])
def test_prompts_have_no_system_message_and_answers_end_as_officially(tmp_path: Path, family: str) -> None:
    stop = "<|end|>" if family == "phi3" else "<|im_end|>"
    # Phi-3's role marks swallow the line break behind them.
    before = "<|assistant|>" if family == "phi3" else "\n"
    layout.write_sa2va(tmp_path, family, [before, "S", "[SEG]", ".", stop])
    agent = VisionAgent.from_pretrained(tmp_path, device="cpu")
    tokens = agent.backbone.tokens_per_tile
    encoded = agent.backbone.encode(sa2va.REQUEST.format(phrase="the dog"), random_image(size=(28, 28)))
    shown = f"<img>{'<IMG_CONTEXT>' * tokens}</img>\n Please segment the dog in this image."
    marks = ("<|user|>\n", "<|assistant|>\n") if family == "phi3" else ("<|im_start|>user\n", "<|im_start|>assistant\n")
    assert encoded.prompt == f"{marks[0]}{shown}{stop}\n{marks[1]}"
    assert encoded.input_ids.tolist() == official.official_ids(tmp_path, encoded.prompt)
    tokenizer = agent.backbone.tokenizer
    assert {tokenizer.convert_tokens_to_ids(stop), tokenizer.eos_token_id} <= set(agent.backbone.end_ids)
    assert agent.routes["seg"].spec == RouteSpec(token="[SEG]", decoder="sam", num_queries=0, read="self")
    assert [route.token for route in agent.run("find it", random_image(), max_new_tokens=8).routes] == ["[SEG]"]


def test_what_a_folder_lacks_is_named(folder: Path, tmp_path: Path) -> None:
    def copy() -> Path:
        target = tmp_path / str(len(list(tmp_path.iterdir())))
        target.mkdir()
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        return target

    def changed(name: str, change: Callable[[dict[str, Any]], None]) -> Path:
        target = copy()
        content = json.loads((target / name).read_text("utf-8"))
        change(content)
        (target / name).write_text(json.dumps(content), "utf-8")
        return target

    def without(gone: str, instead: Tensor | None = None) -> Path:
        target = copy()
        state = {key: tensor for file in target.glob("*.safetensors") for key, tensor in load_file(file).items()}
        del state[gone]
        for file in (*target.glob("*.safetensors"), target / "model.safetensors.index.json"):
            file.unlink()
        save_file(state if instead is None else state | {gone: instead}, target / "model.safetensors")
        return target

    def rename_seg(content: dict[str, Any]) -> None:
        for token in content["added_tokens_decoder"].values():
            token["content"] = token["content"].replace("[SEG]", "[SAG]")
        content["additional_special_tokens"].remove("[SEG]")

    memory = "grounding_encoder.sam2_model.maskmem_tpos_enc"
    for broken, message in (
        (changed("config.json", lambda content: content.update(template="llama")), "template 'llama'; expected one of"),
        (changed("config.json", lambda content: content.update(use_llm_lora=128)), "the weights have no LoRA"),
        (changed("tokenizer_config.json", rename_seg), r"has no '\[SEG\]'"),
        (without("text_hidden_fcs.2.bias"), r"missing: text_hidden_fcs\.2\.bias"),
        (without("text_hidden_fcs.2.bias", torch.zeros(3)), r"does not fit the decoder of '\[SEG\]'"),
        (without(memory), "missing: memory_temporal_positional_encoding"),
        (without(memory, torch.zeros(7, 1, 1, 32)), r"maskmem_tpos_enc .* has the shape \(7, 1, 1, 32\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            VisionAgent.from_pretrained(broken, device="cpu")


def test_sa2va_on_other_models_is_refused(tmp_path: Path) -> None:
    content = {"model_type": "sa2va_chat", "architectures": ["Sa2VAChatModelQwen"], "auto_map": {"AutoModel": "x.Y"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="'sa2va_chat' model; expected 'internvl'"):
        VisionAgent.from_pretrained(tmp_path)


# --- images -------------------------------------------------------------------------------------------------------


def reference(agent: VisionAgent, folder: Path, phrase: str, image: Image.Image) -> tuple[Tensor, float]:
    """Logits of the image's size, and the rating, by transformers' whole forward pass and the file's own tensors."""
    state = {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}
    backbone = agent.backbone
    encoded = backbone.encode(sa2va.REQUEST.format(phrase=phrase), image)
    seg = agent.routes["seg"].token_id
    ids = torch.cat([encoded.input_ids, torch.tensor([*backbone.text_ids("S"), seg])])
    with torch.no_grad():
        out = backbone.model(input_ids=ids[None], pixel_values=encoded.pixel_values, output_hidden_states=True)
        hidden = F.relu(F.linear(out.hidden_states[-1][0, -1], *(state[f"text_hidden_fcs.0.{p}"] for p in PARTS)))
        token = F.linear(hidden, *(state[f"text_hidden_fcs.2.{part}"] for part in PARTS))
        sam = sa2va_sam2.load_sam2(folder)
        small = np.array(image.resize((64, 64)))  # Pillow's default is bicubic
        pixels = torch.from_numpy(small).permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        features = sam.get_image_embeddings((pixels - mean) / std)
        sparse, dense = sam.prompt_encoder(torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1), -1), None, None)
        assert sparse.shape[2] == 2
        logits, ratings, *_ = sam.mask_decoder(
            image_embeddings=features[-1],
            image_positional_embeddings=sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=torch.cat([sparse, token.reshape(1, 1, 1, -1)], dim=2),
            dense_prompt_embeddings=dense,
            multimask_output=True,
            high_resolution_features=features[:-1],
        )
    assert logits.shape[2] == 3
    best = logits[0, :, ratings[0, 0].argmax()][None]
    for size in ((64, 64), image.size[::-1]):
        best = F.interpolate(best, size, mode="bilinear", align_corners=False)
    return best[0, 0], float(ratings.max())


PARTS = ("weight", "bias")


def test_masks_are_those_of_its_own_states_and_its_own_sam2(agent: VisionAgent, folder: Path) -> None:
    for image in (random_image(), random_image(1, (33, 90))):
        logits, rating = reference(agent, folder, "red car", image)
        (found,) = agent.segment("red car", image)
        clear = (logits.abs() > 1e-3 * logits.abs().max()).numpy()
        assert clear.mean() > 0.95 and 0 < found.mask.area < image.width * image.height
        assert (found.mask.to_array() == (logits > 0).numpy())[clear].all()
        assert found.mask_score == pytest.approx(rating, abs=1e-4)
        assert found.label == "red car" and 0 < found.score < 1  # the probability of [SEG]


def test_phrases_of_one_batch_equal_single_ones_and_the_image_is_encoded_once(
    agent: VisionAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = agent.routes["seg"].decoder.network
    calls: list[str] = []
    for name in ("features", "masks_of_tokens"):
        original = getattr(network, name)
        monkeypatch.setattr(network, name, lambda *a, n=name, f=original: (calls.append(n), f(*a))[1])
    phrases = ["dog", "red car", "a tree", "the man on the left", "x", "grass", "sky", "two cups"]
    image = random_image()
    together = agent.segment(phrases, image)
    assert calls == ["features", "masks_of_tokens"]
    assert together.labels == phrases and together.phrases == tuple(phrases)
    assert len({segment.mask.counts for segment in together}) > 1, "equal masks would prove nothing"
    for phrase, segment in zip(phrases, together, strict=True):
        (alone,) = agent.segment(phrase, image)
        assert alone.score == pytest.approx(segment.score, abs=1e-4)
        assert alone.mask.iou(segment.mask) > 0.99
    assert calls.count("features") == 1


def test_a_caption_comes_with_masks_for_its_phrases(tmp_path: Path) -> None:
    layout.write_sa2va(tmp_path, "qwen2", CAPTION)
    agent = VisionAgent.from_pretrained(tmp_path, device="cpu")
    answer = agent.run(sa2va.DESCRIBE_REQUEST, random_image(), max_new_tokens=8)
    assert [(route.token, route.phrase) for route in answer.routes] == [("[SEG]", "a")] * 2
    assert "<p>" not in answer.text and "[SEG]" not in answer.text
    assert [answer.text[route.start : route.end] for route in answer.routes] == ["a", "a"]
    assert answer.routes[0].start < answer.routes[1].start
    for route in answer.routes:
        assert route.result.labels == ["a"] and route.result.image_size == (70, 40)
        assert route.result[0].mask.area
    assert type(answer).model_validate_json(answer.model_dump_json()) == answer


def test_a_phrase_without_a_routing_token_has_no_mask(tmp_path: Path) -> None:
    layout.write_sa2va(tmp_path, "qwen2", ["\n", "N", "o", ".", "<|im_end|>"])
    agent = VisionAgent.from_pretrained(tmp_path, device="cpu")
    found = agent.segment(["dog", "cat"], random_image())
    assert len(found) == 0 and found.phrases == ("dog", "cat") and found.image_size == (70, 40)
    followed = agent.segment_video(["dog"], [random_image(), random_image(1)])
    assert len(followed) == 2 and followed.labels == [] and followed.phrases == ("dog",)


def test_questions_get_words_alone(agent: VisionAgent) -> None:
    assert agent.routes["seg"].token_id not in agent.backbone.text_ids(agent.ask("what?", random_image()).text)


def test_it_is_described_without_its_weights(folder: Path) -> None:
    info = describe(folder)
    assert (info.format, info.tiles.max_tiles, info.tiles.size) == ("original", 12, 28)


def test_its_sam2_takes_boxes_too(folder: Path) -> None:
    sam = SamSegmenter.from_pretrained(folder, "cpu")
    assert len(sam.segment(random_image(), boxes=[[5, 5, 40, 30], [20, 1, 69, 39]])) == 2


def test_the_route_is_saved_without_sam2_and_loads_again(agent: VisionAgent, folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "seg", agent.routes["seg"], agent.backbone, torch.float32)
    assert sum(t.numel() for t in load_file(tmp_path / "seg" / "adapter.safetensors").values()) < 10_000
    again = VisionAgent.from_pretrained(folder, adapters=[tmp_path / "seg"], device="cpu")
    assert again.segment("dog", random_image()) == agent.segment("dog", random_image())


# --- videos ---------------------------------------------------------------------------------------------------------


class Prompted(Sam2VideoModel):
    """transformers' tracker with a prompt token on the frames that are prompted, and no object hidden, as Sa2VA is."""

    token: Tensor | None = None

    def _single_frame_forward(self, **arguments: Any) -> Any:
        plain = self.mask_decoder.forward

        def with_token(*, sparse_prompt_embeddings: Tensor, **more: Any) -> Any:
            if self.token is not None:
                sparse_prompt_embeddings = torch.cat([sparse_prompt_embeddings, self.token], dim=2)
            masks, ratings, tokens, sureness = plain(sparse_prompt_embeddings=sparse_prompt_embeddings, **more)
            self.sure = sureness > 0
            return masks, ratings, tokens, sureness

        self.mask_decoder.forward = with_token
        try:
            return super()._single_frame_forward(**arguments)
        finally:
            del self.mask_decoder.forward


@pytest.mark.parametrize("version", ["Sa2VA", "2.0", "2.1"])
def test_objects_are_followed_as_transformers_follows_them(version: str) -> None:
    config = layout.tiny_sam2_config()
    config.enable_temporal_pos_encoding_for_object_pointers = version == "2.1"
    config.enable_occlusion_spatial_embedding = version == "2.1"
    torch.manual_seed(0)
    model = Prompted(config)
    layout.fill_randomly(model.state_dict())
    model.train(False)
    # Sa2VA hides nothing; transformers hides what is out of sight, so there all is in sight, and else a part.
    sight = model.state_dict()["mask_decoder.pred_obj_score_head.proj_out.bias"]
    sight += {"Sa2VA": 1000.0, "2.0": 0.0, "2.1": 3.15}[version]
    network = (Sa2vaNetwork if version == "Sa2VA" else TransformersNetwork)(model, *IMAGENET)
    network.place(torch.device("cpu"), torch.float32)
    frames = [random_image(number // 3) for number in range(11)]
    tokens = torch.randn(2, 1, layout.TINY.width, generator=torch.Generator().manual_seed(0))
    sizes = ((64, 64), (40, 70)) if version == "Sa2VA" else ((40, 70),)
    with torch.inference_mode():
        ours = list(track(network, frames, tokens, 5))
        pixels = torch.cat([network.canvas(frame) for frame in frames])
    for number in range(2):
        session = Sam2VideoInferenceSession(video=pixels, video_height=40, video_width=70, dtype=torch.float32)
        session.obj_id_to_idx(1)
        seen = set()
        for place in range(11):
            model.token = tokens[number].reshape(1, 1, 1, -1) if place < 5 else None
            session.obj_with_new_inputs = [1] if place < 5 else []
            with torch.inference_mode():
                logits = model(session, frame_idx=place).pred_masks
            for size in sizes:
                logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            clear = (logits[0, 0].abs() > 5e-3 * logits.abs().max()).numpy()
            mask = ours[place][number][0].to_mask()
            assert clear.mean() > 0.9 and (mask == (logits[0, 0] > 0).numpy())[clear].all(), place
            seen.add(ours[place][number][0].text)
        assert len(seen) > 3, "masks that never change would prove nothing"


def test_phrases_are_found_in_the_first_frames_and_followed(agent: VisionAgent) -> None:
    frames = [random_image(number // 3) for number in range(7)]
    found = agent.segment_video(["dog", "red car"], frames)
    assert isinstance(found, VideoSegmentation) and len(found) == 7
    assert found.labels == ["dog", "red car"] and found.indices == tuple(range(7)) and found.seconds is None
    assert {frame.image_size for frame in found.frames} == {(70, 40)}
    assert [place for place, _ in found.track(0)] == [n for n, frame in enumerate(found.frames) if frame[0].mask.area]
    assert VideoSegmentation.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(IndexError):
        list(found.track(2))
    # The frames are read as one tile each, without numbers, before the request.
    single = agent.segment_video("dog", [frames[0]])
    assert single.frames[0][0].mask.iou(agent.segment_video("dog", frames[:1]).frames[0][0].mask) == 1


def test_what_cannot_be_followed_is_refused(agent: VisionAgent, checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"`frames\[1\]` must be of the first frame's size"):
        agent.segment_video("dog", [random_image(), random_image(1, (40, 40))])
    with pytest.raises(RouteError, match="no 'seg' route"):
        VisionAgent.from_pretrained(checkpoint).segment_video("dog", [random_image()])
    with pytest.raises(RouteError, match=r"'mask' of '\[SEG\]' does not track objects through a video; load a Sa2VA"):
        VisionAgent().segment_video("dog", [random_image()])
