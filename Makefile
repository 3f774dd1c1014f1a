# Needs only Python 3.11+ and make.
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= dev
# What a user names is text, never make's own language: a folder may be called $(...).
override IMAGES := $(value IMAGES)
export IMAGES
BIN    := $(VENV)/bin
# A file's tests stay in one process, which makes its shared folders once. One that hangs where Python cannot end its
# test (pyproject.toml: timeout) is ended whole. A process that dies is not begun anew: the run could wait for it for ever.
WORKERS ?= --numprocesses=logical --maxprocesses=4 --max-worker-restart=0 --dist=loadfile
# The long tests share little: whoever is idle takes the next.
SOAKERS ?= --numprocesses=logical --maxprocesses=4 --max-worker-restart=0 --dist=worksteal

.PHONY: help demo test soak check format docs benchmarks clean

help:
	@echo "make demo               install the core; phantoms embedded, probed, screened, searched, reported"
	@echo "make demo IMAGES=DIR    the same with your own folder of radiographs"
	@echo "make test               install the tests' needs and run them (make test EXTRAS=dev,peers,cxr-foundation,milvus,monai,croissant,explain,ray,map: all;"
	@echo "                        WORKERS= in one process)"
	@echo "make soak               the long tests"
	@echo "make check              lint, format, types"
	@echo "make docs               docs/command-line.md anew, and the site into docs/_build; no network is needed to read it"
	@echo "make benchmarks         the tables of docs/benchmarks.md (needs EXTRAS=dev,peers,cxr-foundation,milvus)"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("cxr-embed needs Python 3.11 or newer; say make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

comma := ,
$(VENV)/.$(subst $(comma),-,$(EXTRAS)): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

demo: $(VENV)/.core
	@$(BIN)/cxr-embed demo $(if $(value IMAGES),--images "$$IMAGES")

test: $(VENV)/.$(subst $(comma),-,$(EXTRAS))
	$(BIN)/python -m pytest -m "not soak" $(WORKERS) $(PYTEST_ARGS)

soak: $(VENV)/.$(subst $(comma),-,$(EXTRAS))
	$(BIN)/python -m pytest -m soak --timeout=600 $(SOAKERS) $(PYTEST_ARGS)

check: $(VENV)/.$(subst $(comma),-,$(EXTRAS))
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(VENV)/.$(subst $(comma),-,$(EXTRAS))
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

docs: $(VENV)/.docs
	$(BIN)/python docs/command_line.py
	$(BIN)/python -m sphinx -E -W --keep-going -q docs docs/_build
	@echo "docs/_build/index.html"

benchmarks: $(VENV)/.$(subst $(comma),-,$(EXTRAS))
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) demo build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
