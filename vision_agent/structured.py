"""Answers of a given form: JSON under a schema, or one of some choices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from vision_agent.backbone import Backbone
from vision_agent.constraint import Constraint
from vision_agent.errors import AnswerError, InputError
from vision_agent.grammar import choice_constraint, json_constraint
from vision_agent.options import GenerationOptions

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


@dataclass(frozen=True)
class AnswerForm:
    """The form of an answer: its grammar, and how its text becomes a value. Without either, free text."""

    schema: type[BaseModel] | dict[str, Any] | None = None
    constraint: Constraint | None = None

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
        if choices is not None:
            return cls(None, choice_constraint(backbone.tokenizer, choices, backbone.end_ids))
        if schema is not None:
            limit = options.max_new_tokens
            return cls(schema, json_constraint(backbone.tokenizer, schema, backbone.end_ids, max_new_tokens=limit))
        return cls()

    def value(self, text: str, reason: str) -> BaseModel | JsonValue:
        """What the text says: an instance of the schema, the choice, or None for free text.

        Raises:
            AnswerError: the answer did not end within its tokens, or breaks a rule that no grammar can express.
        """
        if self.constraint is None:
            return None
        if reason != "stop":
            raise AnswerError(f"the answer did not end within `max_new_tokens`; it began with {text[:80]!r}", text)
        if self.schema is None:
            return text
        try:
            if isinstance(self.schema, dict):
                return _JSON.validate_json(text)
            return self.schema.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise AnswerError(
                f"the answer follows the schema's grammar but not its rules: `{where}`: {first['msg']}", text
            ) from error
