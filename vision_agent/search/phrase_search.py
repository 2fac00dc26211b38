"""Search by words without an embedder of texts: the phrase is looked for in every image, and the best box counts.

What was found is kept with the index, so that the same phrase is looked for once.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from vision_agent.errors import InputError, RouteError, VisionAgentError, bad_argument
from vision_agent.images.loading import load_image
from vision_agent.plugins.cancellation import raise_if_cancelled
from vision_agent.results.box import Box
from vision_agent.search.hits import SearchHit, SearchResults, gone_of
from vision_agent.search.index_file import Place
from vision_agent.validation import check_phrase, check_threshold

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

_AT_ONCE = 8  # images that are looked at together
_LEAST_SCORE = 0.05  # of a box that is kept
_MOST_PHRASES = 1000  # that an index keeps


class PhraseSearch:
    """What phrases found in images.

    Attributes:
        detector: identifies what found them; what another one found is forgotten.
        found: by phrase, then by file: score and box of the best; None where nothing was found.
        changed: whether something was found since it was saved.
    """

    def __init__(self, detector: str = "", found: Mapping[str, Mapping[str, Place | None]] | None = None) -> None:
        self.detector = detector
        self.changed = False
        self.found: dict[str, dict[str, Place | None]] = {key: dict(each) for key, each in (found or {}).items()}

    def forget(self, name: str) -> None:
        """Forget what was found in an image."""
        for found in self.found.values():
            found.pop(name, None)

    def search(
        self,
        agent: "VisionAgent",
        phrase: str,
        files: Mapping[str, str],
        limit: int,
        threshold: float | None,
        progress: Callable[[int, int], None] | None,
    ) -> SearchResults:
        """Look for a phrase in images; see `Index.search`.

        Args:
            files: paths by name.
        """
        asked = check_phrase(phrase, None)
        check_threshold(threshold)
        if threshold is not None and threshold < _LEAST_SCORE:
            raise InputError(bad_argument("threshold", f"from {_LEAST_SCORE} to 1, or None", threshold))
        if "det" not in agent.routes:
            raise RouteError(
                f"{agent.model!r} has neither an embedder of texts nor a [DET] route to look for words with: "
                f"VisionAgent.from_pretrained(..., embedder=FOLDER)"
            )
        route = agent.routes["det"]
        settings = route.decoder.settings
        least = threshold or float(settings.get("presence") or settings.get("threshold") or 0.5)
        unknown: tuple[str, ...] = ()
        if route.words is not None:
            unknown = route.words.unknown(asked)
        self._look(agent, asked, files, progress)
        places = [(name, place) for name, place in self.found[asked].items() if place is not None and name in files]
        best = sorted(
            ((place, name) for name, place in places if place[0] >= least), key=lambda each: (-each[0][0], each[1])
        )
        hits = [
            SearchHit(file=files[name], score=score, box=Box.from_xyxy(box)) for (score, *box), name in best[:limit]
        ]
        missing = [path for name, path in files.items() if name not in self.found[asked]]
        return SearchResults(
            hits=tuple(hits),
            query=asked,
            method="presence",
            model=agent.model,
            images=len(files),
            threshold=least,
            unknown_words=unknown,
            missing=(*missing, *gone_of(hits)),
        )

    def _look(
        self,
        agent: "VisionAgent",
        phrase: str,
        files: Mapping[str, str],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Look for a phrase in the images that it was not looked for in before."""
        detector = _identity(agent)
        if detector != self.detector:
            self.detector, self.found = detector, {}
        while len(self.found) >= _MOST_PHRASES and phrase not in self.found:
            self.found.pop(next(iter(self.found)))
        found = self.found.setdefault(phrase, {})
        names = [name for name in files if name not in found]
        for start in range(0, len(names), _AT_ONCE):
            raise_if_cancelled()
            some, images = [], []
            for name in names[start : start + _AT_ONCE]:
                try:
                    images.append(load_image(files[name], limits=agent.image_limits))
                    some.append(name)
                except VisionAgentError:
                    continue  # it has gone, or was damaged, since it was indexed: it is told, and looked for next time
            results = agent.detect(phrase, images, threshold=_LEAST_SCORE, tiles=False) if images else []
            for name, boxes in zip(some, results, strict=True):
                best = max(boxes, key=lambda each: each.score, default=None)
                self.changed = True
                found[name] = None if best is None else (best.score, *best.box.xyxy)
            if progress is not None:
                progress(len(files) - len(names) + min(start + _AT_ONCE, len(names)), len(files))


def _identity(agent: "VisionAgent") -> str:
    """What tells detectors apart: the model's weights, and those of the `[DET]` route's decoder."""
    from vision_agent.model.fingerprint import WeightSample  # it imports torch, which duplicates are found without

    sample = WeightSample()
    for name, tensor in agent.routes["det"].decoder.state_dict().items():
        sample.add(name, tensor.cpu())
    return hashlib.sha256(f"{agent.backbone.fingerprint} {sample.digest()}".encode()).hexdigest()[:32]
