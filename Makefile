# Two commands do everything on a fresh machine: `make sweep` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
CORPUS := mlruns/corpora/synthetic

.PHONY: sweep test soak check install clean

sweep: $(CORPUS)/corpus.json  ## a small real sweep on synthetic speech
	$(BIN)/platform sweep synthetic --data $(CORPUS)
	@echo "The command platform is in $(BIN): source $(BIN)/activate"

# In the files' own order: pytest-xdist would leave those with the fewest tests, which take longest, to the end. Tests
# start hundreds of processes, each of which would compile the packages anew where PYTHONDONTWRITEBYTECODE is set.
test: $(INSTALLED)  ## every test
	-$(BIN)/python -m compileall -qq platform trainables search_spaces
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: $(INSTALLED)  ## kills a real sweep at 100 random moments and audits it
	PYTHONPATH=tests/support $(BIN)/python tests/end_to_end/soak.py --moments 100

check: $(INSTALLED)  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(INSTALLED)  ## the environment alone

# pip compiles on one core, tests included, which takes longer than the rest of it. All cores do it after pip: left to the
# first import, it would be done anew at every start where PYTHONDONTWRITEBYTECODE is set, as it is in many containers.
$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --requirement requirements.lock
	-$(BIN)/python -m compileall -qq -j 0 -x /tests/ .venv/lib
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(CORPUS)/corpus.json: | $(INSTALLED)
	$(BIN)/platform prepare synthetic --out $(CORPUS)

clean:  ## the environment; runs and models stay
	rm -rf .venv
