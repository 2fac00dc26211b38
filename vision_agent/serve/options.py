"""What a server allows: who may call it, and how much one request may ask for."""

import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from vision_agent.errors import InputError, bad_argument

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
"""The names of this machine, for itself."""


@dataclass(frozen=True)
class ServeOptions:
    """What a server allows. All bounds hold before anything is decoded or read by the model.

    Attributes:
        keys: whoever sends one of them as `Authorization: Bearer KEY` is let in; everybody where there are none.
        hosts: names by which clients reach the server, without ports; other `Host` and `Origin` headers are refused.
            None for any name, which is for servers with keys.
        roots: folders whose images and documents requests may name by path.
        name: by which clients ask for the model; None for the checkpoint's own.
        allow_urls: https addresses of images are fetched, as the agent's image limits allow.
        ui: a web page for people is served, too, at `/`.
        max_body_bytes: of a request.
        max_images: of a request.
        max_pixels: of an image.
        max_characters: of all texts of a request.
        max_tokens: of an answer. A request for more gets so many.
        max_choices: answers to one request (`n`), and items of a batch.
        max_running: requests that are worked on side by side.
        max_queue: requests that wait; one more is told to come again later.
        queue_seconds: how long a request waits at most.
        request_seconds: how long it is worked on at most.
        body_seconds: how long its bytes may take to arrive.
        max_jobs: requests that are answered later, and kept.
        job_seconds: how long one of them is worked on at most; it waits as long as it must.
        kept_seconds: how long its result is kept.
        drain_seconds: what running requests are given when the server stops.

    Raises:
        InputError: a bound that is no number above 0.
    """

    keys: tuple[str, ...] = field(default=(), repr=False)
    hosts: tuple[str, ...] | None = LOCAL_HOSTS
    roots: tuple[Path, ...] = ()
    name: str | None = None
    allow_urls: bool = False
    ui: bool = False
    max_body_bytes: int = 32 * 2**20
    max_images: int = 16
    max_pixels: int = 50_000_000
    max_characters: int = 200_000
    max_tokens: int = 4096
    max_choices: int = 16
    max_running: int = 16
    max_queue: int = 64
    queue_seconds: float = 60.0
    request_seconds: float = 300.0
    body_seconds: float = 30.0
    max_jobs: int = 100
    job_seconds: float = 3600.0
    kept_seconds: float = 3600.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            whole = each.name.startswith("max_")
            if not whole and not each.name.endswith("_seconds"):
                continue
            kind = int if whole else (int, float)
            least = 0 if each.name == "max_queue" else 1 if whole else 0.001
            if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value) or value < least:
                expected = f"a whole number of at least {least}" if whole else "a number of seconds above 0"
                raise InputError(bad_argument(each.name, expected, value))


def read_keys(path: Path) -> tuple[str, ...]:
    """Read keys from a file, one a line; empty lines and those that start with # do not count.

    Raises:
        InputError: a file that cannot be read, that has no key, or one with spaces or other signs than ASCII's.
    """
    expected = "a file with one key a line"
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{bad_argument('keys', expected, str(path))} ({type(error).__name__})") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise InputError(f"{bad_argument('keys', expected, str(path))}, which has none")
    for number, key in enumerate(keys, start=1):
        if not key.isascii() or not key.isprintable() or " " in key:  # the key itself is not shown
            raise InputError(
                f"`keys` must be {expected}, but key {number} of {str(path)!r} has other signs than ASCII's"
            )
    return keys


def is_local(host: str) -> bool:
    """Return whether a name or an address is of this machine, for itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def guarded(options: ServeOptions, host: str) -> ServeOptions:
    """Return the options for a server at `host`: elsewhere than on this machine it needs keys, and has other names.

    Raises:
        InputError: no keys.
    """
    if is_local(host):
        return options
    if not options.keys:
        raise InputError(
            f"`host` is {host!r}, which others can reach: give `--keys FILE`, or serve this machine alone, at 127.0.0.1"
        )
    return replace(options, hosts=None) if options.hosts == LOCAL_HOSTS else options


def bare_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Return names as `ServeOptions.hosts` has them: in lower case, IPv6 without brackets, each once."""
    return tuple(dict.fromkeys(host.strip("[]").lower() for host in hosts))
