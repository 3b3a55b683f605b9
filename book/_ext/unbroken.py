"""Keeps together what is read as one: 95 %, k = 5, ± 0.2, [0.1, 0.9]. A line may break beside it, not inside.

In tables, whose columns are narrow, so are top-10 and ResNet-18.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

#: Text in these is shown as it was typed.
VERBATIM = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment)
NUMBER = r"[+−-]?[\d.,]*\d|never"
#: Spaces that no line breaks at. The number before a percent sign may stand in a node of its own.
INSIDE = re.compile(rf" (?=%)|(?<=±) (?=\d)|(?<=\b[kn]) (?== )|(?<=\b[kn] =) |(?<=,) (?=(?:{NUMBER})(?: %)?\])")
HYPHEN = re.compile(r"(?<=\w-)(?=\d)")


def unbroken(text: str, in_table: bool) -> str:
    """The text without places to break a line at between a number and what belongs to it."""
    text = INSIDE.sub("\N{NO-BREAK SPACE}", text)
    return HYPHEN.sub("\N{WORD JOINER}", text) if in_table else text


class Unbroken(SphinxPostTransform):
    """Goes over all text of a page, its tables and the outputs of its cells."""

    default_priority = 900  # after the cells' outputs were chosen and references have their text

    def run(self, **kwargs: Any) -> None:
        """Replace text by :func:`unbroken` text."""
        for node in list(self.document.findall(nodes.Text)):
            changed = unbroken(node, _within(node, (nodes.table,)))
            if changed != node and not _within(node, VERBATIM):
                node.parent.replace(node, nodes.Text(changed))


def _within(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds the transform."""
    app.add_post_transform(Unbroken)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
