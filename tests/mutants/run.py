"""Plants faults one by one and runs the tests that should notice: `make mutants`, or with names of faults to choose.

    python tests/mutants/run.py                     all of faults.toml
    python tests/mutants/run.py box mask.grid-swap  those whose names begin so
    python tests/mutants/run.py --list              names, and what each breaks

Faults with the same tests share a process that imports everything, collects the tests and loads the shipped model;
each fault is then a fork of it, in which the functions concerned get new code, or, where a fault concerns what runs at
an import, a fork that comes before it. The checkout is never written to. Exit status 0: everything was killed but the
faults that say themselves why they survive, and all of those did.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import planting  # noqa: E402

_HEAVY = ("torch", "transformers", "numpy", "pydantic", "PIL.Image", "hypothesis", "pytest", "safetensors.torch")
_HEAVY += ("transformers.models.internvl.modeling_internvl", "transformers.models.qwen2.modeling_qwen2")
KILLED, SURVIVED, TOO_SLOW = "killed", "survived", "killed by time"
ERROR, FAILS_ANYWAY = "error", "fails anyway"


class Verdict(NamedTuple):
    """What became of a fault: one of the words above, seconds, the output of the tests of its area."""

    verdict: str
    seconds: float
    output: str


@dataclass(frozen=True)
class Fault:
    """A change of one line that no test may miss.

    Attributes:
        name: area and what is wrong, "box.temperature".
        file: from the root of the repository.
        old, new: a fragment of the file, there exactly once, and what takes its place.
        breaks: what a user would see.
        tests: files or single tests that should notice, from the root.
        survives: why no test can notice; "" where one must.
    """

    name: str
    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]
    survives: str = ""

    @property
    def module(self) -> str:
        """The module's name: decoders/ and tools/ are parts of the package."""
        parts = list(Path(self.file).with_suffix("").parts)
        if parts[0] != "vision_agent":
            parts.insert(0, "vision_agent")
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def environment(self) -> dict[str, str]:
        """What `planting.plant` reads."""
        names = (planting.MODULE, planting.FILE, planting.OLD, planting.NEW)
        return dict(zip(names, (self.module, str(ROOT / self.file), self.old, self.new), strict=True))

    def trouble(self) -> str:
        """Return why it cannot be planted; "" where it can."""
        if not (ROOT / self.file).is_file():
            return f"there is no {self.file}"
        try:
            compile(planting.planted((ROOT / self.file).read_text("utf-8"), self.old, self.new), self.file, "exec")
        except (ValueError, SyntaxError) as error:
            return str(error)
        missing = [test for test in self.tests if not (ROOT / test.split("::")[0]).is_file()]
        return f"there is no {missing[0]}" if missing else "" if self.tests else "no tests are named"


def read_faults() -> list[Fault]:
    """Read `faults.toml`. A test of an area is what its `tests` table says, unless the fault names its own."""
    listed = tomllib.loads((HERE / "faults.toml").read_text("utf-8"))
    faults = []
    for entry in listed["fault"]:
        entry.setdefault("tests", listed["tests"].get(entry["name"].partition(".")[0], []))
        faults.append(Fault(**{**entry, "tests": tuple(entry["tests"])}))
    names = [fault.name for fault in faults]
    if len(set(names)) < len(names):
        raise SystemExit(f"names that are there twice: {sorted({name for name in names if names.count(name) > 1})}")
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plant faults and see whether the tests notice.")
    parser.add_argument("names", nargs="*", help="names of faults, or beginnings of them; all if none is given")
    parser.add_argument("--list", action="store_true", help="show the faults and run nothing")
    parser.add_argument("--limit", type=float, default=240, help="seconds for the tests of one fault")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="faults at once")
    parser.add_argument("--trust", action="store_true", help="do not first run the tests without any fault")
    parser.add_argument("--show", action="store_true", help="show the tests' output of errors")
    options = parser.parse_args(arguments)
    chosen = [fault for fault in read_faults() if not options.names or any(map(fault.name.startswith, options.names))]
    if options.list:
        print("\n".join(f"{fault.name:34}{fault.breaks}" for fault in chosen))
        return 0
    stale = {fault.name: trouble for fault in chosen if (trouble := fault.trouble())}
    for name, trouble in stale.items():
        print(f"not applicable  {name}: {trouble}", flush=True)
    ready = [fault for fault in chosen if fault.name not in stale]
    began = time.monotonic()
    results: dict[str, str] = {}
    for fault, found in _Areas(options).verdicts(ready):
        results[fault.name] = found.verdict
        if options.show and found.verdict in (ERROR, FAILS_ANYWAY):
            print(found.output, flush=True)
    return _summary(chosen, results, len(stale), time.monotonic() - began)


def _summary(chosen: Sequence[Fault], results: dict[str, str], stale: int, seconds: float) -> int:
    killed = sum(verdict in (KILLED, TOO_SLOW) for verdict in results.values())
    survivors = [fault for fault in chosen if results.get(fault.name) == SURVIVED]
    errors = [name for name, verdict in results.items() if verdict in (ERROR, FAILS_ANYWAY)]
    unexpected = [fault.name for fault in survivors if not fault.survives]
    revived = [fault.name for fault in chosen if fault.survives and results.get(fault.name) in (KILLED, TOO_SLOW)]
    print(f"\n{killed} of {len(chosen)} killed, {len(survivors)} survived, {stale} not applicable, in {seconds:.0f} s")
    for fault in survivors:
        print(f"  {fault.name}: {fault.survives or 'no reason is given: write a test, or say why none can notice'}")
    for label, names in (("error in", errors), ("killed though it should survive", revived)):
        if names:
            print(f"  {label}: {', '.join(names)}")
    return 1 if unexpected or errors or stale or revived else 0


class _Areas:
    """Runs the tests of many faults, those that share their tests in one process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        for name in _HEAVY:
            __import__(name)
        import torch

        torch.set_num_threads(1)  # a pool of threads would not live through a fork

    def verdicts(self, faults: Sequence[Fault]) -> Iterator[tuple[Fault, Verdict]]:
        """Yield each fault with its verdict, those that share their tests together."""
        areas: dict[tuple[tuple[str, ...], str], list[Fault]] = {}
        for fault in faults:
            functions = planting.replaced_functions(str(ROOT / fault.file), fault.old, fault.new)
            alone = "" if functions else fault.name  # planted before the imports
            areas.setdefault((fault.tests, alone), []).append(fault)
        with ThreadPoolExecutor(max(1, self._options.jobs)) as pool:
            for found in pool.map(self._of_area, areas.values()):
                yield from found

    def _of_area(self, faults: Sequence[Fault]) -> list[tuple[Fault, Verdict]]:
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            child = os.fork()
            if child == 0:
                _run_area(faults, Path(folder), self._options)
            os.waitpid(child, 0)
            found: list[tuple[Fault, Verdict]] = []
            for fault in faults:
                file = Path(folder) / f"{fault.name}.json"
                said = json.loads(file.read_text("utf-8")) if file.exists() else {}
                log = Path(folder) / "report.txt"
                output = log.read_text("utf-8", "replace") if log.exists() else ""
                found.append((fault, Verdict(said.get("verdict", ERROR), said.get("seconds", 0), output)))
            return found


def _run_area(faults: Sequence[Fault], folder: Path, options: argparse.Namespace) -> None:
    """In the process of an area: run pytest with each fault, and end."""
    status = 70
    try:
        terminal = os.dup(1)
        descriptor = os.open(folder / "report.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.chdir(ROOT)
        # What Hypothesis finds belongs to a fault, not to the checkout.
        os.environ |= {"HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"), "OMP_NUM_THREADS": "1"}
        import pytest

        quiet = ["-q", "--no-header", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--tb=short"]
        plugin = _Loop(faults, folder, options, terminal)
        if plugin.early:
            plugin.announce(faults[0])
            planting.plant()
        status = int(pytest.main([*quiet, f"--basetemp={folder / 'tests'}", *faults[0].tests], plugins=[plugin]))
    finally:
        sys.stdout.flush()
        os._exit(status)


class _Loop:
    """A plugin of pytest that runs the collected tests once for each fault, in a fork."""

    def __init__(self, faults: Sequence[Fault], folder: Path, options: argparse.Namespace, terminal: int) -> None:
        self._faults, self._folder, self._options, self._terminal = faults, folder, options, terminal
        self._functions = {
            fault.name: planting.replaced_functions(str(ROOT / fault.file), fault.old, fault.new) for fault in faults
        }
        self.early = not self._functions[faults[0].name]

    def pytest_runtestloop(self, session: Any) -> bool:
        if session.testsfailed:
            raise session.Interrupted("the tests could not be collected")
        if any("agent" in item.fixturenames for item in session.items) and not self.early:
            conftest = sys.modules["conftest"]
            model = conftest.VisionAgent()
            conftest.VisionAgent = lambda: model  # loaded once for all forks
        if not self._options.trust and not self.early and self._forked(session, None)[0] != SURVIVED:
            for fault in self._faults:
                self._write(fault, FAILS_ANYWAY, 0)
            return True
        for fault in self._faults:
            self._write(fault, *self._forked(session, fault))
        return True

    def announce(self, fault: Fault) -> None:
        """Tell the processes that tests start of the fault."""
        paths = [str(HERE / "startup"), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ |= fault.environment() | {"PYTHONPATH": os.pathsep.join(paths)}

    def _write(self, fault: Fault, verdict: str, seconds: float) -> None:
        text = json.dumps({"verdict": verdict, "seconds": seconds})
        (self._folder / f"{fault.name}.json").write_text(text, "utf-8")
        os.write(self._terminal, f"{verdict:16}{fault.name:28}{seconds:5.1f} s  {fault.breaks}\n".encode())

    def _forked(self, session: Any, fault: Fault | None) -> tuple[str, float]:
        began = time.monotonic()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status = 70
            try:
                os.setsid()
                print(f"\n=== {fault.name if fault else 'no fault'}", flush=True)
                status = self._run(session, fault)
            finally:
                sys.stdout.flush()
                os._exit(status)
        limit = self._options.limit * (1 if fault else 10)
        verdict = {None: TOO_SLOW, 0: SURVIVED, 1: KILLED}.get(_waited(child, began + limit), ERROR)
        return verdict, time.monotonic() - began

    def _run(self, session: Any, fault: Fault | None) -> int:
        """Run the tests until one fails: 1 if one did, 0 otherwise, 3 where the fault is not in what was loaded."""
        if fault is not None and not self.early:
            self.announce(fault)
            if fault.module not in sys.modules:  # a test will import it
                planting.plant()
            elif not planting.exchange(self._functions[fault.name] or []):
                return 3
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                return 1
        return 0


def _waited(child: int, deadline: float) -> int | None:
    """Return the exit status of a process; None where its time was over: then it and all it started are killed."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    raise SystemExit(main())
