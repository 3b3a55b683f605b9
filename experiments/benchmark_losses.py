"""What each loss costs: time against cross entropy and against other people's code, and memory.

    python experiments/benchmark_losses.py            # about 10 minutes, writes experiments/tables/losses.json
    python experiments/benchmark_losses.py --quick    # seconds, writes nothing

Times are of one forward and backward pass on one thread, in CPU seconds, on batches that take turns so that no branch
is learned by heart, under two conditions: "loop", five passes one after the other, and "step", one pass after other
work that filled the caches, as in training. Everything takes its turn in every round, and each ratio is formed within
a round, so that what else the machine does weighs on both sides. Rivals come with `pip install -e '.[bench]'`; without
them their rows are left out.
"""

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.benchmark import Timer

from paperlib import environment, losses, paths
from paperlib.records import write_atomically

SIZES = ((256, 100), (256, 1000), (64, 10000))
#: Samples and classes of the memory test.
LARGE = (4096, 50000)
K = 5
TARGET = Path(paths.ROOT) / "experiments" / "tables" / "losses.json"

Loss = Callable[[Tensor, Tensor], Tensor]


def ours() -> dict[str, Loss]:
    """Every loss with the options that its rival has, by the name of its row."""
    found: dict[str, Loss] = {name: losses.get(name) for name in losses.names() if name != "difftopk_cross_entropy"}
    for method, steepness in (("odd_even", 2.0), ("bitonic", 2.0), ("neuralsort", 0.0625), ("softsort", 0.0625)):
        found[f"difftopk_cross_entropy, {method}"] = losses.get("difftopk_cross_entropy", method=method,
                                                                steepness=steepness, m=16)
    return found


def rivals(num_classes: int) -> dict[str, tuple[str, Loss]]:
    """Other people's code: by the name of our row, its name and the loss."""
    found: dict[str, tuple[str, Loss]] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import difftopk

        found["smooth_topk_svm"] = ("difftopk 0.2.0 SmoothHardTopKLoss (of smooth-topk)",
                                    difftopk.SmoothHardTopKLoss(num_classes, K, tau=1.0))
        p_k = [0.0] * (K - 1) + [1.0]
        for method in ("odd_even", "bitonic"):
            loss = difftopk.TopKCrossEntropyLoss("odd_even", 2.0, p_k, num_classes, m=16, distribution="cauchy")
            # Its own choice for bitonic is a sparse network that needs another compiled package.
            loss.top_k_net = difftopk.DiffTopkNet(method, 16, K, sparse=False, steepness=2.0, distribution="cauchy")
            found[f"difftopk_cross_entropy, {method}"] = (f"difftopk 0.2.0 {method}, dense", loss)
        for method in ("neuralsort", "softsort"):
            found[f"difftopk_cross_entropy, {method}"] = (f"difftopk 0.2.0 {method}", difftopk.TopKCrossEntropyLoss(
                method, 0.0625, p_k, num_classes, m=16))
    except ImportError as error:
        print(f"left out: {error}")
    try:
        import pytopk

        found["noised_topk_hinge"] = ("pytopk 0.1.0 BalNoisedTopK", pytopk.BalNoisedTopK(K, 1.0, n_sample=5))
        found["consistent_topk_hinge"] = ("pytopk 0.1.0 BalNoisedTopK, epsilon 0",
                                          pytopk.BalNoisedTopK(K, 0.0, n_sample=5))
    except ImportError as error:
        print(f"left out: {error}")
    return found


def batches(n: int, num_classes: int, count: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Logits of standard deviation 3; half of the rows are as after training, the label 8 above."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for _ in range(count):
        logits = 3 * torch.randn(n, num_classes, generator=generator)
        labels = torch.randint(num_classes, (n,), generator=generator)
        logits[torch.arange(0, n, 2), labels[::2]] += 8
        result.append((logits.requires_grad_(), labels))
    return result


def step(loss: Loss, turns: "itertools.cycle[tuple[Tensor, Tensor]]") -> None:
    """One forward and backward pass."""
    logits, labels = next(turns)
    logits.grad = None
    loss(logits, labels).backward()


def once(loss: Loss, turns: "itertools.cycle[tuple[Tensor, Tensor]]", other: Tensor) -> float:
    """Seconds of one pass after other work: a walk over more memory than caches hold."""
    other.add_(1.0)
    start = time.thread_time()
    step(loss, turns)
    return time.thread_time() - start


def race(n: int, num_classes: int, rounds: int) -> list[dict]:
    """Seconds of each loss at one size under both conditions, and the ratio to cross entropy within the round."""
    turns = itertools.cycle(batches(n, num_classes))
    runners = {("paperlib", name): loss for name, loss in ours().items()}
    runners |= {("rival", name): loss for name, (_, loss) in rivals(num_classes).items()}
    names = {name: rival for name, (rival, _) in rivals(num_classes).items()}
    runners = {("torch", "F.cross_entropy"): F.cross_entropy} | runners
    timers = {key: Timer("step(loss, turns)", globals={"step": step, "loss": loss, "turns": turns},
                         timer=time.thread_time) for key, loss in runners.items()}
    other = torch.zeros(2**24)
    taken = {condition: {key: np.zeros(rounds) for key in timers} for condition in ("loop", "step")}
    for timer in timers.values():
        timer.timeit(3)
    for turn in range(rounds):
        for key, timer in timers.items():
            taken["loop"][key][turn] = timer.timeit(5).mean
            taken["step"][key][turn] = once(runners[key], turns, other)
    rows = []
    for condition, (side, name) in itertools.product(taken, runners):
        seconds = taken[condition]
        own, base = seconds[side, name], seconds["torch", "F.cross_entropy"]
        rows.append({"condition": condition, "side": side, "loss": name,
                     "code": names[name] if side == "rival" else side, "n": n, "num_classes": num_classes,
                     "seconds": float(np.median(own)), **_spread("ratio", own / base)})
        if side == "rival":
            rows[-1] |= _spread("times_ours", own / seconds["paperlib", name])
    return rows


def _spread(name: str, values: np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {name: float(middle), f"{name}_low": float(low), f"{name}_high": float(high)}


def accuracy(num_classes: int) -> list[dict]:
    """Errors in float32 of the smooth top-k SVM, ours and the rival's, against ours in float64."""
    logits, labels = batches(256, num_classes, 1)[0]
    exact = logits.detach().double().requires_grad_()
    losses.smooth_topk_svm(exact, labels).backward()
    value = float(losses.smooth_topk_svm(exact.detach(), labels))
    rival = rivals(num_classes).get("smooth_topk_svm")
    rows = []
    for code, loss in [("paperlib", losses.get("smooth_topk_svm")), *([rival] if rival else [])]:
        logits.grad = None
        found = loss(logits, labels)
        found.backward()
        rows.append({"code": code, "num_classes": num_classes,
                     "value_error": abs(float(found.detach()) - value) / value,
                     "gradient_error": float((logits.grad - exact.grad).abs().max() / exact.grad.abs().max())})
    return rows


def peak_memory(name: str, n: int, num_classes: int) -> float:
    """Largest memory of one pass beyond the logits, in multiples of the logits, by the kernel's own mark."""
    torch.set_num_threads(1)
    loss = F.cross_entropy if name == "F.cross_entropy" else ours()[name]
    logits, labels = batches(n, num_classes, 1)[0]
    loss(logits[:2], labels[:2]).backward()  # what the first call loads is not counted
    logits.grad = None
    Path("/proc/self/clear_refs").write_text("5")
    before = _kilobytes("VmRSS")
    loss(logits, labels).backward()
    return (_kilobytes("VmHWM") - before) * 1024 / (logits.numel() * logits.element_size())


def _kilobytes(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def memory(n: int, num_classes: int, names: Iterable[str]) -> list[dict]:
    """Peak memory of losses and of cross entropy, in multiples of the logits, each in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        return [{"loss": name, "n": n, "num_classes": num_classes,
                 "logits": round(pool.submit(peak_memory, name, n, num_classes).result(), 2)}
                for name in ("F.cross_entropy", *names)]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few rounds of the smallest size; nothing is written")
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = SIZES[:1] if arguments.quick else SIZES
    started = time.monotonic()
    speed = [row for n, c in sizes for row in race(n, c, 3 if arguments.quick else {100: 60, 1000: 30}.get(c, 12))]
    result = {"speed": speed, "accuracy": [row for _, c in sizes for row in accuracy(c)]}
    if not arguments.quick and Path("/proc/self/clear_refs").exists():
        limited = ["topk_transition", "topk_grouped", "truncated_topk_entropy", "topk_entropy"]
        result["memory"] = memory(*LARGE, limited) + memory(LARGE[0] // 8, LARGE[1], ours())
    for row in speed:
        print(f"{row['condition']} {row['num_classes']:6d} {row['code']:48s} {row['loss']:36s} "
              f"{row['seconds'] * 1e3:8.3f} ms {row['ratio']:8.2f} x CE {row.get('times_ours', 1):6.2f} x ours")
    for row in result["accuracy"] + result.get("memory", []):
        print(row)
    if not arguments.quick:
        result |= {"k": K, **environment.provenance(),
                   "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                   "wall_seconds": round(time.monotonic() - started)}
        write_atomically(arguments.out, json.dumps(result, indent=1) + "\n")
        print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
