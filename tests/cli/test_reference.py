"""The page of all commands says what the command line says."""

from pathlib import Path

from vision_agent.cli.reference import command_reference

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def test_the_page_of_commands_is_up_to_date() -> None:
    remedy = "python -m vision_agent.cli.reference > docs/commands.md"
    assert PAGE.read_text("utf-8") == command_reference(), remedy


def test_a_row_says_name_type_help_and_default() -> None:
    text = command_reference()
    assert "$ vision-agent known-words MODEL --data PATH\n" in text
    assert "| `--threshold FLOAT` | Least score, 0 to 1. |  |\n" in text
    assert "| `--workers INTEGER` | With --out, processes that work side by side. | `1` |\n" in text
