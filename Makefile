# make book     build the report into _build/html
# make test     lint, types, tests, recorded chapters, the built pages in a browser
# make check    lint and types alone
# make record   run every chapter and record its outputs in tests/recorded
# make runs     JOBS=2: execute the exemplary experiment notebooks into book/runs
# make grid     GRID=name JOBS=2: run what a grid still misses, through the notebook, by Snakemake
# make synthetic  JOBS=2: run what the synthetic study still misses; with ARGS="--out FOLDER" all of it again
# make clean    remove what the commands above built (not .venv, not data)

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 1

# One thread for each process: the small tensors here gain nothing from more, and processes run side by side.
export OMP_NUM_THREADS ?= 1
export PYTHONUNBUFFERED = 1

.DEFAULT_GOAL := book
.PHONY: book test check record runs grid synthetic chromium clean

# A change in pyproject.toml makes this stamp, and with it the environment, out of date.
.venv/.done: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; name it with: make PYTHON=python3.11 ..."; exit 1; }
	@echo "Setting up .venv: PyTorch makes this a download of some gigabytes, and it takes minutes ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[book,test,sweep]'
	@touch $@

book: .venv/.done
	$(BIN)/jupyter-book build . -W -n --keep-going --all
	@test -s _build/html/index.html
	@echo "The report: _build/html/index.html"

check: .venv/.done
	$(BIN)/ruff check .
	$(BIN)/mypy

# As many processes as cores, but no more than four: each holds PyTorch.
test: .venv/.done chromium check
	$(BIN)/python -m pytest -n logical --maxprocesses 4

record: .venv/.done
	$(BIN)/python tests/record.py

runs: .venv/.done
	$(BIN)/python experiments/make_runs.py --jobs $(JOBS)

# After a SIGKILL, once: make grid GRID=name ARGS=--unlock
grid: .venv/.done
	@test -n "$(GRID)" || { echo "Which grid? make grid GRID=$$(ls experiments/grids | sed 's/\.toml$$//' | paste -sd'|')"; exit 2; }
	$(BIN)/python -m snakemake --snakefile experiments/Snakefile --cores $(JOBS) --config grid=$(GRID) $(ARGS)

synthetic: .venv/.done
	$(BIN)/python experiments/synthetic.py --jobs $(JOBS) $(ARGS)

# The page tests need a Chromium; where it can be installed it is, elsewhere those tests are skipped and say so.
chromium:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name >/dev/null 2>&1 && exit 0; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "Installing Chromium for the page tests ..."; \
		export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null </dev/null \
			|| echo "Chromium could not be installed: the page tests will be skipped."; \
	else \
		echo "No Chromium, and no right to install one: the page tests will be skipped."; \
	fi

clean:
	rm -rf _build .mypy_cache .pytest_cache .ruff_cache .hypothesis experiments/.work experiments/logs
	find paperlib tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +
