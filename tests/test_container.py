"""The Containerfile and what the page on serving says about it. No image is built: what it names is looked up."""

import ast
import itertools
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from vision_agent.cli.serve import serve
from vision_agent.serve.gate import OPEN_PATHS
from vision_agent.serve.options import ServeOptions

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "serving.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def steps() -> list[tuple[str, str]]:
    """The instructions and their words; lines that go on are one."""
    text = (ROOT / "Containerfile").read_text("utf-8")
    whole = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    found = [line.split(" ", 1) for line in whole.splitlines() if line.strip()]
    return [(name, words.strip()) for name, words in found]


def all_of(name: str) -> list[str]:
    return [words for instruction, words in steps() if instruction == name]


def options_of_serve() -> set[str]:
    """The options of `vision-agent serve`."""
    app = typer.Typer()
    app.command()(serve)
    return {name for option in typer.main.get_command(app).params for name in (*option.opts, *option.secondary_opts)}


def test_it_copies_what_is_there() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [words.split()[:-1] for words in all_of("COPY") if not words.startswith("--from")]
    assert {name for names in copied for name in names} == let_in
    for name in let_in:
        assert (ROOT / name).exists(), name
    package_folders = {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    package_folders |= set(PROJECT["tool"]["setuptools"]["package-dir"].values())
    assert package_folders <= let_in


def test_every_stage_is_there_for_both_devices() -> None:
    defaults = dict(words.split("=") for words in all_of("ARG"))
    assert defaults["DEVICE"] == "cpu"
    made: set[str] = set()
    for words in all_of("FROM"):
        image, _, name = words.partition(" AS ")
        for device in ("cpu", "cuda"):
            chosen = image.replace("${DEVICE}", device)
            assert chosen in made or chosen.startswith("docker.io/library/python:"), chosen
        made.add(name)
    for words in all_of("COPY"):
        if source := re.match(r"--from=(\S+)", words):
            assert source[1] in made
    lowest = re.fullmatch(r">=3\.(\d+)", PROJECT["project"]["requires-python"])
    assert lowest is not None and int(defaults["PYTHON"].split(".")[1]) >= int(lowest[1])


def test_it_installs_real_extras_in_locked_versions() -> None:
    (install,) = (words for words in all_of("RUN") if "$wheel[" in words)
    (extras,) = re.findall(r"\$wheel\[([\w,-]+)\]", install)
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert "serve" in extras and "--constraint /tmp/constraints.txt" in install
    for extra in extras.split(","):
        assert f"`{extra}`" in PAGE.split("## In a container")[1].split("##")[0]
    for words in all_of("RUN"):
        if not words.startswith("torch="):
            continue
        command = words.split("&&")[0].replace("/tmp/constraints.txt", str(ROOT / "constraints.txt"))
        done = subprocess.run(["sh", "-ec", f'{command}; echo "$torch"'], capture_output=True, text=True, timeout=20)
        assert re.fullmatch(r"torch==[\d.]+\n", done.stdout), done


def test_it_runs_the_server_as_nobody_special() -> None:
    order = [name for name, _ in steps()]
    assert order.index("USER") > max(place for place, name in enumerate(order) if name == "RUN")
    (user,) = all_of("USER")
    assert user.isdigit() and int(user) > 999 and f"--uid {user} " in " ".join(all_of("RUN"))
    (entry,) = all_of("ENTRYPOINT")
    command, verb, *words = json.loads(entry)
    assert command in PROJECT["project"]["scripts"] and verb == "serve"
    assert {word for word in words if word.startswith("--")} <= options_of_serve()
    (port,) = all_of("EXPOSE")
    assert words[words.index("--port") + 1] == port
    assert all_of("STOPSIGNAL") == ["SIGTERM"]


def test_its_health_is_asked_where_no_key_is_needed() -> None:
    (health,) = all_of("HEALTHCHECK")
    python, option, code = json.loads(health.split(" CMD ")[1])
    assert (python, option) == ("python", "-c")
    ast.parse(code)
    (path,) = re.findall(r"127\.0\.0\.1:8000(/[\w/]+)", code)
    assert path in OPEN_PATHS


# --- the page


def commands() -> list[list[str]]:
    """Every command of `vision-agent serve` and of containers on the page, in words."""
    blocks = [block for block in PAGE.split("```")[1::2] if block.startswith("\n")]  # those in no language
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    split = [shlex.split(line, comments=True) for line in lines if line.startswith(("vision-agent serve", "podman"))]
    assert len(split) > 7
    return split


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_of_the_page_have_real_options(words: list[str]) -> None:
    if words[:2] == ["podman", "build"]:
        given = [word.split("=")[0] for before, word in itertools.pairwise(words) if before == "--build-arg"]
        assert set(given) <= {each.split("=")[0] for each in all_of("ARG")}
        return
    if words[0] == "podman":
        (image,) = (word for word in words if word.startswith("vision-agent"))
        words = words[words.index(image) :]
    assert {word for word in words if word.startswith("--")} <= options_of_serve()


def test_the_deployment_fits_the_server() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    spec: dict[str, Any] = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    port = container["ports"][0]["containerPort"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in OPEN_PATHS and asked["port"] == port
    assert str(port) in all_of("EXPOSE") and str(spec["securityContext"]["runAsUser"]) in all_of("USER")
    assert {word for word in container["args"] if word.startswith("--")} <= options_of_serve()
    assert spec["terminationGracePeriodSeconds"] > ServeOptions().drain_seconds + 5
    assert container["env"][0]["name"] == "VISION_AGENT_KEYS"
