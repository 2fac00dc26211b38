"""A pretended accelerator: it shows wrong devices and waits of the host on a machine that has a CPU only.

`install()` gives torch a device type "pretend", with as many devices as asked for. Its tensors are computed on the CPU,
so results are real, but they obey the rules of a GPU:

* an operation between tensors of "pretend:0" and of the CPU, or of "pretend:1", raises;
* `numpy()` raises;
* float64 does not exist, as on Apple's GPUs;
* every place where the host waits for the device is counted, with the line of the caller that made it wait.

It says nothing about speed. What it changes in torch stays changed in the process (inference_mode becomes no_grad,
modules are converted by swapping their parameters), so it must have a process of its own.
"""

import collections
import contextlib
import inspect
import linecache
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._device import _device_constructors

NAME = "pretend"
# May mix devices: copies, and indexing a device's tensor by indices of the CPU.
_COPIES = frozenset(
    f"aten::{name}"
    for name in ("to", "copy_", "_to_copy", "_copy_from", "set_.source_Tensor", "_has_compatible_shallow_copy_type")
)
_INDEXING = frozenset(
    f"aten::{name}" for name in ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")
)
# The host must know a value before it can go on.
_WAITS = frozenset(
    f"aten::{name}"
    for name in (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "equal",
        "is_nonzero",
        "unique",
        "_unique2",
        "unique_consecutive",
    )
)
# Factories that resize or take lists in ways a backend written in Python cannot follow.
_FACTORIES = (
    "tensor",
    "as_tensor",
    "arange",
    "linspace",
    "eye",
    "randperm",
    "logspace",
    "tril_indices",
    "triu_indices",
)


@dataclass
class Waits:
    """How often the host waited for the device: by kind, and by line of the callers given to `install`."""

    kinds: collections.Counter[str] = field(default_factory=collections.Counter)
    lines: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def total(self) -> int:
        return sum(self.kinds.values())


@dataclass
class _Installed:
    """What `install` was told, and what must live as long as the process."""

    callers: tuple[str, ...] = ()
    devices: int = 0
    waits: Waits = field(default_factory=Waits)
    libraries: list[torch.library.Library] = field(default_factory=list)


_installed = _Installed()
_tensor = torch.tensor


class PretendTensor(Tensor):
    """A tensor of the pretended device; `raw` holds its values."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor, index: int = 0, requires_grad: bool = False) -> "PretendTensor":
        if raw.dtype == torch.float64:
            raise TypeError(f"Cannot convert a tensor to float64: the {NAME} device does not support it")
        if index >= _installed.devices:
            raise RuntimeError(f"{NAME}:{index} is not there; the last of the devices is {_installed.devices - 1}")
        tensor: PretendTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=f"{NAME}:{index}",
            requires_grad=requires_grad,
        )
        tensor.raw = raw
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{self.device}({self.raw!r})"

    def __getitem__(self, key: Any) -> Any:
        return Tensor.__getitem__(self, _indices(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, Tensor) and value.dim() and value.device != self.device:
            raise RuntimeError(_mixed("setitem", self.device, value))
        Tensor.__setitem__(self, _indices(key), value)

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return Tensor.data.__get__(self)  # type: ignore[attr-defined,no-any-return]

    @data.setter
    def data(self, value: Tensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.raw = value.raw  # type: ignore[attr-defined]

    def tolist(self) -> Any:
        _wait("tolist")
        return self.raw.tolist()

    def data_ptr(self) -> int:  # libraries tell shared weights by it
        return self.raw.data_ptr()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy  # type: ignore[assignment]

    def __reduce_ex__(self, _: Any) -> Any:
        return (PretendTensor, (self.raw, self.device.index))


def install(callers: tuple[str, ...] = ("vision_agent", "decoders"), devices: int = 2) -> None:
    """Make the devices known to torch. Once, before models are loaded.

    Args:
        callers: names of folders whose lines are named where the host waits.
        devices: how many there are.
    """
    if _installed.libraries:
        raise RuntimeError("the pretended accelerator is installed already")
    _installed.callers, _installed.devices = callers, devices
    _device_constructors()  # type: ignore[no-untyped-call]  # it remembers the originals, which the wrappers below call
    backend_registration._setup_privateuseone_for_python_backend(NAME, _backend_module(devices), _hook(devices))
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode is True else torch.no_grad()(mode)  # type: ignore
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    aten = torch.library.Library("aten", "IMPL")
    for name, overload in (
        ("empty.memory_format", torch.ops.aten.empty.memory_format),
        ("empty_strided", torch.ops.aten.empty_strided.default),
    ):
        aten.impl(name, _as_implementation(overload), "PrivateUse1")
    _installed.libraries += [library, aten]
    for name in _FACTORIES:
        setattr(torch, name, _made_on_the_cpu(getattr(torch, name)))
    torch.Tensor.new_tensor = _new_tensor(torch.Tensor.new_tensor)  # type: ignore[method-assign]
    torch.Generator = _Generator  # type: ignore[misc]
    torch.serialization.add_safe_globals([PretendTensor])


@contextlib.contextmanager
def waits() -> Iterator[Waits]:
    """Count how often the host waits inside the block; read the result after it."""
    before, _installed.waits = _installed.waits, Waits()
    try:
        yield _installed.waits
    finally:
        _installed.waits = before


def _backend_module(devices: int) -> Any:
    class Module(backend_registration._DummyBackendModule):  # type: ignore[misc]
        def device_count(self) -> int:
            return devices

        def get_rng_state(self, device: Any = None) -> Tensor:
            return torch.get_rng_state()

        def set_rng_state(self, state: Tensor, device: Any = None) -> None:
            torch.set_rng_state(state)

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    return Module()


def _hook(devices: int) -> Any:
    class Hook(backend_registration._DummyPrivateUse1Hook):  # type: ignore[misc]
        def device_count(self) -> int:
            return devices

    return Hook()


class _Generator(torch.Generator):
    """Random numbers for the pretended device come from the CPU's generator."""

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        device = torch.device(device)
        return super().__new__(cls, "cpu" if device.type == NAME else device)

    def __init__(self, device: Any = "cpu") -> None:
        pass


def _indices(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(map(_indices, key))
    return _tensor(key) if isinstance(key, list) else key


def _mixed(name: str, home: torch.device, other: Tensor) -> str:
    return (
        f"Expected all tensors to be on the same device, but {name} got {home} and {other.device} "
        f"{tuple(other.shape)} {other.dtype}"
    )


def _wait(what: str) -> None:
    _installed.waits.kinds[what] += 1
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if any(f"/{name}/" in file for name in _installed.callers):
            line = linecache.getline(file, frame.f_lineno).strip()
            _installed.waits.lines[f"{what} {'/'.join(file.split('/')[-2:])}:{frame.f_lineno} {line[:90]}"] += 1
            return
        frame = frame.f_back
    _installed.waits.lines[f"{what} (elsewhere)"] += 1


def _refuse_mixed(name: str, tensors: list[Tensor], home: torch.device) -> None:
    # A number without dimensions may come from the CPU.
    others = [each for each in tensors if each.device != home and (each.dim() or each.device.type == NAME)]
    if name in _INDEXING:
        others = [each for each in others if each.device.type != "cpu" or each.is_floating_point()]
    if others:
        raise RuntimeError(_mixed(name, home, others[0]))


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Carry out one operation on the values, if a GPU would, and put the results on the device."""
    name = func._schema.name
    leaves = list(_leaves((args, kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    if ours and name not in _COPIES:
        _refuse_mixed(name, tensors, ours[0].device)
    wanted = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    target = wanted[0] if wanted else ours[0].device if ours else torch.device("cpu")
    to_cpu = ours and name in {"aten::_to_copy", "aten::to"} and target.type == "cpu"
    into_cpu = ours and name == "aten::copy_" and not isinstance(args[0], PretendTensor)
    if (ours and name in _WAITS) or to_cpu or into_cpu:
        _wait(name)
    given: dict[int, Tensor] = {}

    def value(leaf: Any) -> Any:
        if isinstance(leaf, torch.device):
            return torch.device("cpu") if leaf.type == NAME else leaf
        raw = leaf.raw if isinstance(leaf, PretendTensor) else leaf
        if isinstance(leaf, Tensor):
            given[id(raw)] = leaf
        return raw

    def wrapped(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in given and given[id(leaf)].device == target:
            return given[id(leaf)]  # in place
        if target.type != NAME or isinstance(leaf, PretendTensor):
            return leaf
        return PretendTensor(leaf, target.index or 0)

    values = {key: _mapped(value, each) for key, each in kwargs.items() if key != "pin_memory"}
    if name == "aten::histc" and not tensors[0].is_floating_point():  # a GPU counts whole numbers, a CPU does not
        return _mapped(wrapped, func(value(args[0]).double(), *args[1:], **values).to(tensors[0].dtype))
    return _mapped(wrapped, func(*_mapped(value, args), **values))


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, tuple | list):
        for each in tree:
            yield from _leaves(each)
    elif isinstance(tree, dict):
        yield from _leaves(list(tree.values()))
    else:
        yield tree


def _mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, tuple):
        return tuple(_mapped(change, each) for each in tree)
    if isinstance(tree, list):
        return [_mapped(change, each) for each in tree]
    return change(tree)


def _as_implementation(overload: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: _run(overload, args, kwargs)


def _made_on_the_cpu(maker: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def make(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if device is not None and torch.device(device).type == NAME:
            return maker(*args, **kwargs).to(device)
        return maker(*args, device=device, **kwargs)

    return make


def _new_tensor(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def new(self: Tensor, data: Any, *args: Any, device: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
        if isinstance(self, PretendTensor) and device is None:
            return torch.tensor(data, dtype=dtype or self.dtype).to(self.device)
        return original(self, data, *args, device=device, dtype=dtype, **kwargs)

    return new


def callers() -> tuple[str, ...]:
    """Return the names of the folders whose lines are named."""
    return _installed.callers
