"""The parts alone: what the hardware can do, and what losses and augmentation cost."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paperlib import losses
from paperlib.benchmark._nets import CLASSES, SIDE, WARMUP, Bench, Effort, bare_step, described
from paperlib.benchmark._timing import clock, spread, timed
from paperlib.config import RunConfig
from paperlib.data import TrainLoader
from paperlib.data.loader import PADDING
from paperlib.engine import Engine

#: Convolutions 3 x 3 of as many channels in as out: (channels, side).
CONVOLUTIONS = ((64, 32), (128, 16), (256, 8))


def peak(device: torch.device, precision: str, effort: Effort) -> list[dict[str, Any]]:
    """Rates of plain convolutions (forward, channels_last) and of a matrix product in GFLOP/s, one row each.

    The fastest convolution is what a network's rate is held against: training does little else.
    """
    now, large = clock(device), device.type == "cuda"
    batch, size = (1024, 8192) if large else (min(effort.images // 32, 64), 1024)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    work: dict[tuple[str, str], tuple[float, Callable[[], Any]]] = {}
    for channels, side in CONVOLUTIONS:
        images = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        filters = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        filters = filters.contiguous(memory_format=torch.channels_last)
        work["convolution", f"{batch} x {channels} x {side} x {side}"] = (
            18e-9 * batch * side**2 * channels**2, partial(F.conv2d, images, filters, padding=1))
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    work["matrix product", f"{size} x {size}"] = 2e-9 * size**3, partial(torch.mm, left, right)
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    with torch.no_grad():
        for turn in range(2 * effort.rounds[0] + 1):
            for key, (gigaflop, call) in work.items():
                seconds = timed(call, now, 20 if large else 1)
                if turn:  # the first one is for choosing kernels
                    rates[key].append(gigaflop / seconds)
    return [{"kind": kind, "shape": shape, "precision": precision, **spread(found, "gflops"), "best": max(found)}
            for (kind, shape), found in rates.items()]


def choices(bench: Bench, config: RunConfig, effort: Effort) -> list[dict[str, Any]]:
    """One row a choice: time of a bare step made otherwise over that of the recipe's, in turns."""
    now, base = clock(bench.device), bare_step(bench, config)
    other = "fp32" if config.precision == "bf16" else "bf16"
    steps = {f"{other} instead of {config.precision}": bare_step(bench, config.replace(precision=other)),
             "NCHW instead of channels_last": bare_step(bench, config, torch.contiguous_format)}
    compiled = Engine.choose(bench.device, config.batch_size).compiled
    if effort.compiled:
        steps["eager" if compiled else "torch.compile"] = bare_step(bench, config, compiled=not compiled)
    for step in (base, *steps.values()):
        for _ in range(WARMUP[bench.device.type]):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(2 * effort.rounds[0]):
        first = timed(base, now)
        for name, step in steps.items():
            times[name].append(timed(step, now) / first)
    return [{"choice": name, **described(config), **spread(found, "time")} for name, found in times.items()]


def loss_shares(bench: Bench, config: RunConfig, effort: Effort) -> list[dict[str, Any]]:
    """One row a loss: seconds of its value and derivative, and their share of a step of a network that uses it.

    Options are the defaults. Step and losses take turns, and each share is formed within a round.
    """
    now, step = clock(bench.device), bare_step(bench, config)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):  # they take turns, so that no branch is learned by heart
        logits = 3 * torch.randn(config.batch_size, CLASSES, generator=generator)
        labels = torch.randint(CLASSES, (config.batch_size,), generator=generator)
        logits[torch.arange(0, len(labels), 2), labels[::2]] += 8  # half of the rows as after training
        batches.append((logits.to(bench.device).requires_grad_(), labels.to(bench.device)))
    turns = itertools.cycle(batches)

    def both(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        logits, labels = next(turns)
        logits.grad = None
        loss(logits, labels).backward()

    calls = {name: losses.get(name) for name in losses.names()}
    for _ in range(WARMUP[bench.device.type]):
        step()
        for loss in calls.values():
            both(loss)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    shares: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(2 * effort.rounds[0]):
        bare = timed(step, now)
        for name, loss in calls.items():
            taken = timed(partial(both, loss), now, len(batches))
            seconds[name].append(taken)
            shares[name].append(taken / (bare + taken))
    return [{"loss": name, "num_classes": CLASSES, **described(config), **spread(seconds[name], "seconds"),
             **spread(shares[name], "share")} for name in calls]


def augmentation(bench: Bench, config: RunConfig, effort: Effort) -> list[dict[str, Any]]:
    """Images a second through crop, flip and normalisation: the batched loader, and torchvision's one by one.

    torchvision's path takes the same pixels: PIL image, reflecting crop, flip, tensor, normalisation, collation, in
    this process. Its rows are left out where torchvision or Pillow is missing. The low resolution of the recipe has
    a row of its own.
    """
    now, size = clock(bench.device), config.batch_size
    loader, low = bench.loader(config, TrainLoader), RunConfig().low_resolution
    steps = min(len(loader), 4 if bench.device.type == "cpu" else 20)

    def epoch(resolution: int | None) -> None:
        for _ in itertools.islice(loader.epoch(0, 0, resolution), steps):
            pass

    work: dict[str, tuple[int, Callable[[], Any]]] = {"batched": (steps * size, lambda: epoch(None))}
    if low:
        work[f"batched, scaled to {low} pixels"] = steps * size, lambda: epoch(low)
    one_by_one = _torchvision(bench, size)
    if one_by_one:
        work["torchvision, image by image"] = size, one_by_one
    rates: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(2 * effort.rounds[0] + 1):
        for name, (images, call) in work.items():
            seconds = timed(call, now)
            if turn:
                rates[name].append(images / seconds)
    first = rates["batched"]
    return [{"path": name, "batch_size": size, **spread(found, "images"),
             **spread([a / b for a, b in zip(first, found, strict=True)], "slower")} for name, found in rates.items()]


def _torchvision(bench: Bench, count: int) -> Callable[[], Any] | None:
    try:
        from PIL import Image
        from torchvision import transforms
    except ImportError:
        return None
    splits = bench.splits
    pixels, labels = splits.train.inputs[:count].numpy(), splits.train.labels[:count].tolist()
    transform = transforms.Compose([
        transforms.RandomCrop(SIDE, padding=PADDING, padding_mode="reflect"), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), transforms.Normalize(splits.mean.tolist(), splits.std.tolist())])

    class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
        """As ``torchvision.datasets.CIFAR100`` hands out its images."""

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return transform(Image.fromarray(pixels[index])), labels[index]

        def __len__(self) -> int:
            return len(labels)

    batches = torch.utils.data.DataLoader(Images(), batch_size=count, shuffle=True)

    def epoch() -> None:
        for images, found in batches:
            images.to(bench.device), found.to(bench.device)

    return epoch
