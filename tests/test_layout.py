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


def breaks_the_rule(name: str) -> bool:
    return any(name == plugged or name.startswith(f"{plugged}.") for plugged in PLUGGED_IN)


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_never_imports_what_plugs_into_it(path: Path) -> None:
    package = ".".join(["vision_agent", *path.relative_to(CORE).parts[:-1]])
    assert [name for name in imported_names(path.read_text("utf-8"), package) if breaks_the_rule(name)] == []


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
    source = "from vision_agent.plugins.decoder import Decoder\nfrom ..routing import RouteSpec\nfrom tokenizers import decoders"
    assert not any(breaks_the_rule(name) for name in imported_names(source, "vision_agent.train"))


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
    code = "import warnings; warnings.simplefilter('always'); import vision_agent, vision_agent.geometry.frames, vision_agent.cli.main"
    warned = python(code, tmp_path, tmp_path / "site").stderr
    assert warned.count("RuntimeWarning") == 1
    assert "'vision-agent' 1.2.3" in warned and "'internvl-vision-agent'" in warned


def test_the_readme_shows_the_layout_that_there_is() -> None:
    """Every file and folder that it names is there, and every module and folder of the core is named."""
    text = (ROOT / "README.md").read_text("utf-8").split("## Layout")[1].split("```")[1]
    named = set(re.findall(r"[\w]+(?:\.py|\.md|/)", text))
    there = {
        path.name + "/" * path.is_dir() for path in ROOT.rglob("*") if path.suffix in (".py", ".md") or path.is_dir()
    }
    assert named - there == set()
    core = {path.name + "/" * path.is_dir() for path in CORE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {name for name in core - named if not re.match(r"__|_distribution", name)} == set()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
        *(f"examples/{name}/README.md" for name in ("presence_decoder", "corners_decoder", "mcp")),
    ],
)
def test_pages_link_to_what_is_there_and_their_code_is_python(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        parsed = compile(block, page, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for statement in parsed.body:
            if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("vision_agent."):
                module = import_module(str(statement.module))
                assert [alias.name for alias in statement.names if not hasattr(module, alias.name)] == []
