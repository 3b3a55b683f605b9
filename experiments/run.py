"""Executes the notebook of a training run: ``python -m experiments.run --out FOLDER key=value ...``.

    python -m experiments.run --out my-runs dataset=digits model=mlp epochs=5 loss_options='{"gate": "none"}'
    python -m experiments.run --out my-runs --cell first-study RUN_ID

Keys are those of ``RunConfig``, values JSON or plain text; all are checked before anything runs. The notebook gets its
final name only when it has finished; a failed one is kept in ``experiments/logs``, and the exit status is not zero.
"""

import argparse
import difflib
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# In a git worktree, the library next to this file is meant, not the one that is installed.
sys.path.insert(0, str(ROOT))

from paperlib import grids, records, sweep  # noqa: E402
from paperlib.config import RunConfig  # noqa: E402
from paperlib.processes import end_with_parent  # noqa: E402

SOURCE = ROOT / "experiments" / "train.md"
LOGS = ROOT / "experiments" / "logs"
RECORDS = "experiments/.work/records"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class RunFailedError(RuntimeError):
    """The notebook raised; it is kept, and the message says where."""


def execute(config: RunConfig, out: Path, notebook: Path, *, title: str | None = None,
            metadata: dict[str, Any] | None = None) -> None:
    """Run the notebook of one configuration, and put it at ``notebook`` when it has finished.

    Args:
        config: the run.
        out: folder for the record, or a ``.jsonl`` file; checkpoints lie in its work folder.
        notebook: final name.
        title: first heading.
        metadata: kept in the notebook under the key ``paperlib``.

    Raises:
        RunFailedError: a cell raised.
        OSError: ``out`` cannot be written.
    """
    import jupytext
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    prepare_environment()
    output, run_id = sweep.Output(out), config.run_id
    output.prepare()
    source = jupytext.read(SOURCE, fmt="md:myst")
    source.metadata["kernelspec"] = KERNEL
    if title:
        heading = next(cell for cell in source.cells if cell.source.startswith("# "))
        heading.source = "\n".join([f"# {title}", *heading.source.splitlines()[1:]])
    unfinished = output.work / f"{run_id}.ipynb"
    failed = LOGS / f"{run_id}.failed.ipynb"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # papermill's, about cell ids and clocks; the notebook has its own process
            papermill.execute_notebook(source, str(unfinished), {**changed(config), "out": shown(out)}, cwd=str(ROOT),
                                       kernel_name="python3", progress_bar=False, stderr_file=sys.stderr)
    except PapermillExecutionError as error:
        records.write_atomically(failed, unfinished.read_text(encoding="utf-8"))
        unfinished.unlink()
        raise RunFailedError(f"run {run_id} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                             f"The notebook as far as it came: {failed}") from error
    finished = clean(nbformat.read(unfinished, as_version=4))
    finished.metadata["paperlib"] = {"run_id": run_id, **(metadata or {})}
    records.write_atomically(notebook, nbformat.writes(finished) + "\n")
    unfinished.unlink()
    failed.unlink(missing_ok=True)


def changed(config: RunConfig) -> dict[str, Any]:
    """The keys in which a configuration differs from the defaults, so that a page shows these alone."""
    defaults = RunConfig().to_dict()
    return {key: value for key, value in config.to_dict().items() if value != defaults[key]}


def shown(path: Path) -> str:
    """A path as pages may show it: from the root of the repository, where it lies in there."""
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def clean(notebook: Any) -> Any:
    """Take out what papermill notes about the machine and the hour, and the lines that showed progress."""
    import nbformat

    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "hide-input"]
            cell.metadata["mystnb"] = {"code_prompt_show": "The parameters of this run"}
        if "remove-stderr" in tags:  # progress of the training
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def parse(pairs: Sequence[str]) -> RunConfig:
    """The configuration of ``key=value`` texts.

    Raises:
        ValueError: no ``=``, an unknown key, or a value of the wrong type.
    """
    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r}: expected key=value")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return RunConfig.from_dict(values)


def find_cell(grid: str, run_id: str) -> tuple[RunConfig, str]:
    """A grid's cell by its run id, and the title of its page.

    Raises:
        ValueError: the grid is unknown or has no such cell.
    """
    loaded = grids.load(grid)
    for cell in loaded.cells:
        if cell.config.run_id == run_id:
            return cell.config, title_of(loaded, cell)
    known = [cell.config.run_id for cell in loaded.cells]
    near = difflib.get_close_matches(run_id, known, n=1, cutoff=0.0)[0]
    raise ValueError(f"grid {grid!r} has no run {run_id!r}: did you mean {near!r}? Its runs: {', '.join(known)}")


def title_of(grid: grids.Grid, cell: grids.Cell) -> str:
    """What a reader calls the run, as in "Cross entropy: all images, 8 epochs (seed 0)"."""
    variant, setup = grid.variants[cell.variant]["label"], grid.setups[cell.setup]["label"]
    return f"{variant[0].upper()}{variant[1:]}: {setup} (seed {cell.seed})"


def wait_until_free(output: sweep.Output, run_id: str, seconds: float = 2.0) -> bool:
    """Wait for another process that works on the run; returns whether there was one."""
    waited = False
    while True:
        with output.claim(run_id) as claimed:
            if claimed:
                return waited
        if not waited:
            print(f"run {run_id} is being worked on by another process: waiting for it", file=sys.stderr, flush=True)
        waited = True
        time.sleep(seconds)


def prepare_environment() -> None:
    """What the notebook's process inherits: one thread, and the library next to this file."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when the notebook has finished, 1 when it failed, 2 when the arguments are unusable."""
    parser = argparse.ArgumentParser(prog="python -m experiments.run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("values", nargs="*", metavar="key=value", help="what differs from RunConfig's defaults")
    parser.add_argument("--cell", nargs=2, metavar=("GRID", "RUN_ID"), help="take the configuration from a grid")
    parser.add_argument("--out", type=Path, default=ROOT / RECORDS, help=f"folder of records (default {RECORDS})")
    parser.add_argument("--notebook", type=Path, help="where the executed notebook goes (default experiments/logs)")
    parser.add_argument("--end-with-parent", action="store_true", help="stop when the calling process is gone")
    options = parser.parse_args(arguments)
    if options.end_with_parent:
        end_with_parent()
    try:
        if options.cell and options.values:
            raise ValueError("--cell and key=value exclude each other: a grid's cell has its configuration")
        config, title = find_cell(*options.cell) if options.cell else (parse(options.values), None)
        output = sweep.Output(options.out.resolve())
        output.prepare()
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    notebook = options.notebook or LOGS / f"{config.run_id}.ipynb"
    try:
        if wait_until_free(output, config.run_id) and output.has(config.run_id):
            print(f"run {config.run_id} was finished by another process", file=sys.stderr)
            return 0
        execute(config, output.path, notebook.resolve(), title=title)
    except (RunFailedError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"run {config.run_id}: record in {output.path}, notebook {shown(notebook)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
