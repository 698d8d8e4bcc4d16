# make demo    ask the sample images everything, with the CLIP and the SAM that come with the package
# make images   the images of the documents, remade by the demo
# make test    everything in tests/
# make test-quick   what takes no more than 2 seconds each
# make lint    ruff and mypy --strict
# make bench   the table of docs/benchmarks.md, as ratios measured now
# make test-lowest   the tests with the oldest dependencies that pyproject.toml allows
#
# PYTHON       the Python (3.11 or later) that makes the environments
# VENV         the environment that everything runs in
# WORKERS      how many processes run the tests beside each other
# TORCH_INDEX  where to take PyTorch from; https://download.pytorch.org/whl/cpu has the small CPU-only build

PYTHON ?= python3
VENV ?= .venv
VENV_LOWEST ?= .venv-lowest
TORCH_INDEX ?=
DEMO ?= demo
WORKERS ?= 2
# Each process gets a row of tests that follow each other, so that few fixtures are made twice; who is done takes
# from the end of another's row.
PYTEST = -m pytest --numprocesses $(WORKERS) --dist worksteal

.PHONY: demo images test test-quick test-lowest lint bench clean

demo: $(VENV)/installed
	$(VENV)/bin/python examples/demo.py $(DEMO)

images: $(VENV)/installed
	$(VENV)/bin/python examples/make_images.py

test: $(VENV)/installed-dev
	$(VENV)/bin/python $(PYTEST)

test-quick: $(VENV)/installed-dev
	$(VENV)/bin/python $(PYTEST) -m "not slow"

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(VENV)/installed-dev
	$(VENV)/bin/python -m benchmarks

test-lowest: $(VENV_LOWEST)/installed
	$(VENV_LOWEST)/bin/python $(PYTEST)

# The stamp of an environment is older than pyproject.toml when the dependencies may have changed.
$(VENV)/installed: $(VENV)/created pyproject.toml
	$(VENV)/bin/python -m pip install --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/created pyproject.toml
	$(VENV)/bin/python -m pip install --editable ".[dev]"
	touch $(VENV)/installed $@

$(VENV)/created:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or later is needed: make PYTHON=...')"
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX),)
	$(VENV)/bin/python -m pip install torch torchvision --index-url $(TORCH_INDEX)
endif
	touch $@

$(VENV_LOWEST)/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv --clear $(VENV_LOWEST)
	$(VENV_LOWEST)/bin/python -m pip install --editable ".[test]" --constraint constraints-lowest.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV_LOWEST) $(DEMO) dist build
