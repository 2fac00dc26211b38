"""Device maps: a model spread over several devices, with weights that may wait on the CPU or on disk.

accelerate moves what goes into each module to where the module is. What comes out of the model is moved back by
`Backbone`, to the device that prompts go to.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from vision_agent.errors import ConfigError, bad_argument
from vision_agent.model.devices import choose_device

DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, int | str]

_WAITING = ("cpu", "disk")
_MEMORY = "None or a dict of devices to sizes such as {0: '20GiB', 'cpu': '60GiB'}"


def main_device(device_map: DeviceMap) -> torch.device:
    """Return where prompts and images go: the map's first accelerator, or the CPU if it has none.

    Raises:
        ConfigError: a place that is not here.
    """
    if isinstance(device_map, str):
        return choose_device("auto")
    if not device_map:
        raise ConfigError(bad_argument("device_map", "module names and their devices", device_map))
    for module, place in device_map.items():
        if place == "auto":
            raise ConfigError(bad_argument(f"device_map[{module!r}]", "a torch device present here, or 'disk'", place))
    places = [
        choose_device(place, name=f"device_map[{module!r}]") for module, place in device_map.items() if place != "disk"
    ]
    return next((place for place in places if place.type != "cpu"), torch.device("cpu"))


def check_memory(max_memory: Mapping[int | str, int | str]) -> None:
    """See that `max_memory` names devices that are here, and sizes. Needs accelerate.

    Raises:
        ConfigError: it does not.
    """
    from accelerate.utils.modeling import convert_file_size_to_int

    room = 0
    for device, size in max_memory.items():
        if isinstance(device, int):
            choose_device(device, name="max_memory")
        elif device not in (*_WAITING, "mps"):
            raise ConfigError(bad_argument("max_memory", "the number of a device, 'cpu', 'disk' or 'mps'", device))
        try:
            allowed = convert_file_size_to_int(size)
        except (ValueError, OverflowError) as error:
            raise ConfigError(bad_argument(f"max_memory[{device!r}]", "a size such as '20GiB'", size)) from error
        if allowed < 0:
            raise ConfigError(bad_argument(f"max_memory[{device!r}]", "a size of at least 0", size))
        room += allowed
    if not room:
        raise ConfigError(bad_argument("max_memory", f"{_MEMORY}, with room on one device at least", dict(max_memory)))


def fitted_map(device_map: dict[str, int | str], model: Any) -> dict[str, int | str]:
    """Return the map as it fits a model.

    An output table that is the input table lies with it. A module with another place than the one that holds it is
    given its own: accelerate would move what goes into it to the other's place.

    Args:
        model: the model without storage, for its names.

    Raises:
        ConfigError: names of modules that the model does not have, or modules without a place.
    """
    names = {name for name, _ in model.named_modules()} | {name for name, _ in model.named_parameters()}
    unknown = sorted(set(device_map) - names)
    if unknown:
        raise ConfigError(bad_argument("device_map", "names of the model's modules", unknown[0]))
    bare = [name for name, _ in model.named_parameters() if place_of(device_map, name) is None]
    if bare:
        raise ConfigError(f"`device_map` has no device for {bare[0]!r}; name it, or a module that holds it, or ''")
    fitted = dict(device_map)
    if _tied(model):
        tables = model.get_input_embeddings(), model.get_output_embeddings()
        first, last = (next(name for name, module in model.named_modules() if module is table) for table in tables)
        place = place_of(fitted, first)
        if place is not None and place_of(fitted, last) != place:
            fitted[last] = place
    return _without_nesting(fitted, model)


def planned_map(
    plan: str, model: Any, dtype: torch.dtype, max_memory: Mapping[int | str, int | str] | None
) -> dict[str, int | str]:
    """Return where accelerate's plan of this name puts a model, as transformers plans it.

    Args:
        model: the model without storage.
        max_memory: None for what the devices have.
    """
    from accelerate.utils import get_balanced_memory, get_max_memory, infer_auto_device_map

    whole: dict[str, Any] = {"no_split_module_classes": sorted(model._no_split_modules or ()), "dtype": dtype}
    room = None if max_memory is None else dict(max_memory)
    if plan == "sequential":
        room = get_max_memory(room)
    else:
        room = get_balanced_memory(model, max_memory=room, low_zero=plan == "balanced_low_0", **whole)
    planned: dict[str, int | str] = dict(infer_auto_device_map(model, max_memory=room, **whole))
    return planned


def spread(model: Any, device_map: Mapping[str, int | str]) -> None:
    """Let accelerate move what goes into each module of a model whose weights lie where the map says."""
    from accelerate import dispatch_model

    dispatch_model(model, device_map=dict(device_map), skip_keys=model._skip_keys_device_placement)


def _without_nesting(device_map: dict[str, int | str], model: Any) -> dict[str, int | str]:
    """The same places, with modules named one by one where parts of one have places of their own."""
    while True:
        holders = [name for name in device_map if _nests(name, device_map)]
        if not holders:
            return device_map
        holder = min(holders, key=len)
        module, start = model.get_submodule(holder), f"{holder}." if holder else ""
        parts = [name for name, _ in module.named_children()]
        parts += [name for name, _ in module.named_parameters(recurse=False)]
        own = {f"{start}{part}": device_map[holder] for part in parts}
        device_map = {**own, **{name: place for name, place in device_map.items() if name != holder}}


def _nests(holder: str, device_map: Mapping[str, int | str]) -> bool:
    start = f"{holder}." if holder else ""
    below = (place for name, place in device_map.items() if name != holder and name.startswith(start))
    return any(place != device_map[holder] for place in below)


def make_resident(model: Any) -> None:
    """Load the token tables that wait on the CPU or on disk, and leave them where the model computes them.

    Weights that wait are read anew for every call, so what is written into them is lost, and they cannot grow.
    """
    tables = model.get_input_embeddings(), model.get_output_embeddings()
    hooks = [next((hook for hook in _hooks(table) if getattr(hook, "offload", False)), None) for table in tables]
    if not any(hooks):
        return
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
    from accelerate.utils import set_module_tensor_to_device

    for table, hook in zip(tables, hooks, strict=True):
        if hook is None:
            continue
        values = {name: hook.weights_map[name] for name, _ in table.named_parameters(recurse=False)}
        remove_hook_from_module(table)
        for name, value in values.items():
            set_module_tensor_to_device(table, name, hook.execution_device, value=value)
        add_hook_to_module(table, AlignDevicesHook(hook.execution_device))
    if _tied(model):
        tables[1].weight = tables[0].weight


def _tied(model: Any) -> bool:
    """Whether the output table is the input table; `fitted_map` and accelerate's plans put them on one device."""
    return bool(model.config.tie_word_embeddings or model.config.get_text_config().tie_word_embeddings)


def _hooks(module: nn.Module) -> list[Any]:
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))


def place_of(device_map: Mapping[str, int | str], name: str) -> int | str | None:
    """Return the place of the longest name in the map that the named parameter is, or lies below; None if none."""
    fitting = [key for key in device_map if not key or name == key or name.startswith(f"{key}.")]
    return device_map[max(fitting, key=len)] if fitting else None
