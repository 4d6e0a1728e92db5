# make demo    the whole flow on planted data, in about a minute
# make test    the tests
# make check   lint, format, types, spelling, layers, doctests
# make distributed   adds TorchRec for CPUs to .venv, and runs the tests that need it
# make fuzz    20,000 mutated inputs and 200 kills, in about half an hour
# make bounds  the tests of what is compiled, with the bounds of every array checked
# make bench   the benchmarks
# make figures   the documentation's picture, trained and drawn anew
# make reference   writes configs/reference.toml anew
# Each makes .venv first, when it is missing or older than pyproject.toml or constraints.txt.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: setup demo test distributed check fuzz bounds bench figures reference clean
.DELETE_ON_ERROR:

setup: $(INSTALLED)

# torch comes first and pinned, so that no other package's range picks another build of it.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "xclass needs Python 3.11 or newer on the PATH (or: make PYTHON=/path/to/python)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[cpu,compiled,report,dev]'
	@touch $@

demo: $(INSTALLED)
	rm -rf demo
	$(BIN)/xclass demo --out demo/

# Bits depend on the number of threads: the tests, and the processes that they start, have one setting.
test: $(INSTALLED)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

# The CPU build of fbgemm, and torchrec without its dependencies: they name the CUDA build, and with it another torch.
distributed: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(grep '^torch==' constraints.txt)" fbgemm-gpu-cpu tensordict torchmetrics pyre-extensions iopath tqdm
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps torchrec
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest tests/distributed

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m pytest -q tests/test_layers.py
	$(BIN)/python -m pytest -q --doctest-modules xclass

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.robustness.fuzz --out "benchmarks/results/$$(date +%F)-robustness.md"

# No loop runs on several threads inside numba (parallel = True), where it would pass over what it finds.
bounds: $(INSTALLED)
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=build/numba-bounds OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

reference: $(INSTALLED)
	$(BIN)/python -c 'import xclass.training.run_config; print(xclass.training.run_config.reference(), end="")' > configs/reference.toml

figures: $(INSTALLED)
	$(BIN)/python docs/log_q.py

bench: $(INSTALLED)
	for file in benchmarks/bench_*.py; do echo "== $$file" && $(BIN)/python $$file || exit 1; done

clean:
	rm -rf .venv build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
