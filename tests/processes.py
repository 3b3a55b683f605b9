"""Processes that tests start and kill, forked from one that has torch loaded: loading takes longer than the tests."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sklearn.datasets", "torchvision", "torch._dynamo", "paperlib.train"])
