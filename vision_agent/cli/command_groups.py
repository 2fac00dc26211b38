"""Groups of commands that several plug-ins share: `vision-agent train-route det`, `... classify`."""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import typer


def command_group(app: typer.Typer, name: str, told: str) -> typer.Typer:
    """Return the group of this name, made where there is none yet; `told` is its help then."""
    for each in app.registered_groups:
        if each.name == name and each.typer_instance is not None:
            return each.typer_instance
    group = typer.Typer(help=told, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name=name)
    return group


def with_arguments(command: Callable[..., None], **given: Any) -> Callable[..., None]:
    """Return a command of which these arguments are fixed: those that remain are its options."""
    hints = get_type_hints(command, include_extras=True)
    left = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[each.name])
        for each in inspect.signature(command).parameters.values()
        if each.name not in given
    ]

    def run(**rest: Any) -> None:
        command(**given, **rest)

    shown: Any = run
    shown.__doc__, shown.__module__ = command.__doc__, command.__module__
    shown.__annotations__ = {each.name: each.annotation for each in left}
    shown.__signature__ = inspect.Signature(left)
    return run
