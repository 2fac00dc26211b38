"""Options of `vision-agent batch`: what a run is about, what does its work, and where its records go."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from vision_agent.batch import Executor, Job, LocalWorkers, RayActors, Servers, process
from vision_agent.batch.lists import find_items
from vision_agent.batch.run import check_output
from vision_agent.cli.exits import run_to_end
from vision_agent.cli.options import RecordsOption, RetryOption
from vision_agent.errors import InputError, bad_argument

_PATHS_HELP = "Files, folders, patterns, lists (.txt, .csv, .jsonl or .parquet), addresses, - for a list on stdin."
_RAY_HELP = "Run on a Ray cluster; alone, on the one of RAY_ADDRESS or one that is started here."

_LONGEST = 3600.0  # seconds that a server may take where no bound is named

ItemsArgument = Annotated[list[str], typer.Argument(help=_PATHS_HELP)]


@dataclass(frozen=True)
class ExecutorOptions:
    """How a run is done."""

    out: RecordsOption = None
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes, Ray actors, or requests at once of each server.")
    ] = None
    shard: Annotated[
        str | None, typer.Option("--shard", help="Do one part, such as 2/3; `batch merge` joins the parts.")
    ] = None
    ray: Annotated[str | None, typer.Option("--ray", help=_RAY_HELP, metavar="[ADDRESS]")] = None
    gpus: Annotated[float, typer.Option("--gpus", help="GPUs of each Ray actor; 0.25 lets four share one.")] = 0.0
    servers: Annotated[
        list[str] | None,
        typer.Option("--servers", help="Addresses of `vision-agent serve`, apart by commas; may be repeated."),
    ] = None
    seconds: Annotated[
        float, typer.Option("--seconds", help="Longest work for a file; its worker is then ended. 0 for no bound.")
    ] = 300.0
    retry: RetryOption = False
    column: Annotated[
        str | None, typer.Option("--column", help="Column of lists that has the images or their paths.")
    ] = None

    def run(
        self,
        paths: Sequence[str],
        suffixes: Collection[str],
        what: str,
        job: Callable[[str | None], Job],
        usual: int = 1,
    ) -> None:
        """Do a job for all that `paths` stand for, and tell how it went.

        Args:
            suffixes, what: of files in folders, and what they are.
            job: makes the job for the model that servers serve, None without servers.
            usual: how many local workers there are where no number is given.

        Raises:
            InputError: options that exclude each other, a place that cannot be written, nothing at a path.
            typer.Exit: with 1 where files failed.
        """
        if self.out is None:
            raise InputError("`out` must be a .jsonl, .csv or .parquet file: --out")
        out = check_output(self.out)
        executor = self._executor(usual)
        job(None)  # what is wrong with it is told before servers are asked
        files = find_items(paths, suffixes, what, self.column)
        made = job(executor.model() if isinstance(executor, Servers) else None)
        run_to_end(
            lambda: process(files, made, out, executor=executor, shard=self.shard, retry=self.retry, progress=True)
        )

    def _executor(self, usual: int) -> Executor:
        if not 0 <= self.seconds < float("inf"):
            raise InputError(bad_argument("seconds", "a number above 0, or 0 for no bound", self.seconds))
        seconds = self.seconds or None
        if self.ray is not None and self.servers:
            raise InputError("`ray` and `servers` exclude each other")
        if self.gpus and self.ray is None:
            raise InputError("`gpus` goes with --ray: it is what each actor gets")
        if self.ray is not None:
            return RayActors(self.ray or None, self.workers, self.gpus, seconds)
        if self.servers:
            urls = [url for given in self.servers for url in given.split(",") if url]
            key = os.environ.get("VISION_AGENT_KEY")
            return Servers(
                urls, key=key, at_once=1 if self.workers is None else self.workers, seconds=seconds or _LONGEST
            )
        return LocalWorkers(1 if self.workers is None else self.workers, seconds)


def with_values(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which each option has one value: `--ray` may have none, `--servers` several."""
    known: list[str] = []
    for place, argument in enumerate(arguments):
        following = arguments[place + 1] if place + 1 < len(arguments) else ""
        after_servers = place > 1 and (arguments[place - 2] == "--servers" or known[-1].startswith("--servers="))
        if argument == "--ray" and not (following in ("auto", "local") or "://" in following or _is_port(following)):
            known.append("--ray=")
        elif after_servers and argument.startswith(("http://", "https://")):
            known.append(f"--servers={argument}")
        else:
            known.append(argument)
    return known


def _is_port(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    return bool(host and colon) and port.isdigit() and not Path(text).exists()
