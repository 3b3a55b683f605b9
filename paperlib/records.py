"""Records: one JSON document per trained run, the only evidence that the report reads.

A record keeps the rank of the true label for every evaluated image, so every accuracy, curve, interval and
paired comparison follows from it. A run of many models, ``config["seed"]`` a list, keeps for each of them how often
the label had each rank. Command line: ``python -m paperlib.records merge|export|missing``.
"""

import argparse
import base64
import fcntl
import functools
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paperlib import grids, paths
from paperlib.config import RunConfig
from paperlib.counts import check_results, decode_counts

SCHEMA = 1


class RecordError(ValueError):
    """A record that cannot be read: truncated, of another schema, or at odds with itself."""


class MissingRecordsError(FileNotFoundError):
    """Runs that a table or figure needs and that no record holds."""


@dataclass(frozen=True)
class Record:
    """One run. The attributes are the keys of the JSON document; ``test`` is None unless it was evaluated."""

    schema: int
    run_id: str
    protocol: int
    config: dict[str, Any]
    code: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, Any]
    history: list[dict[str, Any]]
    timing: dict[str, Any]
    validation: dict[str, Any]
    test: dict[str, Any] | None

    def ranks(self, split: str = "test") -> NDArray[np.int64]:
        """Pessimistic label ranks of one split, shape (n,), 1 = the label has the top score.

        Raises:
            RecordError: no such evaluation, or one of many models, which keeps no ranks of single samples.
        """
        evaluation = self.evaluation(split)
        if self.many:
            raise RecordError(f"record {self.run_id} holds {len(self.seeds)} models, of which it keeps no ranks of "
                              "single samples: expected a run of one seed here; counts() has how often each rank came")
        return decode_ranks(evaluation["ranks"])

    def counts(self, split: str = "test") -> NDArray[np.int64]:
        """How many labels of one split had rank 1, 2, ..., C, for each model: (M, C), rows in the order of ``seeds``.

        M is 1 for a run of one seed. Rows of models that diverged are zero.
        """
        evaluation = self.evaluation(split)
        num_classes = evaluation["num_classes"]
        if self.many:
            return decode_counts(evaluation["counts"], num_classes)
        return np.bincount(self.ranks(split), minlength=num_classes + 1)[None, 1:].astype(np.int64)

    def expected(self, split: str = "test") -> NDArray[np.float64]:
        """Accuracy of each model at k = 1..C under the exact class probabilities of the points, (M, C).

        NaN for models that diverged. Their best possible value is ``evaluation(split)["bayes"]``, (C,).

        Raises:
            RecordError: the class probabilities of the data are not known, or the run has one seed.
        """
        evaluation = self.evaluation(split)
        if "expected" not in evaluation:
            raise RecordError(f"record {self.run_id} holds no expected accuracies: expected a run of several seeds on "
                              "synthetic data, whose class probabilities are known")
        unknown = [np.nan] * evaluation["num_classes"]
        return np.array([unknown if row is None else row for row in evaluation["expected"]], dtype=np.float64)

    def evaluation(self, split: str) -> dict[str, Any]:
        """What is kept of one split."""
        evaluation = {"validation": self.validation, "test": self.test}.get(split)
        if evaluation is None:
            raise RecordError(f"record {self.run_id} holds no {split!r} evaluation: expected 'validation' or "
                              "'test', the latter only in runs with evaluate_test=true")
        return evaluation

    @property
    def many(self) -> bool:
        """Whether the run trained a list of seeds, and the record holds lists."""
        return isinstance(self.config["seed"], list)

    @property
    def seeds(self) -> list[int]:
        """The seed of each model."""
        return list(self.config["seed"]) if self.many else [self.config["seed"]]

    def diverged(self, split: str = "validation") -> list[int]:
        """Seeds of the models without results, because their numbers ceased to be finite."""
        values = self.evaluation(split)["loss"]
        return [seed for seed, value in zip(self.seeds, values, strict=True) if value is None] if self.many else []

    def to_json(self) -> str:
        """One line, keys in the order of the schema."""
        return json.dumps(asdict(self), allow_nan=False, separators=(",", ":"))


def encode_ranks(ranks: NDArray[Any]) -> str:
    """uint16 little-endian, zlib, base64."""
    if np.min(ranks, initial=1) < 1 or np.max(ranks, initial=1) > 0xFFFF:
        raise ValueError(f"expected ranks in 1..65535, got {np.min(ranks)}..{np.max(ranks)}")
    return base64.b64encode(zlib.compress(np.asarray(ranks).astype("<u2").tobytes(), 9)).decode()


def decode_ranks(text: str) -> NDArray[np.int64]:
    """The inverse of :func:`encode_ranks`, as int64."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u2").astype(np.int64)


def parse(text: str, source: object = "text") -> Record:
    """A record from its JSON document.

    Raises:
        RecordError: not JSON (a truncated file), a newer or unknown schema, missing or unknown keys,
            a run id that is not the configuration's, or ranks or counts that do not fit ``n``.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{source}: expected a JSON record, got {len(text)} characters that break off or do "
                          f"not parse ({error}). Delete it and run its cell again.") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        raise RecordError(f"{source}: record schema {schema!r}, expected {SCHEMA}. "
                          + ("It comes from a newer paperlib: update this one." if newer else
                             "It is not a record of this library."))
    expected = {spec.name for spec in fields(Record)}
    if set(document) != expected:
        raise RecordError(f"{source}: missing keys {sorted(expected - set(document))}, "
                          f"unknown keys {sorted(set(document) - expected)}")
    record = Record(**document)
    try:
        run_id = RunConfig.from_dict(record.config).run_id
    except (ValueError, TypeError) as error:
        raise RecordError(f"{source}: not a run's configuration: {error}") from error
    if run_id != record.run_id:
        raise RecordError(f"{source}: run_id {record.run_id} but its configuration hashes to {run_id}: "
                          "the record was edited")
    for split in ("validation", "test"):
        evaluation = getattr(record, split)
        if evaluation is not None:
            if record.many:
                try:
                    check_results(evaluation, len(record.seeds))
                except ValueError as error:
                    raise RecordError(f"{source}: {split}: {error}") from error
            else:
                _check_evaluation(evaluation, f"{source}: {split}")
    return record


def _check_evaluation(evaluation: dict[str, Any], where: str) -> None:
    try:
        ranks = decode_ranks(evaluation["ranks"])
        n, num_classes = int(evaluation["n"]), int(evaluation["num_classes"])
    except (KeyError, ValueError, TypeError, zlib.error) as error:
        raise RecordError(f"{where}: expected n, num_classes and decodable ranks ({error!r})") from error
    if len(ranks) != n or n == 0 or ranks.min() < 1 or ranks.max() > num_classes:
        raise RecordError(f"{where}: expected {n} ranks in 1..{num_classes}, got {len(ranks)}"
                          + (f" in {ranks.min()}..{ranks.max()}" if len(ranks) else ""))


def read(path: Path | str) -> Record:
    """The record in one ``.json`` file."""
    return parse(Path(path).read_text(encoding="utf-8", errors="replace"), path)


def _read_once(path: str) -> Record:
    """As :func:`read`, which a chapter would ask for thousands of files again and again."""
    found = os.stat(path)
    return _read_unchanged(path, found.st_mtime_ns, found.st_size, found.st_ino)


@functools.cache
def _read_unchanged(path: str, *version: int) -> Record:
    return read(path)


def _visible(root: Path) -> Iterator[str]:
    """The files below a folder that hold records: what is hidden, such as checkpoints and failures, holds none.

    As text, because a ``Path`` for each of thousands of files takes ten times as long.
    """
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (os.path.join(folder, name) for name in files
                    if name.endswith(".json") and not name.startswith("."))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` so that ``path`` holds either all of it or what it held before, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private; a record is evidence for everybody
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write(record: Record, folder: Path | str) -> Path:
    """Write ``folder/<run_id>.json`` atomically."""
    path = Path(folder) / f"{record.run_id}.json"
    write_atomically(path, record.to_json() + "\n")
    return path


def append(record: Record, path: Path | str) -> None:
    """Append one line to a ``.jsonl`` file and force it to disk: what finished survives any cut."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # sweeps side by side share this file; their lines must not mix
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # an earlier writer was cut off in mid-line
                file.write(b"\n")
        file.write(record.to_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path | str) -> Iterator[Record]:
    """The records of a ``.jsonl`` file. A last line without its end was cut off and is skipped."""
    yield from read_new_lines(path)[0]


def read_new_lines(path: Path | str, start: int = 0) -> tuple[list[Record], int]:
    """The records of a ``.jsonl`` file from byte ``start`` on, and where to start next time.

    That is after its last whole line. A last line without its end may be cut off, or another process may be about to
    write the rest.
    """
    with open(path, "rb") as file:
        file.seek(start)
        content = file.read()
    found, after = [], f" from byte {start} on" if start else ""
    for number, line in enumerate(content.decode("utf-8", errors="replace").split("\n"), 1):
        try:
            found += [parse(line, f"{path}, line {number}{after}")] if line else []
        except RecordError:
            try:
                json.loads(line)
            except json.JSONDecodeError:
                continue  # a torn line holds no finished run; the sweep runs that cell again
            raise
    return found, start + content.rfind(b"\n") + 1


def load(source: Path | str | None = None) -> list[Record]:
    """Every record under a folder, in a ``.jsonl`` file or in one ``.json`` file, sorted by run id.

    Grids share records, so one run may lie in several folders; it is returned once.

    Raises:
        FileNotFoundError: the source does not exist. An empty folder gives an empty list.
        RecordError: a record cannot be read, or two differing records claim one run id.
    """
    root = Path(paths.RECORDS if source is None else source)
    if not root.exists():
        raise FileNotFoundError(f"no records at {root}: expected a folder, a .jsonl or a .json file")
    if root.is_dir():
        found: Iterable[Record] = map(_read_once, sorted(_visible(root)))
    else:
        found = read_lines(root) if root.suffix == ".jsonl" else [read(root)]
    by_id: dict[str, Record] = {}
    for record in found:
        known = by_id.setdefault(record.run_id, record)
        if known is not record and known != record:
            raise RecordError(f"two different records of run {record.run_id} under {root}: keep one")
    return [by_id[run_id] for run_id in sorted(by_id)]


def merge(source: Path | str, folder: Path | str) -> int:
    """Bring every record of ``source`` into ``folder``; returns how many were new. Nothing is overwritten.

    A folder with the name of a grid takes the runs of that grid alone, without those that :func:`foreign` names.

    Raises:
        RecordError: ``folder`` already holds a different record of the same run. All others have been brought in.
    """
    left_out = {record.run_id for record in foreign(source, folder)}
    new, differing = 0, []
    for record in load(source):
        path = Path(folder) / f"{record.run_id}.json"
        if record.run_id in left_out:
            continue
        if not path.exists():
            write(record, folder)
            new += 1
        elif read(path) != record:
            differing.append(str(path))
    if differing:
        raise RecordError(f"{', '.join(differing)} differs from the record of the same run in {source}: keep one of "
                          "them")
    return new


def foreign(source: Path | str, folder: Path | str) -> list[Record]:
    """The records of ``source`` that are no run of the grid that ``folder`` is named after, if it is."""
    grid = Path(folder).resolve().name
    if grid not in grids.names():
        return []
    own = {cell.config.run_id for cell in grids.load(grid).cells}
    return [record for record in load(source) if record.run_id not in own]


def missing(cells: Sequence[grids.Cell], records: Iterable[Record]) -> list[grids.Cell]:
    """The cells without a record, in the grid's order."""
    done = {record.run_id for record in records}
    return [cell for cell in cells if cell.config.run_id not in done]


def require(name: grids.GridLike) -> dict[str, Record]:
    """All records of a grid by run id, or an error that names the missing runs and how to make them.

    Raises:
        MissingRecordsError: some cell has no record.
    """
    grid = grids.load(name)
    cells = grid.cells
    records = load() if paths.RECORDS.exists() else []
    if absent := missing(cells, records):
        lines = [f"  {cell.config.run_id}  {cell.place}" for cell in absent]
        raise MissingRecordsError(
            f"grid {grid.name!r} misses {len(absent)} of {len(cells)} runs:\n" + "\n".join(lines)
            + f"\nMake them with: python -m paperlib.sweep {grid.name if isinstance(name, grids.Grid) else name} "
              f"--out experiments/records/{grid.name}")
    by_id = {record.run_id: record for record in records}
    return {cell.config.run_id: by_id[cell.config.run_id] for cell in cells}


def tidy(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One flat row a model: identity, configuration, environment, and the accuracy at every k of each split.

    Runs of several seeds give a row for each; None stands for the results of a model that diverged. Where the class
    probabilities are known a row also has the accuracies under them, of the model and the best possible.
    """
    rows = []
    for record in records:
        common = {"run_id": record.run_id, "protocol": record.protocol, "commit": record.code["commit"],
               "device": record.environment["device"], "torch": record.environment["torch"],
               **{key: json.dumps(value) if isinstance(value, dict) else value
                  for key, value in record.config.items()}}
        for place, seed in enumerate(record.seeds):
            row = common | {"seed": seed}
            for split in ("validation", "test"):
                if getattr(record, split) is not None:
                    row |= {f"{split}_{key}": value for key, value in _results(record, split, place).items()}
            rows.append(row)
    return rows


def _results(record: Record, split: str, place: int) -> dict[str, Any]:
    """Results of one model of a record."""
    evaluation, hits = record.evaluation(split), np.cumsum(record.counts(split)[place])
    losses = {key: evaluation[key][place] if record.many else evaluation[key] for key in ("loss", "nll", "ece")}
    gone = losses["loss"] is None
    found = {"n": evaluation["n"], "num_classes": evaluation["num_classes"], **losses,
             **{f"top{k}": None if gone else hit / evaluation["n"] for k, hit in enumerate(hits, 1)}}
    if "expected" in evaluation:
        exact = evaluation["expected"][place] or [None] * len(hits)
        found |= {f"expected_top{k}": value for k, value in enumerate(exact, 1)}
        found |= {f"bayes_top{k}": value for k, value in enumerate(evaluation["bayes"], 1)}
    return found


def export(records: Iterable[Record], path: Path | str) -> Path:
    """Write :func:`tidy` rows as ``.csv`` or ``.parquet``.

    Raises:
        ValueError: another kind of file, or no records.
    """
    import pandas as pd  # only here: a training machine needs no pandas

    path, rows = Path(path), tidy(records)
    if not rows:
        raise ValueError(f"cannot export to {path.name}: expected at least one record, found none")
    frame = pd.DataFrame(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        raise ValueError(f"cannot export to {path.name}: expected a name that ends in .csv or .parquet")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m paperlib.records", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("merge", help="bring the records of a file or folder into a folder")
    command.add_argument("source", type=Path)
    command.add_argument("folder", type=Path)
    command = commands.add_parser("export", help="one tidy row a run")
    command.add_argument("path", type=Path, help="ends in .csv or .parquet")
    command.add_argument("--source", type=Path, default=None)
    command = commands.add_parser("missing", help="list a grid's cells without a record; exit 1 if there are any")
    command.add_argument("grid")
    options = parser.parse_args(arguments)
    try:
        if options.command == "merge":
            others = len(foreign(options.source, options.folder))
            print(f"{merge(options.source, options.folder)} new records in {options.folder}"
                  + (f", {others} of other grids left out" if others else ""))
        elif options.command == "export":
            print(export(load(options.source), options.path))
        else:
            require(options.grid)
            print(f"grid {options.grid}: complete")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
