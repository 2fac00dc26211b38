"""Fits the reader of forms (`documents/form_model.json`) on annotated forms.

    python -m vision_agent.evaluate.form_fitting FOLDER [--read FOLDER] [--hold 0] [--out FILE]

`FOLDER` has `documents.json` and images as for `form_pairs`. A form belongs to a third by the SHA-256 of its name. With
`--hold` that third is not fitted on, and its pairs are measured; without it all forms are fitted on. A
later stage is fitted on what the earlier ones say of forms that they were not fitted on. With `--read` forms are fitted
on (and measured) as the OCR reads them, too, beside their annotated words; what was read is kept in that folder.
"""

import argparse
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vision_agent.documents.form_candidates import Candidate, settled
from vision_agent.documents.form_groups import groups_of, line_features, line_pairs
from vision_agent.documents.form_ink import gap_ink, line_ink, link_ink, role_ink, with_ink
from vision_agent.documents.form_links import Group, link_features, link_pairs
from vision_agent.documents.form_model import FormModel, group_of
from vision_agent.documents.form_roles import ROLES, Neighbours, neighbours, role_features, with_roles
from vision_agent.documents.form_segments import Features, cut, gap_features, matrix, token_rows
from vision_agent.documents.key_values import key_values_of
from vision_agent.documents.page_ink import PageInk
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.result import OcrResult, Page
from vision_agent.documents.sheet import Excerpt, Piece, Sheet, box_of, sheet_of
from vision_agent.documents.text_match import folded
from vision_agent.documents.tree_ensemble import TreeEnsemble
from vision_agent.errors import InputError
from vision_agent.evaluate.data_folders import listed_documents
from vision_agent.evaluate.form_pairs import image_of, matched, same_text, true_page
from vision_agent.evaluate.tree_fitting import fit_trees

_FOLDS = 5
_LEAST = {"gaps": 0.5, "lines": 0.5, "pairs": 0.32}
_COVERED = 0.15  # share of a word that an entity must cover
_COMMON = 4  # forms in which a word must stand to be one of the lexicon


@dataclass
class _Form:
    """A form while stages are fitted: what earlier ones made of it, and what is true."""

    told: Any
    fold: int
    sheet: Sheet
    ink: PageInk
    entity: dict[int, int]  # id of a word -> its entity; negative where it is of none
    pieces: list[Piece] = field(default_factory=list)
    around: list[Neighbours] = field(default_factory=list)
    looks: list[Features] = field(default_factory=list)
    roles: list[Any] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    @property
    def labels(self) -> dict[int, str]:
        return defaultdict(lambda: "other", {each["id"]: each["label"] for each in self.told["entities"]})

    @property
    def links(self) -> set[tuple[int, int]]:
        return {(int(one), int(other)) for each in self.told["entities"] for one, other in each["linking"]}

    def is_pair(self, label: Group, text: Group) -> bool:
        """Whether both are texts as they were annotated, and linked."""
        one, other = self.entity_of(label.lines), self.entity_of(text.lines)
        links = self.links
        if (one, other) not in links and (other, one) not in links:
            return False
        texts = {each["id"]: each["text"] for each in self.told["entities"]}
        return same_text(label.text, texts[one]) and same_text(text.text, texts[other])

    def entity_of(self, pieces: Sequence[Piece]) -> int:
        """The entity that most letters of pieces belong to."""
        count: Counter[int] = Counter()
        for piece in pieces:
            for token in piece.tokens:
                count[self.entity[id(token.word)]] += len(token.word.text)
        return count.most_common(1)[0][0]


def third_of(name: str) -> int:
    """Return 0, 1 or 2 by the name of a form."""
    return hashlib.sha256(name.encode()).digest()[1] % 3


def load_forms(folder: Path) -> list[Any]:
    """Return the annotated forms of a folder.

    Raises:
        InputError: no folder with a `documents.json` that lists documents.
    """
    return listed_documents(folder)


@dataclass(frozen=True)
class Folder:
    """Where forms lie.

    Attributes:
        forms: with `documents.json` and the images.
        read: of what the OCR read of them; None: it does not read them.
    """

    forms: Path
    read: Path | None

    def views(self, told: Any) -> dict[str, Page]:
        """Return a form's page by where its words are from."""
        pages = {"annotated words": true_page(told)}
        if self.read is not None:
            file = self.read / f"{told['id']}.json"
            if not file.exists():
                read = DocumentReader().read(image_of(self.forms, told))
                assert isinstance(read, OcrResult)
                self.read.mkdir(parents=True, exist_ok=True)
                file.write_text(read.model_dump_json(), encoding="utf-8")
            (pages["read words"],) = OcrResult.model_validate_json(file.read_text(encoding="utf-8")).pages
        return pages


def _forms_of(told: Any, folder: Folder, fold: int) -> list[_Form]:
    """A form by each of its views."""
    found = []
    for page in folder.views(told).values():
        sheet = sheet_of(page)
        ink = PageInk(sheet, image_of(folder.forms, told))
        found.append(_Form(told, fold, sheet, ink, _entities(told, sheet)))
    return found


def _entities(told: Any, sheet: Sheet) -> dict[int, int]:
    """The entity of each word: that whose words cover most of it."""
    words = [(word["box"], each["id"]) for each in told["entities"] for word in each["words"]]
    boxes = np.array([box for box, _ in words], dtype=np.float64).reshape(-1, 4)
    found: dict[int, int] = {}
    for token in (token for piece in sheet.pieces for token in piece.tokens):
        box = box_of([Excerpt.whole(Piece(1, 0, (token,)))])
        wide = np.minimum(boxes[:, 2], box.x1) - np.maximum(boxes[:, 0], box.x0)
        high = np.minimum(boxes[:, 3], box.y1) - np.maximum(boxes[:, 1], box.y0)
        shared: Counter[int] = Counter()
        for index, area in enumerate((wide.clip(0) * high.clip(0)).tolist()):
            if area > 0:
                shared[words[index][1]] += area
        (entity, most), *_ = shared.most_common(1) or [(0, 0)]
        known = most > _COVERED * (box.x1 - box.x0) * (box.y1 - box.y0)
        found[id(token.word)] = entity if known else -1 - len(found)
    return found


def lexicon_of(forms: Sequence[Any]) -> dict[str, float]:
    """Return words of labels with the log of how much oftener they stand in labels than elsewhere."""
    inside: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    spread: Counter[str] = Counter()
    for form in forms:
        seen = set()
        for entity in form["entities"]:
            for word in entity["words"]:
                text = folded(word["text"])
                if len(text) > 1 and text.isalpha():
                    (inside if entity["label"] == "question" else outside)[text] += 1
                    seen.add(text)
        spread.update(seen)
    return {
        word: round(math.log((inside[word] + 0.5) / (outside[word] + 0.5)), 2)
        for word, count in sorted(spread.items())
        if count >= _COMMON
    }


def fit(told: Sequence[Any], folder: Folder, *, trees: int = 150) -> FormModel:
    """Fit all stages on annotated forms."""
    forms = [form for number, each in enumerate(told) for form in _forms_of(each, folder, number % _FOLDS)]
    lexicon = lexicon_of(told)
    # Of a form itself the words must not tell: its features come from a lexicon of the other folds.
    lexicons = [
        lexicon_of([each for number, each in enumerate(told) if number % _FOLDS != fold]) for fold in range(_FOLDS)
    ]
    model: dict[str, TreeEnsemble] = {}
    without: list[dict[str, TreeEnsemble]] = [{} for _ in range(_FOLDS)]

    def stage(name: str, features: Callable[[_Form], tuple[list[Features], list[bool]]]) -> list[list[float]]:
        parts = [features(form) for form in forms]
        names = next(tuple(found[0]) for found, _ in parts if found)
        rows = [matrix(found, names) for found, _ in parts]
        answers = [np.array(so, dtype=bool) for _, so in parts]
        chances: list[list[float]] = [[] for _ in forms]
        for fold in range(_FOLDS):
            kept = [number for number, form in enumerate(forms) if form.fold != fold]
            fold_trees = fit_trees(
                names, np.concatenate([rows[n] for n in kept]), np.concatenate([answers[n] for n in kept]), trees=trees
            )
            without[fold][name] = fold_trees
            for number in set(range(len(forms))) - set(kept):
                chances[number] = fold_trees.chances(rows[number]).tolist()
        model[name] = fit_trees(names, np.concatenate(rows), np.concatenate(answers), trees=trees)
        said, so = np.concatenate([np.array(each) for each in chances]), np.concatenate(answers)
        print(f"{name}: {len(so)} rows, {so.mean():.2f} so, told right {((said > 0.5) == so).mean():.3f}", flush=True)
        return chances

    def gaps(form: _Form) -> tuple[list[Features], list[bool]]:
        rows = token_rows(form.sheet)
        found = with_ink(gap_features(rows, form.ink.height, lexicons[form.fold]), gap_ink(rows, form.ink))
        same = [
            form.entity[id(one.word)] == form.entity[id(other.word)] for row in rows for one, other in pairwise(row)
        ]
        return found, same

    for form, chances in zip(forms, stage("gaps", gaps), strict=True):
        form.pieces = cut(token_rows(form.sheet), [chance >= _LEAST["gaps"] for chance in chances], 1)
        form.around = neighbours(form.pieces)
        looks = role_features(form.pieces, form.around, form.ink.height, lexicons[form.fold])
        form.looks = with_ink(looks, role_ink(form.pieces, form.around, form.ink))

    def role(name: str, look: str) -> list[list[float]]:
        def features(form: _Form) -> tuple[list[Features], list[bool]]:
            found = form.looks if look else with_roles(form.looks, form.around, form.roles)
            return found, [form.labels[form.entity_of([piece])] == name for piece in form.pieces]

        return stage(name + look, features)

    for look in (" at first", ""):
        columns = [role(name, look) for name in ROLES]
        for number, form in enumerate(forms):
            form.roles = [
                dict(zip(ROLES, row, strict=True)) for row in zip(*(column[number] for column in columns), strict=True)
            ]

    def lines(form: _Form) -> tuple[list[Features], list[bool]]:
        pairs = line_pairs(form.pieces, form.around, form.ink.height)
        found = line_features(form.pieces, form.around, form.looks, form.roles, pairs, form.ink.height)
        found = with_ink(found, line_ink(form.pieces, pairs, form.ink))
        owners = [form.entity_of([piece]) for piece in form.pieces]
        return found, [owners[one] == owners[other] for one, other in pairs]

    for form, chances in zip(forms, stage("lines", lines), strict=True):
        pairs = line_pairs(form.pieces, form.around, form.ink.height)
        form.groups = [
            group_of(form.pieces, form.roles, indexes)
            for indexes in groups_of(len(form.pieces), pairs, chances, _LEAST["lines"])
        ]

    def links(form: _Form) -> tuple[list[Features], list[bool]]:
        pairs = link_pairs(form.groups, form.ink.height)
        owners = [form.entity_of(group.lines) for group in form.groups]
        true = form.links
        return (
            with_ink(link_features(form.groups, pairs, form.ink.height), link_ink(form.groups, pairs, form.ink)),
            [(owners[one], owners[other]) in true or (owners[other], owners[one]) in true for one, other in pairs],
        )

    stage("links", links)
    found = [
        FormModel(lexicons[form.fold], without[form.fold], _LEAST).candidates(form.sheet, form.ink) for form in forms
    ]
    numbers = {id(form): number for number, form in enumerate(forms)}

    def whole(form: _Form) -> tuple[list[Features], list[bool]]:
        candidates, features = found[numbers[id(form)]]
        return features, [form.is_pair(each.label, each.text) for each in candidates]

    _print_f1(forms, [each for each, _ in found], stage("pairs", whole))
    return FormModel(lexicon, model, _LEAST)


def _print_f1(forms: Sequence[_Form], found: Sequence[Sequence[Candidate]], chances: Sequence[Sequence[float]]) -> None:
    for least in (0.3, 0.35, 0.4, 0.45, 0.5):
        right = read = true = 0
        for form, candidates, told in zip(forms, found, chances, strict=True):
            wanted = true_pairs(form.told)
            texts = [(each.label.text, each.text.text) for each, _ in settled(candidates, told, least)]
            right, read, true = right + matched(texts, wanted), read + len(texts), true + len(wanted)
        print(f"least {least}: {_figures(right, read, true)}")


def _figures(right: int, read: int, true: int) -> str:
    precision, recall = right / max(1, read), right / max(1, true)
    return f"pairs {true} precision {precision:.3f} recall {recall:.3f} F1 {2 * right / max(1, read + true):.3f}"


def true_pairs(form: Any) -> list[tuple[str, str]]:
    """Return the labels of a form with what is filled in for them, as far as they have letters or digits."""
    return [(key, value) for key, value in form["key_values"] if folded(key) and folded(value)]


def measure(model: FormModel, forms: Sequence[Any], folder: Folder) -> dict[str, str]:
    """Return the figures of the pairs of forms, by where their words are from."""
    counts: dict[str, list[int]] = {}
    for form in forms:
        for view, page in folder.views(form).items():
            found = key_values_of(page, image=image_of(folder.forms, form), model=model)
            wanted = true_pairs(form)
            count = counts.setdefault(view, [0, 0, 0])
            right = matched([(pair.key, pair.value) for pair in found], wanted)
            counts[view] = [sum(each) for each in zip(count, (right, len(found), len(wanted)), strict=True)]
    return {view: _figures(*count) for view, count in counts.items()}


def main() -> None:
    """Fit, print figures, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hold", type=int, choices=(0, 1, 2))
    parser.add_argument("--read", type=Path)
    parser.add_argument("--trees", type=int, default=150)
    parser.add_argument("--out", type=Path)
    settings = parser.parse_args()
    try:
        forms = load_forms(settings.folder)
    except InputError as error:
        parser.error(str(error))
    folder = Folder(settings.folder, settings.read)
    mine = [form for form in forms if settings.hold is None or third_of(form["id"]) != settings.hold]
    model = fit(mine, folder, trees=settings.trees)
    if settings.hold is not None:
        held = [form for form in forms if third_of(form["id"]) == settings.hold]
        for view, told in measure(model, held, folder).items():
            print(f"held out, {view}: {told}")
    if settings.out is not None:
        settings.out.write_text(json.dumps(model.to_json(), separators=(",", ":"), sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    main()
