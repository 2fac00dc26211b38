"""The fitted reader of forms: pieces, roles, lines of one text, and links, one after the other.

Its trees and words are in `form_model.json`, written by `python -m vision_agent.evaluate.form_fitting FOLDER`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from vision_agent.documents.form_candidates import (
    Candidate,
    Joins,
    Way,
    candidate_features,
    candidates_of,
    line_joins,
    settled,
    word_joins,
)
from vision_agent.documents.form_groups import groups_of, line_features, line_pairs
from vision_agent.documents.form_ink import gap_ink, line_ink, link_ink, role_ink, with_ink
from vision_agent.documents.form_links import Group, link_features, link_pairs
from vision_agent.documents.form_roles import ROLES, Neighbours, Roles, neighbours, role_features, with_roles
from vision_agent.documents.form_segments import Features, cut, gap_features, matrix, token_rows
from vision_agent.documents.page_ink import PageInk
from vision_agent.documents.sheet import Piece, Sheet
from vision_agent.documents.tree_ensemble import TreeEnsemble

WAYS = {0.5: (0.5, 0.25, 0.75), 0.25: (0.5,), 0.75: (0.5, 0.25), 0.1: (0.5,)}
"""Ways to cut a page: chance from which words are one piece, and chances from which lines are one text."""

LEAST_LOOKED_AT = 0.04  # chance of a pair in its surest way

STAGES = ("gaps", *(f"{role} at first" for role in ROLES), *ROLES, "lines", "links", "pairs")


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
        """Return labels with what was filled in for them, likeliest first."""
        candidates, found = self.candidates(sheet, ink)
        chances = self.chances("pairs", found)
        return [
            Link(each.label, each.text, chance) for each, chance in settled(candidates, chances, self.least["pairs"])
        ]

    def candidates(self, sheet: Sheet, ink: PageInk) -> tuple[list[Candidate], list[Features]]:
        """Return the pairs that some way of cutting the page has, with their features."""
        rows, height = token_rows(sheet), sheet.height
        gap_chances = self.chances("gaps", with_ink(gap_features(rows, height, self.lexicon), gap_ink(rows, ink)))
        below: dict[int, float] = {}
        above: dict[int, float] = {}
        ways = []
        for least_gap, least_lines in WAYS.items():
            pieces = cut(rows, [chance >= least_gap for chance in gap_chances], sheet.page.number)
            around = neighbours(pieces)
            looks = with_ink(role_features(pieces, around, height, self.lexicon), role_ink(pieces, around, ink))
            roles = self.roles(looks, around)
            lines = line_pairs(pieces, around, height)
            told = line_features(pieces, around, looks, roles, lines, height)
            line_chances = self.chances("lines", with_ink(told, line_ink(pieces, lines, ink)))
            more_below, more_above = line_joins(pieces, lines, line_chances)
            below, above = {**more_below, **below}, {**more_above, **above}
            for least_line in least_lines:
                grouped = groups_of(len(pieces), lines, line_chances, least_line)
                groups = [group_of(pieces, roles, indexes) for indexes in grouped]
                pairs = link_pairs(groups, height)
                features = with_ink(link_features(groups, pairs, height), link_ink(groups, pairs, ink))
                ways.append(Way(groups, pairs, features, self.chances("links", features)))
        found = candidates_of(ways, LEAST_LOOKED_AT)
        return found, candidate_features(found, ways, Joins(*word_joins(rows, gap_chances), below, above))

    def chances(self, stage: str, found: list[Features]) -> list[float]:
        """Return what a stage says of each row of features."""
        trees = self.trees[stage]
        told: list[float] = trees.chances(matrix(found, trees.features)).tolist()
        return told

    def roles(self, looks: list[Features], around: list[Neighbours]) -> list[Roles]:
        """Return the chances of each piece's roles, by two looks."""
        first = self._roles_by(" at first", looks)
        return self._roles_by("", with_roles(looks, around, first))

    def _roles_by(self, look: str, found: list[Features]) -> list[Roles]:
        columns = [self.chances(role + look, found) for role in ROLES]
        return [dict(zip(ROLES, row, strict=True)) for row in zip(*columns, strict=True)]

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


@lru_cache(maxsize=1)
def form_model() -> FormModel:
    """Return the shipped model."""
    file = resources.files("vision_agent.documents").joinpath("form_model.json")
    return FormModel.from_json(json.loads(file.read_text(encoding="utf-8")))
