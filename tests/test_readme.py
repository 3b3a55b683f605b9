"""What the README shows and says is true: its figure, its five lines of code, its paths and grids."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image

from experiments import readme_figure
from paperlib import analysis, figures, grids


@pytest.fixture(scope="module")
def text(root):
    return (root / "README.md").read_text()


def test_the_figure_shows_the_committed_records(root):
    _, frame = figures.difference_curves(analysis.answer_bands()[0])
    with Image.open(root / "book/_static/answer.png") as picture:
        assert picture.info["Description"] == readme_figure.digest(frame), "run: python experiments/readme_figure.py"


def test_the_lines_for_ones_own_training_run(text):
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.strip().splitlines()) == 5
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 8)
    batches = [(progress, (torch.randn(6, 4), torch.randint(0, 8, (6,)))) for progress in (0.0, 0.5, 1.0)]
    gradients = []
    model.weight.register_hook(lambda gradient: gradients.append(gradient.clone()))
    exec(code, {"model": model, "batches": lambda: batches})
    assert len(gradients) == 3
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_files_and_grids_that_it_names_exist(root, text):
    named = re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:md|cff|yml))`", text) + re.findall(r"\]\((book/[^)]+)\)", text)
    assert "experiments/README.md" in named
    made = {"_build/html/index.html", "data/"}  # by the commands beside them
    assert [path for path in named if path not in made and not (root / path).exists()] == []
    for name in re.findall(r"paperlib\.sweep (\S+)", text):
        assert name in grids.names()
