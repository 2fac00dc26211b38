"""Addresses as messages may show them: without user, password, query and fragment."""

import re

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_AUTHORITY = re.compile(r"(?:[^:\[\]]*|\[[^\[\]]*\])(?::[0-9]*)?")


def shown(url: str) -> str:
    """Shorten an address for an error message: no user, password, query or fragment, which may hold secrets."""
    text = without_secrets(url)
    return repr(text if len(text) <= 120 else text[:100] + "...")


def without_secrets(url: str) -> str:
    """Return an address without user, password, query and fragment; its scheme alone where they cannot be told apart.

    A password may hold what ends a host (`/`, `?`, `@`), so parsers see parts of it as the host or the path.
    """
    scheme, _, rest = url.partition(":")
    if not _SCHEME.fullmatch(scheme):
        return "..."
    bare, *more = re.split(r"[?#]", rest.lstrip("/"), maxsplit=1)
    authority = bare.partition("/")[0]
    if "@" in authority:
        unclear = any("@" in part for part in more)
        bare = bare.rpartition("@")[2]
    else:
        unclear = _AUTHORITY.fullmatch(authority) is None
    return f"{scheme}://..." if unclear else f"{scheme}://{bare}"
