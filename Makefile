# Each target does all its own set-up; nothing is installed outside the checkout.
PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv-test
SOURCES := $(shell git ls-files 2>/dev/null)

.PHONY: help demo test docs kernels clean

help:
	@echo "make demo     install the base package, purify the sample clip, write out/demo.mp4"
	@echo "make test     install what the tests need, then lint, type-check and test"
	@echo "make docs     build the site of docs/, which opens without a network; a warning is an error"
	@echo "make kernels  compile the CUDA kernels with nvcc, to be packaged; without it NVRTC does so at first use"
	@echo "make clean    remove environments, caches and out/"

demo: $(DEMO)/installed
	@mkdir -p out
	@$(DEMO)/bin/immunecam purify immunecam/data/sample.mp4 -o out/demo.mp4 --side-by-side --json out/demo.json
	@echo "before (left) and after (right): $(CURDIR)/out/demo.mp4"

test: $(TEST)/installed
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	cd $(TEST) && bin/mypy --config-file ../pyproject.toml -p immunecam.kernels -p immunecam.runtime
	cd $(TEST) && bin/lint-imports --config ../pyproject.toml
	OMP_NUM_THREADS=1 $(TEST)/bin/pytest -n 2 -rsfE --cov --cov-report=term --cov-fail-under=90 $(PYTEST_ARGS)

# The reference is made of the installed package's docstrings; `make test` builds it, too.
docs: $(TEST)/installed
	$(TEST)/bin/sphinx-build -q -W --keep-going docs out/docs
	@echo "the site: $(CURDIR)/out/docs/index.html"

kernels: $(DEMO)/installed
	$(DEMO)/bin/python -m immunecam.kernels.cuda.prebuilt --out kernels/cuda/prebuilt

# A plain install, not an editable one: linters and tests see what a user gets, from outside the checkout.
$(DEMO)/installed: $(SOURCES)
	@test -x $(DEMO)/bin/python || $(PYTHON) -m venv $(DEMO)
	@echo "installing the base package into $(DEMO) ..."
	@rm -rf build  # a wheel must not carry files that an earlier build left there
	@$(DEMO)/bin/pip install -q --disable-pip-version-check .
	@touch $@

$(TEST)/installed: $(SOURCES)
	@test -x $(TEST)/bin/python || $(PYTHON) -m venv $(TEST)
	@echo "installing the package with all extras that tests need into $(TEST) ..."
	@rm -rf build
	@$(TEST)/bin/pip install -q --disable-pip-version-check ".[train,gate,serve,docs,dev]"
	@$(TEST)/bin/pip install -q --disable-pip-version-check --no-deps --force-reinstall .
	@touch $@

clean:
	rm -rf $(DEMO) $(TEST) out build kernels/cuda/prebuilt *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
