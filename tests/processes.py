"""Processes that tests start and kill, forked from one that has torch loaded: loading takes longer than the tests."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sklearn.datasets", "torchvision", "torch._dynamo", "paperlib.train"])

#: Program text after which a process finds nothing but what a training machine has: torch, torchvision, numpy, Pillow.
BARE_MACHINE = """
import importlib.machinery
import sys

ABSENT = {"papermill", "pandas", "sklearn", "scipy", "matplotlib", "seaborn", "tqdm", "pyarrow", "jupytext", "yaml"}


class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)


sys.meta_path[:] = map(Without, sys.meta_path)
for name in ABSENT:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is still there")
"""
