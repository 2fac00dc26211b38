# `make demo`, `make test`, `make test-clients` and `make mutants`. They first make .venv with the locked versions of constraints.txt, once.
# For another Python: `make clean`, then `make demo PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
CHECKED := $(wildcard vision_agent decoders tools tests examples benchmarks)


.PHONY: demo test test-clients browser mutants lint types format clean
# Two pips in one environment would disturb each other.
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: $(VENV)/.demo-installed
	$(BIN)/python examples/tour.py demo.png
	@echo "The image is demo.png."

# Two processes of one thread each: one process of two threads mostly waits. A file stays in one process, with what its
# tests share, and files run in their order: the slowest comes first.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Clients whose packages do not go with ours, or are not needed else: langchain-mcp-adapters wants mcp 1.x.
test-clients: $(VENV)/.test-installed $(VENV)-clients/.installed
	$(BIN)/python tests/tools/mcp_clients.py $(VENV)-clients/bin/python
	$(BIN)/python tests/serve/openai_clients.py $(VENV)-clients/bin/python

# Debian's Chromium, for the tests of the page. Nothing fails where it cannot be installed: they are skipped.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && timeout 300 sh -c 'apt-get -qq update; apt-get -qq install --yes --no-install-recommends chromium' >/dev/null 2>&1 \
	  || echo "No chromium here, and none can be installed: the tests of the page are skipped." >&2; }

# Plants faults of one line and runs the tests that should notice; `make mutants ONLY="box mask"` for some of them.
mutants: $(VENV)/.test-installed
	$(BIN)/python tests/mutants/run.py $(ONLY)

lint: $(VENV)/.test-installed
	$(BIN)/python -m ruff check $(CHECKED)
	$(BIN)/python -m ruff format --check $(CHECKED)

types: $(VENV)/.test-installed
	$(BIN)/python -m mypy vision_agent decoders tools

format: $(VENV)/.test-installed
	$(BIN)/python -m ruff check --fix $(CHECKED)
	$(BIN)/python -m ruff format $(CHECKED)

clean:
	rm -rf $(VENV) $(VENV)-clients build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo.png
	find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so that an interrupted install is done again.
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no '$(PYTHON)'. This needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "'$(PYTHON)' is $$($(PYTHON) --version 2>&1). This needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo-installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing into $(VENV); the first time takes some minutes."
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.test-installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing into $(VENV); the first time takes some minutes."
	$(PIP_INSTALL) --editable '.[test,train,supervision]'
	@touch $@

$(VENV)-clients/.installed: $(VENV)/.created
	$(PYTHON) -m venv --clear $(VENV)-clients
	$(VENV)-clients/bin/python -m pip install --disable-pip-version-check --quiet 'langchain-mcp-adapters==0.3.2' \
	  'langchain-openai==1.7.3' 'langchain-tests==1.1.9' pytest-asyncio
	@touch $@
