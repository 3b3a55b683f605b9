"""Clocks, turns and spreads: how everything here is timed."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds: CPU time of the process on a CPU, where others may hold the core; wall time, synchronised, on CUDA."""
    if device.type != "cuda":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def timed(work: Callable[[], Any], now: Callable[[], float], repeats: int = 1) -> float:
    """Seconds of one call of ``work``, averaged over ``repeats`` calls in a row."""
    started = now()
    for _ in range(repeats):
        work()
    return (now() - started) / repeats


def spread(values: Sequence[float], name: str) -> dict[str, float]:
    """Median of ``values`` under ``name`` and the quartiles under ``name_low`` and ``name_high``."""
    low, middle, high = np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75)).tolist()
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


class Turns:
    """The ``stop`` of :func:`paperlib.train.fit`: times blocks of steps of the real loop, and lets others run between.

    Asked after every step. The time between two blocks, in which ``between`` runs, belongs to no block. The first
    ``warmup`` blocks have one step and do not count; the length of the others, and how many follow, is chosen so
    that a block is not too short to be timed and all of them together take about ``seconds``.

    Args:
        now: the clock.
        between: called with the number of steps in a block, after each block; it may time something of its own.
        seconds: for all counted blocks and what runs between.
        warmup: blocks left out.
        block_seconds: least length of a block.
        rounds: least and largest number of counted blocks.
    """

    def __init__(self, now: Callable[[], float], between: Callable[[int], None], *, seconds: float, warmup: int,
                 block_seconds: float, rounds: tuple[int, int]) -> None:
        self.now, self.between, self.seconds, self.warmup = now, between, seconds, warmup
        self.block_seconds, self.limits = block_seconds, rounds
        self.block, self.rounds, self.steps = 1, rounds[1], 0
        self.times: list[float] = []  #: seconds a step of each counted block
        self.warm, self.begun = 0, now()
        self.started = now()

    def __call__(self) -> bool:
        """A step of the loop ended; True when all blocks are done."""
        self.steps += 1
        if self.steps < self.block:
            return False
        taken = (self.now() - self.started) / self.block
        if self.warm < self.warmup:
            self.warm += 1
            self.between(self.block)
            if self.warm == self.warmup:
                self._plan(taken, self.now() - self.started)
        else:
            self.times.append(taken)
            self.between(self.block)
        self.steps = 0
        if len(self.times) >= self.rounds:
            return True
        self.started = self.now()
        return False

    def _plan(self, step: float, both: float) -> None:
        """Choose blocks by the last step of the warm-up, which took ``step`` and, with what ran between, ``both``."""
        self.block = max(1, round(self.block_seconds / max(step, 1e-6)))
        least, most = self.limits
        self.rounds = min(max(int(self.seconds / max(both * self.block, 1e-6)), least), most)


class Watch:
    """Splits the time of a step: each mark adds what passed since the one before to its own part."""

    def __init__(self, now: Callable[[], float], parts: Sequence[str]) -> None:
        self.now, self.parts = now, tuple(parts)
        self.steps: list[dict[str, float]] = []
        self._open = dict.fromkeys(self.parts, 0.0)
        self._last = now()

    def mark(self, part: str) -> None:
        """What passed since the last mark was ``part``."""
        current = self.now()
        self._open[part] += current - self._last
        self._last = current

    def end_step(self) -> None:
        """The parts so far make one step."""
        self.steps.append(self._open)
        self._open = dict.fromkeys(self.parts, 0.0)
