"""transformers' own processor of a native folder, to compare with.

Where torchvision is installed it is `AutoProcessor`'s, whole. Without, transformers refuses to make one, because its
video processor needs torchvision; then the same `InternVLProcessor` is put together here with transformers' image
processor for Pillow and with frames resized as torchvision does it, by `torch.nn.functional.interpolate`.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers import AutoProcessor, AutoTokenizer, BatchFeature
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.processing_utils import ProcessorMixin

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None


class TorchResize(GotOcr2ImageProcessorPil):  # type: ignore[misc]
    """Resizes as torchvision does; Pillow 13 and older ones differ in the order of passes."""

    def resize(self, image: np.ndarray, size: Any, resample: Any = None, **_: Any) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None]
        assert int(resample) == Image.Resampling.BICUBIC
        shape = (size.height, size.width)
        resized = interpolate(pixels, shape, mode="bicubic", align_corners=False, antialias=True)
        return resized[0].numpy()


class _Frames:
    """What `InternVLVideoProcessor` does to frames that were sampled already."""

    valid_kwargs = None
    model_input_names = ("pixel_values_videos",)

    def __init__(self, folder: Path, images: GotOcr2ImageProcessorPil) -> None:
        self._images = images

    def __call__(self, videos: Any, **_: Any) -> BatchFeature:
        frames = [self._images(frame, crop_to_patches=False, return_tensors="pt") for frame in videos[0]]
        return BatchFeature({"pixel_values_videos": torch.cat([frame["pixel_values"] for frame in frames])[None]})


class _WithoutTorchvision(InternVLProcessor):  # type: ignore[misc]
    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        return type(argument)


def reference_processor(folder: Path, images: type = TorchResize) -> Any:
    """The processor of a native folder; `images`: which image processor, where there is no torchvision."""
    if HAS_TORCHVISION:
        return AutoProcessor.from_pretrained(folder)
    image_processor = images.from_pretrained(folder)
    settings = ProcessorMixin.get_processor_dict(folder)[0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return _WithoutTorchvision(
        image_processor,
        tokenizer,
        _Frames(folder, image_processor),
        image_seq_length=settings.get("image_seq_length", 256),
        chat_template=settings.get("chat_template") or tokenizer.chat_template,
    )


def reference_inputs(
    processor: Any, messages: list[dict[str, Any]], images: list[Image.Image], frames: list[Image.Image] | None = None
) -> Any:
    """Ids and pixels of a conversation."""
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    videos = None if frames is None else [torch.stack([torch.from_numpy(np.array(f)).permute(2, 0, 1) for f in frames])]
    return processor(text=[text], images=images or None, videos=videos, return_tensors="pt")


def asked(text: str, images: int = 0, video: bool = False) -> dict[str, Any]:
    """A user's message: images, a video, then the text."""
    parts = [{"type": "image"}] * images + [{"type": "video"}] * video + [{"type": "text", "text": text}]
    return {"role": "user", "content": parts}


def answered(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}
