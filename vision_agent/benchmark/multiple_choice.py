"""MMBench: questions with options, asked once for each rotation of the options (circular evaluation)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from vision_agent.batch.records import replacing
from vision_agent.benchmark.answer_scoring import chosen_option
from vision_agent.benchmark.benchmark_set import Item, Said
from vision_agent.benchmark.published_rows import Row
from vision_agent.benchmark.question_sets import QuestionSet, answer_of
from vision_agent.benchmark.scores import Score, share
from vision_agent.errors import require_extra

_ROTATED = 1_000_000  # the index of a rotation is that of its question plus a multiple of this
_LETTERS = ascii_uppercase[:8]
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


class MMBench(QuestionSet):
    """MMBench and sets of its form: a question is right where all of its rotations are.

    An answer is matched by its letter or its option's text, never by a judge: an answer that names none is wrong.
    """

    names = ("mmbench",)
    patterns = ("*{split}*.tsv", "*.tsv", "*{split}*.parquet")
    splits = ("dev", "test")
    default_split = "dev"

    @classmethod
    def limited(cls, rows: list[Row], limit: int | None) -> list[Row]:
        """Return so many questions with all of their rotations."""
        mains = list(dict.fromkeys(_question_of(row) for row in rows))[:limit]
        wanted = set(mains)
        return [row for row in rows if _question_of(row) in wanted]

    @classmethod
    def problem(cls, row: Row, answers: list[str]) -> str:
        """An index is a number, and the answer one of the options."""
        if not str(row.get("index", "")).isdecimal():
            return "index that is no number"
        options = _options(row)
        if len(options) < 2:
            return "fewer than two options"
        return "" if not answers or answers[0] in options else "answer that is no option"

    @classmethod
    def prompt(cls, row: Row, question: str, official: bool) -> str:
        """Return the hint, the question and the options, and how to answer them."""
        hint = [str(row["hint"])] if row.get("hint") else []
        lines = [*hint, question, *(f"{letter}. {text}" for letter, text in _options(row).items())]
        if official:
            asked = "\n".join(lines)
            chinese = "请直接回答选项字母。"
            english = "Answer with the option's letter from the given choices directly."
            lines.append(chinese if _CHINESE.search(asked) else english)
        return "\n".join(lines)

    @classmethod
    def group_of(cls, row: Row, file: Path) -> str:
        """The ability that is asked for."""
        return str(row.get("l2-category") or row.get("L2-category") or row.get("category") or "")

    @classmethod
    def kept(cls, row: Row, question: str) -> dict[str, Any]:
        """All but the image."""
        return {name: value for name, value in row.items() if name not in ("image", "answers")}

    def figures(self, items: Sequence[Item], answers: Sequence[str]) -> list[Score]:
        """Circular accuracy, of all and by ability; and of the questions as they stand."""
        right: dict[int, bool] = {}
        plain: list[bool] = []
        groups: dict[int, str] = {}
        for item, said in zip(items, answers, strict=True):
            row = item.truth["row"]
            hit = chosen_option(said, _options(row)) == item.truth["answers"][0]
            question = _question_of(row)
            right[question] = right.get(question, True) and hit
            if question == int(row["index"]):
                plain.append(hit)
                groups[question] = item.group
        circular = len(items) > len(right)
        title = "circular accuracy" if circular else "accuracy"
        scores = [share(self.name, title, [right[each] for each in groups], "questions")]
        if circular:
            scores.append(share(self.name, "accuracy of the first rotation", plain, "questions"))
        for group in sorted(set(groups.values()) - {""}):
            some = [right[each] for each in groups if groups[each] == group]
            scores.append(share(self.name, f"{title}, {group}", some, "questions"))
        return scores

    def submission(self, said: Mapping[str, Said | None], folder: Path) -> list[Path]:
        """Write the workbook that MMBench's server takes: all columns but the image, and `prediction`."""
        rows = [
            {**item.truth["row"], "prediction": _letter(answer_of(said[item.key]), item.truth["row"])}
            for item in self.items
            if item.key in said
        ]
        path = self._path(folder, ".xlsx")
        _write_workbook(path, rows)
        return [path]


def _question_of(row: Row) -> int:
    index = str(row.get("index", ""))
    return int(index) % _ROTATED if index.isdecimal() else -1


def _options(row: Row) -> dict[str, str]:
    return {letter: str(row[letter]) for letter in _LETTERS if row.get(letter) not in (None, "", "nan")}


def _letter(answer: str, row: Row) -> str:
    """The letter that an answer names, or the answer, for the server to make something of."""
    return chosen_option(answer, _options(row)) or answer


def _write_workbook(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    require_extra("openpyxl", "benchmark", "writing MMBench's workbook is")
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    names = list(dict.fromkeys(name for row in rows for name in row))
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    sheet.append(names)
    for row in rows:
        cells = []
        for name in names:
            value = int(row["index"]) if name == "index" else row.get(name)
            text = isinstance(value, str)
            cell = WriteOnlyCell(sheet, value=ILLEGAL_CHARACTERS_RE.sub("", value) if text else value)
            if text:
                cell.data_type = "s"  # an answer that begins with "=" is no formula
            cells.append(cell)
        sheet.append(cells)
    with replacing(path) as part:
        book.save(part)
