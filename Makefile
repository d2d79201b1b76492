# Two commands for a fresh machine: `make demo` and `make test`. Both need Python 3.11–3.13.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-slow wheel lint docs clean

install: .venv/.installed

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo 'make: the host side of edgetl needs Python 3.11–3.13; set PYTHON=python3.12, say'; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

demo: install
	rm -rf demo-run
	$(BIN)/edgetl demo

# The tests run against the built wheel: .venv-test holds nothing but that wheel, and sees the
# packages of .venv beside it. JOBS processes share the files; each computes on one thread.
JOBS ?= 2
RUN = PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 EDGETL_WHEEL="$$(ls $(CURDIR)/dist/*.whl)" \
  .venv-test/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: wheel lint
	$(RUN) -m "not slow" $(TESTS)

test-slow: wheel
	$(RUN) -m slow $(TESTS)

wheel: install
	rm -rf dist .venv-test
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . > /dev/null
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/pip install --quiet --no-deps dist/*.whl
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])" \
	  > "$$(.venv-test/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/zz-host.pth"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m benchmarks.docs --check

# Write the generated parts of README and docs from benchmarks/results and the command line.
docs: install
	$(BIN)/python -m benchmarks.docs

clean:
	rm -rf .venv .venv-test dist build *.egg-info demo-run
