"""How tables of strings are made: numbers with intervals, labels in place of names, MyST source."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from paperlib import analysis, grids
from paperlib.grids import Grid, GridLike

_MINUS = "\N{MINUS SIGN}"


def markdown(frame: pd.DataFrame, caption: str, name: str) -> str:
    """A numbered table that text can refer to: MyST source for ``IPython.display.Markdown``.

    Args:
        frame: a row a row; the index is not shown.
        caption: one sentence; may hold roles.
        name: label for ``{numref}``, of lower-case letters, digits and hyphens.

    Raises:
        ValueError: no rows, or a name that cannot be a label.
    """
    if frame.empty:
        raise ValueError(f"table {name!r}: expected at least one row")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name={name!r}: expected lower-case letters, digits and hyphens, as in 'tab-accuracy'")
    cells = frame.astype(str).map(lambda text: text.replace("|", "\\|"))
    numeric = [bool(cells[column].str.fullmatch(rf"[-+{_MINUS}]?[\d.]+( [±[].*)?").all()) for column in cells]
    body = cells.to_markdown(index=False, disable_numparse=True,
                             colalign=["right" if right else "left" for right in numeric])
    # Tildes, since the line that opens a fence of backticks must hold no other ones, and roles have some.
    return f"~~~{{table}} {' '.join(caption.split())}\n:name: {name}\n\n{body}\n~~~"


def signed(mean: float, low: float, high: float, digits: int = 1) -> str:
    """``mean [low, high]`` with signs; what rounds to zero has none."""
    return f"{sign(mean, digits)} [{sign(low, digits)}, {sign(high, digits)}]"


def in_points(frame: pd.DataFrame, mean: str = "mean", prefix: str = "") -> list[str]:
    """Fractions with their intervals, in percentage points."""
    return [signed(100 * mean, 100 * low, 100 * high, 2)
            for mean, low, high in zip(frame[mean], frame[f"{prefix}low"], frame[f"{prefix}high"], strict=True)]


def points(differences: pd.DataFrame, setup: str, variant: str, k: int, digits: int = 1) -> str:
    """One difference to cross entropy in percentage points with its interval, for a sentence.

    Args:
        differences: as :func:`paperlib.analysis.differences` gives it.
        setup: name of the setup.
        variant: name of the loss's variant.
        k: length of the candidate list.
        digits: after the decimal point.

    Raises:
        KeyError: no such row.
    """
    row = differences.set_index(["setup", "variant", "k"]).loc[(setup, variant, k)]
    return signed(100 * row["mean"], 100 * row["low"], 100 * row["high"], digits)


def wide(frame: pd.DataFrame, grid_name: GridLike, column: str, names: Mapping[Any, str],
          links: Mapping[tuple[str, str], str] | None = None, extra: Sequence[str] = ()) -> pd.DataFrame:
    """One row a setup and variant, one column of text for each value of ``column``, in the grid's order."""
    keys = ["setup", "variant"]
    wide = frame.pivot(index=[*keys, *extra], columns=column, values="text")[list(names)]
    order = list(frame[[*keys, *extra]].drop_duplicates().itertuples(index=False, name=None))
    wide = wide.loc[order].rename(columns=names).rename_axis(columns=None).reset_index()
    wide = wide[[*keys, *names.values(), *extra]]
    return named(wide, grid_name, links)


def values_tried(found: pd.DataFrame, grid_name: GridLike) -> pd.DataFrame:
    """What a search found: a row a variant, a column for each ``column``, in their order; ``text``, if chosen in bold.

    Args:
        found: with the columns variant, column, text and chosen.
        grid_name: the search, for its labels.
    """
    bold = [f"**{row.text}**" if row.chosen else row.text for row in rows(found)]
    table = found.assign(text=bold).pivot(index="variant", columns="column", values="text")
    table = table.loc[found["variant"].unique(), found["column"].unique()]
    return table.rename(index=analysis.labels(grid_name)).rename_axis("loss").rename_axis(columns=None).reset_index()


def named(frame: pd.DataFrame, grid_name: GridLike,
           links: Mapping[tuple[str, str], str] | None = None) -> pd.DataFrame:
    """Labels in place of names, the variant's column called loss and linked where a page is given."""
    labels = analysis.labels(grid_name)
    pages = [(links or {}).get((row.setup, row.variant)) for row in rows(frame)]
    named = frame.assign(setup=frame["setup"].map(labels), variant=frame["variant"].map(labels))
    named["variant"] = [f"[{label}]({page})" if page else label
                        for label, page in zip(named["variant"], pages, strict=True)]
    return named.rename(columns={"variant": "loss"})


def rows(frame: pd.DataFrame) -> Any:
    return frame.itertuples(index=False)


def seeds_of(part: Grid) -> str:
    """How many seeds a finished part of a grid has; *interim* while more are planned."""
    done, planned = len(part.seeds), len(grids.load(part.name).seeds)
    return f"{done} seeds" if done == planned else f"**interim**: {done} of {planned} seeds"


def starts(part: Grid, variant: str) -> str:
    """When a transition of a grid starts: the rest of a sentence."""
    config = next(cell.config for cell in part.cells if cell.variant == variant)
    of = "training accuracy" if config.strength_schedule == "fitted" else "of training"
    return f"from {100 * config.ramp_start:g} % {of} on"


def list_rows(found: pd.DataFrame, certified: Mapping[tuple[str, str], Sequence[Any]], target: float,
              labels: Mapping[str, str]) -> pd.DataFrame:
    """How long lists are: a row of text for each row of setup, variant, k, low, high, top5 and n.

    Args:
        found: the rows.
        certified: the k certified for each network, by setup and variant.
        target: accuracy to reach.
        labels: what to call setups and variants.
    """
    goal, ends = f"{100 * target:g} %", []
    for row in rows(found):
        own = list(certified[row.setup, row.variant])
        whole = not any(pd.isna(k) for k in own)
        ends.append(" to ".join(dict.fromkeys(f"{k}" for k in (min(own), max(own)))) if whole else "none")
    return pd.DataFrame({
        "setup": found["setup"].map(labels), "loss": found["variant"].map(labels),
        "top-5 (%)": [f"{100 * value:.1f}" for value in found["top5"]],
        f"k for {goal}": [f"{row.k:.1f} [{row.low:.1f}, {row.high:.1f}]" for row in rows(found)],
        f"certified for {goal}": ends, "n": found["n"]})


def title(grid_name: GridLike) -> str:
    """What a grid of the synthetic study is about: its title without the head and without k."""
    return grids.load(grid_name).title.split(": ")[-1].split(", k = ")[0]


def target_names(frame: pd.DataFrame) -> dict[float, str]:
    return {target: f"k for {100 * target:g} %" for target in frame["target"].unique()}


def mean_sd(mean: float, sd: float) -> str:
    """``mean ± sd``, the mean alone for one seed, a dash where there is none."""
    if math.isnan(mean):
        return "–"
    return f"{mean:.1f}" if math.isnan(sd) else f"{mean:.1f} ± {sd:.1f}"


def sign(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}".replace("inf", "\N{INFINITY}")
    return text.replace("-", _MINUS) if float(f"{value:.{digits}f}") else text[1:]


def listed(names: Sequence[str]) -> str:
    """The names as a sentence has them: a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def or_else(value: Any, otherwise: str, how: str = "") -> str:
    return otherwise if pd.isna(value) else format(value, how)
