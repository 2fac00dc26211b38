"""The fitted reader of forms: pieces, roles, lines of one text, and links, one after the other.

Its trees and words are in `form_model.json`, written by `python -m vision_agent.evaluate.form_fitting FOLDER`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from vision_agent.documents.form_groups import groups_of, line_features, line_pairs
from vision_agent.documents.form_ink import gap_ink, line_ink, link_ink, role_ink, with_ink
from vision_agent.documents.form_links import Group, link_features, link_pairs
from vision_agent.documents.form_roles import ROLES, Neighbours, Roles, neighbours, role_features, with_roles
from vision_agent.documents.form_segments import Features, cut, gap_features, matrix, token_rows
from vision_agent.documents.page_ink import PageInk
from vision_agent.documents.sheet import Piece, Sheet
from vision_agent.documents.tree_ensemble import TreeEnsemble

STAGES = ("gaps", *(f"{role} at first" for role in ROLES), *ROLES, "lines", "links")


@dataclass(frozen=True)
class Link:
    """A label, its text, and the chance that they belong together."""

    label: Group
    text: Group
    chance: float


@dataclass(frozen=True)
class FormModel:
    """Everything fitted.

    Attributes:
        lexicon: words that speak for a label, with how much.
        trees: of each stage.
        least: chance from which a stage says yes.
    """

    lexicon: Mapping[str, float]
    trees: Mapping[str, TreeEnsemble]
    least: Mapping[str, float]

    def links(self, sheet: Sheet, ink: PageInk) -> list[Link]:
        """Return labels with what was filled in for them, in the order of the texts."""
        height = sheet.height
        pieces = self.pieces(sheet, ink)
        around = neighbours(pieces)
        looks = with_ink(role_features(pieces, around, height, self.lexicon), role_ink(pieces, around, ink))
        roles = self.roles(looks, around)
        groups = self.groups(pieces, around, looks, roles, ink)
        pairs = link_pairs(groups, height)
        chances = self.chances("links", with_ink(link_features(groups, pairs, height), link_ink(groups, pairs, ink)))
        return chosen(groups, pairs, chances, self.least)

    def chances(self, stage: str, found: list[Features]) -> list[float]:
        """Return what a stage says of each row of features."""
        trees = self.trees[stage]
        told: list[float] = trees.chances(matrix(found, trees.features)).tolist()
        return told

    def pieces(self, sheet: Sheet, ink: PageInk) -> list[Piece]:
        """Return the page's words as pieces."""
        rows = token_rows(sheet)
        found = with_ink(gap_features(rows, sheet.height, self.lexicon), gap_ink(rows, ink))
        chances = self.chances("gaps", found)
        return cut(rows, [chance >= self.least["gaps"] for chance in chances], sheet.page.number)

    def roles(self, looks: list[Features], around: list[Neighbours]) -> list[Roles]:
        """Return the chances of each piece's roles, by two looks."""
        first = self._roles_by(" at first", looks)
        return self._roles_by("", with_roles(looks, around, first))

    def _roles_by(self, look: str, found: list[Features]) -> list[Roles]:
        columns = [self.chances(role + look, found) for role in ROLES]
        return [dict(zip(ROLES, row, strict=True)) for row in zip(*columns, strict=True)]

    def groups(
        self,
        pieces: list[Piece],
        around: list[Neighbours],
        looks: list[Features],
        roles: list[Roles],
        ink: PageInk,
    ) -> list[Group]:
        """Return lines that are one text."""
        pairs = line_pairs(pieces, around, ink.height)
        found = with_ink(line_features(pieces, around, looks, roles, pairs, ink.height), line_ink(pieces, pairs, ink))
        chances = self.chances("lines", found)
        return [
            group_of(pieces, roles, indexes) for indexes in groups_of(len(pieces), pairs, chances, self.least["lines"])
        ]

    def to_json(self) -> dict[str, Any]:
        """Return it as `form_model.json` has it."""
        return {
            "lexicon": dict(self.lexicon),
            "least": dict(self.least),
            "trees": {stage: trees.to_json() for stage, trees in self.trees.items()},
        }

    @classmethod
    def from_json(cls, told: Any) -> "FormModel":
        """Read what `to_json` wrote."""
        trees = {stage: TreeEnsemble.from_json(each) for stage, each in told["trees"].items()}
        return cls(told["lexicon"], trees, told["least"])


def group_of(pieces: list[Piece], roles: list[Roles], indexes: list[int]) -> Group:
    """Return pieces as one text, with the means of their roles' chances."""
    means = {role: sum(roles[index][role] for index in indexes) / len(indexes) for role in ROLES}
    return Group(tuple(pieces[index] for index in indexes), means)


def chosen(
    groups: list[Group], pairs: list[tuple[int, int]], chances: list[float], least: Mapping[str, float]
) -> list[Link]:
    """Return the links that hold: a text's likeliest label, and a second one where it is likely too."""
    best: dict[int, float] = {}
    for (_, text), chance in zip(pairs, chances, strict=True):
        best[text] = max(best.get(text, 0.0), chance)
    return [
        Link(groups[label], groups[text], chance)
        for (label, text), chance in zip(pairs, chances, strict=True)
        if chance >= (least["links"] if chance == best[text] else least["second links"])
    ]


@lru_cache(maxsize=1)
def form_model() -> FormModel:
    """Return the shipped model."""
    file = resources.files("vision_agent.documents").joinpath("form_model.json")
    return FormModel.from_json(json.loads(file.read_text(encoding="utf-8")))
