"""Whether a run that was made again came out the same: ``python -m paperlib.reruns MINE``.

On the same kind of machine the bits agree. Elsewhere rounding differs, and a network that rounds otherwise once is
soon another one: then the run counts as one more seed, and its accuracies should lie where a further seed's would.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paperlib import records, stats
from paperlib.config import RunConfig
from paperlib.records import Record

#: Keys of a record's environment that belong to the identity of a result.
IDENTITY = ("device", "cpu_capability", "widened", "threads", "torch", "numpy", "platform", "compiled", "cuda_graphs",
            "deterministic")
AGREES, DISAGREES = ("the same bits", "within the spread"), ("outside the spread", "other data", "another protocol")
UNDECIDED = "no spread known"


@dataclass(frozen=True)
class Accuracy:
    """One accuracy of a run, again and before, and where 95 % of further seeds would have all of them."""

    split: str
    k: int
    again: float  #: mean over the models of the run
    before: float
    n: int  #: seeds that tell the spread
    low: float  #: -inf where there are fewer than two
    high: float

    @property
    def inside(self) -> bool:
        """Whether ``again`` lies within ``low`` and ``high``, up to rounding."""
        return self.low - 1e-9 <= self.again <= self.high + 1e-9


@dataclass(frozen=True)
class Rerun:
    """A run that was made again, beside the record of it that was there before."""

    again: Record
    before: Record
    accuracies: tuple[Accuracy, ...]

    @property
    def outcome(self) -> str:
        """One of ``AGREES``, ``DISAGREES`` and ``UNDECIDED``."""
        if self.again.protocol != self.before.protocol:
            return DISAGREES[2]
        if self.again.data != self.before.data:
            return DISAGREES[1]
        if all(getattr(self.again, part) == getattr(self.before, part) for part in ("history", "validation", "test")):
            return AGREES[0]
        if any(math.isinf(accuracy.high) for accuracy in self.accuracies):
            return UNDECIDED
        return AGREES[1] if all(accuracy.inside for accuracy in self.accuracies) else DISAGREES[0]

    @property
    def parts_epoch(self) -> int | None:
        """The first epoch whose history differs; None if all of it is the same."""
        pairs = zip(self.again.history, self.before.history, strict=True)
        return next((again["epoch"] for again, before in pairs if again != before), None)

    @property
    def summary(self) -> str:
        """The outcome, and from where on the histories differ."""
        return self.outcome + (f", differs from epoch {self.parts_epoch} on" if self.parts_epoch else "")

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """What of the environment was different: key, value again, value before. Older records lack what was off."""
        pairs = {key: (self.again.environment.get(key, False), self.before.environment.get(key, False))
                 for key in IDENTITY}
        return {key: (again, before) for key, (again, before) in pairs.items() if again != before}


def compare(again: Iterable[Record], before: Iterable[Record], level: float = 0.95) -> list[Rerun]:
    """Every run of ``again`` beside its record in ``before``; runs that ``before`` lacks are left out.

    The spread is that of all runs in ``before`` which differ in nothing but the seed, of a run of many models that of
    its models. From it follows where a further run's accuracies lie, all of them together with probability ``level``
    (:func:`paperlib.stats.prediction_interval`).

    Args:
        again: runs that were made again.
        before: what they should agree with; it should not hold ``again`` itself.
        level: in (0, 1).
    """
    known: dict[str, list[Record]] = {}
    for record in before:
        known.setdefault(_but_seed(record), []).append(record)
    return [Rerun(record, earlier, tuple(_accuracies(record, earlier, alike, level)))
            for record in again for alike in [known.get(_but_seed(record), [])]
            for earlier in alike if earlier.run_id == record.run_id]


def _but_seed(record: Record) -> str:
    """The configuration without its seed. A run of many models has its own: its models are the seeds."""
    config = {key: value for key, value in record.config.items() if key != "seed" or record.many}
    return json.dumps(config, sort_keys=True)


def _accuracies(again: Record, before: Record, alike: Sequence[Record], level: float) -> Iterator[Accuracy]:
    """Top-1 and top-k of the run, on each split that both have."""
    splits = [split for split in ("validation", "test") if getattr(before, split) and getattr(again, split)]
    ks = sorted({1, RunConfig.from_dict(before.config).shown_k})
    for split in splits:
        for k in ks:
            seeds = np.concatenate([_of_models(record, split, k) for record in alike
                                    if getattr(record, split) and record.protocol == before.protocol])
            new = _of_models(again, split, k)
            low, high = (stats.prediction_interval(seeds, max(len(new), 1), level, len(splits) * len(ks))
                         if len(seeds) else (-math.inf, math.inf))
            yield Accuracy(split, k, _mean(new), _mean(_of_models(before, split, k)), len(seeds), low, high)


def _of_models(record: Record, split: str, k: int) -> NDArray[np.float64]:
    """Accuracy of every model that did not diverge."""
    counts = record.counts(split)
    return counts[:, :k].sum(axis=1)[counts.any(axis=1)] / record.evaluation(split)["n"]


def _mean(values: NDArray[np.float64]) -> float:
    """NaN, which is outside of everything, where no model is left."""
    return float(values.mean()) if len(values) else math.nan


def describe(rerun: Rerun) -> str:
    """Some lines for people."""
    config = rerun.again.config
    name = f"{rerun.again.run_id} {config['dataset']}, {config['model']}, {config['loss']}, seed {config['seed']}"
    lines = [f"{name}: {rerun.summary}"]
    if rerun.outcome != AGREES[0]:
        lines += [f"  {a.split} top-{a.k}: {100 * a.again:.2f} %, before {100 * a.before:.2f} %, a further run after "
                  f"{a.n} seed{'s' * (a.n > 1)}: " + ("anywhere" if math.isinf(a.high) else
                                                   f"{100 * a.low:.2f} to {100 * a.high:.2f} %")
                  for a in rerun.accuracies]
        lines += [f"  {key}: {again}, before {before}" for key, (again, before) in rerun.changes.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0: all runs agree, 1: some do not or cannot be judged, 2: there is nothing to compare."""
    parser = argparse.ArgumentParser(prog="python -m paperlib.reruns", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mine", type=Path, help="folder of records, a .jsonl or a .json file: runs made again")
    parser.add_argument("--before", type=Path, metavar="RECORDS", help="what they should agree with; default ours")
    options = parser.parse_args(arguments)
    try:
        mine = records.load(options.mine)
        found = compare(mine, records.load(options.before))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if not found:
        print(f"none of the {len(mine)} runs in {options.mine} has an earlier record: expected a cell of a grid that "
              "was run, with the same configuration", file=sys.stderr)
        return 2
    for rerun in found:
        print(describe(rerun))
    agree = sum(rerun.outcome in AGREES for rerun in found)
    print(f"{agree} of {len(found)} runs agree with the records before"
          + (f"; {len(mine) - len(found)} without an earlier record" if len(mine) > len(found) else ""))
    return 0 if agree == len(found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
