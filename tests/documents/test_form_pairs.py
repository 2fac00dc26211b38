"""Pairs of forms by the fitted reader: typed words close to their labels, lines of one text, and columns."""

import json
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vision_agent.documents.form_candidates import Candidate, settled, words_of
from vision_agent.documents.form_links import Group
from vision_agent.documents.form_model import FormModel, form_model
from vision_agent.documents.key_values import key_values_of
from vision_agent.documents.page_ink import PageInk, edges_of
from vision_agent.documents.result import Block, Line, Page, Word, quad_of
from vision_agent.documents.sheet import Piece, sheet_of
from vision_agent.evaluate.tree_fitting import fit_trees
from vision_agent.results.box import Box


def page_of(*texts: tuple[float, float, str]) -> Page:
    """A page of 700 x 900 pixels with texts of 12 pixels at x, y; each letter is 7 wide."""
    lines = []
    for x, y, text in texts:
        at = x
        for word in text.split():
            quad = quad_of((at, y, at + 7 * len(word), y + 12))
            lines.append(Line(words=(Word(text=word, quad=quad, score=1.0),), quad=quad, score=1.0))
            at += 7 * len(word) + 5
    block = Block(kind="text", box=Box(x0=0, y0=0, x1=700, y1=900), lines=tuple(lines))
    return Page(number=1, width=700, height=900, blocks=(block,))


def test_what_was_typed_right_behind_a_label_is_its_value() -> None:
    page = page_of(
        (60, 100, "TO: George Baroody"),
        (60, 130, "FROM: Lorillard Research Center"),
        (60, 160, "DATE: March 8, 1993"),
        (60, 190, "SUBJECT: Tests of filters"),
        (60, 260, "Telephone Number: (336) 335-7392"),
        (400, 260, "Fax Number: (336) 335-7733"),
    )
    found = {pair.key: pair.value for pair in key_values_of(page)}
    assert found["TO"] == "George Baroody"
    assert found["FROM"] == "Lorillard Research Center"
    assert found["DATE"] == "March 8, 1993"
    assert found["SUBJECT"] == "Tests of filters"
    assert found["Telephone Number"] == "(336) 335-7392"
    assert found["Fax Number"] == "(336) 335-7733"


def test_places_and_confidences_are_those_of_the_words() -> None:
    (pair,) = key_values_of(page_of((60, 100, "DATE: March 8, 1993")))
    assert pair.key_box is not None and pair.key_box.xyxy == (60, 100, 95, 112)
    assert pair.box.xyxy[0] == 100 and 0 < pair.confidence <= 1


def test_a_page_without_words_or_with_one_has_no_pairs() -> None:
    assert key_values_of(page_of()) == [] and key_values_of(page_of((60, 100, "Date"))) == []


def test_the_shipped_model_survives_being_written() -> None:
    model = form_model()
    again = FormModel.from_json(json.loads(json.dumps(model.to_json())))
    assert again.to_json() == model.to_json()
    names = {name for trees in model.trees.values() for name in trees.features}
    assert {"gap", "own ends in colon", "labels between", "strokes", "ruled", "wall"} <= names


@pytest.mark.parametrize("angle", [0.0, 2.0])
@pytest.mark.parametrize("scale", [1, 4])
def test_rules_and_walls_are_found_where_they_are_drawn(angle: float, scale: int) -> None:
    """Also on pages that are turned a little, and on large ones."""
    turn = math.radians(angle)

    def at(x: float, y: float) -> tuple[float, float]:
        x, y = x * scale, y * scale
        return x * math.cos(turn) - y * math.sin(turn) + 60 * scale, x * math.sin(turn) + y * math.cos(turn)

    image = Image.new("L", (800 * scale, 900 * scale), 255)
    draw = ImageDraw.Draw(image)
    draw.line([at(100, 214), at(300, 214)], fill=0, width=2 * scale)
    draw.line([at(350, 180), at(350, 240)], fill=0, width=2 * scale)
    lines = []
    for x in (100, 400):
        quad = (at(x, 200), at(x + 60, 200), at(x + 60, 212), at(x, 212))
        lines.append(Line(words=(Word(text="Name", quad=quad, score=1.0),), quad=quad, score=1.0))
    box = Box(x0=0, y0=0, x1=image.width, y1=image.height)
    block = Block(kind="text", box=box, lines=tuple(lines))
    sheet = sheet_of(Page(number=1, width=image.width, height=image.height, blocks=(block,)))
    ink = PageInk(sheet, image.convert("RGB"))
    first, second = (token for piece in sheet.pieces for token in piece.tokens)
    assert ink.under(edges_of(first)) > 0.9 and ink.under(edges_of(second)) == 0
    assert ink.walled((first.x1, first.y0, second.x0, second.y1)) > 0.9
    assert ink.walled((first.x1, first.y0, (first.x1 + second.x0) / 2, second.y1)) == 0
    assert PageInk(sheet, None).under(edges_of(first)) == 0


def test_cuts_of_a_page_give_whole_pairs_and_none_shares_words_with_another() -> None:
    """A label of two lines, an amount behind its sign, columns under names: each word is in one label or text alone."""
    page = page_of(
        (60, 100, "Account Name:"),
        (170, 100, "International Sales"),
        (60, 130, "Total Cost:"),
        (170, 130, "$ 4,376.47"),
        (60, 170, "Brand"),
        (200, 170, "Length"),
        (300, 170, "Weight"),
        (60, 190, "Trial A"),
        (200, 190, "99 mm"),
        (300, 190, "858 mg"),
        (60, 230, "cc:"),
        (100, 230, "N. W. Kremer"),
    )
    found = key_values_of(page)
    told = {pair.key: pair.value for pair in found}
    assert told["Account Name"] == "International Sales" and told["cc"] == "N. W. Kremer"
    assert told["Total Cost"].replace(" ", "").endswith("4,376.47")
    for one in found:
        for other in found:
            assert one.box == other.box or not (
                one.box.x0 < other.box.x1
                and other.box.x0 < one.box.x1
                and one.box.y0 < other.box.y1
                and other.box.y0 < one.box.y1
            )


def test_pairs_that_share_words_are_settled_by_their_chance() -> None:
    page = page_of((60, 100, "Total Cost: $ 4,376.47"))
    tokens = [token for piece in sheet_of(page).pieces for token in piece.tokens]

    def group(*indexes: int) -> Group:
        return Group((Piece(1, 0, tuple(tokens[index] for index in indexes)),), {})

    def pair(label: Group, text: Group) -> Candidate:
        return Candidate(label, text, {}, words_of(label), words_of(text), [0.5])

    whole, cut = pair(group(0, 1), group(2, 3)), pair(group(0, 1), group(3))
    elsewhere = pair(group(1), group(2, 3))
    assert settled([cut, whole, elsewhere], [0.4, 0.7, 0.6], 0.3) == [(whole, 0.7)]
    assert settled([cut, whole, elsewhere], [0.4, 0.2, 0.1], 0.3) == [(cut, 0.4)]


def test_trees_learn_what_no_single_feature_tells() -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 3))
    is_so = rows[:, 0] * rows[:, 1] > 0
    trees = fit_trees(("one", "two", "three"), rows[:1500], is_so[:1500], trees=30)
    assert ((trees.chances(rows[1500:]) > 0.5) == is_so[1500:]).mean() > 0.9
