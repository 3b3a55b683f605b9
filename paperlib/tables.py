"""One function per table: a grid's records in, a frame of strings out, ready to be shown.

Accuracies are percent, differences percentage points. ``mean ± sd`` is over seeds, whose number is in the
column n; brackets hold intervals. Functions that resample also take the frame of :mod:`paperlib.analysis`, for
pages that have it already.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from paperlib import analysis, grids
from paperlib.grids import GridLike

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
    return f"```{{table}} {' '.join(caption.split())}\n:name: {name}\n\n{body}\n```"


def accuracies(grid_name: GridLike, ks: Sequence[int] = (1, 5, 10, 20), targets: Sequence[int] = (95, 99),
               links: Mapping[tuple[str, str], str] | None = None) -> pd.DataFrame:
    """Accuracy at some k, and the smallest k for some targets, of every loss.

    Args:
        grid_name: the grid.
        ks: out of 1, 2, 5, 10 and 20.
        targets: in percent, out of 90, 95 and 99.
        links: pages to link a loss to, by (setup, variant).
    """
    columns = {f"top{k}": f"top-{k}" for k in ks} | {f"k{target}": f"k for {target} %" for target in targets}
    frame = analysis.summary(grid_name, list(columns))
    unit = [100 if quantity.startswith("top") else 1 for quantity in frame["quantity"]]
    frame["text"] = list(map(_mean, unit * frame["mean"], unit * frame["sd"]))
    frame["n"] = frame.groupby(["setup", "variant"])["n"].transform("max")
    return _wide(frame, grid_name, "quantity", columns, links, extra=["n"])


def differences(grid_name: GridLike, ks: Sequence[int] = (1, 5, 10, 25), comparisons: int = 1,
                frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Accuracy minus cross entropy's in percentage points, with paired t intervals."""
    found = analysis.differences(grid_name, ks=ks, comparisons=comparisons) if frame is None else frame.copy()
    found["text"] = [signed(100 * row.mean, 100 * row.low, 100 * row.high, 2) for row in _rows(found)]
    return _wide(found, grid_name, "k", {k: f"top-{k}" for k in found["k"].unique()}, extra=["n"])


def candidates(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Smallest k for each target, averaged over seeds, with intervals over seeds and images."""
    found = analysis.candidates(grid_name) if frame is None else frame.copy()
    found["text"] = [f"{row.k:.1f} [{row.low:.1f}, {row.high:.1f}]" for row in _rows(found)]
    return _wide(found, grid_name, "target", _targets(found), extra=["n"])


def candidate_differences(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """How many candidates more than cross entropy, with paired intervals over seeds and images."""
    found = analysis.candidate_differences(grid_name) if frame is None else frame.copy()
    found["text"] = [signed(row.difference, row.low, row.high, 1) for row in _rows(found)]
    return _wide(found, grid_name, "target", _targets(found), extra=["n"])


def certificates(grid_name: GridLike, targets: Sequence[float] = (0.95, 0.99)) -> pd.DataFrame:
    """Smallest k of each trained network with its exact interval over images, and the k certified for it."""
    found = analysis.certificates(grid_name, targets)
    found["text"] = [f"{row.k} [{row.low}, {_or(row.high, 'no bound')}]" for row in _rows(found)]
    found["promise"] = [_or(row.certified, "none") for row in _rows(found)]
    keys = ["setup", "variant", "seed"]
    parts = {}
    for target in targets:
        own = found[found["target"] == target].set_index(keys)
        parts[f"k for {100 * target:g} %"] = own["text"]
        parts[f"certified for {100 * target:g} %"] = own["promise"]
    return _named(pd.DataFrame(parts).reset_index(), grid_name)


def lists(grid_name: GridLike, target: float = 0.99, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """How long a list for one target is: smallest k over seeds, and the k certified for the networks."""
    found = analysis.candidates(grid_name, [target]) if frame is None else frame[frame["target"] == target]
    promised = analysis.certificates(grid_name, [target]).groupby(["setup", "variant"], sort=False)["certified"]
    ends = promised.agg(lambda own: "none" if own.isna().any() else
                        f"{own.min()}" if own.nunique() == 1 else f"{own.min()} to {own.max()}")
    goal = f"{100 * target:g} %"
    return _named(pd.DataFrame({
        "setup": found["setup"], "variant": found["variant"],
        f"k for {goal}": [f"{row.k:.1f} [{row.low:.1f}, {row.high:.1f}]" for row in _rows(found)],
        f"certified for {goal}": [ends[row.setup, row.variant] for row in _rows(found)], "n": found["n"]}), grid_name)


def budget(trades: pd.DataFrame, labels: Mapping[str, str], target: float = 0.99) -> pd.DataFrame:
    """What each change of training saves in candidates for one target, its time, and what a core-minute buys."""
    found = trades[trades["target"] == target]
    return pd.DataFrame({
        "setup": found["setup"].map(lambda name: labels.get(name, name)), "change": found["label"],
        "saved": [signed(row.saved, row.low, row.high) for row in _rows(found)],
        "time": ["–" if math.isnan(row.time) else f"{row.time:.2f}" for row in _rows(found)],
        "core-minutes more": ["–" if math.isnan(row.extra) else signed(row.extra, row.extra_low, row.extra_high)
                              for row in _rows(found)],
        "a core-minute buys": [price(row) for row in _rows(found)], "n": found["n"]})


def price(row: Any) -> str:
    """What one change costs, in words: a row of :func:`paperlib.analysis.budget_trades`."""
    rate = signed(row.rate, row.rate_low, row.rate_high, 2)
    return {"free": "free", "open": "not known yet", "dearer": rate, "cheaper": f"{rate} lost for each one saved"}[
        row.price]


def promises(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """How often a k chosen on validation images reached its target on test: both rules, beside each other."""
    found = analysis.promises(grid_name) if frame is None else frame
    names = analysis.labels(grid_name)
    parts: dict[str, list[str]] = {}
    for rule in ("smallest", "certified"):
        own = found[found["rule"] == rule].set_index(["setup", "target"])
        parts |= {f"{rule} k": [_or(row.k, "none", ".1f") for row in _rows(own)],
                  f"{rule}: held": [f"{row.held} of {row.networks}" for row in _rows(own)],
                  f"{rule}: worst": [_or(100 * row.worst, "–", ".2f") for row in _rows(own)]}
    keys = found[found["rule"] == "smallest"]
    return pd.DataFrame({"setup": keys["setup"].map(names).tolist(),
                         "target": [f"{100 * target:g} %" for target in keys["target"]], **parts})


def verdicts(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """The five claims, each with the paper's figure, beside ours and the verdict in bold."""
    found = analysis.verdicts() if frame is None else frame
    return pd.DataFrame({
        "the paper's claim and figure": [f"**{row.id}** {row.claim}: {row.paper}." for row in _rows(found)],
        "ours": found["ours"], "verdict": [f"**{verdict}**" for verdict in found["verdict"]]})


def phases(grid_names: Sequence[str] = analysis.PHASES, ours: str = "transition",
           found: Mapping[str, Mapping[str, Any]] | None = None) -> pd.DataFrame:
    """What each phase diagram says of C1: how many cells of each kind, and in how many of them the loss gains."""
    found = found or {name: analysis.overview(name, ours) for name in grid_names}
    return pd.DataFrame([{
        "data": _title(name), "unsolved": row["poor"], "gain there": row["gained"], "largest region": row["region"],
        "worse there": row["lost"],
        "largest gain": "–" if math.isnan(row["largest"]) else _sign(100 * row["largest"], 2),
        "reachable": row["reachable"], "solved": row["rich"], "gain in solved": row["exceptions"],
        "part of C1": row["status"] or "not tested"} for name, row in found.items()])


def losses_over_cells(grid_names: Sequence[str], k: int = 2) -> pd.DataFrame:
    """What each loss gains over cross entropy at 1 and at k, in points, averaged over the cells of each grid."""
    rows: dict[str, dict[str, str]] = {}
    for name in grid_names:
        means = analysis.gains(name).groupby(["variant", "k"], sort=False)["gain"].mean()
        for (variant, at), gain in means.items():
            rows.setdefault(analysis.labels(name)[variant], {})[f"{_title(name)}, top-{at}"] = _sign(100 * gain, 2)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("loss").reset_index()


def search(grid_name: str) -> pd.DataFrame:
    """The value that a search chose for each loss, in bold, among those tried: top-k on validation, in percent."""
    found, names = analysis.search(grid_name), analysis.labels(grid_name)
    found["text"] = [f"**{100 * row.accuracy:.2f}**" if row.chosen else f"{100 * row.accuracy:.2f}"
                     for row in _rows(found)]
    found["column"] = [f"{row.family.replace('_', ' ')}, {row.value:g}" for row in _rows(found)]
    table = found.pivot(index="variant", columns="column", values="text")
    table = table.loc[found["variant"].unique(), found["column"].unique()]
    return table.rename(index=names).rename_axis("loss", axis=0).rename_axis(None, axis=1).reset_index()


def calibration(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """What the test of every loss for top-k calibration found: at how many class probabilities which set wins."""
    found = analysis.calibration() if frame is None else frame
    return pd.DataFrame({
        "loss": [f"{row.label}, {row.note}" if row.note else row.label for row in _rows(found)],
        "right": [f"{row.right} of {row.n}" for row in _rows(found)],
        "tied": found["tied"].astype(str), "wrong": found["wrong"].astype(str),
        "least gap": [_sign(row.gap, 4).removeprefix("+") for row in _rows(found)],
        "only approached": [", ".join(f"{count} {where}" for count, where in [
            (row.at_tie, "at a tie"), (row.far_out, "far out")] if count) or "–" for row in _rows(found)],
        "largest regret (points)": [f"{100 * row.regret:.1f}" for row in _rows(found)],
        "descents that end right (%)": [f"{100 * row.descents_right:.0f}" for row in _rows(found)],
        "from cross entropy (%)": [f"{100 * row.kept_right:.0f}" for row in _rows(found)],
        "how": found["solver"].map({"search": "search", "linear": "linear programs"})})


def loss_speed(frame: pd.DataFrame | None = None, condition: str = "loop") -> pd.DataFrame:
    """Time of each loss of the library as a multiple of torch's cross entropy, by size: median [quartiles]."""
    found = analysis.loss_costs() if frame is None else frame
    found = found[(found["side"] != "rival") & (found["condition"] == condition)]
    return _by_size(found, [f"{row.ratio:.1f} [{row.ratio_low:.1f}, {row.ratio_high:.1f}]" for row in _rows(found)],
                    ["loss"])


def rival_speed(frame: pd.DataFrame | None = None, condition: str = "loop") -> pd.DataFrame:
    """Time of other people's code as a multiple of the same loss here, by size: median [quartiles]."""
    found = analysis.loss_costs() if frame is None else frame
    found = found[(found["side"] == "rival") & (found["condition"] == condition)]
    cells = [f"{row.times_ours:.1f} [{row.times_ours_low:.1f}, {row.times_ours_high:.1f}]" for row in _rows(found)]
    return _by_size(found, cells, ["loss", "code"]).rename(columns={"code": "other code"})


def loss_memory(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Peak memory of each loss beyond the logits, in multiples of them and of torch's cross entropy, by size."""
    found = analysis.loss_memory() if frame is None else frame
    return _by_size(found, [f"{row.logits:.1f} ({row.ratio:.1f} x)" for row in _rows(found)], ["loss"])


def training_rates(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Images a second of the training loop, its share of bare steps, and both beside the fastest convolution."""
    found = analysis.training_rates() if frame is None else frame
    return pd.DataFrame({
        "network": found["network"], "precision": found["precision"],
        "million MACs": [f"{row.macs / 1e6:.1f}" for row in _rows(found)],
        "images a second": [f"{row.loop:.0f}" for row in _rows(found)],
        "of bare steps (%)": [_percent(row, "ratio", 0) for row in _rows(found)],
        "of the convolution (%)": [f"{100 * row.fraction:.0f}" for row in _rows(found)]})


def loss_shares(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Time of each loss with its derivative, and its share of a step, the cheapest first."""
    found = (analysis.loss_shares() if frame is None else frame).sort_values("seconds", kind="stable")
    return pd.DataFrame({
        "loss": found["loss"], "ms": [f"{1e3 * row.seconds:.2f}" for row in _rows(found)],
        "share of a step (%)": [_percent(row, "share", 2) for row in _rows(found)]})


def augmentation_rates(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Augmented images a second of each path, and how many times slower than the batched loader it is."""
    found = analysis.augmentation_rates() if frame is None else frame
    return pd.DataFrame({
        "path": found["path"],
        "images a second": [f"{row.images:.0f} [{row.images_low:.0f}, {row.images_high:.0f}]" for row in _rows(found)],
        "times slower": [f"{row.slower:.1f}" for row in _rows(found)]})


def choice_costs(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Time of a bare step made otherwise, as a multiple of the recipe's."""
    found = analysis.choice_costs() if frame is None else frame
    return pd.DataFrame({"choice": found["choice"], "time": [_multiple(row, "time") for row in _rows(found)]})


def determinism_costs(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Time of a step with deterministic algorithms, as a multiple of that without."""
    found = analysis.determinism_costs() if frame is None else frame
    return pd.DataFrame({"network": found["network"], "time": [_multiple(row, "cost") for row in _rows(found)]})


def ensemble_speedups(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Microseconds of one model's step, alone and in a batched program, and how many times faster that is."""
    found = analysis.ensemble_speedups() if frame is None else frame
    return pd.DataFrame({
        "models": [str(row.models) for row in _rows(found)], "batch": [str(row.batch_size) for row in _rows(found)],
        "hidden units": [str(row.hidden) for row in _rows(found)],
        "one after another (µs)": [f"{1e6 * row.plain:.0f}" for row in _rows(found)],
        "together (µs)": [f"{1e6 * row.batched:.1f}" for row in _rows(found)],
        "times faster": [f"{row.times:.1f} [{row.times_low:.1f}, {row.times_high:.1f}]" for row in _rows(found)]})


def measurements() -> pd.DataFrame:
    """Device, versions, code and date of each measurement of speed."""
    return pd.DataFrame([_measurement(name, found) for name, found in analysis.performance_documents().items()])


def _measurement(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    environment, seconds = found["environment"], found.get("cpu_seconds")
    return {"device": name, "threads": str(environment["threads"]), "instruction set": environment["cpu_capability"],
            "torch": environment["torch"], "commit": (found.get("code", {}).get("commit") or "unknown")[:7],
            "date": found.get("finished", "cut off")[:10],
            "minutes of CPU": "–" if seconds is None else f"{seconds / 60:.0f}"}


def _multiple(row: Any, name: str) -> str:
    """A ratio with its quartiles."""
    low, middle, high = (getattr(row, key) for key in (f"{name}_low", name, f"{name}_high"))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _percent(row: Any, name: str, digits: int = 1) -> str:
    """A fraction with its quartiles, in percent."""
    low, middle, high = (100 * getattr(row, key) for key in (f"{name}_low", name, f"{name}_high"))
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _by_size(found: pd.DataFrame, cells: Sequence[str], index: list[str]) -> pd.DataFrame:
    """One column a size, in the order of the frame."""
    sizes = [f"{row.n} x {row.num_classes}" for row in _rows(found)]
    wide = found.assign(size=sizes, cell=list(cells)).pivot(index=index, columns="size", values="cell")
    wide = wide.loc[found.set_index(index).index.unique(), list(dict.fromkeys(sizes))]
    return wide.fillna("–").reset_index().rename_axis(columns=None)


def status(grid_names: Sequence[str] | None = None) -> pd.DataFrame:
    """Runs that have a record, and those that miss one."""
    found = analysis.status(grid_names)
    found["core_hours"] = [f"{hours:.1f}" for hours in found["core_hours"]]
    found["missing"] = [(row.missing_runs if row.runs else "all: not yet run") or "none" for row in _rows(found)]
    found = found.drop(columns="missing_runs").replace({"protocol": {"": "–"}})
    return found.rename(columns={"core_hours": "core hours", "missing": "missing runs"}).astype(str)


def explorer_grids() -> pd.DataFrame:
    """Grids that report test results, and whether the explorer page shows them."""
    found = analysis.explorer_grids()
    found["in the explorer"] = found.pop("missing").map(lambda missing: "not yet complete" if missing else "yes")
    return found


def environments(grid_names: Sequence[str] | None = None) -> pd.DataFrame:
    """Versions, device and code of the runs."""
    found = analysis.environments(grid_names)
    found["commit"] = [(row.commit or "unknown")[:7] + (" (changed)" if row.dirty is True else "")
                       for row in _rows(found)]
    found["date"] = [row.first if row.first == row.last else f"{row.first} to {row.last}" for row in _rows(found)]
    first = ["grid", "runs", "date", "device", "threads", "cpu_capability", "platform", "commit"]
    found = found[[*first, *(name for name in found if name not in {*first, "dirty", "first", "last"})]]
    return found.rename(columns={"cpu_capability": "instruction set"}).astype(str)


def run_list(grid_name: GridLike) -> pd.DataFrame:
    """Every run of a grid: its place, identifier, top-1 accuracy and wall time."""
    found = _named(analysis.runs(grid_name), grid_name)
    found["top-1 (%)"] = [f"{100 * value:.1f}" for value in found["top1"]]
    found["minutes"] = [f"{value:.1f}" for value in found["minutes"]]
    return found[["setup", "loss", "seed", "run_id", "top-1 (%)", "minutes"]].rename(columns={"run_id": "run"})


def signed(mean: float, low: float, high: float, digits: int = 1) -> str:
    """``mean [low, high]`` with signs; what rounds to zero has none."""
    return f"{_sign(mean, digits)} [{_sign(low, digits)}, {_sign(high, digits)}]"


def points(differences: pd.DataFrame, setup: str, variant: str, k: int) -> str:
    """One difference to cross entropy in percentage points with its interval, for a sentence.

    Args:
        differences: as :func:`paperlib.analysis.differences` gives it.
        setup: name of the setup.
        variant: name of the loss's variant.
        k: length of the candidate list.

    Raises:
        KeyError: no such row.
    """
    row = differences.set_index(["setup", "variant", "k"]).loc[(setup, variant, k)]
    return signed(100 * row["mean"], 100 * row["low"], 100 * row["high"])


def _wide(frame: pd.DataFrame, grid_name: GridLike, column: str, names: Mapping[Any, str],
          links: Mapping[tuple[str, str], str] | None = None, extra: Sequence[str] = ()) -> pd.DataFrame:
    """One row a setup and variant, one column of text for each value of ``column``, in the grid's order."""
    keys = ["setup", "variant"]
    wide = frame.pivot(index=[*keys, *extra], columns=column, values="text")[list(names)]
    order = list(frame[[*keys, *extra]].drop_duplicates().itertuples(index=False, name=None))
    wide = wide.loc[order].rename(columns=names).rename_axis(columns=None).reset_index()
    wide = wide[[*keys, *names.values(), *extra]]
    return _named(wide, grid_name, links)


def _named(frame: pd.DataFrame, grid_name: GridLike,
           links: Mapping[tuple[str, str], str] | None = None) -> pd.DataFrame:
    """Labels in place of names, the variant's column called loss and linked where a page is given."""
    labels = analysis.labels(grid_name)
    pages = [(links or {}).get((row.setup, row.variant)) for row in _rows(frame)]
    named = frame.assign(setup=frame["setup"].map(labels), variant=frame["variant"].map(labels))
    named["variant"] = [f"[{label}]({page})" if page else label
                        for label, page in zip(named["variant"], pages, strict=True)]
    return named.rename(columns={"variant": "loss"})


def _rows(frame: pd.DataFrame) -> Any:
    return frame.itertuples(index=False)


def _title(grid_name: GridLike) -> str:
    """What a grid of the synthetic study is about: its title without the head and without k."""
    return grids.load(grid_name).title.split(": ")[-1].split(", k = ")[0]


def _targets(frame: pd.DataFrame) -> dict[float, str]:
    return {target: f"k for {100 * target:g} %" for target in frame["target"].unique()}


def _mean(mean: float, sd: float) -> str:
    """``mean ± sd``, the mean alone for one seed, a dash where there is none."""
    if math.isnan(mean):
        return "–"
    return f"{mean:.1f}" if math.isnan(sd) else f"{mean:.1f} ± {sd:.1f}"


def _sign(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}".replace("inf", "\N{INFINITY}")
    return text.replace("-", _MINUS) if float(f"{value:.{digits}f}") else text[1:]


def _or(value: Any, otherwise: str, how: str = "") -> str:
    return otherwise if pd.isna(value) else format(value, how)
