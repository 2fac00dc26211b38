"""Guards against another distribution that installs the same import name."""

import warnings
from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "internvl-vision-agent"
_NAMESAKE = "vision-agent"


def warn_of_namesake() -> None:
    """Warn when PyPI's `vision-agent`, which also installs a package `vision_agent`, is there too."""
    try:
        found = version(_NAMESAKE)
    except PackageNotFoundError:
        return
    warnings.warn(
        f"the distribution {_NAMESAKE!r} {found} also installs the package 'vision_agent' and overwrites files of "
        f"{DISTRIBUTION!r}; uninstall both, then install {DISTRIBUTION!r} alone",
        RuntimeWarning,
        stacklevel=3,
    )
