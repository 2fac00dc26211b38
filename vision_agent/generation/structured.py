"""Answers of a given form: JSON under a schema, or one of some choices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from vision_agent.errors import AnswerError, InputError
from vision_agent.generation.grammar import choice_constraint, json_constraint
from vision_agent.generation.json_schema import prepare_schema
from vision_agent.generation.options import GenerationOptions
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.constraint import Constraint, WrittenGrammar

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


@dataclass(frozen=True)
class AnswerForm:
    """The form of an answer: its grammar, and how its text becomes a value. Without either, free text.

    Attributes:
        schema: what its JSON follows.
        choices: by their texts as the model writes them.
        constraint: the grammar.
        protocol: what is written is read by a program, such as a call of a tool. It is written whatever the model was
            taught, with a warning where that is not this.
    """

    schema: type[BaseModel] | dict[str, Any] | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    constraint: Constraint | None = None
    protocol: bool = False

    @classmethod
    def of(
        cls,
        schema: type[BaseModel] | dict[str, Any] | None,
        choices: Sequence[str] | None,
        backbone: Backbone,
        options: GenerationOptions,
    ) -> "AnswerForm":
        """Compile the grammar; free text for neither schema nor choices.

        Raises:
            InputError: both are given, or one that no grammar can be made of.
        """
        if schema is not None and choices is not None:
            raise InputError("`schema` and `choices` exclude each other: an answer has one form")
        if backbone.is_remote:
            return cls._remote(schema, choices, backbone)
        if choices is not None:
            grammar = choice_constraint(backbone.tokenizer, choices, backbone.end_ids)
            own = {_spelling(choice, backbone): choice for choice in choices}
            if list(own) == list(choices) or len(own) < len(choices):  # nothing to respell, or texts would coincide
                return cls(choices={choice.strip(): choice for choice in choices}, constraint=grammar)
            return cls(choices=own, constraint=choice_constraint(backbone.tokenizer, list(own), backbone.end_ids))
        if schema is not None:
            limit = options.max_new_tokens
            grammar = json_constraint(backbone.tokenizer, schema, backbone.end_ids, max_new_tokens=limit)
            return cls(schema=schema, constraint=grammar)
        return cls()

    @classmethod
    def _remote(
        cls, schema: type[BaseModel] | dict[str, Any] | None, choices: Sequence[str] | None, backbone: Backbone
    ) -> "AnswerForm":
        """The grammar goes to the engine as it is."""
        if choices is not None:
            choice_constraint(backbone.tokenizer, choices, backbone.end_ids)  # refuses what is none
            texts = {choice.strip(): choice for choice in choices}
            return cls(choices=texts, constraint=WrittenGrammar(choices=tuple(texts)))
        if schema is not None:
            return cls(schema=schema, constraint=WrittenGrammar(schema=prepare_schema(schema).schema))
        return cls()

    def parsed(self, content: JsonValue, text: str) -> BaseModel | JsonValue:
        """Return a value that was made of words as the schema's; `text` is what the model wrote.

        Raises:
            AnswerError: it breaks a rule of the schema.
        """
        return self._validated(_JSON.dump_json(content).decode(), text)

    def value(self, text: str, reason: str) -> BaseModel | JsonValue:
        """Return what the text says: an instance of the schema, the choice, or None for free text.

        Raises:
            AnswerError: the answer did not end within its tokens, was cut by a `stop` text, or breaks a rule that no
                grammar can express.
        """
        if self.constraint is None:
            return None
        if text in self.choices and not any(other != text and other.startswith(text) for other in self.choices):
            return self.choices[text]  # whole, even where the limit left no room for an end token
        if reason != "stop":
            raise AnswerError(f"the answer did not end within `max_new_tokens`; it began with {text[:80]!r}", text)
        if self.schema is None:
            if text not in self.choices:
                raise AnswerError(f"a `stop` text cut the answer to {text[:80]!r}, which is none of the choices", text)
            return self.choices[text]
        return self._validated(text, text)

    def _validated(self, json: str, text: str) -> BaseModel | JsonValue:
        try:
            if self.schema is None or isinstance(self.schema, dict):
                return _JSON.validate_json(json)
            return self.schema.model_validate_json(json)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise AnswerError(
                f"the answer {text[:80]!r} has the form of the schema but breaks its rules: `{where}`: {first['msg']}",
                text,
            ) from error


def _spelling(choice: str, backbone: Backbone) -> str:
    """A choice as the model writes it: one with a lower-casing tokenizer never learnt to write capitals."""
    ids = backbone.text_ids(choice.strip())
    own = backbone.decode_text(ids).strip()
    return own if own and backbone.text_ids(own) == ids else choice.strip()
