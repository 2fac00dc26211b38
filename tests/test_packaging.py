"""The wheel: what is in it, and that it works by itself outside the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from vision_agent import Detections, __version__

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "vision_agent" / "checkpoints" / "default"
LARGEST = 70 * 2**20  # bytes
_NOT_COPIED = (".git", ".venv", "*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "runs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the repository: a build in place would pack what an earlier one left in build/."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*_NOT_COPIED))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", source]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it, outside the repository.

    What the wheel depends on comes from this environment by a .pth line. Lines of that environment's own .pth files,
    an editable installation's among them, do not count there, so `vision_agent` can come from the wheel alone.
    """
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--ignore-installed", "--no-index", wheel], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


def run_outside(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs in `folder`, with nothing of the repository on the import path and no way to a model hub."""
    left_out = {"PYTHONPATH", "PYTHONHOME", "VISION_AGENT_DECODERS", "VIRTUAL_ENV"}
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(folder / "empty")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"vision_agent/py.typed", "vision_agent/decoders/box.py", "vision_agent/tools/__init__.py"} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"vision_agent", f"internvl_vision_agent-{__version__}.dist-info"}
    assert not [name for name in names if "test" in Path(name).name or "/tests/" in name or name.endswith(".pyc")]
    info = f"internvl_vision_agent-{__version__}.dist-info"
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE", f"{info}/entry_points.txt"} <= names


def test_the_page_is_packed(wheel: Path) -> None:
    page = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vision_agent" / "serve" / "page").iterdir()}
    with zipfile.ZipFile(wheel) as archive:
        assert len(page) > 10 and page - set(archive.namelist()) == set()


@pytest.mark.parametrize("folder", ["vision_agent", "decoders", "tools"])
def test_every_module_is_packed(wheel: Path, folder: str) -> None:
    inside = "" if folder == "vision_agent" else "vision_agent/"
    modules = {inside + path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        assert modules - set(archive.namelist()) == set()


def test_the_default_model_is_packed_and_small(wheel: Path) -> None:
    assert (CHECKPOINT / "config.json").is_file(), "the repository has no default model"
    with zipfile.ZipFile(wheel) as archive:
        packed = {info.filename: info.file_size for info in archive.infolist()}
    files = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in CHECKPOINT.rglob("*") if path.is_file()}
    assert {name: packed.get(name) for name in files} == files
    assert wheel.stat().st_size < LARGEST


def test_the_package_comes_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys, vision_agent, vision_agent.tools as tools\n"
        "from vision_agent.plugins.registry import load_decoder\n"
        "print(vision_agent.__file__, tools.__file__, sys.modules[load_decoder('box').__module__].__file__)"
    )
    done = run_outside([installed / "bin" / "python", "-W", "error::RuntimeWarning", "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    paths = done.stdout.split()
    assert len(paths) == 3 and all(Path(path).is_relative_to(installed) for path in paths)


def test_users_own_folders_are_not_shadowed(installed: Path, tmp_path: Path) -> None:
    for name in ("decoders", "tools"):
        done = run_outside([installed / "bin" / "python", "-c", f"import {name}"], tmp_path)
        assert "ModuleNotFoundError" in done.stderr


def test_detect_on_the_command_line(installed: Path, photo: Path, tmp_path: Path) -> None:
    own = shutil.copy(photo, tmp_path / "photo.jpg")
    command = [installed / "bin" / "vision-agent", "detect", "dog", own, "--json", "--save", "out.png"]
    done = run_outside(command, tmp_path)
    assert done.returncode == 0, done.stderr
    found = Detections.model_validate_json(done.stdout)
    assert found.image_size == (640, 480)
    assert "dog" in found.labels
    assert (tmp_path / "out.png").stat().st_size > 0
