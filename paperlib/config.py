"""One training run as a flat, frozen, hashable description."""

import copy
import dataclasses
import difflib
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Version of everything that decides a run's numbers. Raised when the golden run changes.
PROTOCOL = 2

_CHOICES: dict[str, tuple[str, ...]] = {
    "label_noise_kind": ("symmetric", "superclass"),
    "strength_schedule": ("constant", "ramp", "tracked", "fitted"),
    "precision": ("bf16", "fp32"),
}
_FRACTIONS = ("label_noise", "ramp_start", "ramp_end", "warmup", "low_resolution_until", "momentum")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run is. Two runs with equal configurations train the same network, up to the machine.

    Names of data sets, models, losses and their options are checked by the module that owns them,
    so that adding one never edits this file.
    """

    dataset: str = "cifar100"
    family: str | None = None  #: synthetic data only: which generator
    family_options: dict[str, Any] = field(default_factory=dict, hash=False)
    train_fraction: float = 1.0  #: share of the images left after validation was taken out
    label_noise: float = 0.0  #: probability that a training or validation label is redrawn
    label_noise_kind: str = "symmetric"
    augment: bool = True
    model: str = "speednet"
    width: int | None = None  #: None: the model's own default
    depth: int | None = None
    loss: str = "cross_entropy"
    k: int | None = None  #: None: the loss takes none
    loss_options: dict[str, Any] = field(default_factory=dict, hash=False)
    strength_schedule: str = "constant"  #: of ``topk_transition``, over training progress
    ramp_start: float = 0.5  #: training progress, or for "fitted" training accuracy, at which a ramp leaves 0
    ramp_end: float = 1.0  #: and at which it reaches the loss's ``strength``
    #: Initialisation, order, augmentation, loss noise. A list of seeds, kept as an ascending tuple, is that many
    #: models, trained at once, which share one record.
    seed: int | tuple[int, ...] = 0
    seed_split: int = 0
    seed_noise: int = 0
    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.25  #: peak of the triangle
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2  #: share of all steps
    bias_lr_factor: float = 4.0  #: biases and normalisation parameters, which are not decayed
    low_resolution: int | None = 24  #: image side in pixels during the first part of training; None: never smaller
    low_resolution_until: float = 0.8
    precision: str = "bf16"
    evaluate_every: int = 1  #: epochs between validation passes; the last epoch always has one
    evaluate_test: bool = False  #: search and map grids never set this

    def __post_init__(self) -> None:
        if isinstance(self.seed, list | tuple):
            object.__setattr__(self, "seed", _seeds(self.seed))
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if spec.name == "seed" and isinstance(value, tuple):
                continue
            _check_type(spec.name, value, _annotation(spec))
            if _annotation(spec) == "float":  # 1 and 1.0 are one run, so they must hash alike
                try:
                    finite = math.isfinite(value)
                except OverflowError:  # a whole number beyond the range of floats
                    finite = False
                if not finite:
                    raise ValueError(f"{spec.name}={value!r}: expected a finite number")
                object.__setattr__(self, spec.name, float(value) + 0.0)  # and so are 0.0 and -0.0
            elif _annotation(spec).startswith("dict"):  # the caller's mapping may change later, a run may not
                _check_options(spec.name, value)
                object.__setattr__(self, spec.name, copy.deepcopy(value))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(choices)}")
        for name in _FRACTIONS:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a number in [0, 1]")
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"train_fraction={self.train_fraction!r}: expected a number in (0, 1]")
        for name in ("epochs", "batch_size", "evaluate_every", "k", "width", "depth", "low_resolution"):
            value, least = getattr(self, name), 0 if name == "depth" else 1  # no hidden layer: a linear model
            if value is not None and value < least:
                raise ValueError(f"{name}={value!r}: expected a whole number of at least {least}")
        for name in ("seed", "seed_split", "seed_noise"):
            value = getattr(self, name)
            if not all(0 <= seed < 2**31 for seed in (value if isinstance(value, tuple) else [value])):
                raise ValueError(f"{name}={value!r}: expected a whole number in [0, 2**31)")
        if not (self.lr > 0 and self.weight_decay >= 0 and self.bias_lr_factor > 0):
            raise ValueError("expected lr > 0, weight_decay >= 0 and bias_lr_factor > 0, got "
                             f"{self.lr!r}, {self.weight_decay!r} and {self.bias_lr_factor!r}")
        if not self.ramp_start < self.ramp_end:
            raise ValueError(f"expected ramp_start < ramp_end, got {self.ramp_start!r} and {self.ramp_end!r}")
        if "k" in self.loss_options:
            raise ValueError("loss_options holds 'k': expected it as the configuration's own key k")
        if self.dataset != "synthetic" and (self.family is not None or self.family_options):
            name = "family" if self.family is not None else "family_options"
            raise ValueError(f"{name}={getattr(self, name)!r} with dataset {self.dataset!r}: only 'synthetic' has "
                             "families, and the run would be another one by its run_id alone; expected none")
        if self.strength_schedule != "constant" and self.loss != "topk_transition":
            raise ValueError(f"strength_schedule={self.strength_schedule!r} with loss {self.loss!r}: "
                             "only topk_transition has a strength; expected 'constant'")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Build from a mapping; a key that is not a field is a ``ValueError`` naming the nearest one."""
        names = [spec.name for spec in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)[0]
                raise ValueError(f"unknown configuration key {key!r}: did you mean {near!r}? "
                                 f"Valid keys: {', '.join(names)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The flat mapping that a record stores; several seeds are a list there."""
        values = dataclasses.asdict(self)
        return values | {"seed": list(self.seed)} if isinstance(self.seed, tuple) else values

    def replace(self, **changes: Any) -> "RunConfig":
        """A copy with some keys changed, checked as ``from_dict`` does."""
        return RunConfig.from_dict({**self.to_dict(), **changes})

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all models of this run: one, unless ``seed`` is a list."""
        return self.seed if isinstance(self.seed, tuple) else (self.seed,)

    @property
    def shown_k(self) -> int:
        """The k of the top-k accuracy in the history: the loss's own, else 5."""
        return self.k or 5

    @functools.cached_property
    def run_id(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON of this configuration."""
        options = {name: _canonical(getattr(self, name)) for name in ("family_options", "loss_options")}
        text = json.dumps(self.to_dict() | options, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _annotation(spec: dataclasses.Field[Any]) -> str:
    return spec.type.__name__ if isinstance(spec.type, type) else str(spec.type)


def _check_type(name: str, value: Any, annotation: str) -> None:
    """Hold ``value`` to the annotation: a YAML or papermill typo must not become another experiment."""
    if value is None and "None" in annotation:
        return
    wanted = annotation.split("[")[0].split(" |")[0]
    kinds: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict}
    if not isinstance(value, kinds[wanted]) or (isinstance(value, bool) and wanted != "bool"):
        raise ValueError(f"{name}={value!r} is a {type(value).__name__}: expected {annotation}")


def _seeds(values: Any) -> tuple[int, ...]:
    """Distinct seeds in ascending order: their order is no part of what is run."""
    for value in values:
        _check_type("seed", value, "int")
    if not values or len(set(values)) < len(values):
        raise ValueError(f"seed={values!r}: expected a whole number, or a list of at least one, each once")
    return tuple(sorted(values))


def _check_options(name: str, options: dict[str, Any]) -> None:
    """Options end up in a JSON record, whole, and must come back equal."""
    try:
        same = json.loads(json.dumps(options, allow_nan=False)) == options
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(f"{name}={options!r}: expected names with finite numbers, strings, booleans, lists or None")


def _canonical(value: Any) -> Any:
    """Options with 1.0 written as 1: nobody annotated them, and both spell the same run."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
