"""The page's files and the images of documents as programs get them; `test_page.py` has a browser."""

import base64
import io
import json
import re
from pathlib import Path

import httpx
import jsonschema
import numpy as np
import pytest
from PIL import Image
from test_guard import asked, error_of

from vision_agent import VisionAgent
from vision_agent.documents.source import page_images
from vision_agent.serve.application import Application
from vision_agent.serve.options import ServeOptions

ROOT = Path(__file__).parents[2]
INVOICE = ROOT / "examples" / "invoice.pdf"
FILES = sorted((ROOT / "vision_agent" / "serve" / "page").iterdir())
PATH = "/v1/documents/page"


@pytest.fixture(scope="module")
def app(agent: VisionAgent) -> Application:
    return Application(agent, ServeOptions(ui=True, keys=("secret",)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_is_sent_without_a_key(app: Application, agent: VisionAgent, file: Path) -> None:
    path = "/" if file.name == "index.html" else f"/page/{file.name}"
    response = asked(app, "GET", path)
    assert (response.status_code, response.content) == (200, file.read_bytes())
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'" and "unsafe" not in str(policy)
    assert (response.headers["x-content-type-options"], response.headers["x-frame-options"]) == ("nosniff", "DENY")
    assert asked(Application(agent), "GET", path).status_code == 404, "only where it is asked for"


def test_nothing_else_is_open(app: Application) -> None:
    assert asked(app, "HEAD", "/").status_code == 200
    assert asked(app, "POST", "/").status_code == 405
    assert asked(app, "GET", "/v1/models").status_code == 401
    assert asked(app, "GET", "/", headers={"host": "evil.example"}).status_code == 403
    for path in ("/page/", "/page/../options.py", "/page/%2e%2e/options.py", "/page/none.js", "/index.html"):
        assert asked(app, "GET", path).status_code in (401, 404)


def test_the_page_needs_no_other_server_and_inserts_no_markup() -> None:
    for file in FILES:
        text = file.read_text("utf-8")
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
        assert not re.search(r"localStorage|document\.cookie|\sstyle=|\son\w+=\"", text), file.name
        assert len(text.splitlines()) < 500


# --- pages of documents as images


@pytest.fixture(scope="module")
def http(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60)


def test_a_page_is_the_image_that_places_are_in(http: httpx.Client, agent: VisionAgent) -> None:
    data = f"data:application/pdf;base64,{base64.b64encode(INVOICE.read_bytes()).decode()}"
    page = http.post(PATH, json={"document": data}).json()
    assert http.post(PATH, files={"document": INVOICE.read_bytes()}, data={"page": "1"}).json() == page
    described = http.get("/openapi.json").json()
    schema = described["paths"][PATH]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator({**schema, "components": described["components"]}).validate(page)
    image = Image.open(io.BytesIO(base64.b64decode(page["png"])))
    read = agent.ocr(INVOICE).pages[0]
    assert image.size == (page["width"], page["height"]) == (read.width, read.height)
    (own,) = page_images(INVOICE)
    assert (np.asarray(image) == np.asarray(own.image)).all()
    assert (page["page"], page["pages"]) == (1, 1)


def test_pages_of_a_tiff(http: httpx.Client) -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (40 + 10 * number, 30), (80 * number, 0, 0)) for number in range(3)]
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    page = http.post(PATH, files={"document": file.getvalue()}, data={"page": "3"}).json()
    assert (page["page"], page["pages"], page["width"], page["height"]) == (3, 3, 60, 30)
    assert Image.open(io.BytesIO(base64.b64decode(page["png"]))).getpixel((5, 5)) == (160, 0, 0)


@pytest.mark.parametrize(
    ("document", "fields", "param", "said"),
    [
        (INVOICE.read_bytes(), {"page": "2"}, "page", "which has 1 page"),
        (INVOICE.read_bytes(), {"page": "0"}, "page", "greater than or equal to 1"),
        (INVOICE.read_bytes(), {"page": "one"}, "page", "valid integer"),
        (INVOICE.read_bytes(), {"pages": "1"}, "pages", "no field of this request"),
        (INVOICE.read_bytes()[:600], {}, "document", "`document` must be"),
        (b"\x00\x01\x02words\xff", {}, "document", "`document` must be"),
        (b"", {}, "document", "`document` must be"),
    ],
)
def test_what_cannot_be_drawn_is_named(
    http: httpx.Client, document: bytes, fields: dict[str, str], param: str, said: str
) -> None:
    response = http.post(PATH, files={"document": document}, data=fields)
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, param)
    assert said in error["message"]
    assert "/etc" not in json.dumps(error)


def test_no_path_is_read(http: httpx.Client) -> None:
    for document in ("/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/a.pdf"):
        response = http.post(PATH, json={"document": document})
        assert (response.status_code, error_of(response)["code"]) == (400, "address_refused")
