"""Reads pickles of plain data and of numpy arrays, by walking their opcodes. Nothing in them is ever called.

`pickle.load` runs what a file asks for. Here each opcode is one of a list, or the file is refused; names of Python are
only the few that numpy's arrays are written with, and what they stand for is built by the code below, never imported
by name. Opcodes are told apart by the standard library's `pickletools`, which executes none.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from os import SEEK_END
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_MOST_OPERATIONS = 100_000_000
_MOST_AXES = 8
_ITEM_TYPES = {"f2", "f4", "f8", "u1", "u2", "i1", "i2", "i4", "i8", "b1"}
_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy", "ndarray"): "kind",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "bytes",  # how protocol 2 writes bytes
    ("__builtin__", "bytes"): "no bytes",  # ... and none
}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """A name of Python that a file mentions; one of `_NAMES`."""

    role: str


@dataclass
class _ItemType:
    """numpy's dtype, while it is read."""

    code: str
    order: str = ""

    def build(self, state: Any) -> None:
        """Take its byte order; the rest must be that of a plain type."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", "|", ">", "=") or self.order:
            raise ValueError("a dtype of another form than numpy writes")
        if any(part is not None for part in state[2:5]):
            raise ValueError("a dtype with fields")
        self.order = state[1]


@dataclass
class _Draft:
    """A numpy array, while it is read."""

    array: Array | None = None

    def build(self, state: Any) -> None:
        """Take its shape, type and bytes, which must fit each other."""
        if self.array is not None or not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array of another form than numpy writes")
        _, shape, kind, by_columns, data = state
        if not isinstance(kind, _ItemType) or not isinstance(by_columns, bool | int):
            raise ValueError("an array of another form than numpy writes")
        if not isinstance(data, bytes):
            raise ValueError("an array of objects")
        if not isinstance(shape, tuple) or len(shape) > _MOST_AXES or not all(_is_size(side) for side in shape):
            raise ValueError("an array without a shape")
        dtype = np.dtype(kind.order.replace("|", "") + kind.code)
        if prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes for an array of shape {shape} and type {dtype}")
        self.array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")


class _Machine:
    """The stack and the memo of one pickle.

    Args:
        arrays: whether numpy's names are known; else a file may name nothing at all.
    """

    def __init__(self, arrays: bool) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self._names = _NAMES if arrays else {}

    def run(self, name: str, argument: Any) -> None:
        """Do what an opcode says."""
        step = _STEPS.get(name)
        if step is None:
            raise ValueError(f"the opcode {name}, which no state dict needs")
        step(self, argument)

    def pop(self) -> Any:
        """Take the value on top."""
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("an operation without its values")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        """Take all values above the last mark, and the mark."""
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                taken = self.stack[place + 1 :]
                del self.stack[place:]
                return taken
        raise ValueError("values without a mark")

    def top(self, kind: type[Any]) -> Any:
        """Return the value on top, which must be of a kind."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise ValueError(f"something else where a {kind.__name__} is filled")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        """Put a value on top."""
        self.stack.append(value)

    def tuple_of(self, count: int) -> None:
        """Join the values on top."""
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def fill(self, pairs: list[Any]) -> None:
        """Put keys and values into the dict on top."""
        if len(pairs) % 2:
            raise ValueError("a key without a value")
        filled = self.top(dict)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in (str, int):
                raise ValueError(f"a key of type {type(key).__name__}")
            filled[key] = _finished(value)

    def extend(self, values: list[Any]) -> None:
        """Put values into the list on top."""
        self.top(list).extend(_finished(value) for value in values)

    def fetch(self, number: int) -> None:
        """Push what was remembered."""
        if number not in self.memo:
            raise ValueError("a memory that was never written")
        self.push(self.memo[number])

    def remember(self, number: int) -> None:
        """Remember the value on top."""
        if not self.stack or self.stack[-1] is _MARK or number in self.memo:
            raise ValueError("a memory that is written twice, or of nothing")
        self.memo[number] = self.stack[-1]

    def name(self, module: Any, name: Any) -> None:
        """Push one of numpy's names."""
        role = self._names.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if role is None:
            told = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "no text"
            raise ValueError(f"the name {told[:80]!r}, which no state dict needs")
        self.push(_Name(role))

    def stack_name(self) -> None:
        """Push the name that stands on the stack."""
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def reduce(self) -> None:
        """Make an empty array, a dtype or bytes; nothing is called."""
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no name")
        if called.role == "array" and len(arguments) == 3 and arguments[0] == _Name("kind") and arguments[1] == (0,):
            self.push(_Draft())
        elif called.role == "dtype" and arguments and isinstance(arguments[0], str) and arguments[0] in _ITEM_TYPES:
            self.push(_ItemType(arguments[0]))
        elif called.role == "bytes" and len(arguments) == 2 and arguments[1] == "latin1" and type(arguments[0]) is str:
            self.push(arguments[0].encode("latin-1"))
        elif called.role == "no bytes" and arguments == ():
            self.push(b"")
        else:
            raise ValueError(f"a call that makes no {called.role} as numpy writes it")

    def build(self) -> None:
        """Finish an array or a dtype."""
        state = self.pop()
        if not self.stack or not isinstance(self.stack[-1], _Draft | _ItemType):
            raise ValueError("a state for something that has none")
        self.stack[-1].build(state)


class _Bounded:
    """A stream that is never asked for more than it has: lengths in a file are only claims."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._begin = stream.tell()
        self._left = stream.seek(0, SEEK_END) - self._begin
        stream.seek(self._begin)

    def read(self, count: int) -> bytes:
        """Return so many bytes, or all that are left."""
        data = self._stream.read(min(count, self._left))
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        """Return a line."""
        data = self._stream.readline()
        self._left -= len(data)
        return data

    def tell(self) -> int:
        """Return the place in the file."""
        return self._stream.tell()


_Step = Callable[[_Machine, Any], None]


def _steps() -> dict[str, _Step]:
    constants = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
    literals = (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
    steps: dict[str, _Step] = {
        "PROTO": lambda machine, argument: None,
        "FRAME": lambda machine, argument: None,
        "MARK": lambda machine, argument: machine.push(_MARK),
        "EMPTY_LIST": lambda machine, argument: machine.push([]),
        "EMPTY_TUPLE": lambda machine, argument: machine.push(()),
        "EMPTY_DICT": lambda machine, argument: machine.push({}),
        "TUPLE": lambda machine, argument: machine.push(tuple(machine.since_mark())),
        "TUPLE1": lambda machine, argument: machine.tuple_of(1),
        "TUPLE2": lambda machine, argument: machine.tuple_of(2),
        "TUPLE3": lambda machine, argument: machine.tuple_of(3),
        "LIST": _list,
        "DICT": _dict,
        "APPEND": lambda machine, argument: machine.extend([machine.pop()]),
        "APPENDS": lambda machine, argument: machine.extend(machine.since_mark()),
        "SETITEM": _set_item,
        "SETITEMS": lambda machine, argument: machine.fill(machine.since_mark()),
        "MEMOIZE": lambda machine, argument: machine.remember(len(machine.memo)),
        "GLOBAL": lambda machine, argument: machine.name(*str(argument).split(" ", 1)),
        "STACK_GLOBAL": lambda machine, argument: machine.stack_name(),
        "REDUCE": lambda machine, argument: machine.reduce(),
        "BUILD": lambda machine, argument: machine.build(),
    }
    for name, value in constants.items():
        steps[name] = lambda machine, argument, value=value: machine.push(value)  # type: ignore[misc]
    steps |= {name: lambda machine, argument: machine.push(argument) for name in literals}
    steps |= {name: lambda machine, argument: machine.remember(argument) for name in ("PUT", "BINPUT", "LONG_BINPUT")}
    steps |= {name: lambda machine, argument: machine.fetch(argument) for name in ("GET", "BINGET", "LONG_BINGET")}
    return steps


def _list(machine: _Machine, argument: Any) -> None:
    machine.push([_finished(value) for value in machine.since_mark()])


def _dict(machine: _Machine, argument: Any) -> None:
    pairs = machine.since_mark()
    machine.push({})
    machine.fill(pairs)


def _set_item(machine: _Machine, argument: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.fill([key, value])


_STEPS = _steps()


def read_pickle(stream: BinaryIO, *, arrays: bool) -> Any:
    """Return what a pickle holds: None, numbers, texts, bytes, lists, tuples and dicts of these.

    Args:
        stream: a file at the beginning of its one pickle, of any protocol up to 4.
        arrays: read numpy arrays too, those of plain numbers; they are read-only.

    Raises:
        ValueError: the file is damaged, or asks for anything else; says for what. Nothing was executed.
    """
    machine = _Machine(arrays)
    bounded: Any = _Bounded(stream)
    for number, (opcode, argument, _) in enumerate(pickletools.genops(bounded)):
        if opcode.name == "STOP":
            value = _finished(machine.pop())
            if machine.stack or stream.read(1):
                raise ValueError("more than one value")
            return value
        if number >= _MOST_OPERATIONS:
            raise ValueError("too many operations")
        machine.run(opcode.name, argument)
    raise ValueError("no end")


def _finished(value: Any) -> Any:
    """A value as callers get it; what was left half-made, and what only stands for a name, is none."""
    if isinstance(value, _Draft):
        if value.array is None:
            raise ValueError("an array without its values")
        return value.array
    if isinstance(value, _Name | _ItemType):
        raise ValueError("a name that nothing is made of")
    return value


def _is_size(side: Any) -> bool:
    return type(side) is int and side >= 0
