"""What all tests share: where the project is, one thread a process, and the book, built once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before torch is imported anywhere; the processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT
