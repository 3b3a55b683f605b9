"""The built pages in a headless Chromium, on a wide screen and on a phone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pages import pages

WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
]
PROGRAMS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
PROGRAM = next(filter(None, map(shutil.which, PROGRAMS)), None)

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no Chromium here (looked for {', '.join(PROGRAMS)})")

# Run in the page. Text of code and of what the screen does not show is not looked at.
RAW_TEX = r"""() => {
  const walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT);
  const raw = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.parentElement.closest("pre, code, script, style, mjx-container, textarea")) continue;
    if (/\\\(|\\\[|\\begin\{|\$\$/.test(node.data)) raw.push(node.data.trim().slice(0, 80));
  }
  return raw;
}"""
EQUATIONS = """() => [...document.querySelectorAll(".math")].map(
  math => ({text: math.textContent.slice(0, 60), drawn: math.querySelectorAll("mjx-container").length,
            failed: math.querySelectorAll("mjx-merror, [data-mjx-error]").length}))"""
IMAGES = """() => [...document.querySelectorAll("article img")].map(image => (
  {source: image.getAttribute("src"), alt: image.getAttribute("alt"), width: image.naturalWidth}))"""
LOAD_ALL_IMAGES = "() => document.querySelectorAll('img[loading=lazy]').forEach(image => image.loading = 'eager')"
MATHJAX_IS_THERE = "() => window.MathJax && MathJax.startup && MathJax.startup.promise"
# A table fits when it ends on the screen, or lies in a box on the screen that scrolls by itself.
WIDE_TABLES = """() => [...document.querySelectorAll("article table")].filter(table => {
  const screen = document.documentElement.clientWidth;
  if (table.getBoundingClientRect().right <= screen + 1) return false;
  for (let box = table.parentElement; box; box = box.parentElement) {
    if (["auto", "scroll"].includes(getComputedStyle(box).overflowX) && box !== document.scrollingElement)
      return box.getBoundingClientRect().right > screen + 1;
  }
  return true;
}).map(table => table.textContent.trim().slice(0, 60))"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass
class Visit:
    """What one page did and showed."""

    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    raw_tex: list[str] = field(default_factory=list)
    equations: list[dict] = field(default_factory=list)
    images: list[dict] = field(default_factory=list)
    wide_tables: list[str] = field(default_factory=list)
    overflow: int = 0


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a line for each on the terminal."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(book) -> Iterator[str]:
    """The address under which the built report is served."""
    assert book.html.is_dir(), "the report was not built; test_book.py says why"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(book.html)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=FLAGS)
        yield browser
        browser.close()


def look_at(browser, address: str, site: str) -> Visit:
    """Opens a page, lets it settle, and notes all that the tests ask about."""
    seen = Visit()
    context = browser.new_context(viewport=WIDE)
    context.set_default_timeout(120_000)  # milliseconds: a busy machine takes its time

    def only_from_here(route):
        if route.request.url.startswith((site, "data:", "blob:")):
            route.continue_()
        else:
            seen.outside.append(route.request.url)
            route.abort()

    context.route("**/*", only_from_here)
    page = context.new_page()
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("response", lambda r: seen.errors.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.goto(address, wait_until="load")
    if page.query_selector(".math"):
        page.wait_for_function(MATHJAX_IS_THERE)
        page.evaluate("() => MathJax.startup.promise.then(() => true)")
    page.evaluate(LOAD_ALL_IMAGES)
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    seen.raw_tex = page.evaluate(RAW_TEX)
    seen.equations = page.evaluate(EQUATIONS)
    seen.images = page.evaluate(IMAGES)
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(200)
    seen.wide_tables = page.evaluate(WIDE_TABLES)
    seen.overflow = page.evaluate(OVERFLOW)
    context.close()
    return seen


@pytest.fixture(scope="module")
def visits(browser, site) -> dict[str, Visit]:
    """Filled as the tests ask: every page is opened once."""
    return {}


@pytest.fixture(params=pages())
def visit(request, book, browser, site, visits) -> Visit:
    page = request.param
    if not (book.html / f"{page}.html").exists():
        pytest.fail(f"{page} was not built; test_book.py says why")
    if page not in visits:
        visits[page] = look_at(browser, f"{site}/{page}.html", site)
    return visits[page]


def test_nothing_is_fetched_from_outside(visit):
    assert visit.outside == []


def test_the_console_shows_no_error(visit):
    assert visit.errors == []


def test_equations_are_drawn(visit):
    assert visit.raw_tex == []
    assert [math for math in visit.equations if math["drawn"] != 1 or math["failed"]] == []


def test_images_load(visit):
    assert [image["source"] for image in visit.images if not image["width"]] == []


def test_images_say_what_is_seen(visit):
    def is_told(image: dict) -> bool:
        alt = (image["alt"] or "").strip()
        return len(alt) >= 20 and alt != image["source"] and not alt.endswith((".png", ".svg", ".jpg"))

    assert [image for image in visit.images if not is_told(image)] == []


def test_the_page_fits_a_phone(visit):
    assert visit.overflow <= 0


def test_tables_fit_a_phone(visit):
    assert visit.wide_tables == []


# The checks themselves can fail: a page with each of the faults.

FAULTY = """<!doctype html><title>faulty</title><article>
<p>An equation: \\(x\\).</p><span class="math">\\(y\\)</span>
<img src="missing.png" alt="missing.png"><script src="http://example.invalid/outside.js"></script>
<script>window.MathJax = {startup: {promise: Promise.resolve()}}; console.error("told");</script>
<table><tr><td><div style="width: 900px">wide</div></td></tr></table></article>"""


def test_the_faults_of_a_faulty_page_are_found(browser, tmp_path):
    (tmp_path / "faulty.html").write_text(FAULTY)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        site = f"http://127.0.0.1:{server.server_port}"
        seen = look_at(browser, f"{site}/faulty.html", site)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert seen.outside == ["http://example.invalid/outside.js"]
    assert "told" in seen.errors
    assert seen.raw_tex and seen.equations[0]["drawn"] == 0
    assert seen.images == [{"source": "missing.png", "alt": "missing.png", "width": 0}]
    assert seen.overflow > 0 and seen.wide_tables == ["wide"]
