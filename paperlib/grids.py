"""Named grids of runs: TOML files under ``experiments/grids`` unrolled into cells in priority order."""

import functools
import itertools
import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paperlib import paths, presets
from paperlib.config import RunConfig

_TOP_KEYS = {"title", "kit", "seeds", "base", "setup", "axis", "variant"}
_AXIS_KEYS = {"name", "key", "unit", "values"}


@dataclass(frozen=True)
class Cell:
    """One run of a grid: the configuration, and where it stands in the grid's tables."""

    grid: str
    setup: str
    variant: str
    seed: int | tuple[int, ...]  #: several: models that are trained at once and share a record
    config: RunConfig
    minutes: float | None = None  #: what its setup is expected to take, where its file says so

    @property
    def place(self) -> str:
        """Where the cell stands, for messages."""
        models = f"seed {self.seed}" if isinstance(self.seed, int) else f"{len(self.seed)} seeds from {self.seed[0]}"
        return f"{self.setup}/{self.variant}/{models}"


@dataclass(frozen=True)
class Axis:
    """A configuration key that runs through values: each setup of the file stands for one setup a value."""

    name: str  #: in the names of setups, "stripes8"
    key: str  #: of the configuration, "width", or of options in it, "family_options.stripes"
    unit: str  #: in labels, "8 stripes"
    values: tuple[Any, ...]

    def of(self, config: RunConfig) -> Any:
        """The value that a configuration has."""
        key, _, option = self.key.partition(".")
        value = getattr(config, key)
        return value[option] if option else value


@dataclass(frozen=True, repr=False)
class Grid:
    """A grid: every setup with every variant at every seed.

    ``setups`` and ``variants`` map names to their tables in the file (``label`` and the configuration keys
    that they change; a setup may also say what one of its runs is expected to take, as ``minutes``). A seed may be a
    list of seeds: one cell, whose models are trained at once. ``cells`` are in priority order, all of one seed before
    the next, so that a grid that was cut off still holds complete comparisons. ``kit``: the grid is meant for a
    machine that is checked and measured first; see :mod:`paperlib.kit`. ``axes`` are what setups were crossed with.
    """

    name: str
    title: str
    seeds: tuple[int | tuple[int, ...], ...]
    setups: dict[str, dict[str, Any]]
    variants: dict[str, dict[str, Any]]
    cells: tuple[Cell, ...]
    kit: bool = False
    axes: tuple[Axis, ...] = ()

    def __repr__(self) -> str:
        """Short, for messages."""
        return f"Grid({self.name!r})"

    def part(self, keep: Callable[[Cell], bool]) -> "Grid":
        """The grid of those cells alone, with the setups, variants and seeds that they have."""
        cells = tuple(cell for cell in self.cells if keep(cell))
        return replace(self, cells=cells, seeds=tuple(dict.fromkeys(cell.seed for cell in cells)),
                       setups={name: keys for name, keys in self.setups.items()
                               if name in {cell.setup for cell in cells}},
                       variants={name: keys for name, keys in self.variants.items()
                                 if name in {cell.variant for cell in cells}})


#: What functions take as a grid: its name, the path of its file, or the grid itself, also a part of one.
GridLike = str | Path | Grid


def names() -> list[str]:
    """The grids that exist."""
    return sorted(path.stem for path in paths.GRIDS.glob("*.toml"))


def load_filled(name: GridLike) -> Grid | None:
    """As :func:`load`, but None where the grid waits for a preset, for what shows the state of a study."""
    try:
        return load(name)
    except presets.UnfilledPresetError:
        return None


def load(name: GridLike) -> Grid:
    """Read a grid by name, or from a path that ends in ``.toml``; a grid comes back as it is.

    Raises:
        presets.UnfilledPresetError: a setup or variant has a preset that is not chosen yet.
        ValueError: unknown name, unknown or missing key, or two cells with the same configuration.
    """
    if isinstance(name, Grid):
        return name
    path = Path(name) if str(name).endswith(".toml") else paths.GRIDS / f"{name}.toml"
    if not path.is_file():
        raise ValueError(f"unknown grid {str(name)!r}: expected one of {', '.join(names()) or '(none found)'} "
                         f"or the path of a .toml file")
    content = path.read_bytes()
    try:
        chosen = json.dumps(presets.document()) if b"preset" in content else ""
    except ValueError as error:
        raise ValueError(f"grid {path.name}: {error}") from error
    return _unrolled(path, content, chosen)


@functools.lru_cache(maxsize=256)
def _unrolled(path: Path, content: bytes, _chosen: str) -> Grid:
    """Unroll once for each content and each state of the presets: a chapter asks for a grid dozens of times."""
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"grid {path.name} is not valid TOML: {error}") from error
    if unknown := set(table) - _TOP_KEYS:
        raise ValueError(f"grid {path.name}: unknown key {sorted(unknown)[0]!r}, "
                         f"expected {', '.join(sorted(_TOP_KEYS))}")
    if not isinstance(table.get("base", {}), dict):
        raise ValueError(f"grid {path.name}: base = {table['base']!r}, expected a table, [base]")
    if not isinstance(table.get("kit", False), bool):
        raise ValueError(f"grid {path.name}: kit = {table['kit']!r}, expected true or false")
    for key, kind, wanted in (("title", str, "a text"), ("seeds", list, "a list of whole numbers")):
        if not isinstance(table.get(key), kind) or not table[key]:
            raise ValueError(f"grid {path.name}: {key} = {table.get(key)!r}, expected {wanted}")
    axes = _axes(table, path)
    setups = {"": {}} if axes and "setup" not in table else _named(table, "setup", path)
    setups, variants = _crossed(setups, axes, table.get("base", {})), _named(table, "variant", path)
    _check_seeds(table["seeds"], path)
    fixed = {name: _resolved(keys, f"setup {name}", path) for name, keys in setups.items()}
    resolved = {name: _resolved(keys, f"variant {name}", path) for name, keys in variants.items()}
    cells: dict[str, Cell] = {}
    for seed in table["seeds"]:
        for setup, setup_keys in fixed.items():
            for variant in variants:
                keys = {**table.get("base", {}), **setup_keys, **resolved[variant]}
                keys.pop("label", None)
                if "seed" in keys:
                    raise ValueError(f"grid {path.name}, setup {setup}, variant {variant}: seed = {keys['seed']!r}, "
                                     "expected seeds at the head of the file alone")
                keys["seed"] = seed
                minutes = _minutes(keys.pop("minutes", None), setup, path)
                keys = {key: None if value == "none" else value for key, value in keys.items()}  # TOML has no null
                try:
                    config = RunConfig.from_dict(keys)
                except ValueError as error:
                    raise ValueError(f"grid {path.name}, setup {setup}, variant {variant}: {error}") from error
                cell = Cell(path.stem, setup, variant, config.seed, config, minutes)
                if twin := cells.get(config.run_id):
                    raise ValueError(f"grid {path.name}: {setup}/{variant} and {twin.setup}/{twin.variant} "
                                     f"describe the same run {config.run_id}")
                cells[config.run_id] = cell
    seeds = tuple(dict.fromkeys(cell.seed for cell in cells.values()))
    return Grid(path.stem, table["title"], seeds, setups, variants, tuple(cells.values()), table.get("kit", False),
                axes)


def _resolved(keys: dict[str, Any], place: str, path: Path) -> dict[str, Any]:
    try:
        return presets.applied(keys)
    except ValueError as error:
        raise type(error)(f"grid {path.name}, {place}: {error}") from error


def _axes(table: dict[str, Any], path: Path) -> tuple[Axis, ...]:
    found = table.get("axis", [])
    if not isinstance(found, list):
        raise ValueError(f"grid {path.name}: axis = {found!r}, but each [[axis]] needs two brackets")
    for entry in found:
        texts = isinstance(entry, dict) and set(entry) == _AXIS_KEYS and all(
            isinstance(entry[key], str) for key in ("name", "key", "unit"))
        if not texts or not entry["name"] or not isinstance(entry["values"], list) or not entry["values"]:
            raise ValueError(f"grid {path.name}: each [[axis]] needs a name, the key it sets, its unit, and a list of "
                             f"values, got {entry}")
        key, _, option = entry["key"].partition(".")
        if option and key not in ("family_options", "loss_options"):
            raise ValueError(f"grid {path.name}: axis key = {entry['key']!r}, expected a key of the configuration, or "
                             "family_options or loss_options with the name of an option after a dot")
        if len(set(map(str, entry["values"]))) < len(entry["values"]):
            raise ValueError(f"grid {path.name}: axis values = {entry['values']!r}, expected each once")
    return tuple(Axis(entry["name"], entry["key"], entry["unit"], tuple(entry["values"])) for entry in found)


def _crossed(setups: dict[str, dict[str, Any]], axes: tuple[Axis, ...],
             base: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each setup with each combination of the axes' values, the last axis fastest."""
    crossed = {}
    for (name, keys), values in itertools.product(setups.items(), itertools.product(*(axis.values for axis in axes))):
        own = dict(keys)
        for axis, value in zip(axes, values, strict=True):
            key, _, option = axis.key.partition(".")
            own[key] = {**own.get(key, base.get(key, {})), option: value} if option else value
        parts = [f"{axis.name}{value}" for axis, value in zip(axes, values, strict=True)]
        labels = [f"{value} {axis.unit}".strip() for axis, value in zip(axes, values, strict=True)]
        own["label"] = ", ".join([*filter(None, [keys.get("label")]), *labels])
        crossed["-".join([*filter(None, [name]), *parts])] = own
    return crossed


def _minutes(value: Any, setup: str, path: Path) -> float | None:
    if value is None or value == "none":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"grid {path.name}, setup {setup}: minutes = {value!r}, expected a number above 0")
    return float(value)


def _check_seeds(seeds: list[Any], path: Path) -> None:
    """Runs of one model or of several, and no seed in two lists: it would count twice."""
    lists = [seed for seed in seeds if isinstance(seed, list)]
    if lists and len(lists) < len(seeds):
        raise ValueError(f"grid {path.name}: seeds = {seeds!r}, expected whole numbers or lists of them, not both")
    drawn = [seed for part in lists for seed in part]
    if twice := [seed for place, seed in enumerate(drawn) if seed in drawn[:place]]:
        raise ValueError(f"grid {path.name}: seeds holds {twice[0]!r} twice, expected each seed once")


def _named(table: dict[str, Any], kind: str, path: Path) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    found = table.get(kind, [])
    if not isinstance(found, list):
        raise ValueError(f"grid {path.name}: {kind} = {found!r}, but each [[{kind}]] needs a label, a name of its own "
                         "and two brackets")
    for entry in found:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or not entry.get("label") or name in entries:
            raise ValueError(f"grid {path.name}: each [[{kind}]] needs a label and a name of its own, got {entry}")
        entries[name] = {key: value for key, value in entry.items() if key != "name"}
    if not entries:
        raise ValueError(f"grid {path.name}: expected at least one [[{kind}]]")
    return entries
