"""The web page of `--ui`: files of the package, sent as they are. What it shows it gets from the public paths."""

from dataclasses import dataclass
from importlib.resources import files

from starlette.responses import Response

_KINDS = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Nothing of another server, no code but the files', and no text that is made into code or elements.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page.

    Attributes:
        content: its bytes.
        kind: its media type.
    """

    content: bytes
    kind: str


def page_files() -> dict[str, PageFile]:
    """Return the files by the paths at which they are served."""
    found: dict[str, PageFile] = {}
    for file in files("vision_agent.serve").joinpath("page").iterdir():
        kind = _KINDS[file.name.rpartition(".")[2]]
        path = "/" if file.name == "index.html" else f"/page/{file.name}"
        found[path] = PageFile(file.read_bytes(), kind)
    return found


def sent_file(file: PageFile) -> Response:
    """Return a file as a response, with what a browser must not do with it."""
    return Response(file.content, headers=_HEADERS, media_type=file.kind)
