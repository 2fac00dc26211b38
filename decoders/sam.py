"""Segment Anything: boxes or points in, masks out, with published weights and no training.

One class for three generations: checkpoints of the original `segment-anything` package (one file, ViT-B, L or H), and
transformers folders of SAM, SAM 2 (video ones too) and SAM 3's tracker. The path decides.

* The picture is encoded once and remembered; prompts are cheap after that.
* All boxes or points of a picture go through the mask decoder together.
* Masks are enlarged strip by strip straight into run lengths, so that no object needs a float mask of the picture's
  size.
* Only the picture encoder computes in half precision. The coordinates of prompts are positions in sine waves: in
  bfloat16 they would be off by several pixels.

Coordinates are pixels of the upright original and go to the model as they are, scaled. The model itself adds half a
pixel, for it was trained on the numbers of pixels; the published numbers are those of this convention.
"""

import hashlib
import json
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vision_agent.errors import CheckpointError, InputError, MissingExtraError, bad_argument
from vision_agent.geometry import box_area, box_clip
from vision_agent.hardware import choose_device, choose_dtype
from vision_agent.images import ImageLimits, ImageSource, load_image
from vision_agent.masks import RunLengths
from vision_agent.segments import Mask, Segmentation, Segmenter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = npt.NDArray[np.float64]

_OBJECTS_AT_ONCE = 64  # a decoder call holds some 30 MB for each object

# `model_type` in config.json -> the class that takes boxes and points. Video checkpoints hold the same weights and
# more; SAM 3's hold them under another name, which transformers knows.
_CLASSES = {
    "sam": "SamModel",
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    "sam3_tracker": "Sam3TrackerModel",
    "sam3_tracker_video": "Sam3TrackerModel",
    "sam3_video": "Sam3TrackerModel",
}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NORMALISATION = {"Sam3TrackerModel": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}

# The original checkpoints do not say which one they are; the width of their encoder does.
_ORIGINAL = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_WIDTH_KEY = "image_encoder.pos_embed"


class SamSegmenter(Segmenter):
    """Makes masks from boxes and points. One may be shared by threads; calls take turns.

    Example:
        >>> sam = SamSegmenter.from_pretrained("sam2.1-hiera-small")  # doctest: +SKIP
        >>> sam.segment("dog.jpg", boxes=[[40, 60, 300, 400]], labels=["dog"])[0].mask.area  # doctest: +SKIP
        51234
    """

    name = "sam"

    def __init__(self, network: "Network", *, model: str, cache_bytes: int = 256 * 2**20) -> None:
        """Use `from_pretrained`.

        Args:
            network: what encodes and decodes.
            model: name of the checkpoint.
            cache_bytes: bound on the encoded pictures that are remembered; 0 for none.
        """
        self.model = model
        self._network = network
        self._cache_bytes = cache_bytes
        self._seen: OrderedDict[str, tuple[Tensor, ...]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        cache_bytes: int = 256 * 2**20,
    ) -> Self:
        """Load a checkpoint: a transformers folder, or a file of the `segment-anything` package.

        Args:
            path: the folder or file. No code in it is ever run.
            device: `"auto"` (CUDA, then MPS, then CPU) or any torch device.
            dtype: what the picture encoder computes in; `"auto"` takes what the device computes fast.
            cache_bytes: bound on the encoded pictures that are remembered; 0 for none.

        Raises:
            CheckpointError: nothing there, damaged or missing weights, or another kind of model.
            MissingExtraError: a file of the `segment-anything` package, and that package is not installed.
            ConfigError: a device or dtype that does not exist here.
        """
        source = Path(path)
        place = choose_device(device)
        if source.is_dir():
            network: Network = _TransformersNetwork.load(source)
        elif source.is_file():
            network = _OriginalNetwork.load(source)
        else:
            raise CheckpointError(f"there is no SAM checkpoint at {str(source)!r}: no such folder or file")
        network.place(place, choose_dtype(place, dtype, parameters=network.parameter_count))
        return cls(network, model=source.name if source.is_dir() else source.stem, cache_bytes=cache_bytes)

    def clear_cache(self) -> None:
        """Forget all encoded pictures."""
        with self._lock:
            self._seen.clear()

    def segment(
        self,
        image: ImageSource,
        *,
        boxes: npt.ArrayLike | None = None,
        points: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        labels: Sequence[str] | None = None,
        scores: Sequence[float] | None = None,
        phrases: Sequence[str] | None = None,
        model: str | None = None,
        limits: ImageLimits | None = None,
    ) -> Segmentation:
        """One segment for each box, or for each object's points, in their order.

        A box gives the single mask that the model makes for it. Points alone are ambiguous (the shirt or the man?):
        of the masks that the model proposes, the one it rates best is taken.

        Args:
            image: anything `load_image` takes.
            boxes: (n, 4) xyxy in pixels of the upright original. What reaches over the edge of the picture is cut off.
            points: (n, 2) x, y, one point for each object, or (n, k, 2), k points for each; with `boxes` they refine
                the object of the same row.
            point_labels: (n, k), or (n,) for points (n, 2): 1 for on the object, 0 for beside it; all 1 if None.
            labels: what the n objects are; "object" if None.
            scores: how sure it is that they are there, 0..1; None for the model's own rating of the masks, which
                `Segment.mask_score` holds in any case.
            phrases: what was asked for, for the result; the labels if None.
            model: name of the model that found the boxes, for the result; this one if None.
            limits: what `load_image` accepts; its own defaults if None.

        Raises:
            InputError: no boxes and no points, an empty list, another shape, numbers that are not finite, a box that
                is turned inside out or without area inside the picture, a point outside it, an object without a point
                on it, lists of several lengths, or a picture that cannot be read.
            ArgumentTypeError: `image` is no picture.
        """
        picture = load_image(image, limits=limits or ImageLimits())
        prompts = _Prompts.check(boxes, points, point_labels, picture.size)
        count = len(prompts)
        for name, values in (("labels", labels), ("scores", scores)):
            if values is not None and (isinstance(values, str) or len(values) != count):
                raise InputError(bad_argument(name, f"{count} of them, one for each object", values))
        masks, ratings = [], []
        with self._lock, torch.inference_mode():
            features = self._encoded(picture)
            for first in range(0, count, _OBJECTS_AT_ONCE):
                some = prompts.rows(slice(first, first + _OBJECTS_AT_ONCE))
                for mask, rating in self._network.decode(features, some, picture.size):
                    masks.append(Mask.from_runs(mask))
                    ratings.append(min(max(rating, 0.0), 1.0))  # SAM 1 rates without a bound
        names = list(labels) if labels is not None else ["object"] * count
        return Segmentation.from_masks(
            masks,
            scores if scores is not None else ratings,
            names,
            xyxy=prompts.boxes_of(masks),
            mask_scores=ratings,
            image_size=picture.size,
            model=self.model if model is None else model,
            phrases=tuple(dict.fromkeys(names)) if phrases is None else tuple(phrases),
            decoder=self.name,
        )

    def _encoded(self, picture: Image.Image) -> tuple[Tensor, ...]:
        key = f"{picture.size}{hashlib.sha256(picture.tobytes()).hexdigest()}"
        if key in self._seen:
            self._seen.move_to_end(key)
            return self._seen[key]
        features = self._network.encode(picture)
        self._seen[key] = features
        while sum(map(_byte_count, self._seen.values())) > self._cache_bytes:
            self._seen.popitem(last=False)
        return features


# --- prompts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prompts:
    """Checked prompts of n objects, in pixels of the picture.

    Attributes:
        given: float64 (n, 4), the boxes as they came; None where there are only points.
        boxes: float64 (n, 4), cut to the picture; None where there are only points.
        points: float64 (n, k, 2); None where there are only boxes.
        labels: int64 (n, k), 1 on the object, 0 beside it; None where there are only boxes.
    """

    given: Floats | None
    boxes: Floats | None
    points: Floats | None
    labels: npt.NDArray[np.int64] | None

    @classmethod
    def check(
        cls,
        boxes: npt.ArrayLike | None,
        points: npt.ArrayLike | None,
        point_labels: npt.ArrayLike | None,
        image_size: tuple[int, int],
    ) -> Self:
        """Raises InputError, as `SamSegmenter.segment` says."""
        if boxes is None and points is None:
            raise InputError("either `boxes` or `points` must be given, but both are None")
        if points is None and point_labels is not None:
            raise InputError(bad_argument("point_labels", "left out where there are no `points`", point_labels))
        given = None if boxes is None else _checked_boxes(boxes, image_size)
        places = None if points is None else _checked_points(points, image_size)
        if given is not None and places is not None and len(given) != len(places):
            raise InputError(bad_argument("points", f"for {len(given)} objects, as `boxes` are", places.shape))
        labels = None if places is None else _checked_labels(point_labels, places, alone=given is None)
        inside = None if given is None else box_clip(given, image_size)
        return cls(given, inside, places, labels)

    def __len__(self) -> int:
        some = self.boxes if self.boxes is not None else self.points
        return 0 if some is None else len(some)

    def rows(self, key: slice) -> "_Prompts":
        return _Prompts(
            None if self.given is None else self.given[key],
            None if self.boxes is None else self.boxes[key],
            None if self.points is None else self.points[key],
            None if self.labels is None else self.labels[key],
        )

    def boxes_of(self, masks: Sequence[Mask]) -> Floats:
        """(n, 4): the boxes that were given, otherwise those around the masks, or around the points of an empty one."""
        if self.given is not None:
            return self.given
        assert self.points is not None
        around = np.concatenate([self.points.min(1), self.points.max(1)], axis=1)
        return np.array([mask.runs.box or tuple(box) for mask, box in zip(masks, around, strict=True)], np.float64)


def _checked_boxes(boxes: npt.ArrayLike, image_size: tuple[int, int]) -> Floats:
    values = _numbers("boxes", boxes, "boxes of shape (n, 4)")
    if values.ndim != 2 or values.shape[1] != 4:
        raise InputError(bad_argument("boxes", "of shape (n, 4)", values.shape))
    upright = (values[:, 2:] > values[:, :2]).all(1)
    with_area = box_area(box_clip(values, image_size)) > 0
    for row, good in enumerate(upright & with_area):
        if not good:
            expected = "x0, y0, x1, y1 with x1 > x0 and y1 > y0, and partly inside the picture of {} x {} pixels"
            raise InputError(bad_argument(f"boxes[{row}]", expected.format(*image_size), values[row].tolist()))
    return values


def _checked_points(points: npt.ArrayLike, image_size: tuple[int, int]) -> Floats:
    values = _numbers("points", points, "points of shape (n, 2) or (n, k, 2)")
    if values.ndim not in (2, 3) or values.shape[-1] != 2 or 0 in values.shape:
        raise InputError(bad_argument("points", "of shape (n, 2) or (n, k, 2)", values.shape))
    inside = ((values >= 0) & (values <= image_size)).all(-1)
    for place in np.argwhere(~inside):
        name = "points" + "".join(f"[{number}]" for number in place)
        expected = "inside the picture of {} x {} pixels".format(*image_size)
        raise InputError(bad_argument(name, expected, values[tuple(place)].tolist()))
    return values.reshape(len(values), -1, 2)


def _checked_labels(labels: npt.ArrayLike | None, points: Floats, *, alone: bool) -> npt.NDArray[np.int64]:
    if labels is None:
        return np.ones(points.shape[:2], dtype=np.int64)
    values = _numbers("point_labels", labels, "1 (on the object) or 0 (beside it) for each point")
    if values.ndim == 1 and points.shape[1] == 1:
        values = values[:, None]
    if values.shape != points.shape[:2]:
        raise InputError(bad_argument("point_labels", f"of shape {points.shape[:2]}, as `points`", values.shape))
    if not np.isin(values, (0, 1)).all():
        raise InputError(bad_argument("point_labels", "1 (on the object) or 0 (beside it)", labels))
    if alone and not values.any(1).all():
        raise InputError(bad_argument("point_labels", "at least one 1 for each object without a box", labels))
    return values.astype(np.int64)


def _numbers(name: str, values: npt.ArrayLike, expected: str) -> Floats:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:  # text, or rows of several lengths
        raise InputError(bad_argument(name, expected, values)) from error
    if array.size == 0:
        raise InputError(bad_argument(name, "at least one", values))
    if not np.isfinite(array).all():
        raise InputError(bad_argument(name, "finite", values))
    return array


# --- networks -------------------------------------------------------------------------------------------------------


class Network(ABC):
    """A loaded model: pictures to features, features and prompts to masks.

    Attributes:
        side: of the square canvas that the encoder sees, pixels.
        pads: whether the picture keeps its shape on the canvas, which is filled up at the right and at the foot;
            otherwise it is stretched to fill it.
        mean, std: of the pixels, 0..1, red, green, blue.
        module: the torch module with the weights.
    """

    side: int
    pads: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    module: Any

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the weights; the encoder is to compute in `dtype`."""
        self.module.to(device).eval().requires_grad_(False)
        self._device, self._dtype = device, dtype

    @abstractmethod
    def features(self, pixels_1CHW: Tensor) -> tuple[Tensor, ...]:
        """What the encoder makes of a canvas."""

    @abstractmethod
    def masks(
        self,
        features: tuple[Tensor, ...],
        points_NK2: Tensor | None,
        labels_NK: Tensor | None,
        boxes_N4: Tensor | None,
        *,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        """Prompts in pixels of the canvas -> mask logits (N, M, h, w) of the canvas, and their ratings (N, M).

        M is 1, or more where `several` proposals are wanted.
        """

    def encode(self, picture: Image.Image) -> tuple[Tensor, ...]:
        """An upright RGB picture -> its features in fp32."""
        pixels_1CHW = self._canvas(picture).to(self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            features = self.features(pixels_1CHW)
        return tuple(each.float() for each in features)

    def decode(
        self, features: tuple[Tensor, ...], prompts: _Prompts, image_size: tuple[int, int]
    ) -> list[tuple[RunLengths, float]]:
        """The best mask for each object, of the picture's size, and its rating."""
        shown = self._shown(image_size)
        scale = np.array(shown, np.float64) / image_size

        def tensor(values: Floats | None, factor: Floats) -> Tensor | None:
            return None if values is None else torch.tensor(values * factor, dtype=torch.float32, device=self._device)

        logits_NMhw, ratings_NM = self.masks(
            features,
            tensor(prompts.points, scale),
            None if prompts.labels is None else torch.tensor(prompts.labels, device=self._device),
            tensor(prompts.boxes, np.tile(scale, 2)),
            several=prompts.boxes is None,
        )
        best_N = ratings_NM.float().argmax(1)
        found = []
        for logits_Mhw, ratings_M, best in zip(logits_NMhw, ratings_NM, best_N.tolist(), strict=True):
            logits_hw = logits_Mhw[best].float()
            if self.pads:  # the picture's part of the canvas ends between two of the small pixels
                size = (self.side, self.side)
                logits_hw = F.interpolate(logits_hw[None, None], size, mode="bilinear", align_corners=False)[0, 0]
                logits_hw = logits_hw[: shown[1], : shown[0]]
            runs = RunLengths.from_logits(logits_hw.cpu().numpy(), (image_size[1], image_size[0]))
            found.append((runs, float(ratings_M[best])))
        return found

    def _shown(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the picture on the canvas, pixels."""
        if not self.pads:
            return self.side, self.side
        scale = self.side / max(image_size)
        width, height = (max(1, int(side * scale + 0.5)) for side in image_size)
        return width, height

    def _canvas(self, picture: Image.Image) -> Tensor:
        """Normalised pixels (1, 3, side, side)."""
        width, height = self._shown(picture.size)
        if self.pads:
            pixels_HWC = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
            bytes_1CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None]
        else:  # torch's resizing, which rounds a little differently from Pillow's, is the official one here
            bytes_1CHW = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
            bytes_1CHW = F.interpolate(bytes_1CHW, (height, width), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        pixels_1CHW = (bytes_1CHW.float() / 255 - mean) / std
        return F.pad(pixels_1CHW, (0, self.side - width, 0, self.side - height))


class _TransformersNetwork(Network):
    """SAM, SAM 2 or SAM 3's tracker as transformers has them."""

    def __init__(self, model: "PreTrainedModel", mean: Any, std: Any) -> None:
        self.module = model
        self.side = int(model.config.prompt_encoder_config.image_size)
        self.pads = type(model).__name__ == "SamModel"
        self.mean, self.std = mean, std

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises CheckpointError."""
        import transformers

        kind = _json(folder / "config.json", folder).get("model_type")
        if kind not in _CLASSES:
            raise CheckpointError(
                f"{str(folder)!r} is a {kind!r} model; expected one of {', '.join(map(repr, _CLASSES))}"
            )
        name = _CLASSES[kind]
        try:
            model, report = getattr(transformers, name).from_pretrained(
                str(folder), dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # transformers raises many kinds for a damaged folder
            raise CheckpointError(f"the SAM checkpoint {str(folder)!r} could not be loaded: {_line(error)}") from error
        wrong = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
        if wrong:
            raise CheckpointError(f"the weights in {str(folder)!r} do not fit their config.json: {wrong[0]} ...")
        return cls(model, *_normalisation(folder, name))

    def features(self, pixels_1CHW: Tensor) -> tuple[Tensor, ...]:
        features = self.module.get_image_embeddings(pixels_1CHW)
        return (features,) if isinstance(features, Tensor) else tuple(features)

    def masks(
        self,
        features: tuple[Tensor, ...],
        points_NK2: Tensor | None,
        labels_NK: Tensor | None,
        boxes_N4: Tensor | None,
        *,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        out = self.module(
            image_embeddings=features[0] if len(features) == 1 else list(features),
            input_points=None if points_NK2 is None else points_NK2[None],
            input_labels=None if labels_NK is None else labels_NK[None],
            input_boxes=None if boxes_N4 is None else boxes_N4[None],
            multimask_output=several,
        )
        return out.pred_masks[0], out.iou_scores[0]


class _OriginalNetwork(Network):
    """SAM as the `segment-anything` package has it."""

    pads = True

    def __init__(self, model: Any) -> None:
        self.module = model
        self.side = int(model.image_encoder.img_size)
        self.mean, self.std = _IMAGENET

    @classmethod
    def load(cls, file: Path) -> Self:
        """Raises CheckpointError, or MissingExtraError without the package."""
        try:
            from segment_anything import sam_model_registry
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
            raise MissingExtraError(
                f"{str(file)!r} is loaded by segment-anything, which cannot be imported ({_line(error)}): "
                'pip install "internvl-vision-agent[sam]"'
            ) from error
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CheckpointError(f"the SAM checkpoint {str(file)!r} could not be read: {_line(error)}") from error
        position = weights.get(_WIDTH_KEY) if isinstance(weights, dict) else None
        kind = _ORIGINAL.get(position.shape[-1]) if isinstance(position, Tensor) and position.ndim == 4 else None
        if kind is None:
            raise CheckpointError(
                f"{str(file)!r} is no checkpoint of segment-anything (ViT-B, L or H); for SAM 2 and SAM 3 give the "
                "folder of the transformers version"
            )
        model = sam_model_registry[kind]()
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"the weights in {str(file)!r} do not fit {kind}: {_line(error)}") from error
        return cls(model)

    def features(self, pixels_1CHW: Tensor) -> tuple[Tensor, ...]:
        return (self.module.image_encoder(pixels_1CHW),)

    def masks(
        self,
        features: tuple[Tensor, ...],
        points_NK2: Tensor | None,
        labels_NK: Tensor | None,
        boxes_N4: Tensor | None,
        *,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        sparse, dense = self.module.prompt_encoder(
            points=None if points_NK2 is None else (points_NK2, labels_NK), boxes=boxes_N4, masks=None
        )
        logits, ratings = self.module.mask_decoder(
            image_embeddings=features[0],
            image_pe=self.module.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
        )
        return logits, ratings


def _normalisation(folder: Path, name: str) -> tuple[Any, Any]:
    """Mean and deviation of the pixels: what the folder's processor says, otherwise the published model's."""
    mean, std = _NORMALISATION.get(name, _IMAGENET)
    for file in ("processor_config.json", "preprocessor_config.json"):
        if (folder / file).is_file():
            content = _json(folder / file, folder)
            content = content.get("image_processor") or content
            return tuple(content.get("image_mean") or mean), tuple(content.get("image_std") or std)
    return mean, std


def _json(file: Path, folder: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"the folder {str(folder)!r} has no {file.name}, so it is no SAM checkpoint")
    try:
        return dict(json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file.name} of {str(folder)!r} is damaged: {_line(error)}") from error


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _byte_count(features: tuple[Tensor, ...]) -> int:
    return sum(each.numel() * each.element_size() for each in features)
