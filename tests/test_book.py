"""The report builds as ``make book`` builds it, without a warning, and its text types no result."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from pages import pages

from paperlib import losses

# What may stand in the text although it looks like a result: levels and targets, which are chosen, ...
LEVELS = {"1", "5", "10", "20", "50", "80", "90", "95", "97.5", "99", "99.9", "100"}
# ... and, page by page, single numbers, each with the reason.
ALLOWED: dict[str, dict[str, str]] = {}


@pytest.fixture(scope="module")
def config(root):
    return yaml.safe_load((root / "_config.yml").read_text())


# Settings


def test_pages_are_executed_when_built_and_experiments_are_not(config):
    execute = config["execute"]
    assert execute["execute_notebooks"] == "force", "a cache would show old numbers after a record changed"
    assert execute["stderr_output"] == "error"
    assert "book/runs/*" in execute["exclude_patterns"]
    assert config["sphinx"]["config"]["nb_execution_raise_on_error"] is True


def test_only_pages_of_the_toc_are_built(config):
    assert config["only_build_toc_files"] is True
    assert {".*", "**/.*"} <= set(config["exclude_patterns"]), "hidden folders would leak into the report"


def test_equations_need_no_network(config):
    assert "sphinx-mathjax-offline" in config["sphinx"]["config"]["extensions"]
    assert "mathjax_path" not in config["sphinx"]["config"]


def test_the_build_is_strict(root):
    (options,) = re.findall(r"^\t\$\(BIN\)/jupyter-book build (.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert {"-W", "-n", "--keep-going", "--all"} <= set(options.split())


def test_every_chapter_is_a_page(root):
    chapters = {f"book/{path.stem}" for path in (root / "book").glob("*.md")}
    assert chapters <= set(pages())
    assert [page for page in pages() if not list((root / page).parent.glob(f"{Path(page).name}.*"))] == []


def test_the_api_page_has_every_module(root):
    api = (root / "book/api.md").read_text()
    listed = set(re.findall(r"^\.\. automodule:: paperlib\.(\w+)$", api, re.MULTILINE))
    files = {path.stem for path in (root / "paperlib").glob("*.py")}
    folders = {path.parent.name for path in (root / "paperlib").glob("*/__init__.py")}
    assert listed == {name for name in files | folders if not name.startswith("_")}


def test_every_cited_key_is_in_the_bibliography(root):
    keys = set(re.findall(r"^@\w+\{(\w+),$", (root / "book/references.bib").read_text(), re.MULTILINE))
    cited = {spec.cite for spec in losses.SPECS.values()}
    for path in [*(root / "book").glob("*.md"), *(root / "paperlib").rglob("*.py")]:
        for names in re.findall(r"(?:\{cite(?::\w+)?\}|:cite(?::\w+)?:)`([^`]+)`", path.read_text()):
            cited |= {name.strip() for name in names.split(",")}
    assert cited <= keys


# The text


def paragraphs(text: str) -> list[str]:
    """The prose of a MyST page by paragraph, without front matter, blocks of code, comments and equations."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^(`{3,}|~{3,}).*?^\1\s*$", keep_directive, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^%.*$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", " ", text, flags=re.DOTALL)
    return [block for block in re.split(r"\n\s*\n", text) if block.strip()]


def keep_directive(fence: re.Match[str]) -> str:
    """The body of a directive that holds prose (admonition, table, figure); nothing of a block of code."""
    first, *body = fence.group(0).splitlines()
    prose = re.match(r"`{3,}\{(?!code|eval-rst|math|bibliography|literalinclude)", first)
    return "\n".join(body[:-1]) if prose else ""


def typed_results(page: str, text: str) -> list[str]:
    """Numbers in the text of a page that look like a measured accuracy, outside glue, code and quotations."""
    found = []
    for paragraph in paragraphs(text):
        if "{cite" in paragraph:
            continue  # quoted from a paper, and named as such
        prose = re.sub(r"\{[\w:.-]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)|https?://\S+", " ", paragraph)
        percents = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(?:%|percent|per cent|points?\b)", prose)
        decimals = re.findall(r"(?<![\w.])(\d{2}\.\d+|0?\.\d{2,})(?!\w|\.\d)", prose)
        for number in {*percents, *decimals} - LEVELS - ALLOWED.get(page, {}).keys():
            found.append(f"{page}: {number} in: {' '.join(paragraph.split())[:100]}")
    return found


def test_no_result_is_typed(root):
    sources = sorted((root / "book").glob("*.md"))
    assert [line for path in sources for line in typed_results(path.stem, path.read_text())] == []


def test_every_allowed_number_is_needed(root):
    for page, numbers in ALLOWED.items():
        text = (root / "book" / f"{page}.md").read_text()
        assert [number for number in numbers if number not in text] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It reaches 66.5 % on the test images.", 1),
        ("The accuracy is .815 here.", 1),
        ("One gains 0.9 points.", 1),
        ("```{note}\nIt reaches 90.1.\n```", 1),
        ("| loss | top-1 |\n| --- | --- |\n| CE | 66.5 |", 1),
        ("The paper reports 66.5 % {cite}`sawada2020tradeoffs`.", 0),
        ("```{code-cell} ipython3\nx = 66.5\n```", 0),
        ("```python\nx = 66.5\n```", 0),
        ("It reaches {glue:text}`best` % with 95 % intervals, and `66.5` is code.", 0),
        ("Strength 0.3, $\\alpha = 0.05$, Python 3.11.", 0),
        ("---\nversion: 66.5\n---\n\nText.", 0),
    ],
)
def test_the_search_for_typed_results_tells_them_apart(text, found):
    assert len(typed_results("page", text)) == found


# The build


def test_the_book_builds_without_a_warning(book):
    # Sockets of a closing kernel sometimes complain on a busy machine. No page is the worse for it, and Sphinx, whose
    # warnings are errors here, did not see it.
    socket_noise = "ERROR:tornado.general:Uncaught exception in ZMQStream callback"
    warnings = [line for line in book.log.splitlines() if ("WARNING" in line or "ERROR" in line)
                and line != socket_noise]
    assert (book.exit_code, warnings) == (0, []), "\n".join([*warnings, book.log[-8000:]])


def test_the_first_page_is_found_from_the_root(book):
    assert "book/index.html" in (book.html / "index.html").read_text()


@pytest.mark.parametrize("page", pages())
def test_every_page_is_there(book, page):
    html = (book.html / f"{page}.html").read_text()
    assert BeautifulSoup(html, "html.parser").find("h1") is not None


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_somewhere(book, page):
    soup = BeautifulSoup((book.html / f"{page}.html").read_text(), "html.parser")
    places = {tag["id"] for tag in soup.select("[id]")}
    broken = []
    for tag in soup.select("a[href], link[href], script[src], img[src]"):
        link = urlsplit(tag.get("href") or tag.get("src"))
        if link.scheme or link.netloc:
            if tag.name != "a" and link.scheme != "data" and tag.get("rel") != ["canonical"]:
                broken.append(f"fetched from outside: {link.geturl()}")
        elif link.path and not (book.html / page).parent.joinpath(unquote(link.path)).resolve().exists():
            broken.append(f"not in the build: {link.path}")
        elif link.fragment and not link.path and unquote(link.fragment) not in places:
            broken.append(f"no such place: #{link.fragment}")
    assert broken == []


@pytest.mark.parametrize("page", pages())
def test_no_line_breaks_within_a_number_and_what_belongs_to_it(book, page):
    article = BeautifulSoup((book.html / f"{page}.html").read_text(), "html.parser").select_one("article")
    for verbatim in article.select("pre, code, script, noscript, .math, .sig"):
        verbatim.decompose()
    assert re.findall(r".{,20}(?:\d %|± \d|\b[kn] = |[\[−+]\d[\d.]*, [+−-]?[\d.]+\]).{,5}", article.get_text()) == []
    assert [found for table in article.select("table") for found in re.findall(r"\w+-\d+", table.get_text())] == []


@pytest.mark.parametrize("page", pages())
def test_no_page_shows_an_object_in_place_of_what_it_says(book, page):
    text = BeautifulSoup((book.html / f"{page}.html").read_text(), "html.parser").select_one("article").get_text()
    assert re.findall(r"<[\w.]+ object[^>]*>|<Figure size[^>]*>", text) == []


@pytest.mark.parametrize("page", pages())
def test_no_page_shows_a_folder_of_the_machine_that_built_it(book, page, root):
    text = BeautifulSoup((book.html / f"{page}.html").read_text(), "html.parser").get_text()
    assert str(root) not in text and str(Path.home()) + "/" not in text
