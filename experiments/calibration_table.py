"""Tests every loss for top-k calibration, for the report's table: ``python experiments/calibration_table.py``.

It takes some minutes of one core. ``--smoke --out FILE`` shows in seconds that everything runs.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import scipy
import torch
from torch import Tensor

from paperlib import calibration, documents, environment, losses, paths, records

SETTINGS: dict[str, Any] = {"count": 24, "num_classes": 5, "k": 2, "gap": 0.02, "seed": 0}
SMOKE = {"count": 2, "steps": 20, "starts": 2}
_DRAWS = 10


@dataclass(frozen=True)
class Case:
    """One row of the table: a loss, what to call its options, and how it is tested."""

    loss: str
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    solver: Literal["search", "linear"] = "search"
    count: int | None = None  #: tests only the first of the probabilities
    fix: Callable[[losses.BoundLoss], Callable[..., Tensor]] | None = None  #: makes a random loss repeat itself


def same_noise(loss: losses.BoundLoss) -> Callable[..., Tensor]:
    """The noised hinge with the same noise for every row and call.

    Each draw is used in the 20 orders i -> a i + b (mod 5), in which every class meets every place and every pair of
    classes every pair of places equally often: the noise prefers no class.
    """
    classes = SETTINGS["num_classes"]
    orders = torch.tensor([[(a * i + b) % classes for i in range(classes)]
                           for a in range(1, classes) for b in range(classes)])
    generator = torch.Generator().manual_seed(SETTINGS["seed"])
    noise = torch.randn(_DRAWS, classes, generator=generator, dtype=torch.float64)[:, orders].flatten(0, 1)

    def fixed(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return loss(logits, labels, reduction=reduction, noise=noise.unsqueeze(1).expand(-1, len(logits), -1))

    return fixed


def detached_and_not(note: str, **options: Any) -> tuple[Case, Case]:
    """A gate as it is by default, and with the gradient through it: the same values, but other descents."""
    return (Case("topk_transition", note, options),
            Case("topk_transition", f"{note}, gradient through it", options | {"detach_gate": False}))


CASES = (
    Case("cross_entropy"),
    Case("cross_entropy", "smoothing 0.1", {"label_smoothing": 0.1}),
    Case("ldr_kl"),
    Case("topk_grouped"),
    Case("topk_transition", "no gate, strength 0.3", {"gate": "none", "strength": 0.3}),
    *detached_and_not("gate by ratio"),
    *detached_and_not("gate by ratio, losses mixed", blend="loss"),
    *detached_and_not("linear gate, margin 2", gate="linear", margin=2.0),
    Case("topk_entropy"),
    Case("truncated_topk_entropy"),
    Case("smooth_topk_svm", "temperature 1"),
    Case("smooth_topk_svm", "temperature 0.1", {"tau": 0.1}),
    Case("topk_hinge_alpha", solver="linear"),
    Case("topk_hinge_beta", solver="linear"),
    Case("consistent_topk_hinge", solver="linear"),
    Case("noised_topk_hinge", f"{_DRAWS * 20} fixed draws", count=8, fix=same_noise),
    Case("difftopk_cross_entropy", "odd-even network"),
    Case("difftopk_cross_entropy", "NeuralSort", {"method": "neuralsort"}),
    Case("difftopk_cross_entropy", "SoftSort", {"method": "softsort"}),
    Case("lapsum_topk"),
)


def cases() -> list[Case]:
    """The cases above, and with its defaults every loss that none of them names."""
    return [*CASES, *(Case(name) for name in losses.names() if name not in {case.loss for case in CASES})]


def measure(case: Case, smoke: bool = False) -> dict[str, Any]:
    """One case as the document holds it."""
    settings = SETTINGS | ({"count": SMOKE["count"]} if smoke else {})
    k, started = settings["k"], time.process_time()
    eta = calibration.draw_probabilities(**settings)[: case.count]
    options = {"k": k, **case.options} if "k" in losses.options(case.loss) else case.options
    loss: Callable[..., Tensor] = losses.get(case.loss, **options)
    loss = case.fix(loss) if case.fix else loss
    effort = {key: SMOKE[key] for key in ("steps", "starts")} if smoke else {}
    found = calibration.check(loss, k, probabilities=eta, solver=case.solver, seed=settings["seed"], **effort)
    return {"loss": case.loss, "label": losses.SPECS[case.loss].label, "note": case.note, "options": options,
            "solver": case.solver, "core_seconds": round(time.process_time() - started, 2),
            "results": found.drop(columns="eta").to_dict("records")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Test the cases and write the document."""
    chosen = documents.options(__doc__, paths.CALIBRATION, arguments)
    torch.set_num_threads(1)
    tested = []
    for case in cases():
        tested.append(measure(case, chosen.smoke))
        verdicts = [row["verdict"] for row in tested[-1]["results"]]
        print(f"{tested[-1]['label']:36} {case.note:40} {verdicts.count('right'):3} of {len(verdicts):3} right "
              f"{tested[-1]['core_seconds']:6.1f} s", flush=True)
    settings = SETTINGS | (SMOKE if chosen.smoke else {})
    # The eta of all cases; one that tests fewer tests the first of them.
    eta = calibration.draw_probabilities(**{key: settings[key] for key in SETTINGS}).tolist()
    where = environment.provenance(chosen.commit)
    document = {"settings": settings, "code": where["code"],
                "environment": where["environment"] | {"scipy": scipy.__version__},
                "core_seconds": round(sum(case["core_seconds"] for case in tested), 1), "probabilities": eta,
                "cases": tested}
    records.write_atomically(chosen.out, json.dumps(document, allow_nan=False) + "\n")
    print(chosen.out)


if __name__ == "__main__":
    main()
