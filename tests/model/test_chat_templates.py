"""Prompts are the official ones, character for character."""

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from vision_agent.model.chat_templates import OFFICIAL_TEMPLATES, ConversationTemplate

FIRST = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"  # noqa: RUF001
SECOND = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001
CHATML = "<|im_start|>system\n{}<|im_end|><|im_start|>user\n{}<|im_end|><|im_start|>assistant\n"

QUESTIONS = {
    "single": "<image>\nDescribe it.",
    "several": "Image-1: <image>\nImage-2: <image>\nWhat differs?",
    "video": "Frame1: <image>\nFrame2: <image>\nWhat happens?",
    "text": "Hello",
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
@pytest.mark.parametrize("name", ["Hermes-2", "internlm2-chat"])
def test_the_first_chatml_templates_have_no_newline_between_messages(name: str, question: str) -> None:
    assert OFFICIAL_TEMPLATES[name].render([(question, None)]) == CHATML.format(FIRST, question)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_internvl2_5_has_them(question: str) -> None:
    expected = (
        f"<|im_start|>system\n{SECOND}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert OFFICIAL_TEMPLATES["internvl2_5"].render([(question, None)]) == expected


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_phi3(question: str) -> None:
    expected = f"<|system|>\n{FIRST}<|end|><|user|>\n{question}<|end|><|assistant|>\n"
    assert OFFICIAL_TEMPLATES["phi3-chat"].render([(question, None)]) == expected


def test_internvl_zh_over_two_rounds() -> None:
    prompt = OFFICIAL_TEMPLATES["internvl_zh"].render([("one", "two"), ("three", None)])
    assert prompt == " <human>: one <bot>: two</s><human>: three <bot>:"


def test_several_rounds() -> None:
    prompt = OFFICIAL_TEMPLATES["internvl2_5"].render([("one", "two"), ("three", None)], system_message="S")
    assert prompt == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
        "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n"
    )


def test_gpt_oss_ends_answers_but_the_last_as_everything_else() -> None:
    prompt = OFFICIAL_TEMPLATES["internvl3_5_gpt_oss"].render([("one", "two"), ("three", None)])
    assert prompt == (
        "<|start|>system<|message|>You are InternVL, a large language model trained by Shanghai AI Laboratory.\n"
        "Knowledge cutoff: 2024-06\nCurrent date: 2025-08-06\n\nReasoning: low\n\n"
        "# Valid channels: final. Channel must be included for every message.<|end|>"
        "<|start|>user<|message|>one<|end|><|start|>assistanttwo<|end|>"
        "<|start|>user<|message|>three<|end|><|start|>assistant"
    )


def test_an_empty_system_message_is_not_the_default_one() -> None:
    template = OFFICIAL_TEMPLATES["Hermes-2"]
    assert template.render([("q", None)], system_message="") == CHATML.format("", "q")
    assert template.with_system_message("S").render([("q", None)]) == CHATML.format("S", "q")


def test_an_empty_answer_counts_as_not_given() -> None:
    template = OFFICIAL_TEMPLATES["phi3-chat"]
    assert template.render([("q", "")]) == template.render([("q", None)])


def test_stops() -> None:
    stops = {name: template.stop for name, template in OFFICIAL_TEMPLATES.items()}
    assert stops == {
        "Hermes-2": "<|im_end|>",
        "internlm2-chat": "<|im_end|>",
        "internvl2_5": "<|im_end|>",
        "phi3-chat": "<|end|>",
        "internvl_zh": "</s>",
        "internvl3_5_gpt_oss": "<|return|>",
    }


@pytest.mark.parametrize("template", OFFICIAL_TEMPLATES.values(), ids=OFFICIAL_TEMPLATES)
@pytest.mark.parametrize("system", [None, 'a "quoted" {{ name }}\n'])
def test_the_jinja_template_says_the_same(template: ConversationTemplate, system: str | None) -> None:
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "one\n two "}]},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "four"}]},
    ]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    rendered, _ = render_jinja_template([messages], chat_template=template.chat_template(), add_generation_prompt=True)
    turns = [("<IMG_CONTEXT>\none\n two ", "three"), ("<video>\nfour", None)]
    assert rendered[0] == template.render(turns, system)
    finished, _ = render_jinja_template([messages[: 2 + (system is not None)]], chat_template=template.chat_template())
    assert finished[0] == template.render(turns[:1], system)
