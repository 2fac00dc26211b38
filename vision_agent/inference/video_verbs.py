"""The verbs of a `VisionAgent` that follow objects through a video."""

from vision_agent.images.loading import ImageLimits
from vision_agent.images.video import VideoSource, sample_frames, stream_frames
from vision_agent.inference.box_tracking import TrackScores, follow
from vision_agent.inference.detail import Detail
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.find_options import FindOptions
from vision_agent.inference.object_tracker import ObjectTracker, TrackerName
from vision_agent.inference.predictor import Predictor
from vision_agent.inference.settings import Phrases
from vision_agent.inference.tile_layout import Tiles
from vision_agent.inference.tracking import segment_clip
from vision_agent.results.tracks import Tracks
from vision_agent.results.video_segmentation import VideoSegmentation
from vision_agent.routing.adapter import Route
from vision_agent.validation import check_phrases, check_switch


class VideoVerbs:
    """What `VisionAgent` does with videos. It is a part of that class, made by it."""

    _engine: InferenceEngine
    _predictor: Predictor
    _routes: dict[str, Route]
    _limits: ImageLimits

    def track(
        self,
        phrase: Phrases,
        video: VideoSource,
        *,
        threshold: float | None = None,
        only_known: bool = True,
        tiles: Tiles = None,
        detail: Detail | None = None,
        fps: float | None = None,
        bounds: tuple[float, float] | None = None,
        max_gap: float = 1.0,
        fill: bool = True,
        tracker: TrackerName = "motion",
    ) -> Tracks:
        """Find objects in a video by phrase and tell which is which from frame to frame.

        Every frame is searched as `detect` searches an image, and its boxes are joined to the objects of the frames
        before, by overlap and speed. Times are those of the file, so that frames need not come at an even rate. An
        object counts that was found in two frames or more, with a good score in the mean; a box of three quarters of
        the threshold continues an object and begins none.

        Args:
            phrase: what to find, or several phrases.
            video: a video file or frames: see `stream_frames`.
            threshold, only_known, tiles, detail: as for `detect`; `threshold` is for a box that begins an object, and
                for the mean of an object's scores. None for the decoder's own, and half as much again for the mean.
            fps: of a file, look at no more than so many frames a second; fewer cost less, and fast objects are lost. Of
                frames, how many there are a second. None for all, and for 30.
            bounds: (start, end) in seconds: only this part.
            max_gap: seconds that an object may not be found and still be the same one.
            fill: an object that was not found in some frames, for at most `max_gap`, is put on the line between its
                boxes before and after (`seen` is False there); False leaves these frames out.
            tracker: what joins boxes: "motion", or "bytetrack" for ByteTrack (extra "bytetrack").

        Returns:
            the objects with their numbers; `.save("out.mp4")` draws them.

        Raises:
            InputError: no video, frames of several sizes, an empty or overlong phrase, a number out of range.
            ArgumentTypeError: values of other types.
            MissingExtraError: a video file without the extra "video", "bytetrack" without its own.
        """
        phrases = check_phrases(phrase, None)
        check_switch("fill", fill)
        options = FindOptions.of(threshold, only_known, tiles, detail)
        scores = TrackScores.of(self._predictor.det_route, options.threshold)
        joining = ObjectTracker(max_gap=max_gap, start_score=scores.start, mean_score=scores.mean, tracker=tracker)
        frames = stream_frames(video, fps=fps, bounds=bounds, limits=self._limits)
        return follow(self._predictor, phrases, frames, options, scores, joining, fill).seen_in(video)

    def segment_video(
        self,
        phrase: Phrases,
        video: VideoSource,
        *,
        segments: int = 32,
        bounds: tuple[float, float] | None = None,
    ) -> VideoSegmentation:
        """Segment objects in a video, by phrase: found in its first frames, tracked from there by SAM 2's memory.

        Needs a `[SEG]` route whose decoder tracks objects, as that of a Sa2VA checkpoint does.

        Args:
            phrase: what to segment, or several phrases.
            video: a video file or frames: see `sample_frames`. Frames are all taken as they are.
            segments: how many frames of a file are taken, equally far apart; all of them where there are fewer.
            bounds: (start, end) in seconds: only this part of a file.

        Returns:
            one result for each frame; all of them have the same objects in the same order.

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
