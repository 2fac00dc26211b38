"""Writes the images of the page that are in `docs/`.

    .venv/bin/python tests/serve/page_screenshots.py

Look at them before they are committed: `docs/page.jpg`, `docs/page_document.jpg`, `docs/page_phone.jpg`.
"""

from pathlib import Path

from live_server import serving
from playwright.sync_api import Page, expect, sync_playwright
from test_page import CHROMIUM, FLAGS, INVOICE, do, opened, show

from vision_agent import VisionAgent
from vision_agent.serve.options import ServeOptions

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples" / "photos" / "000000139872.jpg"
LARGEST = 150_000  # bytes


def write(page: Page, name: str) -> None:
    """Write what a window shows into `docs/`."""
    page.wait_for_timeout(300)
    path = ROOT / "docs" / name
    page.screenshot(path=path, type="jpeg", quality=70)
    assert path.stat().st_size < LARGEST, f"{name} has {path.stat().st_size} bytes"


def main() -> None:
    expect.set_options(timeout=60_000)
    with serving(VisionAgent(), ServeOptions(ui=True)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with opened(browser, url, viewport={"width": 1200, "height": 700}) as page:
            show(page, PHOTO)
            do(page, "Outline", phrases="dog, frisbee")
            page.locator("#found .option", has_text="frisbee").click()
            page.mouse.move(0, 0)
            write(page, "page.jpg")
        with opened(browser, url, viewport={"width": 1200, "height": 850}, color_scheme="dark") as page:
            show(page, INVOICE)
            page.get_by_role("button", name="Larger").click()
            do(page, "Fields", fields="invoice_number\ndue_date: date\ntotal: number\niban")
            page.locator("#found .option", has_text="total").click()
            page.mouse.move(0, 0)
            page.locator("#stage").evaluate("one => one.scrollTo(0, 60)")
            write(page, "page_document.jpg")
        phone = {"viewport": {"width": 390, "height": 780}, "device_scale_factor": 1.5, "has_touch": True}
        with opened(browser, url, **phone) as page:
            show(page, PHOTO)
            page.get_by_role("tab", name="Chat").tap()
            page.fill("#message", "outline the frisbee")
            page.click("#send")
            page.locator("#log .option").wait_for()
            page.evaluate("() => scrollTo(0, 0)")
            write(page, "page_phone.jpg")
        browser.close()


if __name__ == "__main__":
    main()
