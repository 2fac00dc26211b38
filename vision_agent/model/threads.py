"""How many processors this process really has, and how many threads torch takes of them.

A container's share of time (its cgroup's quota) is not what the machine's list of processors says. And GNU's OpenMP
gives each thread that computes helpers of its own: as soon as all of them are more than the processors, none waits
busily any longer, and short calls become slower. By default helpers wait for milliseconds at each of the many meetings
of a call, which holds it up where other programs want the processors, too.
"""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

_TURNS = "1000"  # that helpers wait busily: what the library itself takes where threads are more than processors
_PAUSE_SOFT = 1  # OpenMP 5.0's omp_pause_soft: the thread's settings stay
# Older cgroups have a hierarchy for each controller.
_OLD_MOUNTS = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/cpuacct,cpu")


def available_cpus(root: Path = Path("/")) -> int:
    """Return how many processors this process may use at a time: those it is bound to, and no more than its quota.

    Args:
        root: where the system's files lie.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(int(quota) for quota in _quotas(root))]))


def wait_briefly() -> None:
    """Let helpers of GNU's OpenMP sleep soon, where nothing is set: it reads this when torch is imported."""
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)


def use_threads(threads: int | None) -> None:
    """Let torch compute with so many threads; None for its own choice, and no more than there are processors.

    What the user chose with `OMP_NUM_THREADS` stands.
    """
    import torch  # not before it is needed: it takes a second

    if threads is None and "OMP_NUM_THREADS" in os.environ:
        return
    wanted = min(torch.get_num_threads(), available_cpus()) if threads is None else threads
    if wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)


def release_helpers() -> None:
    """Let the calling thread's helpers go, where another thread is to compute; they come back when they are needed."""
    library = _gnu_openmp()
    if library is not None:
        library.omp_pause_resource_all(_PAUSE_SOFT)


@cache
def _gnu_openmp() -> Any:
    """The library that torch has loaded, None where it is another one, or too old to let threads go."""
    import torch

    if not hasattr(os, "RTLD_NOLOAD"):
        return None
    own = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    for name in (*map(str, own), "libgomp.so.1"):
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD)
        except OSError:  # not loaded
            continue
        return library if hasattr(library, "omp_pause_resource_all") else None
    return None


def _quotas(root: Path) -> list[float]:
    """The quotas of this process's groups, and of those that hold them, in processors."""
    lines = [line.split(":", 2) for line in _read(root / "proc/self/cgroup").splitlines() if line.count(":") >= 2]
    quotas: list[float | None] = []
    for _, controllers, path in lines:
        if not controllers:
            quotas += [_new_quota(group) for group in _groups(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            quotas += [_old_quota(group) for mount in _OLD_MOUNTS for group in _groups(root / mount, path)]
    return [quota for quota in quotas if quota is not None]


def _groups(mount: Path, path: str) -> list[Path]:
    """A group's folder and those above it. A container may see its own group alone, as the mount itself."""
    inner = mount.joinpath(*(part for part in path.split("/") if part not in ("", "..")))
    return [each for each in (inner, *inner.parents) if each == mount or mount in each.parents]


def _new_quota(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    return _share(quota, period)


def _old_quota(group: Path) -> float | None:
    return _share(_read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip())


def _share(quota: str, period: str) -> float | None:
    """None without a quota, which is written "max" or -1."""
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:  # another system, or a file that this process may not see
        return ""
