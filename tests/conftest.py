"""What all tests share: where the project is, one thread a process, and the report, built once."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Set before torch is imported anywhere; the processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic runs, where there is a GPU

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of tests side by side, a process takes a file at a time, and one takes all that needs the report, built once."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return "the report" if path in ("tests/test_book.py", "tests/test_pages.py") else path

    return Scheduling(config, log)


@dataclass(frozen=True)
class Book:
    """A build of the report: its pages and what the build had to say."""

    html: Path
    log: str
    exit_code: int


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    """The report, built once by the command of ``make book`` into a folder of its own."""
    (command,) = re.findall(r"^\t\$\(BIN\)/(jupyter-book build .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    program, *arguments = shlex.split(command)
    folder = tmp_path_factory.mktemp("book")
    build = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments, "--path-output", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Book(folder / "_build" / "html", build.stdout, build.returncode)
