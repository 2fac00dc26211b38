"""The command line: `vision-agent detect "red car" street.jpg`.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 2 bad input (one line on stderr).
"""

import sys

import typer

from vision_agent.cli import documents, models, predict, serve, training
from vision_agent.errors import VisionAgentError
from vision_agent.plugins.registry import load_commands


def main() -> None:
    """Run the command line; an error of this package becomes one line and exit code 2."""
    try:
        command_line()()
    except VisionAgentError as error:
        print(f"vision-agent: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def command_line() -> typer.Typer:
    """Return the application with all commands: those of this package, then those of plug-ins."""
    app = typer.Typer(
        name="vision-agent",
        help="Detect and ask with InternVL. Runs the embedded default model unless --model names another.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for group in (predict, documents, models, training, serve):
        group.register(app)
    for register in load_commands():
        register(app)
    return app
