"""Runs `vision-agent` in this process, with the agent that all tests share: a process of its own takes ten seconds."""

import inspect
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from vision_agent import VisionAgent
from vision_agent.cli.main import main
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT
from vision_agent.model.load_options import LoadOptions


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


CommandLine = Callable[..., Done]


@pytest.fixture
def cli(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """`cli("detect", "dog", "photo.jpg", stdin=b"")`; only the default model is not loaded anew."""
    load = VisionAgent.from_pretrained
    usual = {name: parameter.default for name, parameter in inspect.signature(load).parameters.items()}
    usual |= {name: field.default for name, field in LoadOptions.model_fields.items()}

    def shared(name: Any, **settings: Any) -> VisionAgent:
        is_default = name == DEFAULT_CHECKPOINT and all(value == usual[each] for each, value in settings.items())
        return agent if is_default else load(name, **settings)

    monkeypatch.setattr(VisionAgent, "from_pretrained", shared)

    def run(*arguments: object, stdin: bytes = b"") -> Done:
        capfd.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return Done(int(ended.value.code or 0), *capfd.readouterr())

    return run
