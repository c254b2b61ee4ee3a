.DEFAULT_GOAL := help
.PHONY: help setup sweep test check format docs phantom report notebooks bench decord-cuda gpu-check clean

PYTHON ?= python3
SWEEP  ?= demo
COHORT ?= phantom
CEUS    = .venv/bin/ceus

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: .venv/installed ## make .venv and install the pinned packages

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && .venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,export]' && touch $@

sweep: setup ## run the demo study; yours: make sweep COHORT=path/cohort.csv SWEEP=study
	$(CEUS) sweep $(SWEEP) --cohort $(COHORT) --evaluate

test: setup ## run the tests
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup ## lint, types and tests
	.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy && .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

format: setup ## format the code and mend what the linter can
	.venv/bin/ruff format && .venv/bin/ruff check --fix

docs: setup ## make the reference pages in docs/reference again, from the code
	.venv/bin/python docs/make_reference.py

phantom: setup ## make the synthetic cohort of the demo in data/
	$(CEUS) phantom data/phantom-demo

report: setup ## make tables and report of SWEEP again from its prediction tables
	$(CEUS) evaluate runs/$(SWEEP)

# Nobody else on the machine can listen to the kernel, and the pages load nothing over the network.
notebooks: setup ## run the notebooks on SWEEP; pages in runs/SWEEP/notebooks
	CEUS_SWEEP=$(abspath runs/$(SWEEP)) .venv/bin/jupyter nbconvert --execute --to html --output-dir runs/$(SWEEP)/notebooks --HTMLExporter.require_js_url=data:, --HTMLExporter.mathjax_url=data:, --KernelManager.transport_encryption=auto notebooks/*.ipynb

bench: setup ## time the readers and loaders side by side; writes benchmarks/RESULTS.md
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	.venv/bin/python -m benchmarks

decord-cuda: setup ## build decord with CUDA from source, over the wheel
	tools/decord_cuda.sh .venv/bin/python

gpu-check: setup ## try everything on this machine's GPU, in 8 minutes; JSON in benchmarks/gpu
	.venv/bin/python -P -m experiments.gpu_check --out benchmarks/gpu $(if $(DRY_RUN),--dry-run)

clean: ## remove caches; never data, stores or runs
	rm -rf .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info && find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
