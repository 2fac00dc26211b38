"""How far found corners are from true ones, on scenes that training never drew; and what straightening is worth."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vision_agent import MissingExtraError, VisionAgent
from vision_agent_corners.decoder import ROUTE, Sheets
from vision_agent_corners.pages import Scene, draw_scene
from vision_agent_corners.perspective import Corners, straighten

_CLOSE = 2.0  # percent of the image's diagonal
_READ_SIZE = (1600, 1200)  # pixels: of scenes whose words are to be read

Find = Callable[[Scene], "Corners | None"]


def by_model(agent: VisionAgent) -> Find:
    """Return corners by the agent's `[CORNERS]` route."""

    def find(scene: Scene) -> Corners | None:
        found = agent.run_route(ROUTE.name, "sheet of paper", scene.image)
        assert isinstance(found, Sheets)
        return np.array(found.items[0].corners) if found.items else None

    return find


def by_contours(scene: Scene) -> Corners | None:
    """Return corners by OpenCV's textbook way: the largest outline of edges that four corners are enough for."""
    import cv2

    grey = cv2.GaussianBlur(cv2.cvtColor(np.asarray(scene.image), cv2.COLOR_RGB2GRAY), (5, 5), 0)
    edges: Any = cv2.dilate(cv2.Canny(grey, 50, 150), np.ones((3, 3), np.uint8))
    outlines, _ = cv2.findContours(edges, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for outline in sorted(outlines, key=cv2.contourArea, reverse=True)[:5]:
        shape = cv2.approxPolyDP(outline, 0.02 * cv2.arcLength(outline, True), True)
        if len(shape) == 4 and cv2.contourArea(shape) > 0.03 * grey.size:
            return _in_order(shape.reshape(4, 2).astype(np.float64))
    return None


def corner_figures(find: Find, count: int, *, hard: bool, photos: Sequence[Path] = ()) -> dict[str, float]:
    """Return figures of one way to find corners on `count` held-out scenes.

    Returns:
        "scenes with a sheet"; "found", the share in which one was; "mean error %" and "median error %" of the found
        ones, the distance of corners as a share of the image's diagonal; "close", the share of all sheets whose four
        corners are each within 2 % of the diagonal; "false", the share of scenes without a sheet where one was found.
    """
    errors: list[float] = []
    close = sheets = false = 0
    for number in range(count):
        scene = draw_scene(number, hard=hard, held_out=True, photos=photos)
        corners = find(scene)
        if scene.corners is None:
            false += corners is not None
            continue
        sheets += 1
        if corners is None:
            continue
        distances = np.linalg.norm(corners - scene.corners, axis=1) / np.hypot(*scene.image.size) * 100
        errors.append(float(distances.mean()))
        close += bool((distances <= _CLOSE).all())
    return {
        "scenes with a sheet": sheets,
        "found": len(errors) / max(1, sheets),
        "mean error %": float(np.mean(errors)) if errors else float("nan"),
        "median error %": float(np.median(errors)) if errors else float("nan"),
        "close": close / max(1, sheets),
        "false": false / max(1, count - sheets),
    }


def words_read(agent: VisionAgent, count: int, photos: Sequence[Path] = ()) -> dict[str, float] | None:
    """Return the share of a page's words that `agent.ocr` reads: in the photo, and after straightening it.

    None where the extra "ocr" is not installed.
    """
    shares: dict[str, list[float]] = {"photo": [], "straightened": [], "straightened by true corners": []}
    find = by_model(agent)
    for number in range(count):
        scene = draw_scene(number, size=_READ_SIZE, hard=True, held_out=True, photos=photos, sheet=True)
        corners = find(scene)
        assert scene.corners is not None
        images = {
            "photo": scene.image,
            "straightened": scene.image if corners is None else straighten(scene.image, corners),
            "straightened by true corners": straighten(scene.image, scene.corners),
        }
        try:
            for name, image in images.items():
                shares[name].append(_share(scene.words, agent.ocr(image).text))
        except MissingExtraError:
            return None
    return {name: float(np.mean(each)) for name, each in shares.items()}


def _share(words: Sequence[str], text: str) -> float:
    """Of the words, each as often as it stands on the page, the share that was read."""
    left = text.lower().split()
    hits = 0
    for word in words:
        if word in left:
            left.remove(word)
            hits += 1
    return hits / max(1, len(words))


def _in_order(points: Corners) -> Corners:
    """Any order -> top left, top right, bottom right, bottom left."""
    middle = points - points.mean(axis=0)
    clockwise = points[np.argsort(np.arctan2(middle[:, 1], middle[:, 0]))]
    return np.roll(clockwise, -int(clockwise.sum(axis=1).argmin()), axis=0)
