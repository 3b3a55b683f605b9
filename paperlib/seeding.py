"""Every random draw has an address. A resumed run needs no generator state, only to know where it is."""

import hashlib

import torch


def derive(seed: int, *address: int | str) -> int:
    """A 63-bit seed that depends on ``seed`` and the whole address, and on nothing drawn before."""
    text = "/".join(map(str, (seed, *address)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *address: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one address, such as ``(seed, "augment", epoch, step)``."""
    return torch.Generator(device).manual_seed(derive(seed, *address))
