"""Downloads, against a local https server with a certificate of its own; nothing leaves this machine."""

import datetime
import io
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image

from vision_agent.errors import ImageError, ImageTooLargeError, UrlRefusedError
from vision_agent.images import fetch as _fetch
from vision_agent.images.addresses import shown, without_secrets
from vision_agent.images.fetch import _Network, fetch, is_public
from vision_agent.images.loading import ImageLimits, load_image

HOST = "pictures.test"
Reply = Callable[[BaseHTTPRequestHandler], None]


def image() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).save(out, "PNG")
    return out.getvalue()


def certificate(folder: Path) -> Path:
    """A file with a key and a self-signed certificate for `*.test` names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name) for name in (HOST, "other.test")]
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + built.public_bytes(serialization.Encoding.PEM))
    return path


@dataclass
class Server:
    port: int
    trust: Path
    replies: dict[str, Reply] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)
    looked_up: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str, host: str = HOST) -> str:
        return f"https://{host}:{self.port}{path}"

    def resolve(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.names[host]

    def network(self) -> _Network:
        """The server's address counts as public; 127.0.0.2 stands for a private one."""
        return _Network(
            resolve=self.resolve,
            is_public=lambda address: str(address) == "127.0.0.1",
            ssl_context=lambda: ssl.create_default_context(cafile=str(self.trust)),
        )

    def fetch(self, url: str, **options: Any) -> bytes:
        defaults: dict[str, Any] = {"max_bytes": 100_000, "timeout": 5.0, "max_redirects": 3}
        return fetch(url, **(defaults | options), _network=self.network())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pem = certificate(tmp_path_factory.mktemp("tls"))
    state = Server(0, pem)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.seen.append((self.path, dict(self.headers)))
            state.replies[self.path](self)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:  # a client that hangs up is what these tests are about
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with Quiet(("127.0.0.1", 0), Handler) as http:
        # The handshake belongs in the thread of its own request: one bad client must not hold up the rest.
        http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        state.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    running.replies = {"/a.png": answer(image())}
    running.seen.clear()
    running.looked_up.clear()
    running.names = {HOST: ["127.0.0.1"], "other.test": ["127.0.0.1"], "internal.test": ["127.0.0.2"]}
    running.stop.clear()
    yield running
    running.stop.set()


def answer(body: bytes, status: int = 200, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def redirect(to: str, status: int = 302) -> Reply:
    return answer(b"", status, Location=to)


# --- What works ---


def test_a_image_is_downloaded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetch, "_SYSTEM", server.network())
    result = load_image(server.url("/a.png"), limits=ImageLimits(allow_urls=True))
    assert np.array_equal(np.asarray(result).ravel(), np.arange(768, dtype=np.uint8))


def test_the_request(server: Server) -> None:
    server.replies["/a.png?x=1&y=%20"] = answer(b"body")
    assert server.fetch(server.url("/a.png?x=1&y=%20#part")) == b"body"
    [(path, headers)] = server.seen
    assert path == "/a.png?x=1&y=%20"
    assert headers["Host"] == f"{HOST}:{server.port}"
    assert headers["Accept-Encoding"] == "identity"
    assert server.looked_up == [HOST]  # once: a second answer could be another one


def test_proxies_of_the_environment_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert server.fetch(server.url("/a.png")) == image()


def test_the_next_address_is_tried(server: Server) -> None:
    server.names[HOST] = ["::1", "127.0.0.1"]  # nothing listens on ::1
    network = server.network()
    both = _Network(network.resolve, lambda address: address.is_loopback, network.ssl_context)
    body = fetch(server.url("/a.png"), max_bytes=10_000, timeout=5, max_redirects=0, _network=both)
    assert body == image()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: Server, status: int) -> None:
    server.replies["/old"] = redirect("/a.png", status)
    server.replies["/older"] = redirect(server.url("/old", "other.test"), status)
    assert server.fetch(server.url("/older"), max_redirects=2) == image()
    assert server.looked_up == [HOST, "other.test", "other.test"]  # checked again at each hop
    assert [headers["Host"].split(":")[0] for _, headers in server.seen] == [HOST, "other.test", "other.test"]


def test_a_body_without_a_length(server: Server) -> None:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"to the end")

    server.replies["/a.png"] = reply
    assert server.fetch(server.url("/a.png")) == b"to the end"


# --- Addresses that are refused ---


@pytest.mark.parametrize(
    "url",
    [
        "http://pictures.test/a.png",
        "ftp://pictures.test/a.png",
        "https://user@pictures.test/a.png",
        "https://user:secret@pictures.test/a.png",
        "https://@pictures.test/a.png",
        "https://pictures.test@127.0.0.1/a.png",
        "https://pictures.test\\@internal.test/",
        "https://pictures.test/a b.png",
        "https://pictures.test/\na.png",
        "https:///a.png",
        "https://",
        "https://a..test/",
        "https://-%31.test/",
        "https://pictures.test:99999999/",
        "https://[::1/",
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://93.184.215.14/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[2606:4700::1111]/",
        "https://[fe80::1%25eth0]/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0X7F.0.0.1/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://0/",
        "https://0x/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://127\u30020\u30020\u30021/",
        "https://\u2460\u2461\u2466.0.0.1/",
    ],
)
def test_addresses_that_are_refused_without_a_lookup(server: Server, url: str) -> None:
    with pytest.raises(UrlRefusedError, match=r"^`photo` must be the https:// address of an image") as caught:
        server.fetch(url, name="photo")
    assert server.looked_up == []
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_address_of_a_name_is_checked(server: Server) -> None:
    for addresses in (["127.0.0.2"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.1", "::1"]):
        server.names[HOST] = addresses
        with pytest.raises(UrlRefusedError, match="not on the public internet") as caught:
            server.fetch(server.url("/a.png"))
        assert "127.0.0" not in str(caught.value)
    assert server.seen == []


def test_a_private_server_is_refused_by_default(server: Server) -> None:
    network = _Network(resolve=server.resolve)
    with pytest.raises(UrlRefusedError, match="not on the public internet"):
        fetch(server.url("/a.png"), max_bytes=10, timeout=5, max_redirects=0, _network=network)
    assert server.seen == []


@pytest.mark.parametrize(
    "target",
    [
        "https://127.0.0.1:{port}/a.png",
        "https://internal.test:{port}/a.png",
        "http://pictures.test:{port}/a.png",
        "//0/",
    ],
)
def test_redirects_to_refused_addresses(server: Server, target: str) -> None:
    server.replies["/go"] = redirect(target.format(port=server.port))
    with pytest.raises(UrlRefusedError):
        server.fetch(server.url("/go"))
    assert [path for path, _ in server.seen] == ["/go"]


def test_a_name_that_changes_between_hops_is_refused(server: Server) -> None:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        server.names[HOST] = ["127.0.0.2"]
        redirect("/a.png")(handler)

    server.replies["/go"] = reply
    with pytest.raises(UrlRefusedError):
        server.fetch(server.url("/go"))


PUBLIC = ["8.8.8.8", "93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001::8a", "64:ff9b::808:808"]
NOT_PUBLIC = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.8.8.8",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.9",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "233.252.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:0:808:808::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


def test_the_systems_resolver_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        v4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", port))
        return [v4, v4, (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1%eth0", port, 0, 2))]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    assert _fetch._resolve("x.test", 443) == ["10.0.0.7", "fe80::1%eth0"]
    with pytest.raises(UrlRefusedError):
        fetch("https://x.test/", max_bytes=10, timeout=5, max_redirects=0)


# --- Downloads that fail ---


def test_a_name_that_is_not_found(server: Server) -> None:
    with pytest.raises(ImageError, match="host name cannot be found"):
        server.fetch("https://nowhere.test/")
    server.names["nowhere.test"] = []
    with pytest.raises(ImageError, match="host name cannot be found"):
        server.fetch("https://nowhere.test/")


def test_a_certificate_for_another_name(server: Server) -> None:
    server.names["wrong.test"] = ["127.0.0.1"]
    with pytest.raises(ImageError, match=r"could not be downloaded.*certificate"):
        server.fetch(server.url("/a.png", "wrong.test"))
    assert server.seen == []


def test_an_unknown_certificate(server: Server) -> None:
    network = _Network(server.resolve, server.network().is_public)  # the usual roots
    with pytest.raises(ImageError, match=r"could not be downloaded.*certificate"):
        fetch(server.url("/a.png"), max_bytes=10_000, timeout=5, max_redirects=0, _network=network)
    assert server.seen == []


def test_nothing_listens(server: Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ImageError, match="could not be downloaded"):
            server.fetch(f"https://{HOST}:{unused.getsockname()[1]}/")


@pytest.mark.parametrize("status", [204, 206, 304, 400, 404, 500])
def test_other_statuses(server: Server, status: int) -> None:
    server.replies["/a.png"] = answer(b"" if status in (204, 304) else b"no", status)
    with pytest.raises(ImageError, match=f"answered with status {status}"):
        server.fetch(server.url("/a.png"))


def test_secrets_stay_out_of_messages(server: Server) -> None:
    server.replies["/a.png?token=secret"] = answer(b"", 403)
    with pytest.raises(ImageError, match="status 403") as caught:
        server.fetch(server.url("/a.png?token=secret"))
    assert "secret" not in str(caught.value)
    assert "/a.png" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "bare"),
    [
        ("https://u:secret@h/p?secret#secret", "https://h/p"),
        ("https://secret@h:8443/p", "https://h:8443/p"),
        ("https://u:sec@secret@h/p", "https://h/p"),
        ("https:///u:secret@h/p", "https://h/p"),
        ("https:u:secret@h/p", "https://h/p"),
        ("https://[2001:db8::1]:8443/p;v=1", "https://[2001:db8::1]:8443/p;v=1"),
        ("https://h/@me/p.png?to=secret@h", "https://h/@me/p.png"),
        # Where a parser would see a part of the password as the host or the path, nothing is shown.
        ("https://u:secret/secret@h/p", "https://..."),
        ("https://u:secret?secret@h/p", "https://..."),
        ("https://u:secret#secret@h/p", "https://..."),
        ("https://u:s@secret?secret@h/p", "https://..."),
        ("//u:secret@h/p", "..."),
        ("u secret@h", "..."),
    ],
)
def test_what_is_shown_of_an_address(address: str, bare: str) -> None:
    assert without_secrets(address) == bare and shown(address) == repr(bare)


@pytest.mark.parametrize("url", ["https://example.com:sec99ret/x.png", "https://[::1/x.png?token=sec99ret"])
def test_what_cannot_be_parsed_is_not_repeated(url: str) -> None:
    with pytest.raises(UrlRefusedError, match="cannot be parsed") as refused:
        load_image(url, limits=ImageLimits(allow_urls=True))
    assert "sec99ret" not in str(refused.value)


def test_the_number_of_redirects(server: Server) -> None:
    server.replies["/loop"] = redirect("/loop")
    with pytest.raises(ImageError, match=r"`limits\.max_redirects`"):
        server.fetch(server.url("/loop"), max_redirects=2)
    assert len(server.seen) == 3
    with pytest.raises(ImageError, match=r"`limits\.max_redirects`"):
        server.fetch(server.url("/loop"), max_redirects=0)


def test_a_redirect_to_nowhere(server: Server) -> None:
    server.replies["/go"] = answer(b"", 302)
    with pytest.raises(ImageError, match="redirects to nowhere"):
        server.fetch(server.url("/go"))


def test_a_compressed_body(server: Server) -> None:
    server.replies["/a.png"] = answer(b"x", Content_Encoding="gzip")
    with pytest.raises(ImageError, match="compressed body"):
        server.fetch(server.url("/a.png"))


def test_an_announced_length_over_the_limit(server: Server) -> None:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "5001")
        handler.end_headers()
        server.stop.wait(10)  # it must be refused before any of the body comes

    server.replies["/a.png"] = reply
    with pytest.raises(ImageTooLargeError, match=r"at most 5000 bytes .`limits\.max_bytes`"):
        server.fetch(server.url("/a.png"), max_bytes=5000)


def test_a_body_over_the_limit(server: Server) -> None:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not server.stop.is_set():  # without an end
            handler.wfile.write(bytes(1000))

    server.replies["/a.png"] = reply
    with pytest.raises(ImageTooLargeError):
        server.fetch(server.url("/a.png"), max_bytes=5000)


def test_a_body_at_the_limit(server: Server) -> None:
    server.replies["/a.png"] = answer(bytes(5000))
    assert len(server.fetch(server.url("/a.png"), max_bytes=5000)) == 5000


def test_a_body_that_is_cut_off(server: Server) -> None:
    server.replies["/a.png"] = answer(b"short", Content_Length="50")
    with pytest.raises(ImageError, match="could not be downloaded"):
        server.fetch(server.url("/a.png"))


@pytest.mark.parametrize("part", ["headers", "body", "redirects", "silence"])
def test_the_deadline_is_for_the_whole_download(server: Server, part: str) -> None:
    """Each of these sends something often enough to keep a limit on single reads from ending it."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        if part == "silence":
            server.stop.wait(10)
        if part == "redirects":
            server.stop.wait(0.2)
            return redirect("/a.png")(handler)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if part == "body" else b""))
        while not server.stop.wait(0.05):
            handler.wfile.write(b"x" if part == "body" else b"X: y\r\n")
        return None

    server.replies["/a.png"] = drip
    # The server goes on until the test ends: that the call ends at all is the deadline's doing.
    with pytest.raises(ImageError, match=r"longer than 0\.4 seconds .`limits\.url_timeout`"):
        server.fetch(server.url("/a.png"), timeout=0.4, max_redirects=100)
    assert not server.stop.is_set()


def test_a_handshake_that_never_comes(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        with pytest.raises(ImageError, match=r"`limits\.url_timeout`"):
            server.fetch(f"https://{HOST}:{mute.getsockname()[1]}/", timeout=0.3)
