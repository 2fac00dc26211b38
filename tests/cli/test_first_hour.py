"""The page of the first hour: its commands do what it shows, with its lines and no others, in its order."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import CommandLine

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "first_hour.md"
COMMAND = "vision-agent "


def steps() -> list[tuple[str, list[str]]]:
    """Commands of the `console` blocks, each with the lines that it shows."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def shape(lines: list[str]) -> list[str]:
    """Numbers aside: they are the shipped model's, and follow it."""
    return [re.sub(r"\d+(\.\d+)?", "#", line) for line in lines]


def test_the_first_hour(cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    ran = 0
    for command, shown in steps():
        before, _, own = command.rpartition(COMMAND) if COMMAND in command else (command, "", "")
        given = b""
        if not own:
            subprocess.run(command, shell=True, check=True, cwd=tmp_path, timeout=60)
            continue
        if before:  # what is piped into it
            given = subprocess.run(before.rstrip("| "), shell=True, check=True, capture_output=True).stdout
        arguments, _, target = own.partition(" > ")
        done = cli(*shlex.split(arguments), stdin=given)
        ran += 1
        printed = done.stderr if target else done.stdout + done.stderr
        assert shape(printed.splitlines()) == shape(shown), command
        said = " ".join(shown)
        assert done.returncode == (2 if "must be" in said else 1 if " failed" in said else 0), command
    assert ran >= 12
