"""How much memory a process may still take, and how much it has taken."""

import os
from pathlib import Path

_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
_USED = ("sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory/memory.usage_in_bytes")


def free_memory(root: Path = Path("/")) -> int | None:
    """Return how many bytes this process may still take, by the system and its container; None where nobody says.

    Args:
        root: where the system's files lie.
    """
    free = []
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    for limit, used in zip(_LIMITS, _USED, strict=True):
        most, taken = _read(root / limit).strip(), _read(root / used).strip()
        if most.isdecimal() and taken.isdecimal():
            free.append(max(0, int(most) - int(taken)))
    return min(free) if free else None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""


def peak_memory() -> int | None:
    """Return the most bytes that this process has held; None where the system does not say."""
    if os.name != "posix":
        return None
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def gib(count: int) -> str:
    """Return bytes in words, such as "1.5 GiB"."""
    return f"{count / 2**30:.1f} GiB"
