"""The built pages in a headless Chromium, on a wide screen and on a phone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from pages import pages

from paperlib import analysis

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
RAW_TEXT = r"""(what) => {
  const walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT);
  const pattern = new RegExp(what), raw = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.parentElement.closest("pre, code, script, style, mjx-container, textarea")) continue;
    if (pattern.test(node.data)) raw.push(node.data.trim().slice(0, 80));
  }
  return raw;
}"""
TEX = r"\\\(|\\\[|\\begin\{|\$\$"
MARKUP = r"```|~~~|\{[a-z]+(:[a-z]+)?\}$"  # a fence, or a role, whose text is set as code behind it
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
    raw_markup: list[str] = field(default_factory=list)
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
    seen.raw_tex, seen.raw_markup = page.evaluate(RAW_TEXT, TEX), page.evaluate(RAW_TEXT, MARKUP)
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


def test_no_markup_is_left_in_the_text(visit):
    assert visit.raw_markup == []


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


# The explorer: its controls by keyboard, its numbers against those that the analysis computes.

EXPLORER, GRID = "book/04-explorer", "first-study"
PRESSES = [  # keys on the slider and the k that they lead to
    ([], 5), (["ArrowRight"] * 3, 8), (["ArrowLeft"], 7), (["End"], 100), (["Home"], 1), (["PageUp"], 11),
]
# Where the line at k and the two ends of the horizontal axis are, in pixels.
LINE_AT_K = """() => {
  const lines = [...document.querySelectorAll("#explorer-chart .mark-rule.role-mark line")]
    .map(line => line.getBoundingClientRect());
  const frame = document.querySelector("#explorer-chart .root > g > path.background").getBoundingClientRect();
  return [lines.find(line => line.height > line.width).left, frame.left, frame.right];
}"""
CONTROLS = """() => [...document.querySelectorAll("#explorer-tool :is(select, input)")].map(
  control => control.id || `${control.type} ${control.labels[0].textContent.trim()}`)"""
FOCUSED = """() => {
  const [control, style] = [document.activeElement, getComputedStyle(document.activeElement)];
  return {name: control.id || `${control.type} ${control.labels[0].textContent.trim()}`,
          labels: control.labels ? [...control.labels].filter(label => label.textContent.trim()).length : 0,
          outline: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth)};
}"""
CHART_COLOUR = "() => getComputedStyle(document.querySelector('#explorer-chart .role-axis-title text')).fill"
TEXT_COLOUR = "() => getComputedStyle(document.getElementById('explorer-tool')).color"


@pytest.fixture(scope="module")
def numbers() -> dict[str, pd.DataFrame]:
    """What the explorer must show, computed as the chapters do."""
    goals = (0.95, 0.99)
    return {"accuracy": analysis.curve_bands(GRID), "difference": analysis.difference_bands(GRID),
            "candidates": analysis.candidates(GRID, goals),
            "more": analysis.candidate_differences(GRID, targets=goals)}


@pytest.fixture
def explorer(browser, site, book):
    """The explorer as it is opened, and the errors of its console."""
    assert (book.html / f"{EXPLORER}.html").exists(), "the explorer was not built; test_book.py says why"
    context = browser.new_context(viewport=WIDE)
    context.set_default_timeout(120_000)
    context.route("**/*", lambda route: route.continue_())  # with a route Chromium asks for no icon
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{site}/{EXPLORER}.html")
    page.wait_for_selector("#explorer-chart svg")
    yield page
    assert errors == []
    context.close()


def told(frame: pd.DataFrame, setup: str, variant: str, digits: int, unit: str = "", **where: float) -> str:
    """An estimate with its interval, as the explorer's sentences have it."""
    wanted = {"setup": setup, "variant": variant, **where}
    (row,) = frame[(frame[list(wanted)] == list(wanted.values())).all(axis=1)].to_dict("records")
    estimate = next(row[name] for name in ("accuracy", "difference", "k") if name in row and name not in where)
    signs, factor = "difference" in row, 1 if "target" in where else 100
    values = [factor * value for value in (estimate, row["low"], row["high"])]
    if not signs:
        values = [min(value, 100) for value in values]
    texts = [f"{value:{'+' if signs else ''}.{digits}f}".replace("-", "\N{MINUS SIGN}") for value in values]
    return "{}{} ({} to {})".format(texts[0], unit, *texts[1:])


def wait_for_text(page, *paragraphs: str) -> None:
    """Waits until the live text is this, and fails with what it is instead."""
    from playwright.sync_api import expect

    expect(page.locator("#explorer-summary p")).to_have_text(list(paragraphs), timeout=60_000)


def test_the_slider_moves_by_keyboard_and_the_text_follows(explorer, numbers):
    page = explorer
    page.select_option("#explorer-setup", label="all images, 8 epochs")
    page.get_by_role("checkbox", name="transition, late ramp").check()
    needed = [told(numbers["candidates"], "all", variant, 1, target=0.99) for variant in ("ce", "ramp")]
    page.focus("#explorer-k")
    for keys, k in PRESSES:
        for key in keys:
            page.keyboard.press(key)
        ce, ramp = (told(numbers["accuracy"], "all", variant, 1, " %", k=k) for variant in ("ce", "ramp"))
        candidates = "1 candidate" if k == 1 else f"{k} candidates"
        wait_for_text(page, f"With {candidates}, cross entropy finds the right class for {ce} of the test images. "
                            f"It needs {needed[0]} candidates for 99 %.",
                      f"Transition, late ramp: {ramp}, needs {needed[1]}.")
        assert page.inner_text("#explorer-k-value") == str(k)
        assert page.get_attribute("#explorer-k", "aria-valuetext") == candidates
        assert page.inner_text("#explorer-now thead th >> nth=1") == f"top-{k} (%)"
        assert page.inner_text("#explorer-now tbody td >> nth=0").split()[0] == ce.split()[0]
        page.wait_for_timeout(200)  # the line is drawn in the next frame
        at, left, right = page.evaluate(LINE_AT_K)
        assert at == pytest.approx(left + (right - left) * np.log(k) / np.log(100), abs=2)


def test_setup_losses_mode_and_target_are_chosen(explorer, numbers):
    page = explorer
    page.select_option("#explorer-setup", label="a fifth of the images, 40 epochs")
    page.select_option("#explorer-target", label="95 %")
    page.get_by_role("checkbox", name="transition, late ramp").uncheck()
    accuracy = told(numbers["accuracy"], "fifth", "ce", 1, " %", k=5)
    needed = told(numbers["candidates"], "fifth", "ce", 1, target=0.95)
    wait_for_text(page, f"With 5 candidates, cross entropy finds the right class for {accuracy} of the test images. "
                        f"It needs {needed} candidates for 95 %.")
    page.get_by_role("radio", name="difference to cross entropy").check()
    wait_for_text(page, "Choose a loss other than cross entropy to see differences to it.")
    assert page.locator("#explorer-chart").is_hidden()
    page.get_by_role("checkbox", name="grouped from the start").check()
    points = told(numbers["difference"], "fifth", "grouped", 2, " points", k=5)
    more = told(numbers["more"], "fifth", "grouped", 1, target=0.95)
    wait_for_text(page, f"With 5 candidates, grouped from the start differs from cross entropy by {points} in "
                        f"accuracy, and by {more} in the candidates needed for 95 %.")
    page.wait_for_selector("#explorer-chart svg")
    rows = [row.split("\t") for row in page.inner_text("#explorer-now tbody").splitlines()]
    assert [row[0] for row in rows] == ["cross entropy", "grouped from the start"] and rows[0][2] == "\N{EN DASH}"
    page.get_by_role("checkbox", name="cross entropy").uncheck()
    page.get_by_role("checkbox", name="grouped from the start").uncheck()
    wait_for_text(page, "Choose at least one loss.")


def test_what_is_shown_is_said_beside_the_setup(explorer):
    page = explorer
    for i, grid in enumerate(page.evaluate("window.explorerData.grids")):
        for j, setup in enumerate(grid["setups"]):
            page.select_option("#explorer-setup", value=f"{i}/{j}")
            said = page.inner_text("#explorer-runs")
            assert said.startswith(f"{grid['title']}. Shown: {setup['seeds']} seeds, 10,000 test images.")
            assert ("never started here" in said) == bool(setup["idle"])


def test_every_control_is_reached_by_keyboard_named_and_marked(explorer):
    page = explorer
    radios = page.evaluate(CONTROLS)
    expected = [name for name in radios if name != "radio difference to cross entropy"]  # one stop for both
    page.focus("#explorer-setup")
    seen = []
    for _ in expected:
        seen.append(page.evaluate(FOCUSED))
        page.keyboard.press("Tab")
    assert [stop["name"] for stop in seen] == expected
    assert {"explorer-setup", "explorer-k", "explorer-target", "checkbox cross entropy"} < set(expected)
    assert [stop for stop in seen if stop["labels"] != 1 or stop["outline"] < 2] == []
    live = page.locator("#explorer-summary")
    assert live.get_attribute("role") == "status"
    assert "accuracy" in page.get_attribute("#explorer-figure[role=img]", "aria-label")


def test_the_chart_follows_the_theme(explorer):
    page = explorer
    before = page.evaluate(CHART_COLOUR)
    page.evaluate("() => document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function(f"before => ({CHART_COLOUR})() !== before", arg=before)
    assert page.evaluate(CHART_COLOUR) == page.evaluate(TEXT_COLOUR)


def test_the_explorer_works_from_a_disk_and_without_javascript_says_where_to_look(browser, book):
    address = (book.html / f"{EXPLORER}.html").as_uri()
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#explorer-chart svg")
    assert page.inner_text("#explorer-k-value") == "5"
    context.close()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("#explorer-tool").is_hidden()
    assert "need JavaScript" in page.inner_text("article noscript")
    context.close()


def test_the_plotting_library_is_loaded_where_it_is_used(book):
    loading = [page for page in pages() if "vega-embed.js" in (book.html / f"{page}.html").read_text()]
    assert loading == [EXPLORER]
    assert (book.html / "_static/explorer-data.js").stat().st_size < 300_000


# The checks themselves can fail: a page with each of the faults.

FAULTY = """<!doctype html><title>faulty</title><article>
<p>An equation: \\(x\\).</p><p>```{table} A caption</p><p>{numref}<code>tab-x</code></p>
<span class="math">\\(y\\)</span>
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
    assert seen.raw_markup == ["```{table} A caption", "{numref}"]
    assert seen.images == [{"source": "missing.png", "alt": "missing.png", "width": 0}]
    assert seen.overflow > 0 and seen.wide_tables == ["wide"]
