"""Records: what is written comes back, what is damaged is named, and nothing finished is ever lost."""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pandas as pd
import pytest

from paperlib import paths, records
from paperlib.config import PROTOCOL, RunConfig
from paperlib.records import MissingRecordsError, Record, RecordError

CLASSES = 7


def make(seed: int = 0, *, n: int = 40, **changes) -> Record:
    """A record as a run would leave it, with ranks drawn at random."""
    config = RunConfig(dataset="digits", model="mlp", seed=seed, loss_options={"label_smoothing": 0.1})
    draw = np.random.default_rng(seed)

    def evaluation() -> dict:
        ranks = records.encode_ranks(draw.integers(1, CLASSES + 1, n))
        return {"n": n, "num_classes": CLASSES, "loss": 1.5, "nll": 1.25, "ece": 0.125, "ranks": ranks}

    parts = {
        "schema": records.SCHEMA, "run_id": config.run_id, "protocol": PROTOCOL, "config": config.to_dict(),
        "code": {"commit": "abc", "dirty": False}, "environment": {"device": "a CPU", "torch": "2.6.0"},
        "data": {"checksum": "00"}, "history": [{"epoch": 1, "train_loss": 0.1 + 0.2}],
        "timing": {"train_seconds": 3.0}, "validation": evaluation(), "test": evaluation(),
    }
    return Record(**{**parts, **changes})


def edited(record: Record, **changes) -> str:
    """The record's JSON with keys replaced, or left out where the value is ``...``."""
    document = {**json.loads(record.to_json()), **changes}
    return json.dumps({key: value for key, value in document.items() if value is not ...})


# Ranks and the round trip.


def test_ranks_are_compressed_little_endian_words():
    text = records.encode_ranks(np.array([1, 2, 258, 65535]))
    assert zlib.decompress(base64.b64decode(text)) == bytes([1, 0, 2, 0, 2, 1, 255, 255])
    back = records.decode_ranks(text)
    assert back.dtype == np.int64 and back.tolist() == [1, 2, 258, 65535]


@pytest.mark.parametrize("ranks", [[0, 1], [1, 65536], [-1]])
def test_ranks_that_do_not_fit_are_refused(ranks):
    with pytest.raises(ValueError, match=r"expected ranks in 1\.\.65535"):
        records.encode_ranks(np.array(ranks))


def test_a_record_comes_back_equal(tmp_path):
    record = make()
    path = records.write(record, tmp_path / "new" / "folder")
    assert path.name == f"{record.run_id}.json"
    assert records.read(path) == record
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]
    assert list(json.loads(path.read_text())) == [spec.name for spec in dataclasses.fields(Record)]


def test_ranks_of_both_splits_and_of_one_that_was_not_evaluated():
    record = make()
    assert record.ranks().shape == (40,) and not np.array_equal(record.ranks(), record.ranks("validation"))
    with pytest.raises(RecordError, match="no 'test' evaluation.*evaluate_test=true"):
        make(test=None).ranks()
    with pytest.raises(RecordError, match="no 'training' evaluation: expected 'validation' or 'test'"):
        record.ranks("training")


def test_numbers_that_are_not_finite_are_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write(make(timing={"train_seconds": float("nan")}), tmp_path)
    assert not list(tmp_path.iterdir())


# Damage.


def damage(**changes):
    """A document made from a good record with changes inside its validation."""
    return lambda record: edited(record, validation={**record.validation, **changes})


@pytest.mark.parametrize("break_it, message", [
    (lambda record: record.to_json()[:-40], "break off.*Delete it and run its cell again"),
    (lambda record: "", "0 characters that break off"),
    (lambda record: edited(record, schema=records.SCHEMA + 1),
     f"schema {records.SCHEMA + 1}, expected {records.SCHEMA}.*newer paperlib: update"),
    (lambda record: edited(record, schema=...), "schema None.*not a record of this library"),
    (lambda record: "[1, 2]", "not a record of this library"),
    (lambda record: edited(record, history=..., test=...), r"missing keys \['history', 'test'\]"),
    (lambda record: edited(record, comment="nice"), r"unknown keys \['comment'\]"),
    (lambda record: edited(record, config={**record.config, "seed": 9}), "hashes to .*: the record was edited"),
    (lambda record: edited(record, run_id="000000000000"), "the record was edited"),
    (lambda record: edited(record, config={**record.config, "sed": 9}), "unknown configuration key 'sed'"),
    (lambda record: edited(record, config=None), "not a run's configuration"),
    (damage(num_classes=3), r"validation: expected 40 ranks in 1\.\.3, got 40 in 1\.\.7"),
    (damage(n=41), r"validation: expected 41 ranks in 1\.\.7, got 40"),
    (damage(n=0, ranks=records.encode_ranks(np.array([], dtype=int))), "validation: expected 0 ranks"),
    (damage(ranks="AAAA"), "validation: expected n, num_classes and decodable ranks"),
    (damage(ranks=None), "validation: expected n, num_classes and decodable ranks"),
    (damage(num_classes="many"), "validation: expected n, num_classes and decodable ranks"),
    (lambda record: edited(record, validation={"n": 40}), "validation: expected n, num_classes and decodable ranks"),
    (damage(ranks=base64.b64encode(zlib.compress(np.zeros(40, "<u2").tobytes())).decode()), r"got 40 in 0\.\.0"),
])
def test_a_damaged_record_is_named_with_what_is_wrong(tmp_path, break_it, message):
    path = tmp_path / "broken.json"
    path.write_text(break_it(make()))
    with pytest.raises(RecordError, match=f"(?s)broken.json.*{message}") as caught:
        records.read(path)
    assert isinstance(caught.value, ValueError)


def test_a_file_of_other_bytes_is_a_broken_record(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(RecordError, match="x.json"):
        records.load(tmp_path)
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00\n" + make(0).to_json().encode() + b"\n")
    assert records.load(tmp_path / "x.jsonl") == [make(0)], "a line that was never written whole"


# Writing survives whatever happens in the middle of it.


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, at):
    path = records.write(make(), tmp_path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, at, fail)
        with pytest.raises(OSError, match="disk full"):
            records.write(make(timing={"train_seconds": 9.0}), tmp_path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    records.write(make(timing={"train_seconds": 9.0}), tmp_path)
    assert records.read(path).timing == {"train_seconds": 9.0}


def test_an_output_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match="out"):
        records.write(make(), tmp_path / "out")


def test_lines_are_appended_and_a_torn_one_costs_only_itself(tmp_path):
    path = tmp_path / "deep" / "runs.jsonl"
    records.append(make(0), path)
    records.append(make(1), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])  # cut off in mid-line
    assert list(records.read_lines(path)) == [make(0)]
    records.append(make(2), path)
    assert list(records.read_lines(path)) == [make(0), make(2)]
    assert path.read_bytes().count(b"\n") == 3


def test_only_what_was_added_is_read_again(tmp_path):
    path = tmp_path / "runs.jsonl"
    records.append(make(0), path)
    first, position = records.read_new_lines(path)
    assert (first, position) == ([make(0)], path.stat().st_size)
    half = (make(1).to_json() + "\n").encode()
    path.write_bytes(b"#" * (position - 1) + b"\n" + half[:40])  # what was read is not looked at again
    assert records.read_new_lines(path, position) == ([], position), "another process is in mid-line"
    path.write_bytes(path.read_bytes() + half[40:])
    assert records.read_new_lines(path, position) == ([make(1)], path.stat().st_size)
    with pytest.raises(RecordError, match="line 1 from byte 4 on: record schema None"):
        path.write_text("###\n{}\n")
        records.read_new_lines(path, 4)


def test_a_whole_line_that_is_no_record_is_not_passed_over(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text(make(0).to_json() + "\n" + edited(make(1), schema=99) + "\n")
    with pytest.raises(RecordError, match="runs.jsonl, line 2: record schema 99"):
        records.load(path)


APPEND = """
import sys
from paperlib import records
(record,) = records.load(sys.argv[1])
sys.stdin.readline()  # both start together
for _ in range(60):
    records.append(record, sys.argv[2])
"""


def test_two_processes_append_without_mixing_their_lines(tmp_path, root):
    path, writers = tmp_path / "runs.jsonl", []
    for seed in (0, 1):
        source = records.write(make(seed, n=50_000), tmp_path / f"source{seed}")  # more than one call can write
        writers.append(subprocess.Popen([sys.executable, "-c", APPEND, str(source), str(path)], cwd=root,
                                        stdin=subprocess.PIPE))
    for writer in writers:
        writer.stdin.write(b"\n")
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0]
    found = [record.run_id for record in records.read_lines(path)]
    assert sorted(found) == sorted([make(0).run_id, make(1).run_id] * 60)
    assert len(path.read_bytes().splitlines()) == 120


def test_an_append_waits_while_another_is_at_it(tmp_path):
    path = tmp_path / "runs.jsonl"
    records.append(make(0), path)
    with open(path, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=records.append, args=(make(1), path))
        waiting.start()
        other.write(b'{"half a line')
        other.flush()
        time.sleep(0.2)
        assert waiting.is_alive()
        other.write(b' and the rest of it": 0}\n')
    waiting.join()
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and records.parse(lines[2]) == make(1)


# Loading and merging.


def test_load_takes_a_folder_a_file_of_lines_or_one_record(tmp_path):
    made = sorted((make(seed) for seed in range(3)), key=lambda record: record.run_id)
    for record in made:
        records.write(record, tmp_path / f"grid{record.config['seed'] % 2}")
        records.append(record, tmp_path / "all.jsonl")
    assert records.load(tmp_path) == made
    assert records.load(tmp_path / "all.jsonl") == made
    assert records.load(tmp_path / "grid1" / f"{make(1).run_id}.json") == [make(1)]


def test_load_of_an_empty_folder_is_empty_and_of_no_folder_an_error(tmp_path):
    assert records.load(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="no records at .*nowhere: expected a folder, a .jsonl or a .json"):
        records.load(tmp_path / "nowhere")


def test_load_passes_over_what_a_sweep_hides_below_its_folder(tmp_path):
    hidden = tmp_path / ".copy" / "grid"  # but the folder itself may lie below a hidden one
    records.write(make(), hidden)
    records.write_atomically(hidden / ".work" / "failed" / "0123456789ab.json", '{"error": "no record"}')
    records.write_atomically(hidden / ".0123456789ab.json.x.tmp", "half a rec")
    assert records.load(hidden) == [make()]


def test_load_reads_the_records_of_the_project_unless_told_otherwise(tmp_path, monkeypatch):
    records.write(make(), tmp_path)
    monkeypatch.setattr(paths, "RECORDS", tmp_path)
    assert records.load() == [make()]


def test_a_run_in_two_grids_counts_once_and_two_versions_of_it_are_refused(tmp_path):
    records.write(make(), tmp_path / "one")
    records.write(make(), tmp_path / "two")
    assert records.load(tmp_path) == [make()]
    records.write(make(timing={"train_seconds": 9.0}), tmp_path / "two")
    with pytest.raises(RecordError, match=f"two different records of run {make().run_id}"):
        records.load(tmp_path)


def test_merge_brings_what_is_new_and_overwrites_nothing(tmp_path):
    folder, lines = tmp_path / "records", tmp_path / "gpu.jsonl"
    records.append(make(0), lines)
    records.append(make(1), lines)
    assert records.merge(lines, folder) == 2
    records.append(make(2), lines)
    assert records.merge(lines, folder) == 1
    assert records.merge(lines, folder) == 0
    assert {record.config["seed"] for record in records.load(folder)} == {0, 1, 2}

    other = tmp_path / "other.jsonl"
    records.append(make(1, timing={"train_seconds": 9.0}), other)
    records.append(make(3), other)
    with pytest.raises(RecordError, match=f"{make(1).run_id}.json differs from the record of the same run in .*other"):
        records.merge(other, folder)
    assert make(1) in records.load(folder)
    assert make(3) in records.load(folder), "the others were brought in"


def test_merge_skips_a_line_that_was_cut_off(tmp_path):
    lines, folder = tmp_path / "gpu.jsonl", tmp_path / "records"
    records.append(make(0), lines)
    records.append(make(1), lines)
    lines.write_bytes(lines.read_bytes()[:-30])
    assert records.merge(lines, folder) == 1
    records.append(make(1), lines)  # the run was made again, behind the torn line
    assert records.merge(lines, folder) == 1 and records.merge(lines, folder) == 0
    assert records.load(folder) == sorted([make(0), make(1)], key=lambda record: record.run_id)


def test_a_folder_of_a_grid_takes_the_runs_of_that_grid_alone(study, tmp_path, capsys):
    lines, folder = tmp_path / "gpu.jsonl", study / "study"
    for seed in (0, 1, 7):
        records.append(make(seed), lines)
    assert records.foreign(lines, folder) == [make(7)] and records.foreign(lines, tmp_path / "elsewhere") == []
    assert records.main(["merge", str(lines), str(folder)]) == 0
    assert f"2 new records in {folder}, 1 of other grids left out" in capsys.readouterr().out
    assert {record.config["seed"] for record in records.load(folder)} == {0, 1}
    assert records.merge(lines, tmp_path / "elsewhere") == 3


# Completeness against a grid.

GRID = """
title = "Two runs"
seeds = [0, 1]
[[setup]]
name = "only"
label = "the only one"
dataset = "digits"
model = "mlp"
loss_options = { label_smoothing = 0.1 }
[[variant]]
name = "ce"
label = "cross entropy"
loss = "cross_entropy"
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A project with a grid of two runs and no records: the folder for them."""
    (tmp_path / "study.toml").write_text(GRID)
    monkeypatch.setattr(paths, "GRIDS", tmp_path)
    monkeypatch.setattr(paths, "RECORDS", tmp_path / "records")
    return tmp_path / "records"


def test_require_names_missing_runs_and_the_command_that_makes_them(study):
    with pytest.raises(MissingRecordsError) as caught:
        records.require("study")
    text = str(caught.value)
    assert isinstance(caught.value, OSError)
    assert "misses 2 of 2 runs" in text and make(0).run_id in text and f"{make(1).run_id}  only/ce/seed 1" in text
    assert "python -m paperlib.sweep study --out experiments/records/study" in text

    records.write(make(0), study / "study")
    with pytest.raises(MissingRecordsError, match=f"misses 1 of 2 runs:\n  {make(1).run_id}") as caught:
        records.require("study")
    assert make(0).run_id not in str(caught.value)


def test_require_gives_all_runs_wherever_they_lie(study):
    records.write(make(1), study / "study")
    records.write(make(0), study / "another-grid")
    records.write(make(5), study / "another-grid")
    assert records.require("study") == {make(0).run_id: make(0), make(1).run_id: make(1)}


def test_an_unreadable_record_is_not_taken_for_a_missing_one(study):
    records.write(make(0), study)
    (study / f"{make(1).run_id}.json").write_text("{")
    with pytest.raises(RecordError, match=make(1).run_id):
        records.require("study")


# Export and the command line.


@pytest.mark.parametrize("suffix, read", [(".csv", pd.read_csv), (".parquet", pd.read_parquet)])
def test_export_holds_the_accuracy_at_every_k(tmp_path, suffix, read):
    made = [make(0), make(1, test=None)]
    frame = read(records.export(made, tmp_path / "new" / f"runs{suffix}"))
    assert frame["run_id"].tolist() == [record.run_id for record in made]
    assert frame["seed"].tolist() == [0, 1] and frame["commit"].tolist() == ["abc", "abc"]
    assert json.loads(frame["loss_options"][0]) == {"label_smoothing": 0.1}
    for k in range(1, CLASSES + 1):
        assert frame[f"validation_top{k}"][1] == np.mean(made[1].ranks("validation") <= k)
        assert frame[f"test_top{k}"][0] == np.mean(made[0].ranks("test") <= k)
    assert np.isnan(frame["test_top1"][1]) and frame["test_nll"][0] == 1.25


def test_export_to_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot export to runs.xlsx: expected a name that ends in .csv or .parquet"):
        records.export([make()], tmp_path / "runs.xlsx")
    assert not (tmp_path / "runs.xlsx").exists()


def test_an_export_of_nothing_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert records.main(["export", str(tmp_path / "runs.csv"), "--source", str(tmp_path / "empty")]) == 1
    assert "runs.csv: expected at least one record, found none" in capsys.readouterr().err
    assert not (tmp_path / "runs.csv").exists()


def test_command_line(study, tmp_path, capsys):
    source = tmp_path / "runs.jsonl"
    records.append(make(0), source)
    assert records.main(["merge", str(source), str(study)]) == 0
    assert "1 new records" in capsys.readouterr().out
    assert records.main(["missing", "study"]) == 1
    assert make(1).run_id in capsys.readouterr().err
    records.append(make(1), source)
    assert records.main(["merge", str(source), str(study)]) == 0
    assert records.main(["missing", "study"]) == 0
    assert "complete" in capsys.readouterr().out
    assert records.main(["export", str(tmp_path / "runs.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 2
    assert records.main(["export", str(tmp_path / "runs.xlsx"), "--source", str(source)]) == 1
    assert records.main(["merge", str(tmp_path / "nowhere"), str(study)]) == 1
    assert "no records at" in capsys.readouterr().err
    assert records.main(["missing", "nostudy"]) == 1
    with pytest.raises(SystemExit, match="2"):
        records.main(["forget"])


def test_exit_code_reaches_the_shell(root):
    command = [sys.executable, "-m", "paperlib.records", "missing", "no-such-grid"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and "unknown grid 'no-such-grid'" in done.stderr and "Traceback" not in done.stderr


def test_committed_records_are_sound(root):
    for path in sorted((root / "experiments" / "records").rglob("*.json")):
        record = records.read(path)
        assert path.stem == record.run_id, path
        assert record.code["commit"] and not record.code["dirty"], f"{path}: evidence names the commit that made it"
