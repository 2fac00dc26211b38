"""A photo archive: an index of a folder, what is on how many photos, contact sheets, copies that could go.

    python examples/photo_archive.py PHOTOS OUT [PHRASE ...]

writes OUT/photos.index, OUT/report.csv (a row for each photo and phrase that was found on it), OUT/PHRASE.jpg for each
phrase, and OUT/copies.jpg. Run it again after photos were added: only those are read.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from vision_agent import Index, VisionAgent

PHRASES = ("person", "dog", "red car")


def report(agent: VisionAgent, photos: Path, out: Path, phrases: Sequence[str]) -> dict[str, int]:
    """Write the files, and return on how many photos each phrase was found."""
    out.mkdir(parents=True, exist_ok=True)
    index = Index.build(photos, agent, out=out / "photos.index")
    counts = {}
    with open(out / "report.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "phrase", "score", "objects"])
        for phrase in phrases:
            found = index.search(phrase, limit=max(1, len(index)))
            counts[phrase] = len(found)
            for hit in found:
                objects = agent.count(phrase, hit.file).count
                rows.writerow([hit.file, phrase, f"{hit.score:.2f}", objects])
            found.sheet().save(out / f"{phrase}.jpg")
    index.save(out / "photos.index")  # with what the phrases found
    copies = index.duplicates()
    copies.sheet().save(out / "copies.jpg")
    counts["copies that could go"] = len(copies.extra_files)
    for damaged, problem in index.errors.items():
        print(f"{damaged}: {problem}", file=sys.stderr)
    return counts


if __name__ == "__main__":
    folder, target, *asked = sys.argv[1:]
    for what, count in report(VisionAgent(), Path(folder), Path(target), asked or PHRASES).items():
        print(f"{what}: {count}")
