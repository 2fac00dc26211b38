"""Fonts for labels in any script: Pillow's own, one that the caller names, those of the extra `fonts`, the machine's.

Pillow's own font knows ASCII and little else. A text is cut into runs, each in the first font that has its characters,
as browsers do: fonts of one script often lack the letters of others.
"""

import os
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from vision_agent.errors import InputError, bad_argument, install_line

Run = tuple[str, ImageFont.FreeTypeFont]

_FONT_PACKAGES = "fontpkg.family"  # the entry points of packages that hold a font, such as fontpkg-noto-sans
_CJK_PACKAGES = ("noto_cjk_sans_otc",)

# What most machines have one of; Pillow looks for them in the system's folders.
_COMMON = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
    "Arial Unicode.ttf",
    "ARIALUNI.TTF",
)
_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}
_MOST_FILES = 5000  # of the font folders that are looked through
_PROBE = 16  # pixels, at which coverage is looked at
_JOINERS = "\u200c\u200d\ufe0e\ufe0f"  # they belong to the character before them

_warned: set[str] = set()


def check_font(font: object) -> str | None:
    """Return the path of a font as text; None for none.

    Raises:
        InputError: no file, or one that is no TrueType or OpenType font.
    """
    if font is None:
        return None
    expected = "the path of a TrueType or OpenType font"
    if not isinstance(font, str | os.PathLike):
        raise InputError(bad_argument("font", expected, font))
    path = os.fsdecode(font)
    if not Path(path).is_file() or _load(path, _PROBE) is None:
        raise InputError(bad_argument("font", expected, path))
    return path


def runs_of(text: str, size: int, font: str | None = None) -> list[Run]:
    """Cut a line into runs, each with the font to write it in, `size` pixels high.

    Characters that no font has are written as boxes; a warning says so once, and what helps.

    Args:
        font: path of the font to take first; None for none.
    """
    runs: list[tuple[str, str]] = []
    missing: list[str] = []
    for character in text:
        if runs and (unicodedata.combining(character) or character in _JOINERS):
            runs[-1] = (runs[-1][0] + character, runs[-1][1])
            continue
        before = runs[-1][1] if runs else None
        name = before if before is not None and _has(before, character) else _font_for(character, font)
        if name is None:
            missing.append(character)
            name = before if before is not None else font or ""
        if name == before:
            runs[-1] = (runs[-1][0] + character, name)
        else:
            runs.append((character, name))
    _warn(missing)
    return [(part, _sized(name, size)) for part, name in runs]


def _warn(missing: list[str]) -> None:
    new = "".join(dict.fromkeys(each for each in missing if each not in _warned))
    if not new:
        return
    _warned.update(new)
    warnings.warn(
        f"no font of this machine has the characters {new!r}, which are drawn as boxes: "
        f"{install_line('fonts')} (Latin, Greek, Cyrillic, Chinese, Japanese, Korean), "
        "or give draw(..., font='a font.ttf')",
        stacklevel=2,
    )


def _sized(name: str, size: int) -> ImageFont.FreeTypeFont:
    font = _load(name, size)
    if font is None:  # a font file that went away
        font = _load("", size)
    assert font is not None, "Pillow has a font of its own"
    return font


@lru_cache(maxsize=64)
def _load(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    """A font by path or file name, "" for Pillow's own; None where there is none, or none of any size."""
    try:
        font = ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except (OSError, ValueError):
        return None
    return font if isinstance(font, ImageFont.FreeTypeFont) else None


@lru_cache(maxsize=4096)
def _font_for(character: str, first: str | None) -> str | None:
    """The first font that has a character."""
    if first is not None and _has(first, character):
        return first
    return next((name for name in _candidates() if _has(name, character)), None)


def _candidates() -> Iterator[str]:
    yield ""
    yield from _packaged()
    yield from _COMMON
    yield from _installed()


@lru_cache(maxsize=65536)
def _has(name: str, character: str) -> bool:
    """Whether a font has a glyph for a character; a missing one is drawn as the same box as U+FFFF."""
    font = _load(name, _PROBE)
    if font is None:
        return False
    if character.isspace():
        return True
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


@lru_cache(maxsize=1)
def _packaged() -> tuple[str, ...]:
    """The upright fonts that Python packages hold: the same on every machine that has them."""
    modules = [*sorted(each.module for each in entry_points(group=_FONT_PACKAGES)), *_CJK_PACKAGES]
    found: list[str] = []
    for module in modules:
        spec = find_spec(module) if module.isidentifier() else None
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            files = [path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in _SUFFIXES]
            found += [str(path) for path in files if "italic" not in path.name.lower()]
    return tuple(found)


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """The fonts of this machine, those of plain sans-serif faces first."""
    files: list[str] = []
    for folder in _folders():
        for place, _, names in os.walk(folder):
            files += [os.path.join(place, name) for name in names if Path(name).suffix.lower() in _SUFFIXES]
            if len(files) > _MOST_FILES:
                break
    return tuple(sorted(files[:_MOST_FILES], key=_plainness))


def _plainness(path: str) -> tuple[bool, bool, str]:
    name = Path(path).stem.lower()
    styled = any(word in name for word in ("bold", "italic", "oblique", "light", "thin", "black", "mono", "serif"))
    return styled and "sansserif" not in name, "sans" not in name, path


def _folders() -> list[Path]:
    """Where fonts are kept: fontconfig's folders, and those of macOS and Windows."""
    home = Path.home()
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or str(home / ".local" / "share")
    folders = [Path(own) / "fonts", home / ".fonts", *(Path(each) / "fonts" for each in shared.split(":") if each)]
    if sys.platform == "darwin":
        folders += [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    if sys.platform == "win32":
        folders += [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"]
        folders += [Path(os.environ.get("LOCALAPPDATA", home)) / "Microsoft" / "Windows" / "Fonts"]
    return folders
