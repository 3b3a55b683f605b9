"""Named grids of runs: TOML files under ``experiments/grids`` unrolled into cells in priority order."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paperlib import paths
from paperlib.config import RunConfig

_TOP_KEYS = {"title", "kit", "seeds", "base", "setup", "variant"}


@dataclass(frozen=True)
class Cell:
    """One run of a grid: the configuration, and where it stands in the grid's tables."""

    grid: str
    setup: str
    variant: str
    seed: int
    config: RunConfig
    minutes: float | None = None  #: what its setup is expected to take, where its file says so


@dataclass(frozen=True)
class Grid:
    """A grid: every setup with every variant at every seed.

    ``setups`` and ``variants`` map names to their tables in the file (``label`` and the configuration keys
    that they change; a setup may also say what one of its runs is expected to take, as ``minutes``). ``cells`` are
    in priority order, all of one seed before the next, so that a grid that was cut off still holds complete
    comparisons. ``kit``: the grid is meant for a machine that is checked and measured first; see
    :mod:`paperlib.kit`.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    setups: dict[str, dict[str, Any]]
    variants: dict[str, dict[str, Any]]
    cells: tuple[Cell, ...]
    kit: bool = False


def names() -> list[str]:
    """The grids that exist."""
    return sorted(path.stem for path in paths.GRIDS.glob("*.toml"))


def load(name: str | Path) -> Grid:
    """Read a grid by name, or from a path that ends in ``.toml``.

    Raises:
        ValueError: unknown name, unknown or missing key, or two cells with the same configuration.
    """
    path = Path(name) if str(name).endswith(".toml") else paths.GRIDS / f"{name}.toml"
    if not path.exists():
        raise ValueError(f"unknown grid {str(name)!r}: expected one of {', '.join(names()) or '(none found)'} "
                         f"or the path of a .toml file")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"grid {path.name} is not valid TOML: {error}") from error
    if unknown := set(table) - _TOP_KEYS:
        raise ValueError(f"grid {path.name}: unknown key {sorted(unknown)[0]!r}, "
                         f"expected {', '.join(sorted(_TOP_KEYS))}")
    if not isinstance(table.get("kit", False), bool):
        raise ValueError(f"grid {path.name}: kit = {table['kit']!r}, expected true or false")
    for key, kind, wanted in (("title", str, "a text"), ("seeds", list, "a list of whole numbers")):
        if not isinstance(table.get(key), kind) or not table[key]:
            raise ValueError(f"grid {path.name}: {key} = {table.get(key)!r}, expected {wanted}")
    setups, variants = _named(table, "setup", path), _named(table, "variant", path)
    cells: dict[str, Cell] = {}
    for seed in table["seeds"]:
        for setup, setup_keys in setups.items():
            for variant, variant_keys in variants.items():
                keys = {**table.get("base", {}), **setup_keys, **variant_keys, "seed": seed}
                keys.pop("label", None)
                minutes = _minutes(keys.pop("minutes", None), setup, path)
                keys = {key: None if value == "none" else value for key, value in keys.items()}  # TOML has no null
                try:
                    config = RunConfig.from_dict(keys)
                except ValueError as error:
                    raise ValueError(f"grid {path.name}, setup {setup}, variant {variant}: {error}") from error
                cell = Cell(path.stem, setup, variant, seed, config, minutes)
                if twin := cells.get(config.run_id):
                    raise ValueError(f"grid {path.name}: {setup}/{variant} and {twin.setup}/{twin.variant} "
                                     f"describe the same run {config.run_id}")
                cells[config.run_id] = cell
    return Grid(path.stem, table["title"], tuple(table["seeds"]), setups, variants, tuple(cells.values()),
                table.get("kit", False))


def _minutes(value: Any, setup: str, path: Path) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"grid {path.name}, setup {setup}: minutes = {value!r}, expected a number above 0")
    return float(value)


def _named(table: dict[str, Any], kind: str, path: Path) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for entry in table.get(kind, []):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not name or not entry.get("label") or name in entries:
            raise ValueError(f"grid {path.name}: each [[{kind}]] needs a label and a name of its own, got {entry}")
        entries[name] = {key: value for key, value in entry.items() if key != "name"}
    if not entries:
        raise ValueError(f"grid {path.name}: expected at least one [[{kind}]]")
    return entries
