"""Plants one fault in a module while it is imported: the file on disk stays as it is.

The fault is named by environment variables, so that processes which a test starts have it, too: `sitecustomize` in
`startup/` calls `plant` in each of them. Where the module is loaded already, its functions get new code.
"""

import gc
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from itertools import zip_longest
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

_FUNCTION = 2  # `inspect.CO_NEWLOCALS`: code of a function, not of a class or module
MODULE, FILE, OLD, NEW = "MUTANT_MODULE", "MUTANT_FILE", "MUTANT_OLD", "MUTANT_NEW"


class Planter(MetaPathFinder):
    """Finds one module, whose source has one fragment replaced."""

    def __init__(self, module: str, file: str, old: str, new: str) -> None:
        self._module, self._file, self._old, self._new = module, file, old, new

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        package = Path(self._file).name == "__init__.py"
        loader = _Loader(fullname, self._file, self._old, self._new)
        spec = ModuleSpec(fullname, loader, origin=self._file, is_package=package)
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [str(Path(self._file).parent)]
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, file: str, old: str, new: str) -> None:
        super().__init__(name, file)
        self._old, self._new = old, new

    def get_code(self, fullname: str) -> CodeType:
        """Compile the changed source; no cached bytecode is read or written."""
        source = planted(Path(self.path).read_text("utf-8"), self._old, self._new)
        return compile(source, self.path, "exec", dont_inherit=True)


def planted(source: str, old: str, new: str) -> str:
    """Return the source with the fragment replaced. Raises ValueError unless it is there exactly once."""
    if source.count(old) != 1:
        raise ValueError(f"the fragment is there {source.count(old)} times: {old!r}")
    return source.replace(old, new)


def plant() -> None:
    """Plant what the environment names, if anything."""
    if MODULE in os.environ:
        sys.meta_path.insert(0, Planter(*(os.environ[name] for name in (MODULE, FILE, OLD, NEW))))


def replaced_functions(file: str, old: str, new: str) -> list[tuple[CodeType, CodeType]] | None:
    """Return the code of functions before and after the fault; None where it changes what runs at the import."""
    source = Path(file).read_text("utf-8")
    before, after = (compile(text, file, "exec", dont_inherit=True) for text in (source, planted(source, old, new)))
    return _differences(before, after)


def _differences(before: CodeType, after: CodeType) -> list[tuple[CodeType, CodeType]] | None:
    """Of a module or a class body: the functions in it that differ."""
    if (before.co_code, before.co_names, len(before.co_consts)) != (
        after.co_code,
        after.co_names,
        len(after.co_consts),
    ):
        return None
    found: list[tuple[CodeType, CodeType]] = []
    for one, other in zip_longest(before.co_consts, after.co_consts):
        if one == other:
            continue
        if not (isinstance(one, CodeType) and isinstance(other, CodeType)):
            return None
        body = not one.co_flags & _FUNCTION
        inside = _differences(one, other) if body else [(one, other)]
        if inside is None:
            return None
        found += inside
    return found


def exchange(functions: Sequence[tuple[CodeType, CodeType]]) -> bool:
    """Give functions that are loaded their new code, wrapped ones as well; False where one of them is not there."""
    loaded = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
    for before, after in functions:
        same = [each for each in loaded if each.__code__ == before and each.__code__.co_filename == before.co_filename]
        for function in same:
            function.__code__ = after
        if not same:
            return False
    return True
