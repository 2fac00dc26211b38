"""The conversation templates of InternVL: how a dialogue becomes the text that the model reads.

A published checkpoint in the original format names its template in `config.json`. `ConversationTemplate.render` gives
the official prompt, character for character; `ConversationTemplate.chat_template` says the same in the template
language of transformers, so that a converted folder needs nothing but transformers.

Facts from OpenGVLab/InternVL, `internvl/conversation.py`; those of GPT-OSS from
`internvl_chat_gpt_oss/internvl/model/internvl_chat/conversation.py`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

# The commas and the full stop are the Chinese ones, as published.
_SYSTEM_MESSAGE = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"  # noqa: RUF001
)
_SYSTEM_MESSAGE_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001
)
_SYSTEM_MESSAGE_GPT_OSS = (
    "You are InternVL, a large language model trained by Shanghai AI Laboratory.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: 2025-08-06\n\nReasoning: low\n\n"
    "# Valid channels: final. Channel must be included for every message."
)

# `@name@` stands for that field of the template, as a jinja string.
_JINJA = (
    "{% if messages and messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = @system_message@ %}{% set turns = messages %}{% endif %}"
    "{{ @system_start@ }}"
    "{% if system is string %}{{ system }}"
    "{% else %}{% for part in system %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ @system_end@ }}"
    "{% for message in turns %}"
    "{{ @user@ if message['role'] == 'user' else @assistant@ }}"
    "{% if message['content'] %}{{ @between@ }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ @user_end@ if message['role'] == 'user' else @assistant_end@ }}"
    "{% else %}{{ @waiting@ }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ @assistant@ }}{{ @waiting@ }}{% endif %}"
)


@dataclass(frozen=True)
class ConversationTemplate:
    """How turns are written: an opening with the system message, then questions and answers in turn.

    Attributes:
        name: the name that `config.json` uses.
        system_message: what stands in the opening if the caller gives nothing else.
        system_start, system_end: around the system message.
        user, assistant: role marks before a question and before an answer.
        user_end, assistant_end: after a question and after an answer.
        sep: the official separator; see `stop`.
        between: between a role mark and what was said.
        waiting: stands for `between` after a mark with nothing said yet.
    """

    name: str
    system_message: str
    system_start: str
    system_end: str
    user: str
    assistant: str
    user_end: str
    assistant_end: str
    sep: str
    between: str = ""
    waiting: str = ""

    @property
    def stop(self) -> str:
        """The text of the one token that ends an answer."""
        return self.sep.strip()

    def with_system_message(self, system_message: str) -> "ConversationTemplate":
        """Return the same template with another system message."""
        return replace(self, system_message=system_message)

    def render(self, turns: Sequence[tuple[str, str | None]], system_message: str | None = None) -> str:
        """Write the prompt of a dialogue.

        Args:
            turns: (question, answer) in order. An answer of None leaves the prompt ready for it. As in the official
                code an empty text counts as nothing said.
            system_message: instead of the template's own; None keeps that.
        """
        system = self.system_message if system_message is None else system_message
        prompt = self.system_start + system + self.system_end
        for question, answer in turns:
            prompt += self._said(self.user, question, self.user_end)
            prompt += self._said(self.assistant, answer, self.assistant_end)
        return prompt

    def chat_template(self) -> str:
        """Return the same prompt as a jinja template, for `apply_chat_template` of transformers.

        A message's content is a string or a list of parts of type `"text"`, `"image"` or `"video"`. An image part
        becomes `<IMG_CONTEXT>` and a newline, a video part `<video>` and a newline. A first message of the role
        `"system"` replaces the system message.
        """
        return re.sub("@(.+?)@", lambda found: json.dumps(getattr(self, found[1]), ensure_ascii=False), _JINJA)

    def _said(self, role: str, text: str | None, end: str) -> str:
        return role + self.between + text + end if text else role + self.waiting


def _marked(
    name: str, system_message: str, *, sep: str, system: str, user: str, assistant: str, after_mark: str = "\n"
) -> ConversationTemplate:
    """A template in which every part has a start mark of its own and all share one end mark."""
    return ConversationTemplate(
        name=name,
        system_message=system_message,
        system_start=system + after_mark,
        system_end=sep,
        user=user + after_mark,
        assistant=assistant + after_mark,
        user_end=sep,
        assistant_end=sep,
        sep=sep,
    )


def _chatml(name: str, system_message: str, sep: str) -> ConversationTemplate:
    return _marked(
        name,
        system_message,
        sep=sep,
        system="<|im_start|>system",
        user="<|im_start|>user",
        assistant="<|im_start|>assistant",
    )


# No newline stands between `<|im_end|>` and `<|im_start|>` before InternVL 2.5.
_TEMPLATES = (
    _chatml("Hermes-2", _SYSTEM_MESSAGE, "<|im_end|>"),
    _chatml("internlm2-chat", _SYSTEM_MESSAGE, "<|im_end|>"),
    _chatml("internvl2_5", _SYSTEM_MESSAGE_2_5, "<|im_end|>\n"),
    _marked(
        "phi3-chat", _SYSTEM_MESSAGE, sep="<|end|>", system="<|system|>", user="<|user|>", assistant="<|assistant|>"
    ),
    ConversationTemplate(
        name="internvl_zh",
        system_message="",
        system_start="",
        system_end=" ",
        user="<human>",
        assistant="<bot>",
        user_end=" ",
        assistant_end="</s>",
        sep="</s>",
        between=": ",
        waiting=":",
    ),
    # The end mark of a finished dialogue; earlier answers end as everything else does.
    replace(
        _marked(
            "internvl3_5_gpt_oss",
            _SYSTEM_MESSAGE_GPT_OSS,
            sep="<|end|>",
            system="<|start|>system<|message|>",
            user="<|start|>user<|message|>",
            assistant="<|start|>assistant",
            after_mark="",
        ),
        sep="<|return|>",
    ),
)

OFFICIAL_TEMPLATES: Mapping[str, ConversationTemplate] = MappingProxyType(
    {template.name: template for template in _TEMPLATES}
)
"""The published templates by name."""
