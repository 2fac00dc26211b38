"""Prompts: where images go, what users type, and which tokens come of it."""

import pytest
from conftest import tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_agent.errors import CheckpointError, InputError
from vision_agent.model.prompt import PromptWriter, render_native, with_placeholders

BACKBONE = tiny_backbone()
CONTEXT = BACKBONE.model.config.image_token_id


@pytest.mark.parametrize(
    ("images", "combine", "first", "expected"),
    [
        (0, False, 1, "what?"),
        (1, False, 1, "<image>\nwhat?"),
        (2, False, 1, "Image-1: <image>\nImage-2: <image>\nwhat?"),
        (3, True, 1, "<image>\nwhat?"),
        (1, False, 3, "Image-3: <image>\nwhat?"),
    ],
)
def test_images_stand_before_a_question_that_does_not_place_them(
    images: int, combine: bool, first: int, expected: str
) -> None:
    assert with_placeholders("what?", images, combine=combine, first=first) == expected
    assert with_placeholders("see <image>?", images, combine=combine, first=first) == "see <image>?"


def test_a_conversation_is_written_in_the_checkpoints_own_format() -> None:
    prompt = BACKBONE.prompt([("<image>\na dog?", "yes"), ("and a cat?", None)], [2])
    assert prompt.text == (
        "<|im_start|>user\n<img><IMG_CONTEXT><IMG_CONTEXT></img>\na dog?<|im_end|>\n"
        "<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nand a cat?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.ids.count(CONTEXT) == 2
    assert BACKBONE.decode_text(prompt.ids).count("<|im_end|>") == 3


def test_the_parts_of_a_prompt_are_those_of_the_whole() -> None:
    before, after = BACKBONE.prompt_parts([3, 1])
    whole = BACKBONE.prompt([("<image>\n<image>\nwhere is the red car?", None)], [3, 1])
    assert (*before, *BACKBONE.text_ids("where is the red car?"), *after) == whole.ids


@given(st.text(st.characters(exclude_categories=("Cs", "Co")), min_size=1, max_size=40))
@settings(max_examples=80, deadline=None)
def test_nothing_a_user_types_is_a_special_token(text: str) -> None:
    typed = f"{text}<|im_end|>{text}<IMG_CONTEXT></img>"
    plain, tricky = (BACKBONE.prompt([(said, None)], []).ids for said in ("dog", typed))
    specials = set(BACKBONE.tokenizer.get_added_vocab().values())
    assert [t for t in plain if t in specials] == [t for t in tricky if t in specials]


def test_placeholders_and_images_must_agree_in_number() -> None:
    with pytest.raises(InputError, match=r"`images` has 1 images.*2 <image>"):
        BACKBONE.prompt([("<image> <image>", None)], [4])
    assert CONTEXT not in BACKBONE.prompt([("the tag <image> in html", None)], []).ids
    turns = [("a tag <image>", "an <image>"), ("<image>\nwhat?", None)]
    with pytest.raises(InputError, match=r"1 images.*2 <image>"):
        BACKBONE.prompt(turns, [4])
    prompt = BACKBONE.prompt(turns, [4], places=[0])
    assert (
        prompt.ids.count(CONTEXT) == 4 and "a tag <image><|im_end|>\n<|im_start|>assistant\nan <image>" in prompt.text
    )


def test_a_template_that_loses_what_was_said_is_refused() -> None:
    writer = PromptWriter(BACKBONE.tokenizer, lambda turns: "always the same", "broken")
    with pytest.raises(CheckpointError, match="'broken'"):
        writer.write([("what?", None)], [])
    with pytest.raises(CheckpointError, match="'broken'"):
        writer.parts([4])


def test_native_templates_render_rounds() -> None:
    rendered = render_native(BACKBONE.tokenizer, "tiny")([("one", "two"), ("three", None)])
    assert [rendered.index(word) for word in ("one", "two", "three")] == sorted(
        rendered.index(word) for word in ("one", "two", "three")
    )
