"""The benchmark of training: it times the real loop, tells its parts apart, and its documents become tables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jupytext
import pytest
import torch

from paperlib import analysis, benchmark, losses, paths, tables, train
from paperlib.benchmark import PARTS, QUICK, _nets, _parts, _timing
from paperlib.benchmark._timing import Turns, Watch, spread
from paperlib.branches import Run
from paperlib.config import RunConfig

CPU = torch.device("cpu")
TINY = RunConfig(model="speednet", width=16, batch_size=32, low_resolution=None)
SHORT = replace(QUICK, rounds=(3, 3))


@pytest.fixture(scope="module")
def bench():
    with train.torch_threads(1):
        yield _nets.Bench.make(CPU, 256)


def pipe(root: Path) -> str:
    """The command that experiments/README.md shows, up to the name of the executed notebook."""
    readme = (root / "experiments" / "README.md").read_text().replace("\\\n", "")
    return re.search(r"jupytext --to ipynb -o - experiments/performance\.md\s*\| papermill .* - (?=\S+\.ipynb)",
                     readme).group(0)


def papermill(root: Path, target: Path, *parameters: str) -> subprocess.CompletedProcess[str]:
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = f"{pipe(root)} '{target}' -p device cpu {' '.join(parameters)}"
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=root, capture_output=True, text=True,
                          env=os.environ | {"PATH": programs, "PYTHONPATH": str(root)})


@pytest.fixture(scope="module")
def measured(root, tmp_path_factory) -> tuple[Path, dict]:
    """The document of the notebook with tiny networks, and where it lies."""
    folder = tmp_path_factory.mktemp("performance")
    done = papermill(root, folder / "run.ipynb", "-p quick True", f"-p out '{folder}'")
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = folder.glob("*.json")
    return path, json.loads(path.read_text())


# --- the document -----------------------------------------------------------------------------------------


def test_the_notebook_writes_one_document_named_after_the_device(measured) -> None:
    path, document = measured
    assert document["quick"] is True and document["device"] == "cpu" and document["environment"]["threads"] == 1
    words = set(re.findall(r"[a-z0-9]+", document["environment"]["device"].lower()))
    assert set(path.stem.split("-")) == words
    assert set(document) >= {*benchmark.SECTIONS, "code", "finished", "seconds", "cpu_seconds"}
    assert document["code"].keys() == {"commit", "dirty"}


def test_every_network_is_timed_in_both_precisions(measured) -> None:
    rows = measured[1]["rates"]
    assert len(rows) == 2 * len(benchmark.networks(CPU, quick=True))
    assert {row["precision"] for row in rows} == {"bf16", "fp32"} and {row["pixels"] for row in rows} == {32, 16}
    for row in rows:
        assert 0 < row["loop_low"] <= row["loop"] <= row["loop_high"]
        assert 0.1 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert 0 < row["ceiling_low"] <= row["ceiling"] <= row["ceiling_high"]
        assert row["gflops"] == pytest.approx(6e-9 * row["macs"] * row["loop"])


def test_every_loss_and_every_part_has_its_share(measured) -> None:
    document = measured[1]
    assert [row["loss"] for row in document["losses"]] == losses.names()
    assert all(0 < row["share_low"] <= row["share"] <= row["share_high"] < 1 for row in document["losses"])
    parts = document["profiles"]
    assert [row["part"] for row in parts] == [*PARTS] * len(benchmark.networks(CPU, quick=True))
    assert all(row["seconds"] > 0 for row in parts)
    kept = [row for row in parts if row["pixels"] == 32 and row["model"] == "resnet18"]
    shares = {row["part"]: row["share"] for row in kept}
    assert min(shares["backward"], shares["forward"]) > shares["augmentation"]
    assert [row["path"] for row in document["augmentation"]][0] == "batched"
    assert document["augmentation"][-1]["slower"] > 3  # torchvision, image by image
    assert {row["kind"] for row in document["peaks"]} == {"convolution", "matrix product"}


def test_small_models_are_raced_against_a_plain_loop(measured) -> None:
    (row,) = measured[1]["ensembles"]
    assert row["models"] == 20 and 0 < row["batched_low"] <= row["batched"] <= row["batched_high"]
    assert row["times"] > 1.5  # about 8 where nothing else runs


def test_a_parameter_that_means_nothing_is_refused(root, tmp_path) -> None:
    source = jupytext.read(root / "experiments" / "performance.md", fmt="md:myst")
    cells = [cell.source for cell in source.cells if cell.cell_type == "code"]
    names: dict = {}
    exec(cells[0], names)
    exec(cells[1] + "\nquik = True", names)
    with pytest.raises(ValueError, match="unknown parameters quik: expected some of device, quick, out"):
        exec(cells[2], names)


def test_an_unknown_section_is_refused() -> None:
    with pytest.raises(ValueError, match="'speed': expected some of peaks, rates"):
        benchmark.measure("cpu", sections=["speed"])
    with pytest.raises(ValueError, match="device='cuda:99', but torch sees"):
        benchmark.measure("cuda:99", sections=[])


def test_what_was_measured_is_told_after_every_row() -> None:
    told = []
    document = benchmark.measure("cpu", quick=True, sections=["augmentation"],
                                 report=lambda found: told.append(([*found], len(found["augmentation"]))))
    rows = len(document["augmentation"])
    assert told == [(["schema", "quick", "device", "environment", "augmentation"], n + 1) for n in range(rows)]
    assert rows > 1
    assert json.loads(json.dumps(document)) == document


def test_it_needs_no_package_that_a_training_machine_may_lack(root) -> None:
    code = ("import sys\nfor name in ('pandas', 'scipy', 'matplotlib', 'seaborn', 'sklearn', 'tqdm', 'papermill'):\n"
            "    sys.modules[name] = None\nfrom paperlib import benchmark\n")
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


# --- what is timed ----------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when told, and with each reading where ``tick`` is given: no machine is fast or slow by it."""

    def __init__(self, tick: float = 0.0) -> None:
        self.time, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.time += self.tick
        return self.time

    def spend(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock by which networks are timed: what is done takes no time, looking at it a second."""
    clock = Clock(tick=1)
    monkeypatch.setattr(_nets, "clock", lambda device: clock)
    return clock


def test_a_cpu_is_timed_by_what_the_process_used_of_it() -> None:
    assert _timing.clock(CPU) is time.process_time


def test_what_the_loop_does_beside_the_network_lowers_its_rate(bench, clock, monkeypatch) -> None:
    count = Run.count
    monkeypatch.setattr(Run, "count", lambda *a: (clock.spend(3), count(*a))[1])
    row, batch = _nets.rate(bench, TINY, SHORT), TINY.batch_size
    assert (row["loop"], row["ceiling"], row["ratio"]) == (batch / 4, batch, 1 / 4)
    shares = {row["part"]: row["share"] for row in _nets.profile(bench, TINY, SHORT)}
    assert max(shares, key=shares.get) == "bookkeeping" and sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("part", ["augmentation", "forward", "loss", "backward", "optimiser"])
def test_the_profile_tells_the_parts_apart(bench, clock, monkeypatch, part) -> None:
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            clock.spend(100)
            return gradient

    def loss(logits, labels):
        if part == "loss":
            clock.spend(100)
        return losses.cross_entropy(Slow.apply(logits) if part == "backward" else logits, labels)

    slow = {"augmentation": (_nets.TrainLoader, "_augmented"), "forward": (torch.nn.MaxPool2d, "forward"),
            "optimiser": (torch.optim.SGD, "_init_group")}
    if part in slow:
        owner, name = slow[part]
        plain = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **o: (clock.spend(100), plain(*a, **o))[1])
    shares = {row["part"]: row["share"] for row in _nets.profile(bench, TINY, SHORT, loss)}
    assert shares[part] > 0.8 and sum(shares.values()) == pytest.approx(1), shares


def test_multiply_accumulates_are_those_of_the_literature(bench) -> None:
    assert _nets.forward_macs(bench, TINY.replace(model="resnet18", width=64)) / 1e6 == pytest.approx(555.5, abs=0.1)
    full = _nets.forward_macs(bench, TINY)
    assert _nets.forward_macs(bench, TINY.replace(low_resolution=16, low_resolution_until=1.0)) < full / 3


def test_the_ceiling_takes_images_as_the_network_sees_them(bench, monkeypatch) -> None:
    seen = []
    make = train.make_model

    def watched(*arguments):
        model = make(*arguments)
        model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        return model

    monkeypatch.setattr(train, "make_model", watched)
    small = TINY.replace(low_resolution=16, low_resolution_until=1.0)
    _nets.bare_step(bench, small)()
    _nets.bare_step(bench, small.replace(precision="fp32"))()
    assert [tuple(images.shape) for images in seen] == [(32, 3, 16, 16)] * 2
    assert [images.dtype for images in seen] == [torch.bfloat16, torch.float32]
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in seen)


def test_determinism_is_switched_within_one_run_and_put_back(bench, monkeypatch) -> None:
    modes = []

    def loss(logits, labels):
        modes.append(torch.are_deterministic_algorithms_enabled())
        return losses.cross_entropy(logits, labels)

    monkeypatch.setattr(train, "make_loss", lambda config: loss)
    row = _nets.determinism(bench, TINY, SHORT)
    assert row["rounds"] == 3 and row["cost"] > 0
    assert modes[-6:].count(True) == 3 and not torch.are_deterministic_algorithms_enabled()


def test_on_cuda_determinism_takes_runs_of_its_own(bench) -> None:
    pairs = _nets._separate_runs(bench, _nets.endless(TINY), SHORT)
    assert len(pairs) == 3 and all(free > 0 and bound > 0 for free, bound in pairs)


def test_turns_count_neither_the_warm_up_nor_what_runs_between() -> None:
    now, blocks = Clock(), []

    def between(steps: int) -> None:
        blocks.append(steps)
        now.time += 100

    turns = Turns(now, between, seconds=1e9, warmup=2, block_seconds=6, rounds=(2, 3))
    for step in range(100):
        now.time += 50 if step < 1 else 2
        if turns():
            break
    assert blocks == [1, 1, 3, 3, 3]  # blocks of 2 s a step last 6 s
    assert turns.times == [2, 2, 2]
    few = Turns(now, between, seconds=1, warmup=1, block_seconds=2, rounds=(2, 50))
    steps = 1
    now.time += 2
    while not few():
        now.time += 2
        steps += 1
    assert (steps, few.rounds) == (3, 2)  # the least number, whatever time there is


def test_a_watch_adds_marks_of_one_step() -> None:
    now = Clock()
    watch = Watch(now, ("one", "other"))
    for part, seconds in (("one", 1), ("other", 2), ("one", 3)):
        now.time += seconds
        watch.mark(part)
    watch.end_step()
    assert watch.steps == [{"one": 4, "other": 2}]
    assert spread([1, 2, 3, 4, 5], "x") == {"x": 3, "x_low": 2, "x_high": 4}


def test_torchvision_is_left_out_where_it_is_missing(bench, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert [row["path"] for row in _parts.augmentation(bench, TINY, SHORT)][-1].startswith("batched")


# --- the report -------------------------------------------------------------------------------------------


def test_the_committed_measurement_meets_the_aims() -> None:
    rates = analysis.training_rates()
    assert (rates["ratio"] >= 0.92).all(), rates[["network", "precision", "ratio"]]
    assert analysis.augmentation_rates().query("path == 'batched'")["images"].min() >= 50_000
    for document in analysis.performance_documents().values():
        assert document["code"]["dirty"] is not True and document["environment"]["threads"] == 1


def test_documents_become_tables(measured, monkeypatch, tmp_path) -> None:
    path, document = measured
    monkeypatch.setattr(paths, "PERFORMANCE", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"performance\.md"):
        analysis.performance_documents()
    (tmp_path / "machine.json").write_text(path.read_text())
    with pytest.raises(ValueError, match="quick=true"):
        analysis.performance_documents()
    gpu = document | {"quick": False, "device": "cuda", "environment": {"device": "A GPU"}}
    (tmp_path / "a-gpu.json").write_text(json.dumps(gpu))
    (tmp_path / "machine.json").write_text(json.dumps(document | {"quick": False}))
    assert [one["device"] for one in analysis.performance_documents().values()] == ["cpu", "cuda"]
    rates, first = analysis.training_rates(), document["rates"][0]
    best = max(row["best"] for row in document["peaks"]
               if row["precision"] == first["precision"] and row["kind"] == "convolution")
    assert rates["fraction"][0] == pytest.approx(first["gflops"] / best)
    assert rates["ceiling_fraction"][0] == pytest.approx(first["gflops"] / first["ratio"] / best)
    assert rates["network"].tolist()[:3] == ["speednet 16, batch 32", "resnet18 8, batch 32",
                                             "speednet 16, batch 32, 16 px"]
    assert analysis.training_rates("cuda")["device"].unique().tolist() == ["A GPU"]
    shown = tables.training_rates()
    assert shown["of bare steps (%)"][0].startswith(f"{100 * first['ratio']:.0f} [")
    assert len(tables.loss_shares()) == len(losses.names())
    assert tables.augmentation_rates()["times slower"][0] == "1.0"
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json: expected the document"):
        analysis.performance_documents()


def test_earlier_rates_are_found_by_what_a_network_computes(measured, monkeypatch, tmp_path) -> None:
    document = measured[1] | {"quick": False}
    row = document["rates"][0] | {"macs": 35_058_176, "precision": "bf16", "ceiling": 889.0 / 2}
    other = row | {"macs": 35_600_000}
    (tmp_path / "machine.json").write_text(json.dumps(document | {"rates": [row, other]}))
    monkeypatch.setattr(paths, "PERFORMANCE", tmp_path)
    earlier = analysis.training_rates()["earlier"]
    assert earlier[0] == pytest.approx(0.5) and earlier.isna()[1]
