"""The socket of a server: a light module, so that an address that cannot be had is told before a model is loaded."""

import socket

from vision_agent.errors import InputError, bad_argument

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Start to listen; who comes early waits. Port 0 takes a free one.

    Raises:
        InputError: an address that cannot be listened at.
    """
    bare = host.strip("[]")
    if isinstance(port, bool) or not 0 <= port <= 65535:
        raise InputError(bad_argument("port", "a number from 0 to 65535", port))
    try:
        family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        return socket.create_server((bare, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        expected = "an address of this machine with a free port"
        raise InputError(f"{bad_argument('host', expected, f'{host}:{port}')}: {error}") from error


def url_of(listening: socket.socket) -> str:
    """Return the address of a server that listens."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
