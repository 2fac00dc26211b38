"""What users meet is public: every class that a verb takes or returns is in `vision_agent.__all__`."""

import ast
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import vision_agent
from vision_agent import AsyncChat, AsyncVisionAgent, Chat, Index, ObjectTracker, VisionAgent
from vision_agent.aio import AwaitedAsk, AwaitedRound, AwaitedRun
from vision_agent.embedding.verbs import EmbeddingVerbs
from vision_agent.inference.generation_verbs import GenerationVerbs
from vision_agent.inference.video_verbs import VideoVerbs

AWAITED = (AwaitedAsk, AwaitedRound, AwaitedRun)  # the types of verbs that stream


def only_for_types(module: str) -> dict[str, Any]:
    """What a module imports under `if TYPE_CHECKING:`, by name."""
    found: dict[str, Any] = {}
    for statement in ast.parse(Path(str(import_module(module).__file__)).read_text("utf-8")).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            for line in statement.body:
                if isinstance(line, ast.ImportFrom):
                    source = import_module(str(line.module))
                    found |= {alias.asname or alias.name: getattr(source, alias.name) for alias in line.names}
    return found


def classes_in(annotation: Any) -> Iterator[type]:
    """All classes that an annotation names: inside generics, unions and callables, and of the items of typed dicts."""
    if isinstance(annotation, list | tuple):
        for part in annotation:
            yield from classes_in(part)
    elif isinstance(annotation, typing.TypeVar):
        yield from classes_in(annotation.__bound__)
    elif typing.get_origin(annotation) is typing.Literal:
        return
    elif typing.get_args(annotation):
        yield from classes_in((typing.get_origin(annotation), *typing.get_args(annotation)))
    elif isinstance(annotation, type):
        generic: dict[str, Any] = getattr(annotation, "__pydantic_generic_metadata__", {})
        yield generic.get("origin") or annotation
        yield from classes_in(list(generic.get("args", ())))
        if typing.is_typeddict(annotation):
            yield from classes_in(list(typing.get_type_hints(annotation).values()))


def signatures(function: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """The resolved annotations of a function, and of each of its overloads."""
    function = inspect.unwrap(function)
    names = only_for_types(function.__module__)
    for each in (function, *typing.get_overloads(function)):
        yield typing.get_type_hints(each, localns=names)


def public_functions(owner: type) -> dict[str, Callable[..., Any]]:
    """The methods and properties of a class that have no underscore."""
    found: dict[str, Callable[..., Any]] = {}
    for name, member in vars(owner).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(function) and not name.startswith("_"):
            found[f"{owner.__name__}.{name}"] = function
    return found


def face() -> dict[str, Callable[..., Any]]:
    """The verbs of the classes that users call, and the public functions."""
    found: dict[str, Callable[..., Any]] = {}
    verbs = (EmbeddingVerbs, VideoVerbs, GenerationVerbs)
    for owner in (VisionAgent, *verbs, AsyncVisionAgent, Chat, AsyncChat, Index, ObjectTracker):
        found |= public_functions(owner) | {f"{owner.__name__}()": owner.__init__}
    found |= {owner.__name__: owner.__call__ for owner in AWAITED}
    for name in vision_agent.__all__:
        public = getattr(vision_agent, name)
        if inspect.isfunction(public):
            found[name] = public
    return found


# `Chat` and `AsyncVisionAgent` are made by the agent: what their constructors take is not for users.
FACE = {name: function for name, function in face().items() if name[-2:] != "()" or name == "VisionAgent()"}


def not_public(function: Callable[..., Any]) -> set[str]:
    """Names of the package's classes in a function's annotations that are not in `__all__`."""
    named = {each for hints in signatures(function) for each in classes_in(list(hints.values()))}
    own = {each for each in named if each.__module__.partition(".")[0] == "vision_agent" and not is_shape(each)}
    return {each.__name__ for each in own if getattr(vision_agent, each.__name__, None) is not each}


def is_shape(each: type) -> bool:
    """Whether a class only says what others look like (a file, an array): a private protocol, in an alias."""
    return each.__name__.startswith("_") and bool(getattr(each, "_is_protocol", False))


def test_the_face_is_all_there() -> None:
    assert {"VisionAgent.ask", "VisionAgent.routes", "VisionAgent.from_pretrained", "VisionAgent()"} <= set(FACE)
    assert {"Chat.ask", "AsyncVisionAgent.chat", "AsyncChat.history", "load_image", "AwaitedRun"} <= set(FACE)
    assert len(FACE) > 30


@pytest.mark.parametrize("name", FACE)
def test_what_it_takes_and_returns_is_public(name: str) -> None:
    assert not_public(FACE[name]) == set()


class Hidden:
    """A class that is not exported."""


Hidden.__module__ = "vision_agent.hidden"


class HiddenSettings(typing.TypedDict, total=False):
    value: "Hidden | None"


def takes(value: list[Hidden]) -> None: ...


def returns() -> "dict[str, Hidden] | None": ...


def calls_back(progress: Callable[[int, Hidden], None]) -> None: ...


def passes_on(**settings: typing.Unpack[HiddenSettings]) -> None: ...


@typing.overload
def overloaded(value: int) -> int: ...
@typing.overload
def overloaded(value: Hidden) -> str: ...
def overloaded(value: Any) -> Any: ...


@pytest.mark.parametrize("function", [takes, returns, calls_back, passes_on, overloaded])
def test_a_class_that_is_not_exported_is_found(function: types.FunctionType) -> None:
    assert not_public(function) == {"Hidden"}
