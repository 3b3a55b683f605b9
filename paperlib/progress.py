"""Progress for people: on a terminal a bar with time left and accuracy, elsewhere a line an epoch and one a minute."""

import sys
import time
from typing import Any

EVERY = 60.0  #: seconds without a line after which one says how long the run will take


class Progress:
    """Shows how far a run is. ``quiet`` shows nothing."""

    def __init__(self, title: str, total: int, done: int = 0, *, quiet: bool = False) -> None:
        self.quiet, self.title, self.bar = quiet, title, None
        self.total, self.steps_left, self.steps_here = total, total - done, 0
        self.began = self.spoke = time.monotonic()
        if not quiet and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:  # a bare training machine may not have it: plain lines there
                return
            self.bar = tqdm(total=total, initial=done, desc=title, unit="step", dynamic_ncols=True)

    def step(self) -> None:
        """One step done. On a machine far too slow, a line a minute shows it long before the first epoch does."""
        self.steps_left, self.steps_here = self.steps_left - 1, self.steps_here + 1
        if self.bar is not None:
            self.bar.update()
        elif not self.quiet and (now := time.monotonic()) - self.spoke >= EVERY:
            minutes = (now - self.began) / self.steps_here * self.steps_left / 60
            self._say(f"step {self.total - self.steps_left}/{self.total}, about {minutes:.0f} min left")

    def epoch(self, entry: dict[str, Any], epochs: int) -> None:
        """One epoch done, with its history entry."""
        percent = {key: f"{100 * entry[key]:.1f} %" for key in
                   ("train_top1", "validation_top1", "validation_topk") if entry[key] is not None}
        if self.bar is not None:
            self.bar.set_postfix({"epoch": f"{entry['epoch']}/{epochs}", **percent})
        elif not self.quiet:
            shown = ", ".join(f"{key} {value}" for key, value in percent.items())
            self._say(f"epoch {entry['epoch']}/{epochs}, loss {entry['train_loss']:.3f}, {shown}")

    def _say(self, text: str) -> None:
        self.spoke = time.monotonic()
        print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal tidy."""
        if self.bar is not None:
            self.bar.close()
