"""Where a run stands, on disk: written whole or not at all, by time, and only read back by the same run."""

import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from paperlib.config import PROTOCOL


class Stateful(Protocol):
    """What an optimiser has that can be stopped and go on."""

    def state_dict(self) -> dict[str, Any]:
        """Everything beside the weights that the next step depends on."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        ...


@dataclass
class State:
    """Progress of a run beside its weights. No generator state: every draw follows from seed, epoch and step."""

    epoch: int = 0  #: epochs finished
    step: int = 0  #: steps finished in the epoch under way
    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))  #: loss, top-1, top-k hits
    tracked: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    validation: dict[str, Any] = field(default_factory=dict)  #: for the record; empty until the last epoch is over
    history: list[dict[str, Any]] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=lambda: {
        "train_seconds": 0.0, "train_cpu_seconds": 0.0, "evaluation_seconds": 0.0, "timed_images": 0,
        "warmup_steps": 0, "resumed": 0})
    #: By run id, the states of runs that are the same so far; see :mod:`paperlib.branches`.
    along: dict[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> "State":
        """The same state with its sums on ``device``."""
        self.sums, self.tracked = self.sums.to(device), self.tracked.to(device)
        return self


class Checkpoint:
    """One file per run, refreshed at most every ``seconds``."""

    def __init__(self, path: Path | str, run_id: str, seconds: float = 60.0) -> None:
        self.path, self.run_id, self.seconds = Path(path), run_id, seconds
        self.saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self.saved_at >= self.seconds

    def save(self, model: nn.Module, optimizer: Stateful, state: State) -> None:
        """Write to a temporary file, force it to disk, rename."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        content = {"protocol": PROTOCOL, "run_id": self.run_id, "model": model.state_dict(),
                   "optimizer": optimizer.state_dict(), "state": asdict(state)}
        try:
            with open(temporary, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self.saved_at = time.monotonic()

    def restore(self, model: nn.Module, optimizer: Stateful) -> State:
        """Fill model and optimizer and return the state; a fresh state where there is no checkpoint.

        Raises:
            ValueError: the file is no checkpoint of this run under this protocol.
        """
        if not self.path.exists():
            return State()
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            found = (content["run_id"], content["protocol"])
        except Exception as error:
            raise ValueError(f"{self.path} is not a readable checkpoint ({error}): delete it to start over") from error
        if found != (self.run_id, PROTOCOL):
            raise ValueError(f"{self.path} belongs to run {found[0]}, protocol {found[1]}: expected run "
                             f"{self.run_id}, protocol {PROTOCOL}; delete it to start over")
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        state = State(**content["state"])
        state.timing["resumed"] += 1
        return state

    def remove(self) -> None:
        """Forget the run: its record is written."""
        self.path.unlink(missing_ok=True)
