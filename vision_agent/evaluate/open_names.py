"""Figures of names that a model was never shown: AP50 on the photos that its training left out.

    python -m vision_agent.evaluate.open_names FOLDER --run RUN

RUN is the folder of a run whose recipe has `leave_out`. All photos of `coco_train_448` that show one of these names are
asked for each of them, whatever their split: training saw none of them. Beside them stand other names on photos of the
test split. Prints a Markdown table.
"""

import argparse
import json
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.samples import present_phrases
from vision_agent.data.sources import CocoPhotos
from vision_agent.data.text.dialogue import PhraseTarget
from vision_agent.errors import ConfigError
from vision_agent.evaluate.asking import each, question
from vision_agent.evaluate.average_precision import Question, average_precision
from vision_agent.evaluate.figures import Figure


def open_name_figures(
    agent: VisionAgent, data: Path, names: Sequence[str], limit: int | None = None
) -> Iterable[Figure]:
    """Yield AP50 by questions of names that were left out, and of the others.

    Args:
        data: folder of the archives, as for training.
        names: those that were left out.
        limit: at most this many photos of each kind.
    """
    left_out = frozenset(names)
    photos = CocoPhotos(data, "coco_train_448")
    records = [record for split in ("train", "val", "test") for record in photos.images(split)]
    new = [record for record in records if photos.names_in(record) & left_out][:limit]
    yield _figure(agent, photos, new, left_out, "names left out of training")
    known = frozenset(photos.names.values()) - left_out
    test = [record for record in photos.images("test") if not photos.names_in(record) & left_out][:limit]
    yield _figure(agent, photos, test, known, "names that training had")


def _figure(
    agent: VisionAgent, photos: CocoPhotos, records: Sequence[dict[str, object]], names: frozenset[str], of: str
) -> Figure:
    questions: list[Question] = []
    for number, record in enumerate(tqdm(records, desc=of)):
        scene = photos.scene(record, colours=False)
        present = {target.phrase: target for target in present_phrases(scene) if target.phrase in names}
        # Names that are not there are asked as well: ten of them, the first by the alphabet where there are more.
        absent = sorted(names - set(scene.names) - {name for _, name in scene.crowds})[:10]
        asked = [*present.values(), *(PhraseTarget(name, ()) for name in absent)]
        found = each(agent, [target.phrase for target in asked], scene)
        questions += [
            question(target, number, scene, boxes, target.phrase) for target, boxes in zip(asked, found, strict=True)
        ]
    ap50, _ = average_precision(questions)
    return Figure(
        name=f"AP50 by questions, {of}", value=ap50, count=len(questions), of=f"questions on {len(records)} photos"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure names that a model was never shown.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    names = json.loads((options.run / "recipe.json").read_text("utf-8")).get("leave_out")
    if not names:
        raise ConfigError(f"the recipe of {str(options.run)!r} leaves no names out")
    agent = VisionAgent.from_pretrained(options.run / "model")
    print(f"{platform.machine()}, {', '.join(names)}\n\n| figure | value | measured over |\n| --- | --- | --- |")
    for figure in open_name_figures(agent, options.folder, names, options.limit):
        print(f"| {figure.name} | {figure.value:.3f} | {figure.count} {figure.of} |", flush=True)


if __name__ == "__main__":
    main()
