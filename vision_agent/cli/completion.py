"""The command that prints what a shell needs to complete commands and options: `completion`."""

from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer names it in no __all__

from vision_agent.errors import InputError, bad_argument

_SHELLS = ("bash", "zsh", "fish", "powershell")


def register(app: typer.Typer) -> None:
    """Add the command to `vision-agent`."""
    app.command()(completion)


def completion(shell: Annotated[str, typer.Argument(help=f"{', '.join(_SHELLS[:-1])} or {_SHELLS[-1]}.")]) -> None:
    """Print a shell's completion script, for example: eval "$(vision-agent completion bash)"."""
    if shell not in _SHELLS:
        raise InputError(bad_argument("shell", f"one of {', '.join(_SHELLS)}", shell))
    print(get_completion_script(prog_name="vision-agent", complete_var="_VISION_AGENT_COMPLETE", shell=shell))
