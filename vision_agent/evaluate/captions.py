"""How near captions are to what people wrote: BLEU-4 and chrF of sacrebleu, without case."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from sacrebleu import corpus_bleu, corpus_chrf
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.scene import Scene
from vision_agent.data.sources import CocoPhotos
from vision_agent.evaluate.figures import Figure

_PHOTOS = 100


def caption_figures(agent: VisionAgent, data: Path, split: str, limit: int | None = None) -> Iterable[Figure]:
    """Yield figures of short captions of COCO photos, compared with five human ones a photo.

    Args:
        data: folder of the archives.
        limit: at most this many photos; 100 by default.
    """
    photos = CocoPhotos(data, "coco_train_448")
    records = photos.images(split)[: limit or _PHOTOS]
    scenes = (photos.scene(record, colours=False) for record in records)
    yield from scored(agent, [scene for scene in scenes if scene.captions])


def scored(agent: VisionAgent, scenes: Sequence[Scene]) -> Iterable[Figure]:
    """Caption scenes and compare with their captions; both figures are of 1."""
    said = [agent.caption(scene.image, length="short").text.lower() for scene in tqdm(scenes, desc="captions")]
    # One list for the first captions of all photos, one for the second, ...; None where a photo has fewer.
    references = [list(column) for column in zip_longest(*([text.lower() for text in s.captions] for s in scenes))]
    of = f"captions of {len(scenes)} COCO photos"
    bleu, chrf = corpus_bleu(said, references, lowercase=True), corpus_chrf(said, references)
    yield Figure(name="captions: BLEU-4", value=bleu.score / 100, count=len(said), of=of)
    yield Figure(name="... chrF", value=chrf.score / 100, count=len(said), of=of)
