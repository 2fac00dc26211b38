"""Verbs that find things: `detect`, `point`, `count`, `segment`, `segment_video`, and `run_route` for any decoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy.typing as npt

from vision_agent.errors import ArgumentTypeError, InputError, RouteError, bad_argument
from vision_agent.images.loading import ImageSource, load_image
from vision_agent.images.video import VideoSource, sample_frames
from vision_agent.inference.tracking import segment_clip
from vision_agent.plugins.segmenter import Segmenter
from vision_agent.results.detections import Detections
from vision_agent.results.points import Count, Points
from vision_agent.results.segmentation import Segmentation
from vision_agent.results.video_segmentation import VideoSegmentation
from vision_agent.validation import check_phrases, check_threshold
from vision_agent.verbs.parts import Parts


class FindingVerbs(Parts):
    """Things by phrase, as boxes, points, numbers and masks."""

    @overload
    def detect(
        self, phrase: str | Sequence[str], image: list[ImageSource], *, threshold: float | None = None
    ) -> list[Detections]: ...

    @overload
    def detect(
        self, phrase: str | Sequence[str], image: ImageSource, *, threshold: float | None = None
    ) -> Detections: ...

    def detect(
        self,
        phrase: str | Sequence[str],
        image: ImageSource | Sequence[ImageSource],
        *,
        threshold: float | None = None,
    ) -> Detections | list[Detections]:
        """Find things by phrase.

        A checkpoint with a `[DET]` route answers through it; any other through InternVL's own grounding text. The
        result's `decoder` says which.

        Args:
            phrase: what to find, such as `"red car"`; or several phrases, which are asked together and do not
                influence each other.
            image: an image (see `load_image` for the kinds), or a list of images.
            threshold: least score, 0-1; None for the value that was best on validation images.

        Returns:
            boxes in pixels of the upright original, best first within each phrase; empty if nothing is there. A list
            of images gives a list of results.

        Raises:
            InputError: an empty or overlong phrase, a threshold outside 0-1, an image that cannot be read.
            ArgumentTypeError: swapped arguments, or values of other types.
        """
        phrases = check_phrases(phrase, image)
        check_threshold(threshold)
        if isinstance(image, list | tuple):
            images = [load_image(item, limits=self._limits, name=f"image[{i}]") for i, item in enumerate(image)]
            return [self._predictor.detect(phrases, picture, threshold) for picture in images]
        return self._predictor.detect(phrases, load_image(image, limits=self._limits), threshold)  # type: ignore[arg-type]

    def point(self, phrase: str | Sequence[str], image: ImageSource, *, threshold: float | None = None) -> Points:
        """Point at things by phrase. Raises what `detect` raises.

        With a `[SEG]` route a point lies inside the thing, at the centre of the largest circle that its mask holds;
        otherwise it is the middle of the box that `detect` finds.
        """
        phrases = check_phrases(phrase, image)
        check_threshold(threshold)
        return self._predictor.point(phrases, load_image(image, limits=self._limits), threshold)

    def count(self, phrase: str, image: ImageSource, *, threshold: float | None = None) -> Count:
        """Count things by phrase: evidence first, boxes of what is sure enough to be counted, then their number.

        `threshold` is `detect`'s; the model's own is the one that counted best on validation photos.

        Raises:
            ArgumentTypeError: `phrase` is not one string.
            InputError: as for `detect`.
        """
        check_phrases(phrase, image)
        if not isinstance(phrase, str):
            raise ArgumentTypeError(bad_argument("phrase", "one string", phrase))
        check_threshold(threshold)
        return self._predictor.count(phrase, load_image(image, limits=self._limits), threshold)

    def segment(
        self,
        phrase: str | Sequence[str] | None = None,
        image: ImageSource | None = None,
        *,
        boxes: npt.ArrayLike | None = None,
        points: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        threshold: float | None = None,
        segmenter: Segmenter | str | Path | None = None,
    ) -> Segmentation:
        """Masks of things, by phrase, by boxes or by points.

        A phrase goes to the model's `[SEG]` route. With `segmenter` it is found by `detect` first, and Segment Anything makes
        a mask for each box. `Segmentation.union()` is one mask of all, for what is not counted, such as grass.

        Args:
            phrase: what to segment, or several phrases; None where boxes or points say it.
            image: an image (see `load_image` for the kinds).
            boxes: (n, 4) xyxy in pixels of the upright original, one object each.
            points: (n, 2), one point for each object, or (n, k, 2), k points for each; beside `boxes` they refine them.
            point_labels: 1 for points on the object, 0 for points beside it; all 1 if None.
            threshold: for a phrase, least score of a box, 0-1; None as for `detect`.
            sam: a SAM checkpoint (see `SamSegmenter.from_pretrained`), which is loaded once, or anything that segments;
                None for the model's own route.

        Returns:
            one segment for each box found or given, or for each object's points; empty if a phrase finds nothing.

        Raises:
            RouteError: no `segmenter`, and the model has no `[SEG]` route, or one that takes no boxes and points.
            InputError: neither or both of a phrase and boxes or points, and what `detect` and
                `SamSegmenter.segment` refuse.
            CheckpointError, MissingExtraError: `segmenter` cannot be loaded.
            ArgumentTypeError: values of other types, or no image.
        """
        if image is None:
            raise ArgumentTypeError(bad_argument("image", "an image", image))
        if (phrase is None) == (boxes is None and points is None):
            got = "none of them" if phrase is None else "both"
            raise InputError(f"either `phrase`, or `boxes` or `points`, must be given, but got {got}")
        if phrase is None:
            if segmenter is None:
                picture = load_image(image, limits=self._limits)
                return self._predictor.segment_prompts(picture, boxes, points, point_labels)
            segmenter = self._predictor.segmenter(segmenter)
            return segmenter.segment(image, boxes=boxes, points=points, point_labels=point_labels, limits=self._limits)
        phrases = check_phrases(phrase, image)
        check_threshold(threshold)
        if segmenter is not None:
            picture = load_image(image, limits=self._limits)
            return self._predictor.segment_by(segmenter, phrases, picture, threshold, self._limits)
        if "seg" not in self._routes:
            raise RouteError(
                f"{self.model!r} has no [SEG] route to segment with: load an adapter, or give `segmenter=`"
            )
        return self._predictor.segment(phrases, load_image(image, limits=self._limits), threshold)

    def segment_video(
        self,
        phrase: str | Sequence[str],
        video: VideoSource,
        *,
        segments: int = 32,
        bounds: tuple[float, float] | None = None,
    ) -> VideoSegmentation:
        """Masks of things in a video, by phrase: found in its first frames, followed from there by SAM 2's memory.

        Needs a `[SEG]` route whose decoder follows things, as that of a Sa2VA checkpoint does.

        Args:
            phrase: what to segment, or several phrases.
            video: a video file or frames: see `sample_frames`. Frames are all taken as they are.
            segments: how many frames of a file are taken, equally far apart.
            bounds: (start, end) in seconds: only this part of a file.

        Returns:
            one result for each frame; all of them have the same things in the same order.

        Raises:
            RouteError: no such route is loaded.
            InputError: what `sample_frames` refuses, frames of several sizes, an empty or overlong phrase.
            ArgumentTypeError: values of other types.
            MissingExtraError: a video file without the extra "video".
        """
        phrases = check_phrases(phrase, None)
        route = self._predictor.route("seg")
        clip = sample_frames(video, segments=segments, bounds=bounds, limits=self._limits)
        return segment_clip(self._engine, self._routes, route, phrases, clip)

    def run_route(
        self, route: str, phrase: str | Sequence[str], image: ImageSource, *, threshold: float | None = None
    ) -> Any:
        """Force any loaded route by its name (`"det"` for `[DET]`) and return what its decoder gives.

        The way to a third-party decoder's results; `detect` is this for `"det"`, with a typed result.

        Raises:
            RouteError: no such route is loaded.
            InputError, ArgumentTypeError: as for `detect`.
        """
        phrases = check_phrases(phrase, image)
        check_threshold(threshold)
        picture = load_image(image, limits=self._limits)
        return self._predictor.forced(self._predictor.route(route), phrases, picture, threshold)
