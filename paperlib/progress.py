"""Progress for people: a bar with time left and accuracy on a terminal, one plain line an epoch elsewhere."""

import sys
from typing import Any


class Progress:
    """Shows how far a run is. ``quiet`` shows nothing."""

    def __init__(self, title: str, total: int, done: int = 0, *, quiet: bool = False) -> None:
        self.quiet, self.title, self.bar = quiet, title, None
        if not quiet and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:  # a bare training machine may not have it: plain lines there
                return
            self.bar = tqdm(total=total, initial=done, desc=title, unit="step", dynamic_ncols=True)

    def step(self) -> None:
        """One step done."""
        if self.bar is not None:
            self.bar.update()

    def epoch(self, entry: dict[str, Any], epochs: int) -> None:
        """One epoch done, with its history entry."""
        percent = {key: f"{100 * entry[key]:.1f} %" for key in
                   ("train_top1", "validation_top1", "validation_topk") if entry[key] is not None}
        if self.bar is not None:
            self.bar.set_postfix({"epoch": f"{entry['epoch']}/{epochs}", **percent})
        elif not self.quiet:
            shown = ", ".join(f"{key} {value}" for key, value in percent.items())
            print(f"{self.title}: epoch {entry['epoch']}/{epochs}, loss {entry['train_loss']:.3f}, {shown}",
                  file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal tidy."""
        if self.bar is not None:
            self.bar.close()
