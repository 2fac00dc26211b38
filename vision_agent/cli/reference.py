"""The command reference as Markdown: `python -m vision_agent.cli.reference > docs/commands.md`."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer.models import CommandInfo, OptionInfo

from vision_agent.cli.main import command_line

_HEAD = """# Commands

All commands with their arguments and options, as `vision-agent COMMAND --help` shows them. This page is written by
`python -m vision_agent.cli.reference`, and a test compares the two. `python -m vision_agent` is the same as
`vision-agent`, and `vision-agent --version` tells the version.

**Images** are paths, folders, patterns (`'photos/**/*.jpg'`), `-` for stdin, and https addresses with `--allow-urls`.
Of one image the result is printed as it is; of several each line begins with the file and a tab, and `--json` gives a
record a line. `--save` writes drawings: to a file, or of several images to a folder.

**Records.** With `--out found.jsonl` (or `.csv`, `.parquet`) results go to a file, a record for each image or document,
in the order of the files. A run that is stopped, by Ctrl-C, `kill -9` or a power cut, goes on where it was when the
same command is run again, and ends with the same bytes. A file that fails is a record with an `error`; `--retry` takes
such files again. `found.jsonl.settings.json` beside it says what made it, and other settings are refused. On an
accelerator eight images are looked at together; on the CPU each core looks at one, where the model is small.

**Results** go to stdout, everything else to stderr.

| exit code | |
|---|---|
| 0 | done, also where nothing was found |
| 1 | some of several files failed; the others are done |
| 2 | bad input: one line says what, before any work |
| 130 | stopped by Ctrl-C |
| 141 | whoever read the output has gone, as `head` does |

**Completion.** `eval "$(vision-agent completion bash)"` in `~/.bashrc`, the same with `zsh` in `~/.zshrc`, or
`vision-agent completion fish > ~/.config/fish/completions/vision-agent.fish`.
"""


def command_reference() -> str:
    """Return a section for each command of this distribution: what it does, how it is called, what it takes."""
    app = command_line()
    groups = [(app, ""), *((each.typer_instance, f"{each.name} ") for each in app.registered_groups)]
    return _HEAD + "".join(
        _section(command, command.callback, before)
        for group, before in groups
        if group is not None
        for command in group.registered_commands
        if command.callback is not None and command.callback.__module__.startswith("vision_agent.")
    )


def _section(command: CommandInfo, function: Callable[..., Any], before: str) -> str:
    """A command's section; `before` its name stand those of its groups."""
    name = before + (command.name or function.__name__.replace("_", "-"))
    hints = get_type_hints(function, include_extras=True)
    call, rows = ["vision-agent", name], []
    for parameter in inspect.signature(function).parameters.values():
        kind, info = get_args(hints[parameter.name])  # of Annotated
        required = parameter.default is parameter.empty
        if isinstance(info, OptionInfo):
            # In `Annotated`, the first argument of `typer.Option` is the option's name, which typer calls `default`.
            flag = info.default if isinstance(info.default, str) else f"--{parameter.name.replace('_', '-')}"
            label = flag if kind is bool else f"{flag} {_type_name(kind)}"
            call += [label] if required else []
        else:
            label = parameter.name.upper() + ("..." if isinstance(kind, type(list[str])) else "")
            call.append(label if required else f"[{label}]")
        empty = required or parameter.default in (None, False)
        default = "required" if required else "" if empty else f"`{parameter.default}`"
        rows.append(f"| `{label}` | {info.help} | {default} |\n")
    text = f"\n## {name}\n\n{inspect.getdoc(function)}\n\n```console\n$ {' '.join(call)}\n```\n"
    return text + ("\n| | | default |\n|---|---|---|\n" + "".join(rows) if rows else "")


def _type_name(kind: Any) -> str:
    """`list[Path] | None` -> "PATH", `Literal["low", "high"]` -> "low/high"."""
    kind = next((each for each in get_args(kind) if get_origin(each) is Literal), kind)  # of `Literal[...] | None`
    if get_origin(kind) is Literal:
        return "/".join(get_args(kind))
    while arguments := get_args(kind):
        kind = arguments[0]
    return str({str: "TEXT", int: "INTEGER"}.get(kind, kind.__name__.upper()))


if __name__ == "__main__":
    print(command_reference(), end="")
