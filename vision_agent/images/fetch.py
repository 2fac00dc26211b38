"""Download one image over https, from public hosts only.

A web service that loads addresses sent by its users must not become a way into its own network. So every name is
resolved once, refused unless all its addresses are public, and the connection goes to the very address that was
checked (a second lookup could answer differently). Each redirect goes through the same checks.
"""

import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from vision_agent.errors import ImageError, ImageTooLargeError, UrlRefusedError
from vision_agent.images.addresses import shown

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Ranges that Python's `is_global` lets through in some versions, or that lead elsewhere than they say.
_REFUSED_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "192.0.0.0/24",  # protocol assignments; Oracle Cloud's metadata service is here
            "192.88.99.0/24",  # 6to4 relays
            "168.63.129.16/32",  # Azure's wire server, a public-looking address inside the machine
        ),
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4 carries an IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def is_public(address: _Address) -> bool:
    """Return whether an address belongs to a host on the public internet."""
    if isinstance(address, ipaddress.IPv4Address):
        special = address.is_multicast or address.is_reserved or any(address in net for net in _REFUSED_V4)
        return address.is_global and not special
    if address in _NAT64:  # what a public IPv4 name becomes on an IPv6-only network
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and address in _GLOBAL_V6 and not any(address in net for net in _REFUSED_V6)


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True)
class _Network:
    """What `fetch` needs from the outside; tests put a local server here."""

    resolve: Callable[[str, int], list[str]] = _resolve
    is_public: Callable[[_Address], bool] = is_public
    ssl_context: Callable[[], ssl.SSLContext] = _ssl_context


_SYSTEM = _Network()


def fetch(
    url: str,
    *,
    max_bytes: int,
    timeout: float,
    max_redirects: int,
    name: str = "image",
    _network: _Network | None = None,
) -> bytes:
    """Download the body behind an https address.

    The deadline of `timeout` seconds holds for the whole download, redirects included. Only the name lookup itself
    runs at the pace of the system's resolver. Proxy settings of the environment are not used.

    Raises:
        UrlRefusedError: not https, a user name, an IP address as host, or a host whose address is not public.
        ImageTooLargeError: the body is over `max_bytes`.
        ImageError: anything else that went wrong.
    """
    network = _network or _SYSTEM
    deadline = time.monotonic() + timeout
    context = network.ssl_context()
    context.sslsocket_class = _deadline_socket(deadline)
    for _ in range(max_redirects + 1):
        target = _parse(url, name)
        addresses = _public_addresses(target, name, network)
        try:
            answer = _get(target, addresses, context, deadline, max_bytes, name)
        except (httpx.TimeoutException, TimeoutError) as error:
            why = f"which took longer than {timeout:g} seconds (`limits.url_timeout`)"
            raise ImageError(_refusal(name, "an image that downloads in time", url, why)) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            why = f"which could not be downloaded ({_cause(error)})"
            raise ImageError(_refusal(name, "an image that can be downloaded", url, why)) from error
        if isinstance(answer, bytes):
            return answer
        url = answer
    why = f"which is one redirect more than {max_redirects} (`limits.max_redirects`)"
    raise ImageError(_refusal(name, "the address of an image", url, why))


def _refusal(name: str, expected: str, url: str, why: str) -> str:
    return f"`{name}` must be {expected}, but got {shown(url)}, {why}"


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


def _parse(url: str, name: str) -> httpx.URL:
    """The address in its one parsed form, which is used for the checks and for the request alike."""

    def refuse(why: str) -> UrlRefusedError:
        return UrlRefusedError(_refusal(name, "the https:// address of an image on a public host", url, why))

    # Parsers disagree about these characters, and a disagreement is how checks are got around.
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise refuse("which has a space, a control character or a backslash in it")
    if re.match(r"[^/?#]*//[^/?#]*@", url):
        raise refuse("which had a user name in it")
    try:
        target = httpx.URL(url)
        host = target.raw_host.decode("ascii").removesuffix(".")
    except (httpx.InvalidURL, ValueError):
        raise refuse("which cannot be parsed") from None  # the parser's words quote parts of it, such as a password
    if target.scheme != "https":
        raise refuse("which is not https")
    # The last label decides: no public name ends in a number, and `127.1`, `0x7f.1` and `2130706433` are IPv4.
    if ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]):
        raise refuse("whose host is an IP address and not a name")
    if not _HOST.fullmatch(host):
        raise refuse("whose host is not a valid name")
    if not 0 < (target.port or 443) < 65536:  # a larger one would wrap around
        raise refuse("whose port does not exist")
    return target.copy_with(host=host, fragment=None)


def _public_addresses(target: httpx.URL, name: str, network: _Network) -> list[_Address]:
    url = str(target)
    try:
        found = [ipaddress.ip_address(text) for text in network.resolve(_host(target), target.port or 443)]
    except (OSError, ValueError) as error:  # ValueError: a label too long for a host name
        raise ImageError(_refusal(name, "the address of an image", url, "whose host name cannot be found")) from error
    if not found:
        raise ImageError(_refusal(name, "the address of an image", url, "whose host name cannot be found"))
    if not all(network.is_public(address) for address in found):
        # The address itself stays out of the message: it may go to someone who is probing the network.
        why = "whose host is not on the public internet"
        raise UrlRefusedError(_refusal(name, "the https:// address of an image on a public host", url, why))
    return found


def _host(target: httpx.URL) -> str:
    return target.raw_host.decode("ascii")


def _get(
    target: httpx.URL,
    addresses: list[_Address],
    context: ssl.SSLContext,
    deadline: float,
    max_bytes: int,
    name: str,
) -> bytes | str:
    """The body, or the address of the redirect. One client for each hop, so that no connection is used again."""
    with httpx.Client(verify=context, trust_env=False, follow_redirects=False) as client:
        response = _send(client, target, addresses, deadline)
        try:
            return _read(response, target, max_bytes, name)
        finally:
            response.close()


def _send(client: httpx.Client, target: httpx.URL, addresses: list[_Address], deadline: float) -> httpx.Response:
    host = _host(target)
    headers = {
        "Host": host if target.port is None else f"{host}:{target.port}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",  # a compressed body could be far over the limit once unpacked
        "Connection": "close",
        "User-Agent": "vision-agent",
    }
    for tries_left in range(len(addresses), 0, -1):
        left = _left(deadline)
        request = client.build_request(
            "GET",
            target.copy_with(host=str(addresses[-tries_left])),
            headers=headers,
            # A silent address must leave time for the others (IPv6 is often listed where it does not work).
            timeout=httpx.Timeout(left, connect=left / tries_left),
            extensions={"sni_hostname": host},  # the certificate is checked against the name, not the address
        )
        try:
            return client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if tries_left == 1:
                raise
    raise AssertionError("`addresses` is never empty")


def _read(response: httpx.Response, target: httpx.URL, max_bytes: int, name: str) -> bytes | str:
    url = str(target)

    def too_large() -> ImageTooLargeError:
        expected = f"an image file of at most {max_bytes} bytes (`limits.max_bytes`)"
        return ImageTooLargeError(_refusal(name, expected, url, "which is larger"))

    def failed(why: str) -> ImageError:
        return ImageError(_refusal(name, "an image that can be downloaded", url, why))

    if response.status_code in _REDIRECTS:
        location = response.headers.get("location")
        if not location:
            raise failed("which redirects to nowhere")
        return str(target.join(location))
    if response.status_code != 200:
        raise failed(f"which answered with status {response.status_code}")
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise failed("which answered with a compressed body that was not asked for")
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large()
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise too_large()
    return bytes(body)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for the download is over")
    return left


def _deadline_socket(deadline: float) -> type[ssl.SSLSocket]:
    """A TLS socket whose reads all end by one moment.

    httpx only limits each single read, so a server that sends a byte now and then (in the headers, say) could hold
    the caller for ever.
    """

    class DeadlineSocket(ssl.SSLSocket):
        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            self.settimeout(_left(deadline))
            return super().recv(buflen, flags)

    return DeadlineSocket
