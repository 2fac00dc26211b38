"""Fits the reader of forms (`documents/form_model.json`) on annotated forms.

    python -m vision_agent.evaluate.form_fitting FOLDER [--half 0] [--out FILE]

`FOLDER` has `documents.json` as for `form_pairs`. A form belongs to a half by the SHA-256 of its name. With `--half`
only that half is fitted on, and the pairs of the other one are measured; without it all forms are fitted on. A later
stage is fitted on what the earlier ones say of forms that they were not fitted on.
"""

import argparse
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vision_agent.documents.form_groups import groups_of, line_features, line_pairs
from vision_agent.documents.form_links import Group, link_features, link_pairs
from vision_agent.documents.form_model import FormModel, chosen, group_of
from vision_agent.documents.form_roles import ROLES, Neighbours, neighbours, role_features, with_roles
from vision_agent.documents.form_segments import Features, cut, gap_features, matrix, token_rows
from vision_agent.documents.sheet import Piece, Sheet, sheet_of
from vision_agent.documents.text_match import folded
from vision_agent.documents.tree_ensemble import TreeEnsemble
from vision_agent.evaluate.form_pairs import matched, true_page
from vision_agent.evaluate.tree_fitting import fit_trees

_FOLDS = 3
_LEAST = {"gaps": 0.5, "lines": 0.5, "links": 0.4, "second links": 0.5}
_COMMON = 4  # forms in which a word must stand to be one of the lexicon


@dataclass
class _Form:
    """A form while stages are fitted: what earlier ones made of it, and what is true."""

    told: Any
    sheet: Sheet
    entity: dict[int, int]  # id of a word -> its entity
    pieces: list[Piece] = field(default_factory=list)
    around: list[Neighbours] = field(default_factory=list)
    looks: list[Features] = field(default_factory=list)
    roles: list[Any] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    @property
    def labels(self) -> dict[int, str]:
        return {each["id"]: each["label"] for each in self.told["entities"]}

    @property
    def links(self) -> set[tuple[int, int]]:
        return {(int(one), int(other)) for each in self.told["entities"] for one, other in each["linking"]}

    def entity_of(self, pieces: Sequence[Piece]) -> int:
        """The entity that most letters of pieces belong to."""
        count: Counter[int] = Counter()
        for piece in pieces:
            for token in piece.tokens:
                count[self.entity[id(token.word)]] += len(token.word.text)
        return count.most_common(1)[0][0]


def half_of(name: str) -> int:
    """Return 0 or 1 by the name of a form."""
    return hashlib.sha256(name.encode()).digest()[0] % 2


def load_forms(folder: Path) -> list[Any]:
    """Return the annotated forms of a folder."""
    listed: list[Any] = json.loads((folder / "documents.json").read_text(encoding="utf-8"))["documents"]
    return listed


def _form(told: Any) -> _Form:
    page = true_page(told)
    words = [word for line in page.lines for word in line.words]
    at = iter(words)
    entity = {}
    for each in told["entities"]:
        for word in each["words"]:
            box = word["box"]
            if "".join(word["text"].split()) and box[2] > box[0] and box[3] > box[1]:
                entity[id(next(at))] = each["id"]
    return _Form(told, sheet_of(page), entity)


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


def fit(told: Sequence[Any], *, trees: int = 50) -> FormModel:
    """Fit all stages on annotated forms."""
    forms = [_form(each) for each in told]
    lexicon = lexicon_of(told)
    # Of a form itself the words must not tell: its features come from a lexicon of the other folds.
    lexicons = [
        lexicon_of([each for number, each in enumerate(told) if number % _FOLDS != fold]) for fold in range(_FOLDS)
    ]
    model: dict[str, TreeEnsemble] = {}

    def stage(name: str, features: Callable[[_Form, int], tuple[list[Features], list[bool]]]) -> list[list[float]]:
        parts = [features(form, number) for number, form in enumerate(forms)]
        names = next(tuple(found[0]) for found, _ in parts if found)
        rows = [matrix(found, names) for found, _ in parts]
        answers = [np.array(so, dtype=bool) for _, so in parts]
        chances: list[list[float]] = [[] for _ in forms]
        for fold in range(_FOLDS):
            kept = [number for number in range(len(forms)) if number % _FOLDS != fold]
            fold_trees = fit_trees(
                names, np.concatenate([rows[n] for n in kept]), np.concatenate([answers[n] for n in kept]), trees=trees
            )
            for number in range(fold, len(forms), _FOLDS):
                chances[number] = fold_trees.chances(rows[number]).tolist()
        model[name] = fit_trees(names, np.concatenate(rows), np.concatenate(answers), trees=trees)
        said, so = np.concatenate([np.array(each) for each in chances]), np.concatenate(answers)
        print(f"{name}: {len(so)} rows, {so.mean():.2f} so, told right {((said > 0.5) == so).mean():.3f}", flush=True)
        return chances

    def gaps(form: _Form, number: int) -> tuple[list[Features], list[bool]]:
        rows = token_rows(form.sheet)
        found = gap_features(rows, form.sheet.height, lexicons[number % _FOLDS])
        same = [
            form.entity[id(one.word)] == form.entity[id(other.word)] for row in rows for one, other in pairwise(row)
        ]
        return found, same

    for form, chances in zip(forms, stage("gaps", gaps), strict=True):
        form.pieces = cut(token_rows(form.sheet), [chance >= _LEAST["gaps"] for chance in chances], 1)
        form.around = neighbours(form.pieces)
    for number, form in enumerate(forms):
        form.looks = role_features(form.pieces, form.around, form.sheet.height, lexicons[number % _FOLDS])

    def role(name: str, look: str) -> list[list[float]]:
        def features(form: _Form, number: int) -> tuple[list[Features], list[bool]]:
            found = form.looks if look else with_roles(form.looks, form.around, form.roles)
            return found, [form.labels[form.entity_of([piece])] == name for piece in form.pieces]

        return stage(name + look, features)

    for look in (" at first", ""):
        columns = [role(name, look) for name in ROLES]
        for number, form in enumerate(forms):
            form.roles = [
                dict(zip(ROLES, row, strict=True)) for row in zip(*(column[number] for column in columns), strict=True)
            ]

    def lines(form: _Form, number: int) -> tuple[list[Features], list[bool]]:
        pairs = line_pairs(form.pieces, form.around, form.sheet.height)
        found = line_features(form.pieces, form.around, form.looks, form.roles, pairs, form.sheet.height)
        owners = [form.entity_of([piece]) for piece in form.pieces]
        return found, [owners[one] == owners[other] for one, other in pairs]

    for form, chances in zip(forms, stage("lines", lines), strict=True):
        pairs = line_pairs(form.pieces, form.around, form.sheet.height)
        form.groups = [
            group_of(form.pieces, form.roles, indexes)
            for indexes in groups_of(len(form.pieces), pairs, chances, _LEAST["lines"])
        ]

    def links(form: _Form, number: int) -> tuple[list[Features], list[bool]]:
        pairs = link_pairs(form.groups, form.sheet.height)
        owners = [form.entity_of(group.lines) for group in form.groups]
        true = form.links
        return (
            link_features(form.groups, pairs, form.sheet.height),
            [(owners[one], owners[other]) in true or (owners[other], owners[one]) in true for one, other in pairs],
        )

    told_links = stage("links", links)
    _print_f1(forms, told_links)
    return FormModel(lexicon, model, _LEAST)


def _print_f1(forms: Sequence[_Form], chances: Sequence[list[float]]) -> None:
    for least in (0.25, 0.35, 0.45):
        for second in (0.5,):
            right = read = true = 0
            for form, told in zip(forms, chances, strict=True):
                pairs = link_pairs(form.groups, form.sheet.height)
                found = chosen(form.groups, pairs, told, {"links": least, "second links": second})
                wanted = true_pairs(form.told)
                texts = [(link.label.text, link.text.text) for link in found]
                right, read, true = right + matched(texts, wanted), read + len(texts), true + len(wanted)
            print(f"least {least} second {second}: {_figures(right, read, true)}")


def _figures(right: int, read: int, true: int) -> str:
    precision, recall = right / max(1, read), right / max(1, true)
    return f"pairs {true} precision {precision:.3f} recall {recall:.3f} F1 {2 * right / max(1, read + true):.3f}"


def true_pairs(form: Any) -> list[tuple[str, str]]:
    """Return the labels of a form with what is filled in for them, as far as they have letters or digits."""
    return [(key, value) for key, value in form["key_values"] if folded(key) and folded(value)]


def measure(model: FormModel, forms: Sequence[Any]) -> str:
    """Return the figures of the pairs of forms, on their true words."""
    right = read = true = 0
    for form in forms:
        found = [(link.label.text, link.text.text) for link in model.links(sheet_of(true_page(form)))]
        wanted = true_pairs(form)
        right, read, true = right + matched(found, wanted), read + len(found), true + len(wanted)
    return _figures(right, read, true)


def main() -> None:
    """Fit, print figures, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--half", type=int, choices=(0, 1))
    parser.add_argument("--trees", type=int, default=50)
    parser.add_argument("--out", type=Path)
    settings = parser.parse_args()
    forms = load_forms(settings.folder)
    mine = [form for form in forms if settings.half is None or half_of(form["id"]) == settings.half]
    model = fit(mine, trees=settings.trees)
    if settings.half is not None:
        print("other half:", measure(model, [form for form in forms if half_of(form["id"]) != settings.half]))
    if settings.out is not None:
        settings.out.write_text(json.dumps(model.to_json(), separators=(",", ":"), sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    main()
