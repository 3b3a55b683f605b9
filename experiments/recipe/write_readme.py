"""Writes the table of every recipe trial into ``README.md``: ``python experiments/recipe/write_readme.py``.

``tried.jsonl`` is the evidence, one line a trial, failed ones too; ``about.md`` is the text around the table.
"""

import json
from pathlib import Path
from typing import Any

from paperlib.config import RunConfig

HERE = Path(__file__).resolve().parent
#: Shown as columns of their own, or the same in every trial, or without a bearing on the numbers.
NOT_SETTINGS = {"seed", "model", "width", "epochs", "evaluate_every"}
COLUMNS = ("trial", "net", "epochs", "other settings", "code", "seed", "core-min", "top-1", "top-5", "top-10",
           "train top-1", "verdict")


def trials() -> list[dict[str, Any]]:
    """Every trial in the order it was run."""
    return [json.loads(line) for line in (HERE / "tried.jsonl").read_text().splitlines()]


def settings(config: dict[str, Any], reference: dict[str, Any]) -> str:
    """What a configuration sets otherwise than the reference."""
    return ", ".join(f"{key} {value}" for key, value in config.items()
                     if key not in NOT_SETTINGS and value != reference[key]) or "defaults"


def row(trial: dict[str, Any], reference: dict[str, Any]) -> str:
    """One line of the table."""
    config = trial["config"]
    results = [f"{100 * trial[name]:.1f}" for name in ("top1", "top5", "top10", "train_top1")]
    net = f"{config['model']} {config['width'] or ''}"
    cells = [trial["name"], net, config["epochs"], settings(config, reference), trial["variant"], config["seed"],
             f"{trial['core_seconds'] / 60:.1f}", *results, trial["verdict"]]
    return "| " + " | ".join(str(cell).strip() for cell in cells) + " |"


def readme() -> str:
    """The whole page."""
    reference = RunConfig().to_dict()
    done = trials()
    head = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    total = sum(trial["core_seconds"] for trial in done) / 60
    table = "\n".join([*head, *(row(trial, reference) for trial in done)])
    numbers = {"trials": len(done), "minutes": f"{total:.0f}", **figures(done)}
    return (HERE / "about.md").read_text().format(table=table, **numbers)


def figures(done: list[dict[str, Any]]) -> dict[str, str]:
    """What the text says in numbers."""
    by_name = {trial["name"]: trial for trial in done}
    recipe, resnet = [by_name["full0"], by_name["full1"]], by_name["resnet24"]
    top1, top5, train = (100 * sum(trial[key] for trial in recipe) / 2 for key in ("top1", "top5", "train_top1"))
    behind = [100 * (trial["top1"] - trial["averaged"]["top1"]) for trial in done if "averaged" in trial]
    return {"top1": f"{top1:.1f}", "top5": f"{top5:.1f}", "ahead": f"{train - top1:.0f}",
            "averaged": f"{min(behind):.1f} to {max(behind):.1f}", "resnet": f"{resnet['core_seconds'] / 60:.0f}",
            "behind": f"{top1 - 100 * resnet['top1']:.1f}"}


def main() -> None:
    """Write the page."""
    (HERE / "README.md").write_text(readme())


if __name__ == "__main__":
    main()
