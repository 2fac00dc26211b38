"""The page of `--ui` in a real browser: each task, by pointer and by keyboard, wide and narrow, light and dark.

They need Chromium, Debian's for example (`apt-get install chromium`), and are skipped where there is none.
"""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from live_server import serving
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from reportlab.pdfgen.canvas import Canvas

from vision_agent import Detections, Extraction, Segmentation, VisionAgent
from vision_agent.serve.options import ServeOptions

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
INVOICE = Path(__file__).parents[2] / "examples" / "invoice.pdf"
HOSTILE = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(agent: VisionAgent) -> Iterator[str]:
    with serving(agent, ServeOptions(ui=True)) as url:
        yield url


@contextmanager
def opened(browser: Browser, url: str, faults: tuple[str, ...] = (), **settings: Any) -> Iterator[Page]:
    """The page in a window of its own. Nothing may be asked of another host, and the console has `faults` alone."""
    context = browser.new_context(**settings)
    context.set_default_timeout(20_000)
    page = context.new_page()
    told: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    yield page
    assert [text for text in told if not any(fault in text for fault in faults)] == []
    own = urlsplit(url).netloc
    assert {urlsplit(each).netloc for each in asked if not each.startswith(("blob:", "data:"))} == {own}
    context.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with opened(browser, address) as page:
        yield page


def show(page: Page, file: Path) -> None:
    page.set_input_files("#file", file)
    expect(page.locator("#file-name")).to_have_text(file.name)


def do(page: Page, task: str, **inputs: str) -> None:
    """Choose a task, fill it in, start it, and wait for its result."""
    page.get_by_role("radio", name=task, exact=True).check()
    for name, value in inputs.items():
        page.fill(f"#input-{name}", value)
    page.click("#start")
    expect(page.locator("#result-title")).to_have_text(task)
    expect(page.locator("#stop")).to_be_hidden()


def saved(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def drawn_on(page: Page, canvas: str) -> io.BytesIO:
    """What a canvas shows, as a PNG file."""
    address: str = page.eval_on_selector(canvas, "one => one.toDataURL()")
    return io.BytesIO(base64.b64decode(address.partition(",")[2]))


def boxes(page: Page) -> list[list[float]]:
    """The boxes that are drawn, in pixels of the image."""
    read = "all => all.map(one => ['x', 'y', 'width', 'height'].map(name => Number(one.getAttribute(name))))"
    found: list[list[float]] = page.eval_on_selector_all("#shapes rect", read)
    return [[x, y, x + width, y + height] for x, y, width, height in found]


def quads(page: Page) -> list[list[list[float]]]:
    """The corners of what is drawn around words, in pixels of the page."""
    corners = page.eval_on_selector_all("#shapes polygon", "all => all.map(one => one.getAttribute('points'))")
    return [[[float(side) for side in corner.split(",")] for corner in each.split()] for each in corners]


# --- ten tasks


def test_found_objects_have_their_boxes(page: Page, photo: Path, agent: VisionAgent) -> None:
    show(page, photo)
    do(page, "Find", phrases="dog, frisbee")
    own = agent.detect(["dog", "frisbee"], photo)
    np.testing.assert_allclose(sorted(boxes(page)), sorted(each.box.xyxy for each in own), atol=0.01)
    assert page.locator("#found .option").all_inner_texts() == [
        f"{each.label}\n{each.score * 100:.0f} %" for each in own
    ]
    page.locator("#shapes rect").first.hover()  # the larger one lies below the other
    expect(page.locator("#found .option.hot .label")).to_have_text("dog")
    page.locator("#found .option", has_text="frisbee").click()
    expect(page.locator("#shapes .picked")).to_have_count(1)
    expect(page.locator("#tags .picked")).to_have_text(f"frisbee {own[1].score * 100:.0f} %")
    # A place on the screen is the same place of the image.
    shown, drawn = page.locator("#image").bounding_box(), page.locator("#shapes rect").last.bounding_box()
    assert shown is not None and drawn is not None
    scale = shown["width"] / own.image_size[0]
    assert drawn["x"] - shown["x"] == pytest.approx(own[1].box.x0 * scale, abs=3)
    assert drawn["width"] == pytest.approx((own[1].box.x1 - own[1].box.x0) * scale, abs=6)
    code = page.locator("#call-curl").text_content()
    assert code is not None and "--form-string phrase=frisbee" in code and "-F 'image=@" in code


def test_another_threshold_finds_others(page: Page, photo: Path) -> None:
    show(page, photo)
    do(page, "Find", phrases="dog")
    expect(page.locator("#found .option")).to_have_count(1)
    page.locator("#input-threshold").press("End")
    expect(page.locator("#call-curl")).to_contain_text("--form-string threshold=1")
    expect(page.locator("#answer")).to_have_text("Nothing was found.")
    page.get_by_role("button", name="The model's own threshold").click()
    expect(page.locator("#found .option")).to_have_count(1)


def test_masks_are_drawn_and_saved(page: Page, photo: Path, agent: VisionAgent) -> None:
    show(page, photo)
    do(page, "Outline", phrases="dog")
    own = agent.segment("dog", photo)
    with Image.open(drawn_on(page, "#masks")) as layer:
        assert (np.asarray(layer.getchannel("A"), bool) == own[0].mask.to_array()).all()

    name, text = saved(page, "#save-json")
    assert name == f"{photo.stem}-segment.json"
    read = Segmentation.model_validate_json(text)
    assert read[0].mask == own[0].mask
    name, text = saved(page, "#save-coco")
    assert name == f"{photo.stem}-segment-coco.json"
    assert json.loads(text) == json.loads(json.dumps(read.to_coco(file_name=photo.name)))
    name, png = saved(page, "#save-png")
    with Image.open(io.BytesIO(png)) as image, Image.open(photo) as before:
        assert (name, image.size) == (f"{photo.stem}-segment.png", before.size)
        moved = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(before, int)).max(axis=2) > 40
    mask = own[0].mask.to_array()
    mask[:70] = False  # where the name stands
    assert moved[mask].mean() > 0.9 and moved[300:][~mask[300:]].mean() < 0.01


def test_masks_of_large_photos_are_drawn_smaller_and_saved_whole(page: Page, photo: Path, tmp_path: Path) -> None:
    with Image.open(photo) as image:
        image.resize((1800, 1350)).save(tmp_path / "large.jpg", quality=80)
    page.evaluate(DROP, base64.b64encode((tmp_path / "large.jpg").read_bytes()).decode())
    expect(page.locator("#file-name")).to_have_text("dropped.jpg")
    do(page, "Outline", phrases="frisbee")
    mask = Segmentation.model_validate_json(saved(page, "#save-json")[1])[0].mask
    with Image.open(drawn_on(page, "#masks")) as layer:
        assert layer.size == (1600, 1200)
        shown = np.asarray(layer.getchannel("A").resize((1800, 1350), Image.Resampling.NEAREST), bool)
    assert (shown == mask.to_array()).mean() > 0.999
    with Image.open(io.BytesIO(saved(page, "#save-png")[1])) as png:
        assert png.size == (1800, 1350)


DROP = """data => {
  const bytes = Uint8Array.from(atob(data), char => char.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], 'dropped.jpg', { type: 'image/jpeg' }));
  document.getElementById('stage').dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true }));
}"""


def test_points_counts_and_boxes_as_coco(page: Page, photo: Path, agent: VisionAgent) -> None:
    show(page, photo)
    do(page, "Point", phrases="dog")
    (point,) = agent.point("dog", photo)
    expect(page.locator("#shapes path")).to_have_attribute("d", f"M{point.x:g} {point.y:g}h0.01")
    expect(page.locator("#save-coco")).to_be_hidden()
    do(page, "Count", phrases="dog")
    expect(page.locator("#answer")).to_have_text("1 \N{MULTIPLICATION SIGN} dog")
    _, text = saved(page, "#save-coco")
    evidence = Detections.model_validate(json.loads(saved(page, "#save-json")[1])["evidence"])
    assert json.loads(text) == json.loads(json.dumps(evidence.to_coco(file_name=photo.name)))


def test_questions_descriptions_and_requests(page: Page, photo: Path, agent: VisionAgent) -> None:
    show(page, photo)
    do(page, "Ask", question="what colour is the frisbee?")
    expect(page.locator("#answer")).to_have_text(agent.ask("what colour is the frisbee?", photo).text)
    assert len(boxes(page)) == 1, "what the answer rests on"
    do(page, "Describe")
    expect(page.locator("#answer")).to_have_text(agent.caption(photo).text)
    do(page, "Do", request="outline the frisbee")
    expect(page.locator("#shapes [data-mask]")).to_have_count(1)


def test_words_are_read(page: Page, agent: VisionAgent) -> None:
    show(page, INVOICE)
    do(page, "Read")
    words = agent.ocr(INVOICE).pages[0].words
    assert page.locator("#found .option").all_inner_texts() == [word.text for word in words]
    np.testing.assert_allclose(quads(page), [word.quad for word in words], atol=0.01)
    page.locator("#found .option", has_text="HT-2031").hover()
    expect(page.locator("#shapes .hot")).to_have_count(1)
    name, text = saved(page, "#save-text")
    assert name == "invoice-ocr.txt" and "Birch plywood 12 mm  4  38.50  154.00\n" in text.decode()


def test_fields_and_their_places(page: Page, agent: VisionAgent) -> None:
    show(page, INVOICE)
    do(page, "Fields", fields="total: number\ndue_date: date\niban")
    options = page.locator("#found .option")
    labels = [line.split("\n")[:2] for line in options.all_inner_texts()]
    assert labels == [["total", "265.13"], ["due_date", "2025-04-13"], ["iban", "not in the document"]]
    total = Extraction[Any].model_validate_json(saved(page, "#save-json")[1]).fields["total"].box
    assert total is not None
    options.first.hover()
    (quad,) = page.eval_on_selector_all("#shapes .hot", "all => all.map(one => one.getAttribute('points'))")
    xs, ys = zip(*((float(side) for side in corner.split(",")) for corner in quad.split()), strict=True)
    np.testing.assert_allclose([min(xs), min(ys), max(xs), max(ys)], total.xyxy, atol=0.01)
    page.locator("#shapes polygon").nth(1).hover()
    expect(page.locator("#found .option.hot .label")).to_have_text("due_date")
    do(page, "Ask", question="what is the total?")
    expect(page.locator("#answer")).to_have_text("£265.13")
    expect(page.locator("#shapes polygon")).to_have_count(1)


def test_a_document_has_pages(page: Page, tmp_path: Path, agent: VisionAgent) -> None:
    canvas = Canvas(str(tmp_path / "two.pdf"))
    for text, size in {"Invoice no: A-17": (595, 842), "Total: 99.50": (1000, 842)}.items():
        canvas.setPageSize(size)
        canvas.setFont("Helvetica", 18)
        canvas.drawString(72, 700, text)
        canvas.showPage()
    canvas.save()
    show(page, tmp_path / "two.pdf")
    expect(page.locator("#page-number")).to_have_text("Page 1 of 2")
    do(page, "Fields", fields="total: number")
    expect(page.locator("#shapes polygon")).to_have_count(0)
    page.locator("#found .option").click()  # it is on the other page
    expect(page.locator("#page-number")).to_have_text("Page 2 of 2")
    expect(page.locator("#shapes .picked")).to_have_count(1)
    size = page.evaluate("`0 0 ${image.naturalWidth} ${image.naturalHeight}`")
    expect(page.locator("#shapes")).to_have_attribute("viewBox", size)
    read = agent.extract(tmp_path / "two.pdf", {"type": "object", "properties": {"total": {"type": "number"}}})
    (drawn,) = quads(page)
    np.testing.assert_allclose(drawn, read.fields["total"].quads[0], atol=0.01)
    expect(page.get_by_role("button", name="Next page")).to_be_disabled()
    page.get_by_role("button", name="Page before").click()
    expect(page.locator("#shapes polygon")).to_have_count(0)


def test_a_chat_is_streamed(page: Page, photo: Path) -> None:
    show(page, photo)
    page.get_by_role("tab", name="Chat").click()
    with page.expect_response("**/chat/completions") as answered:
        page.fill("#message", "find the frisbee")
        page.press("#message", "Enter")
    assert answered.value.headers["content-type"].startswith("text/event-stream")
    expect(page.locator(".bubble.model .words")).to_contain_text("frisbee: 1 found")
    expect(page.locator(".bubble .option .label")).to_have_text("frisbee")
    assert len(boxes(page)) == 1
    page.fill("#message", "outline the frisbee")
    page.click("#send")
    expect(page.locator("#shapes [data-mask]")).to_have_count(1)
    page.locator(".bubble .option").first.hover()  # of the first answer: its box is drawn again
    expect(page.locator("#shapes [data-mask]")).to_have_count(0)
    expect(page.locator("#shapes .hot")).to_have_count(1)
    page.route("**/chat/completions", lambda route: None)  # never answered
    page.fill("#message", "find the frisbee")
    page.click("#send")
    page.locator("#chat-stop").click()
    expect(page.locator(".bubble.model .words").last).to_have_text(" (stopped)")
    expect(page.locator("#send")).to_be_enabled()
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".bubble")).to_have_count(0)


def test_new_images_are_drawn_and_used(page: Page) -> None:
    do(page, "Draw", prompt="a red apple", seed="1")
    expect(page.locator("#answer")).to_have_text("a red apple (seed 1)")
    _, png = saved(page, "#save-png")
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (128, 128) and np.asarray(image).std() > 10
    do(page, "Find", phrases="apple")
    expect(page.locator("#found .option")).to_have_count(1)


def test_a_changed_image_leads_back(page: Page, photo: Path) -> None:
    show(page, photo)
    expect(page.locator("#back")).to_be_hidden()
    do(page, "Change", prompt="make the frisbee blue", seed="1")
    expect(page.locator("#file-name")).to_have_text(f"{photo.stem}-edit.png")
    page.click("#back")
    expect(page.locator("#file-name")).to_have_text(photo.name)
    expect(page.locator("#result")).to_be_hidden()
    do(page, "Find", phrases="dog")
    expect(page.locator("#found .option")).to_have_count(1)
    expect(page.locator("#back")).to_be_hidden()


# --- by keyboard, on a phone, in the dark


def test_all_is_done_by_keyboard(page: Page, photo: Path) -> None:
    keys = page.keyboard

    def tab_to(selector: str) -> None:
        for _ in range(12):
            keys.press("Tab")
            if page.locator(selector).evaluate("one => one === document.activeElement"):
                return
        raise AssertionError(f"{selector} is not reached")

    page.on("filechooser", lambda _: None)  # the browser is told to ask us well before the first key, not with it
    page.bring_to_front()  # keys go to the window in front alone
    tab_to("#open")
    with page.expect_file_chooser() as chooser:
        keys.press("Enter")
    chooser.value.set_files(photo)
    expect(page.locator("#file-name")).to_have_text(photo.name)
    expect(page.locator("#open")).to_be_focused()

    tab_to("#tab-tasks")
    tab_to("#task-detect")
    keys.press("ArrowRight")
    expect(page.locator("#task-segment")).to_be_checked()
    tab_to("#input-phrases")
    keys.type("dog, frisbee")
    keys.press("Enter")
    expect(page.locator("#found .option")).to_have_count(2)
    tab_to("#found")
    keys.press("ArrowDown")
    active = page.locator("#found").get_attribute("aria-activedescendant")
    expect(page.locator(f"#{active} .label")).to_have_text("frisbee")
    expect(page.locator("#shapes .hot")).to_have_count(1)
    keys.press("Enter")
    expect(page.locator(f"#{active}")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#shapes .picked")).to_have_count(1)
    keys.press("Escape")
    expect(page.locator("#shapes .picked")).to_have_count(0)
    heard = page.locator("body").aria_snapshot()
    for part in ('heading "vision-agent"', 'tab "Tasks" [selected]', 'textbox "What to find"', 'slider "Threshold"'):
        assert part in heard
    assert 'listbox "Found"' in heard and 'option "frisbee' in heard and f'img "{photo.name}"' in heard


NAMELESS = (
    "all => all.filter(one => !one.labels?.length && !one.ariaLabel && !one.textContent.trim()).map(one => one.id)"
)
CONTRAST = """() => {
  const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = color => {
    pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
    const parts = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map(part => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const under = one => {
    for (; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (color !== 'rgba(0, 0, 0, 0)') return color;
    }
    return 'white';
  };
  return [...document.querySelectorAll('body *')].filter(one =>
    one.checkVisibility({ opacityProperty: true }) && !one.closest('#tags')
    && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())
  ).map(one => {
    const [a, b] = [light(getComputedStyle(one).color), light(under(one))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), one.className || one.id || one.tagName];
  }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Browser, address: str, photo: Path, scheme: str) -> None:
    settings = {"viewport": {"width": 380, "height": 780}, "color_scheme": scheme, "has_touch": True}
    with opened(browser, address, **settings) as page:
        show(page, photo)
        do(page, "Find", phrases="dog")
        width = "document.documentElement.scrollWidth"
        assert page.evaluate(width) <= 380
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(ground.split("(")[1].split(",")[0]) < 60) == (scheme == "dark")
        assert page.evaluate(CONTRAST) == []
        page.get_by_role("tab", name="Chat").tap()
        expect(page.locator("#message")).to_be_visible()
        assert page.evaluate(width) <= 380
        assert page.evaluate(CONTRAST) == []
        assert page.eval_on_selector_all("button, input, select, textarea", NAMELESS) == []


def test_a_turned_photo_has_its_boxes(page: Page, photo: Path, tmp_path: Path) -> None:
    turned = Image.open(photo).rotate(90, expand=True)  # stored on its side; EXIF says how to turn it back
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    show(page, tmp_path / "turned.jpg")
    assert page.evaluate("[image.naturalWidth, image.naturalHeight]") == [640, 480]
    do(page, "Find", phrases="frisbee")
    ((x0, y0, x1, y1),) = boxes(page)
    assert 380 < x0 < 430 and 300 < y0 < 340 and 520 < x1 < 570 and 430 < y1 < 480


# --- what is hostile, broken or refused


def test_words_of_documents_and_models_stay_words(page: Page, tmp_path: Path, photo: Path) -> None:
    canvas = Canvas(str(tmp_path / "bad.pdf"))
    canvas.setFont("Helvetica", 12)
    canvas.drawString(72, 700, f"Total: {HOSTILE}")
    canvas.save()
    show(page, tmp_path / "bad.pdf")
    do(page, "Read")
    assert HOSTILE in page.locator("#found").inner_text().replace("\n", " ")
    show(page, photo)
    do(page, "Find", phrases=HOSTILE)
    expect(page.locator("#call-curl")).to_contain_text("onerror")

    def answer(route: Route) -> None:
        box = {"x0": 0, "y0": 0, "x1": 50, "y1": 50}
        found = {"label": HOSTILE, "score": 0.5, "box": box}
        seen = {"kind": "detections", "detections": [found], "image_size": [640, 480], "model": HOSTILE}
        vision = {"routes": [{"result": {**seen, "phrases": [], "unknown_words": [HOSTILE]}}], "warnings": [HOSTILE]}
        deltas = [{"content": HOSTILE}, {"refusal": HOSTILE}, {"vision": vision}]
        events = [json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
        body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/chat/completions", answer)
    page.get_by_role("tab", name="Chat").click()
    page.fill("#message", HOSTILE)
    page.click("#send")
    expect(page.locator("#tags .tag")).to_have_text(f"{HOSTILE} 50 %")
    expect(page.locator(".bubble.model .words")).to_have_text(HOSTILE)
    assert page.title() == "vision-agent"
    assert page.locator("img").count() == 2  # its sign and the photo


def test_the_browser_would_not_run_it_either(browser: Browser, address: str) -> None:
    with opened(browser, address, faults=("Content Security Policy", "TrustedHTML", "TrustedScript")) as page:
        for code in ("document.body.innerHTML = '<b>x</b>'", "document.body.insertAdjacentHTML('beforeend', 'x')"):
            with pytest.raises(Exception, match="TrustedHTML"):
                page.evaluate(code)
        inline = (
            "const s = document.createElement('script'); s.append('document.title = `taken`'); document.head.append(s)"
        )
        page.evaluate(f"() => {{ {inline} }}")
        away = "fetch('http://127.0.0.1:9/').then(() => 'sent', error => error.message)"
        assert page.evaluate(away) == "Failed to fetch"
        assert page.title() == "vision-agent"


def test_problems_are_told_in_words(browser: Browser, address: str, photo: Path, tmp_path: Path) -> None:
    problem = "#problem"
    with opened(browser, address, faults=("Failed to load resource",)) as page:
        page.fill("#input-phrases", "dog")
        page.click("#start")
        expect(page.locator(problem)).to_have_text("Open an image or a document first.")
        show(page, photo)
        for name, content in {
            "broken.pdf": INVOICE.read_bytes()[:700],
            "broken.jpg": photo.read_bytes()[:300],
            "notes.docx": b"PK\x03\x04 no image",
        }.items():
            (tmp_path / name).write_bytes(content)
            page.set_input_files("#file", tmp_path / name)
            expect(page.locator("#file-problem")).to_contain_text("ocument must be")
            expect(page.locator("#file-name")).to_have_text(photo.name)
            page.evaluate("document.getElementById('file-problem').textContent = ''")
        page.get_by_role("radio", name="Fields").check()
        page.fill("#input-fields", "total: money")
        page.click("#start")
        expect(page.locator(problem)).to_contain_text('"total: money" must be a name and one of text, number')
        page.fill("#input-fields", '{"type": "array"}')
        page.click("#start")
        expect(page.locator(problem)).to_contain_text("Schema must")
        page.get_by_role("radio", name="Read").check()
        page.fill("#input-pages", "9")
        page.click("#start")
        expect(page.locator(problem)).to_contain_text("has 1 page")
        page.route("**/vision/ocr", lambda route: None)  # never answered
        page.click("#start")
        page.click("#stop")
        expect(page.locator("#start")).to_be_enabled()
        expect(page.locator(problem)).to_be_hidden()
        page.unroute("**/vision/ocr")
        page.context.set_offline(True)
        page.click("#start")
        expect(page.locator(problem)).to_have_text("The server cannot be reached. Is it still running?")


def test_a_key_is_asked_for(browser: Browser, agent: VisionAgent, photo: Path) -> None:
    locked = serving(agent, ServeOptions(ui=True, keys=("right-key",)))
    with locked as url, opened(browser, url, faults=("401",)) as page:
        expect(page.get_by_role("dialog", name="This server needs a key")).to_be_visible()
        page.fill("#key", "wrong-key")
        page.press("#key", "Enter")
        expect(page.locator("#key-problem")).to_contain_text("the key was wrong")
        page.fill("#key", "right-key")
        page.press("#key", "Enter")
        expect(page.locator("#model")).to_have_text("Model: default")
        show(page, photo)
        do(page, "Find", phrases="dog")
        expect(page.locator("#call-curl")).to_contain_text('-H "authorization: Bearer $KEY"')
        assert page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]
        assert "right-key" not in page.content()
