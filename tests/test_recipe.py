"""The account of how the training recipe was chosen: every trial is listed, none saw the test images."""

from __future__ import annotations

from experiments.recipe import write_readme
from paperlib.config import RunConfig


def test_the_page_lists_the_committed_trials(root):
    page = (root / "experiments" / "recipe" / "README.md").read_text()
    assert page == write_readme.readme(), "run: python experiments/recipe/write_readme.py"


def test_trials_are_whole_and_never_saw_the_test_images():
    for trial in write_readme.trials():
        config = RunConfig.from_dict(trial["config"])
        assert not config.evaluate_test or trial["name"].startswith("first-study"), trial["name"]
        assert 0 < trial["top1"] <= trial["top5"] <= trial["top10"] <= 1 and trial["core_seconds"] > 0
