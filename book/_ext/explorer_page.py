"""The explorer page: its numbers from the committed records and its plotting library, both as files beside the page.

A page that is opened from a disk may run scripts but fetch nothing, so the numbers are a script as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import vl_convert
from matplotlib.colors import to_hex
from sphinx.application import Sphinx

from paperlib import analysis, figures, records

PAGE = "book/04-explorer"
COLOURS = 10  # as many as figures.looks tells apart; losses beyond them take the colours again, with other dashes
NOTICE = """/* Vega {vega}, Vega-Lite {lite}, Vega-Embed {embed}: copyright (c) University of Washington Interactive
   Data Lab and contributors, BSD-3-Clause licence. With D3, copyright (c) Mike Bostock, ISC licence.
   Bundled by vl-convert {version}. */
"""


def library() -> str:
    """Vega-Lite as one script that defines window.vegaEmbed and nothing else that a page could trip over."""
    lite = vl_convert.get_vegalite_versions()[-1]
    notice = NOTICE.format(vega=vl_convert.get_vega_version(), lite=lite, embed=vl_convert.get_vega_embed_version(),
                           version=vl_convert.__version__)
    return f'{notice}(function () {{ "use strict";\n{vl_convert.javascript_bundle(vl_version=lite)}\n}})();\n'


def document() -> dict[str, Any]:
    """The explorer's numbers, each loss with its colour in the figures of the report."""
    found = analysis.explorer_document()
    for grid in found["grids"]:
        for setup in grid["setups"]:
            for start in range(0, len(setup["losses"]), COLOURS):
                part = setup["losses"][start:start + COLOURS]
                look = figures.looks([loss["name"] for loss in part])
                for loss in part:
                    loss["colour"] = to_hex(look[loss["name"]][0])
    return found


def write(app: Sphinx) -> None:
    """Writes book/_static/explorer-data.js and vega-embed.js."""
    folder = Path(app.srcdir) / "book" / "_static"
    numbers = json.dumps(document(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    records.write_atomically(folder / "explorer-data.js", f"window.explorerData = {numbers};\n")
    records.write_atomically(folder / "vega-embed.js", library())


def load_on_its_page(app: Sphinx, pagename: str, *_: Any) -> None:
    """Scripts that are added while a page is rendered are that page's alone."""
    if pagename == PAGE:
        for name in ("explorer-data.js", "vega-embed.js", "explorer.js"):
            app.add_js_file(name, loading_method="defer")
        app.add_css_file("explorer.css")


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the extension."""
    app.connect("builder-inited", write)
    app.connect("html-page-context", load_on_its_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
