"""What ran, where: the parts of a record that name code, versions and device."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

import paperlib
from paperlib import paths


def code(commit: str | None = None) -> dict[str, Any]:
    """Commit of the library, and whether its files differed from it; ``commit`` stands in where there is no git."""
    if commit is not None:
        return {"commit": commit, "dirty": None}
    try:
        head = _git("rev-parse", "HEAD")
        return {"commit": head, "dirty": bool(_git("status", "--porcelain", "--", "paperlib", "experiments/grids"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(paths.ROOT), *arguments], check=True, capture_output=True,
                          text=True).stdout.strip()


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, device name, threads and instruction set."""
    import torchvision

    return {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__,
            "numpy": np.__version__, "paperlib": paperlib.__version__, "device": device_name(device),
            "threads": torch.get_num_threads(), "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "platform": f"{platform.system()} {platform.machine()}"}


def provenance(commit: str | None = None) -> dict[str, Any]:
    """Where a measurement on the CPU comes from, as documents hold it: ``code`` and ``environment``."""
    return {"code": code(commit), "environment": describe(torch.device("cpu"))}


def find_device(name: torch.device | str | None = None) -> torch.device:
    """The device of that name, or CUDA where there is one, else the CPU.

    Raises:
        ValueError: no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device={name!r}: expected cpu, cuda or cuda:0, cuda:1, ...") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={str(name)!r}, but torch sees {torch.cuda.device_count()} CUDA devices: expected "
                         "one of them, or cpu")
    return device


def device_name(device: torch.device) -> str:
    """The GPU's or the CPU's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")] if info.exists() else []
    return f"{names[0] if names else platform.processor() or 'CPU'} ({os.cpu_count()} cores)"
