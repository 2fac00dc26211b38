"""The example that teaches answers runs, on a tiny InternVL, and what it taught is answered."""

import runpy
from pathlib import Path
from typing import Any

import original_format as official
import pytest

from vision_agent.train.tuning.tuning_settings import Tuning

EXAMPLE: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "finetune_answers.py"))


def test_it_answers_what_it_was_taught(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official.write_folder(tmp_path / "base", llm_config__max_position_embeddings=1024)
    settings = Tuning(steps=80, batch=8, micro=8, rate=1e-2, dropout=0.0, max_tiles=1, checkpointing=False)
    report = EXAMPLE["teach"](str(tmp_path / "base"), tmp_path / "out", settings)
    assert report.last_loss < 0.1
    told = capsys.readouterr().out.splitlines()
    assert told == [f"a {name}: a {name}" for name in EXAMPLE["PARTS"]]
