"""Every page of the documentation runs as written, and prints what it shows.

A `python` block runs after those before it on its page, in a folder that has a copy of `examples/` as a clone of the
repository has; a `text` block right after it is what it prints. `python no-run` marks what needs a big checkpoint, a
GPU, another package or the network: such a block must be Python, and what it imports from this package must be there.

    python tests/test_docs.py docs/asking.md ...    # write into pages what their blocks print now
"""

import ast
import contextlib
import io
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from vision_agent import VisionAgent

ROOT = Path(__file__).parents[1]
# examples/presence_decoder/README.md runs in tests/examples/test_example_decoder.py, which installs the package.
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
OTHERS = tuple(f"examples/{name}/README.md" for name in ("presence_decoder", "corners_decoder", "mcp"))

_FENCED = re.compile(r"^```(?P<kind>.*)\n(?P<body>(?:.*\n)*?)```$", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_IMAGE_ID = re.compile(r"\bimg_[0-9a-f]+")


class Block(NamedTuple):
    """A `python` block: its code, whether it runs, and what it prints, with the place of that in the page."""

    code: str
    runs: bool
    output: str
    start: int
    end: int


def blocks(text: str) -> Iterator[Block]:
    """The Python of a page. The place of an output that is not there yet is empty, at the end of its block."""
    fences = list(_FENCED.finditer(text))
    for place, fence in enumerate(fences):
        if fence["kind"].split(" ")[0] != "python":
            continue
        after = fences[place + 1] if place + 1 < len(fences) else fence
        shown = after["kind"] == "text" and not text[fence.end() : after.start()].strip()
        start, end = after.span() if shown else (fence.end(), fence.end())
        yield Block(fence["body"], fence["kind"] == "python", after["body"] if shown else "", start, end)


def run(code: str, names: dict[str, Any], page: str) -> str:
    """Run a block among the `names` of its page; what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, page, "exec"), names)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def alike(shown: str, printed: str) -> bool:
    """Whether two outputs are the same: to the letter, but for the last digits of numbers and the ids of images."""
    shown, printed = (_IMAGE_ID.sub("img_", text) for text in (shown, printed))
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=False)
    return _NUMBER.sub("0", shown) == _NUMBER.sub("0", printed) and all(
        math.isclose(float(a), float(b), rel_tol=0.01, abs_tol=0.02) for a, b in pairs
    )


@contextlib.contextmanager
def in_a_copy(agent: VisionAgent) -> Iterator[None]:
    """A current folder as a clone has it, in which `VisionAgent()` is the model that `agent` has loaded."""

    def shared(self: VisionAgent, **settings: Any) -> None:
        if settings:
            own(self, **settings)
        else:
            self.__dict__.update(agent.__dict__)

    own = VisionAgent.__init__
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        shutil.copytree(ROOT / "examples" / "photos", Path(folder, "examples", "photos"))
        shutil.copy(ROOT / "examples" / "invoice.pdf", Path(folder, "examples"))
        patch.chdir(folder)
        patch.setattr(VisionAgent, "__init__", shared)
        patch.delenv("VISION_AGENT_DECODERS", raising=False)
        yield


@pytest.mark.parametrize("page", PAGES)
def test_a_page_prints_what_it_shows(agent: VisionAgent, page: str) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    with in_a_copy(agent):
        for block in blocks((ROOT / page).read_text("utf-8")):
            if block.runs:
                printed = run(block.code, names, page)
                assert alike(block.output, printed), f"{block.code}\nshows\n{block.output}\nbut prints\n{printed}"


@pytest.mark.parametrize("page", [*PAGES, *OTHERS])
def test_all_code_is_python_and_its_imports_are_there(page: str) -> None:
    for block in blocks((ROOT / page).read_text("utf-8")):
        for statement in ast.walk(ast.parse(block.code, page)):
            if isinstance(statement, ast.ImportFrom) and str(statement.module).split(".")[0] == "vision_agent":
                module = import_module(str(statement.module))
                assert [each.name for each in statement.names if not hasattr(module, each.name)] == []


@pytest.mark.parametrize("page", [*PAGES, *OTHERS, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_what_is_there(page: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text("utf-8")):
        assert ((ROOT / page).parent / link).exists(), link


def test_an_output_must_be_the_same_but_for_last_digits() -> None:
    (block,) = blocks("```python\nprint(1)\n```\n\n```text\ndog 0.77 img_3f9a2c\n```\n")
    assert (block.code, block.runs, block.output) == ("print(1)\n", True, "dog 0.77 img_3f9a2c\n")
    assert alike(block.output, "dog 0.76 img_000000\n")
    for other in ("dog 0.70 img_3f9a2c\n", "cat 0.77 img_3f9a2c\n", "dog 0.77 img_3f9a2c 1\n", ""):
        assert not alike(block.output, other)
    assert [each.output for each in blocks("```python\nprint(1)\n```\nthen\n```text\n1\n```\n")] == [""]


def write(page: Path, agent: VisionAgent) -> None:
    """Put into a page what its blocks print."""
    text, names, outputs = page.read_text("utf-8"), {"__name__": "__main__"}, []
    with in_a_copy(agent):
        for block in blocks(text):
            outputs.append((block, run(block.code, names, page.name) if block.runs else block.output))
    for block, printed in reversed(outputs):
        lead = "" if block.output else "\n\n"
        if printed:
            text = f"{text[: block.start]}{lead}```text\n{printed}```{text[block.end :]}"
    page.write_text(text, "utf-8")


if __name__ == "__main__":
    loaded = VisionAgent()
    for name in sys.argv[1:]:
        write(Path(name).resolve(), loaded)
