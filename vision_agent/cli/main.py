"""The command line: `vision-agent detect "red car" street.jpg`.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 some of several files failed; 2 bad input (one
line on stderr, nothing was done); 130 stopped by Ctrl-C; 141 whoever read stdout has gone.
"""

import io
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TextIO

if TYPE_CHECKING:
    import typer


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit.

    Args:
        arguments: without the program's name; those of the process if None.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:  # while the modules below are imported
        print("vision-agent: stopped", file=sys.stderr)
        code = 130
    sys.exit(code)


def command_line() -> "typer.Typer":
    """Return the application with all commands: those of this package, then those of plug-ins."""
    import typer

    from vision_agent.cli import (
        batch_jobs,
        bench,
        benchmark,
        completion,
        create,
        documents,
        indexing,
        models,
        predict,
        schema,
        serve,
        training,
        videos,
    )
    from vision_agent.plugins.registry import load_commands

    app = typer.Typer(
        name="vision-agent",
        help="Detect, segment, read and ask with InternVL. Runs the embedded default model unless --model names "
        "another.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
        ] = False,
    ) -> None: ...

    for group in (
        predict,
        batch_jobs,
        videos,
        indexing,
        create,
        documents,
        schema,
        models,
        training,
        bench,
        benchmark,
        serve,
        completion,
    ):
        group.register(app)
    for register in load_commands():
        register(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        import typer

        from vision_agent import __version__

        print(f"vision-agent {__version__}")
        raise typer.Exit


def _run(arguments: list[str]) -> int:
    """Run a command, and return its exit code."""
    import typer

    from vision_agent.cli.executor_options import with_values
    from vision_agent.cli.exits import (
        BAD_INPUT,
        INTERRUPTED,
        PIPE_CLOSED,
        StoppedByUser,
        one_line,
        silence_stdout,
        told,
    )
    from vision_agent.errors import VisionAgentError

    # typer may have its own copy of click, whose errors it does not export.
    usage_error: type[Exception] = typer.BadParameter.__mro__[2]
    _take_any_name()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            command: Any = typer.main.get_command(command_line())
            arguments = with_values(arguments) if arguments[:1] == ["batch"] else arguments
            result = command.main(arguments, prog_name="vision-agent", standalone_mode=False)
            sys.stdout.flush()
        except StoppedByUser as stopped:
            told(f"vision-agent: {stopped}")
            return INTERRUPTED
        except (BrokenPipeError, SystemExit) as ended:
            # typer exits by itself where a pipe is broken, and when it has completed a command line.
            if isinstance(ended, SystemExit) and not hasattr(sys.stdout, "wrapped") and ended.code in (0, 1):
                return int(ended.code)
            silence_stdout()
            return PIPE_CLOSED
        except (VisionAgentError, OSError) as error:
            told(f"vision-agent: {one_line(error)}")
            return BAD_INPUT
        except usage_error as error:
            return _usage(error)
    code = result if isinstance(result, int) else 0
    if code == INTERRUPTED:
        told("vision-agent: stopped")
    return code


def _usage(error: Any) -> int:
    """Tell in one line what is wrong with arguments; without any, the help is what was asked for."""
    from vision_agent.cli.exits import BAD_INPUT, told

    context = getattr(error, "ctx", None)
    said = " ".join(error.format_message().split()).removesuffix(".")
    if type(error).__name__ == "NoArgsIsHelpError":
        told(error.format_message())
    elif context is None:
        told(f"vision-agent: {said}")
    else:
        told(f"vision-agent: {said}; see `{context.command_path} --help`")
    return BAD_INPUT


def _take_any_name() -> None:
    """Print names of files that this terminal's encoding cannot show with escapes, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print what is wrong with plug-ins and engines; what libraries warn each other of is not for users."""
    from vision_agent.batch.engine_source import EngineWarning
    from vision_agent.plugins.registry import PluginWarning

    if issubclass(category, PluginWarning | EngineWarning):
        print(f"vision-agent: {' '.join(str(message).split())}", file=sys.stderr)
