"""A caller's Pydantic model as a target of extraction: its values, what they are called and what they may be."""

import datetime
import enum
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeGuard, get_args, get_origin

from pydantic import AliasChoices, BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from vision_agent.documents.text_match import folded
from vision_agent.errors import ArgumentTypeError, InputError, bad_argument
from vision_agent.extract.field_names import Form, concept_of, currency_of, labels_of, party_of
from vision_agent.extract.lexicon import Concept

_FORMS: tuple[tuple[type, Form], ...] = (  # the first that fits; bool is an int and datetime a date
    (bool, "bool"),
    (int, "integer"),
    (float, "number"),
    (Decimal, "number"),
    (datetime.datetime, "datetime"),
    (datetime.date, "date"),
    (datetime.time, "time"),
)
_DEEPEST = 8


@dataclass(frozen=True)
class Leaf:
    """One value.

    Attributes:
        path: the field's name below its parents' names.
        forms: what the value may be.
        labels: folded texts that may be printed beside it, from the model itself.
        concept: what it means; one of the vocabulary's, or one made of its own labels.
        choices: what an enum or literal allows: folded text -> value.
        adapter: checks a value.
        party: "seller", "buyer" or "ship to" where the value is one of theirs, else "".
        required: the model allows neither None nor a default.
        blank: it has no default, but takes None.
        description: of the field, as the model has it.
        currency: that the field's name asks for, as in `total_usd`; None for any.
    """

    path: tuple[str, ...]
    forms: frozenset[Form]
    labels: tuple[str, ...]
    concept: Concept
    party: str
    choices: Mapping[str, Any]
    adapter: TypeAdapter[Any]
    required: bool
    blank: bool = False
    description: str = ""
    currency: str | None = None

    @property
    def name(self) -> str:
        return self.path[-1]

    def check(self, value: Any) -> tuple[bool, Any]:
        """Return whether the field takes a value, and the value as the field has it."""
        try:
            return True, self.adapter.validate_python(value)
        except (ValidationError, ArithmeticError):
            return False, None

    def why_not(self, value: Any) -> str:
        """Return why the field does not take a value, in Pydantic's words; "" where it does."""
        try:
            self.adapter.validate_python(value)
        except ValidationError as error:
            return "; ".join(detail["msg"] for detail in error.errors(include_url=False, include_input=False))
        except ArithmeticError as error:
            return str(error)
        return ""


@dataclass(frozen=True)
class Many:
    """A list: of values, or of groups such as the lines of an invoice."""

    path: tuple[str, ...]
    item: "Leaf | Group"
    required: bool
    blank: bool = False


@dataclass(frozen=True)
class Group:
    """A model's fields.

    Attributes:
        path: of the field that holds it; () for the model that was asked for.
        model: its class.
        parts: its fields by the keys that the model reads them from.
        required, blank: as for `Leaf`.
    """

    path: tuple[str, ...]
    model: type[BaseModel]
    parts: Mapping[str, "Leaf | Many | Group"]
    required: bool = True
    blank: bool = False

    def leaves(self) -> Iterator[Leaf]:
        """Yield all values that are not in lists, those of inner groups too."""
        for part in self.parts.values():
            if isinstance(part, Leaf):
                yield part
            elif isinstance(part, Group):
                yield from part.leaves()


def target_of(model: object) -> Group:
    """Read a Pydantic model class.

    Raises:
        ArgumentTypeError: it is none.
        InputError: it has no fields, is nested without end, or has a type that Pydantic itself cannot check.
    """
    if not _is_model(model):
        raise ArgumentTypeError(bad_argument("schema", "a Pydantic model class", model))
    if not model.model_fields:
        raise InputError(bad_argument("schema", "a model with fields", model))
    return _group(model, (), required=True, inside_list=False)


def _is_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _group(
    model: type[BaseModel], path: tuple[str, ...], *, required: bool, inside_list: bool, blank: bool = False
) -> Group:
    if len(path) > _DEEPEST:
        raise InputError(bad_argument("schema", f"a model nested at most {_DEEPEST} deep", ".".join(path)))
    parts = {
        _key(name, info): _part(name, info, (*path, name), inside_list) for name, info in model.model_fields.items()
    }
    return Group(path, model, parts, required, blank)


def _key(name: str, info: FieldInfo) -> str:
    """What `model_validate` reads the field from."""
    alias = info.validation_alias
    if isinstance(alias, AliasChoices):
        alias = next((choice for choice in alias.choices if isinstance(choice, str)), name)
    return alias if isinstance(alias, str) else name


def _part(name: str, info: FieldInfo, path: tuple[str, ...], inside_list: bool) -> Leaf | Many | Group:
    annotation = info.annotation
    arms = list(_arms(annotation))
    required = info.is_required() and type(None) not in arms
    blank = _is_blank(info)
    arms = [arm for arm in arms if arm is not type(None)]
    models = [arm for arm in arms if _is_model(arm)]
    if models:
        return _group(models[0], path, required=required, inside_list=inside_list, blank=blank)
    for arm in arms:
        if (item := _item_type(arm)) is not None:
            inner = [each for each in _arms(item) if each is not type(None)]
            if models := [each for each in inner if _is_model(each)]:
                return Many(path, _group(models[0], path, required=True, inside_list=True), required, blank)
            return Many(path, _leaf(name, info, path, inner, True, inside_list, item), required, blank)
    return _leaf(name, info, path, arms, required, inside_list)


def _arms(annotation: Any) -> Iterator[Any]:
    """The alternatives of a type, without `Annotated` around them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _arms(get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for arm in get_args(annotation):
            yield from _arms(arm)
    elif hasattr(annotation, "__value__"):  # an alias made by a `type` statement
        yield from _arms(annotation.__value__)
    else:
        yield annotation


def _item_type(annotation: Any) -> Any:
    """The type of a list's items, or None."""
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if not isinstance(origin, type) or not issubclass(origin, Collection) or issubclass(origin, str | bytes | Mapping):
        return None
    if issubclass(origin, enum.Enum) or origin is Collection:
        return None
    return arguments[0] if arguments else str


def _leaf(
    name: str,
    info: FieldInfo,
    path: tuple[str, ...],
    arms: Sequence[Any],
    required: bool,
    inside_list: bool,
    item: Any = None,
) -> Leaf:
    """A value; `item` is its type where it is one of a list that `info` describes."""
    choices: dict[str, Any] = {}
    forms: set[Form] = set()
    for arm in arms:
        if get_origin(arm) is Literal:
            choices |= {folded(str(value)): value for value in get_args(arm)}
        elif isinstance(arm, type) and issubclass(arm, enum.Enum):
            choices |= {folded(str(key)): member for member in arm for key in (member.name, member.value)}
        else:
            forms.add(next((form for kind, form in _FORMS if isinstance(arm, type) and issubclass(arm, kind)), "text"))
    if choices:
        forms.add("choice")
    labels = labels_of(name, info)
    described = info.description or ""
    concept = concept_of(path, labels, forms, inside_list, described)
    annotation: Any = info.annotation if item is None else item
    for mark in info.metadata if item is None else ():
        annotation = Annotated[annotation, mark]
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except PydanticUserError as error:
        raise InputError(
            bad_argument("schema", "made of types that Pydantic can check", f"{name}: {annotation}")
        ) from error
    party = "" if inside_list else party_of(path)
    blank = item is None and _is_blank(info)
    money = currency_of(path)
    return Leaf(path, frozenset(forms), labels, concept, party, choices, adapter, required, blank, described, money)


def _is_blank(info: FieldInfo) -> bool:
    """A field without a default that takes None: it is given None where nothing was found."""
    return info.is_required() and type(None) in _arms(info.annotation)
