"""The command that teaches a few dialogues by heart: to the default, which has bounds, and what its table tells."""

from pathlib import Path

import original_format as official
import pytest

from vision_agent import VisionAgent
from vision_agent.data.dialogues.dialogue_sets import read_dialogues
from vision_agent.evaluate import overfitting
from vision_agent.evaluate.overfitting import ask_line, by_heart, learn_kind


def test_the_default_answers_what_it_was_taught(tmp_path: Path) -> None:
    found = learn_kind("default", tmp_path, "text", 8, by_heart(steps=60))
    assert found.report.last_loss < 0.1 and (found.right, found.asked) == (4, 4), found.wrong
    # Of the same questions it says untaught that it was not taught them.
    line = read_dialogues(tmp_path / "data" / "text.jsonl").train[0]
    assert ask_line(VisionAgent(), line) != line.turns[0][1]


def test_the_table_tells_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    official.write_folder(tmp_path / "base", "qwen2", llm_config__max_position_embeddings=2048)
    command = ["overfitting", str(tmp_path / "base"), str(tmp_path / "out"), "--count", "2", "--steps", "1"]
    monkeypatch.setattr("sys.argv", [*command, "--kinds", "video", "boxes"])
    overfitting.main()
    told = capsys.readouterr()
    rows = [line for line in told.out.splitlines() if line.startswith(("| video", "| boxes"))]
    assert len(rows) == 2 and all("| 0 of 2 |" in row for row in rows)
    assert 'boxes: taught "the green box[[0, 0, 400, 400]]", said' in told.err
