# Two commands do everything: `make demo` and `make test`.
# Python 3.10 to 3.13; choose one with PYTHON=python3.12.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# scenedetect asks for the OpenCV build that needs libGL, which servers often lack.
HEADLESS = @$(BIN)/python -c "import cv2" 2>/dev/null || \
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps opencv-python-headless

.PHONY: install demo test lint docs miniature clean

install: $(VENV)/.demo
	@echo "realdpo is in $(BIN)/realdpo"

demo: $(VENV)/.demo
	$(BIN)/realdpo demo -w demo

test: $(VENV)/.test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p realdpo

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	$(HEADLESS)
	@touch $@

$(VENV)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	$(HEADLESS)
	@touch $@ $(VENV)/.demo

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the site is in build/site"

miniature: $(VENV)/.demo
	$(BIN)/python benchmarks/miniature.py

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache
