"""The rules of the layout: which module may import which, what is public, what an import costs."""

import ast
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import vision_agent

CORE = Path(vision_agent.__file__).parent
ROOT = Path(__file__).parents[1]
PLUGGED_IN = ("vision_agent.decoders", "vision_agent.tools", "decoders", "tools")
# The staircase, from the ground up: a folder (or a module beside the folders) imports only what stands before it.
STAIRS = (
    *("__version__", "_distribution", "checkpoints", "errors", "geometry", "images", "results", "plugins", "model"),
    *("generation", "routing", "checkpoint_export", "validation", "documents", "extract", "inference", "embedding"),
    "data",
    *("planning", "train", "remote"),
    *("aio", "agent", "evaluate", "batch", "benchmark", "ray", "search", "serve", "cli", "__main__"),
)
SAME_NAME_ALLOWED = {"__init__", "options", "result", "loading"}
MOST_LINES = {"agent.py": 1000}
PRODUCT = sorted(path for folder in ("vision_agent", "decoders", "tools") for path in (ROOT / folder).rglob("*.py"))
_IMPORTERS = {"import_module", "__import__"}


def imported_names(source: str, package: str) -> Iterator[str]:
    """Full names of all that a module's source imports, at any depth; `package` is what its dots count from."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, node.module] if node.module else parts)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if called in _IMPORTERS and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def module_name(path: Path) -> str:
    """`vision_agent/images/loading.py` -> `"vision_agent.images.loading"`; a folder's `__init__` is the folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "vision_agent" else ("vision_agent", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(path: Path) -> str:
    name = module_name(path)
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def breaks_the_rule(name: str) -> bool:
    return any(name == plugged or name.startswith(f"{plugged}.") for plugged in PLUGGED_IN)


def climbs(module: str, imported: str) -> bool:
    """Whether a module of the core imports something that stands above it."""
    mine, theirs = module.split(".")[1:2], imported.split(".")[1:2]
    if not imported.startswith("vision_agent.") or not mine or mine == theirs:
        return False
    return theirs[0] not in STAIRS or STAIRS.index(theirs[0]) > STAIRS.index(mine[0])


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, by whatever way round."""
    reached = {name: set(some & imports.keys()) for name, some in imports.items()}
    grown = True
    while grown:
        grown = False
        for name, some in reached.items():
            more = set().union(some, *(reached[each] for each in some))
            grown = grown or more != some
            reached[name] = more
    return sorted({tuple(sorted(b for b in reached[a] if a in reached[b])) for a in reached if a in reached[a]})


def stand_twice(sources: dict[str, str], size: int = 10) -> list[tuple[str, str]]:
    """Places ("file:line") of runs of `size` equal lines of code.

    Blank lines, comments and imports do not count, nor do signatures: a contract and what keeps it have the same.
    """
    first: dict[tuple[str, ...], str] = {}
    twice = []
    for name, source in sources.items():
        left_out = {line for node in ast.walk(ast.parse(source)) for line in (*documented(node), *signature(node))}
        numbered = [
            (number, line.strip())
            for number, line in enumerate(source.splitlines(), start=1)
            if line.strip() and number not in left_out and not re.match(r"#|from \S+ import|import ", line.strip())
        ]
        for start in range(len(numbered) - size + 1):
            run = tuple(line for _, line in numbered[start : start + size])
            place = f"{name}:{numbered[start][0]}"
            if run in first:
                twice.append((first[run], place))
            first.setdefault(run, place)
    return twice


def documented(node: ast.AST) -> range:
    """The lines of a docstring."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return range(0)
    return range(node.lineno, (node.end_lineno or 0) + 1)


def signature(node: ast.AST) -> range:
    """The lines of a function's head."""
    return range(node.lineno, node.body[0].lineno) if isinstance(node, ast.FunctionDef) else range(0)


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_never_imports_what_plugs_into_it(path: Path) -> None:
    assert [name for name in imported_names(path.read_text("utf-8"), package_of(path)) if breaks_the_rule(name)] == []


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_a_folder_imports_only_folders_below_it(path: Path) -> None:
    """What is imported for types alone, or inside a function, counts too."""
    module = module_name(path)
    names = set(imported_names(path.read_text("utf-8"), package_of(path)))
    assert sorted(name for name in names if climbs(module, name)) == []


def test_every_folder_of_the_core_has_its_stair() -> None:
    there = {path.stem for path in CORE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert there - {"__init__", "__pycache__"} == set(STAIRS) - {"__version__"}


def test_no_files_import_each_other() -> None:
    imports = {module_name(p): set(imported_names(p.read_text("utf-8"), package_of(p))) for p in PRODUCT}
    # The package itself offers what lies in it.
    del imports["vision_agent"]
    # Importing a module imports the folders that it lies in, whether or not their `__init__` needs it.
    assert (
        circles(
            {name: {each for each in some if not f"{name}.".startswith(f"{each}.")} for name, some in imports.items()}
        )
        == []
    )


def test_no_name_of_a_file_stands_twice_in_the_core() -> None:
    names = [path.stem for path in CORE.rglob("*.py") if path.stem not in SAME_NAME_ALLOWED]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_files_are_short() -> None:
    lines = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in PRODUCT}
    assert {str(path): count for path, count in lines.items() if count > MOST_LINES.get(path.name, 500)} == {}


def test_no_ten_lines_stand_twice() -> None:
    assert stand_twice({str(path.relative_to(ROOT)): path.read_text("utf-8") for path in PRODUCT}) == []


@pytest.mark.parametrize(
    "source",
    [
        "import vision_agent.decoders.box",
        "from vision_agent import tools",
        "from vision_agent.decoders import box",
        "def f():\n    from .decoders.box import BoxDecoder",
        "from . import tools as t",
        "import importlib\nimportlib.import_module('vision_agent.decoders.box')",
        "import decoders",
    ],
)
def test_the_rule_catches(source: str) -> None:
    assert any(breaks_the_rule(name) for name in imported_names(source, "vision_agent"))


def test_the_rule_lets_others_pass() -> None:
    source = (
        "from vision_agent.plugins.decoder import Decoder\n"
        "from ..routing import RouteSpec\n"
        "from tokenizers import decoders"
    )
    assert not any(breaks_the_rule(name) for name in imported_names(source, "vision_agent.train"))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "vision_agent.plugins.tool",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import vision_agent.agent",
        ),
        ("vision_agent.extract.labels", "def f():\n    from vision_agent.inference.engine import InferenceEngine"),
        ("vision_agent.results.points", "from vision_agent.plugins import decoder"),
        ("vision_agent.aio", "from vision_agent import agent"),
        ("vision_agent.images.loading", "from ..results import detections"),
        ("vision_agent.errors", "from vision_agent.wing import new"),
    ],
)
def test_the_staircase_catches(module: str, source: str) -> None:
    assert any(climbs(module, name) for name in imported_names(source, module.rpartition(".")[0]))


def test_the_staircase_lets_others_pass() -> None:
    source = "import torch\nfrom .box import Box\nfrom vision_agent.errors import InputError"
    assert not any(
        climbs("vision_agent.results.points", name) for name in imported_names(source, "vision_agent.results")
    )


def test_circles_and_repetitions_are_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c", "os"}, "c": {"a"}, "d": {"a"}}) == [("a", "b", "c")]
    assert circles({"a": {"b"}, "b": {"os"}}) == []
    lines = [f"x{number} = {number}" for number in range(10)]
    once, again = "\n".join(lines), "def f():\n" + "\n\n".join(f"    {line}  " for line in lines)
    assert stand_twice({"one.py": once, "two.py": again}) == [("one.py:1", "two.py:2")]
    assert stand_twice({"one.py": once, "two.py": "\n".join(lines[:9])}) == []


def test_public_names_are_sorted_and_importable() -> None:
    names = vision_agent.__all__
    assert names == sorted(set(names))
    assert dir(vision_agent) == names
    for name in names:
        public = getattr(vision_agent, name)
        assert isinstance(public, types.UnionType) or public.__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'VisionAgnet'"):
        vision_agent.VisionAgnet  # noqa: B018


def test_errors_are_public_and_in_one_tree() -> None:
    errors = import_module("vision_agent.errors")
    classes = [item for item in vars(errors).values() if isinstance(item, type)]
    assert classes
    for error in classes:
        assert issubclass(error, errors.VisionAgentError)
        assert getattr(vision_agent, error.__name__) is error
        assert error is errors.VisionAgentError or set(error.__mro__) & {
            ValueError,
            TypeError,
            LookupError,
            ImportError,
            RuntimeError,
        }


def python(code: str, folder: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in `folder`, with `path` on its import path."""
    command = f"import sys; sys.path[:0] = {[str(item) for item in path]!r}\n{code}"
    return subprocess.run(
        [sys.executable, "-c", command], cwd=folder, capture_output=True, text=True, check=True, timeout=120
    )


def test_import_is_light(tmp_path: Path) -> None:
    heavy = "{'torch', 'transformers', 'supervision', 'matplotlib', 'typer'} & set(sys.modules)"
    assert python(f"import vision_agent; print({heavy})", tmp_path).stdout == "set()\n"
    assert python(f"from vision_agent import load_image, Detections; print({heavy})", tmp_path).stdout == "set()\n"


def test_the_namesake_is_warned_of_once_by_name(tmp_path: Path) -> None:
    quiet = python("import vision_agent", tmp_path)
    assert quiet.stderr == ""
    info = tmp_path / "site" / "vision_agent-1.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vision-agent\nVersion: 1.2.3\n", "utf-8")
    code = (
        "import warnings; warnings.simplefilter('always'); "
        "import vision_agent, vision_agent.geometry.frames, vision_agent.cli.main"
    )
    warned = python(code, tmp_path, tmp_path / "site").stderr
    assert warned.count("RuntimeWarning") == 1
    assert "'vision-agent' 1.2.3" in warned and "'internvl-vision-agent'" in warned


def test_the_readme_shows_the_folders_that_there_are() -> None:
    shown = (ROOT / "README.md").read_text("utf-8").split("## Layout")[1].split("```")[1]
    made = {"build", "data", "dist", "runs"}  # what .gitignore names
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name.isidentifier()} - made
    assert set(re.findall(r"^(\w+)/", shown, re.MULTILINE)) == folders


def test_the_page_of_the_layout_shows_the_staircase() -> None:
    """Its table has every stair, from the top down, and all that the page names in code is there."""
    text = (ROOT / "docs" / "layout.md").read_text("utf-8")
    table = text.split("## Beside the core")[0]
    rows = [name.strip("/").removesuffix(".py") for name in re.findall(r"^\| `([\w.]+/?)`", table, re.MULTILINE)]
    assert rows == [stair for stair in reversed(STAIRS) if not stair.startswith("_")]
    named = re.findall(r"`((?:[\w.]+/)+(?:[\w.]+\.py)?|[\w]+\.py)`", text)
    assert [name for name in named if not any((folder / name).exists() for folder in (ROOT, CORE))] == []
