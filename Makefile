.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help course test lab app bench seeds mutants notebooks clean

help:  ## Say what each command does
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[site,test]'
	@touch $@

course: .venv/installed  ## Run every notebook and write the site, build/index.html
	@$(BIN)/python notebooks/build.py

test: .venv/installed  ## Check style, pairing and mathematics, and that the notebooks print what they should
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q
	$(BIN)/python -m pytest -q --nbval notebooks

lab: .venv/installed  ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks --ServerApp.tornado_settings='{"websocket_max_message_size": 67108864}'

app: .venv/installed  ## Open two pages without code in a browser: the β panel, and a walk along a level set
	cd notebooks/app && ../../$(BIN)/voila .

bench: .venv/installed  ## Time the fast algorithms against the usual ones
	@for script in tests/bench/bench_*.py; do $(BIN)/python $$script || exit 1; done

seeds: .venv/installed  ## Run the lessons with twenty seeds each and hold what they measure against its bounds (one: ONLY=05)
	$(BIN)/python tests/lesson_runs.py $(ONLY)

mutants: .venv/installed  ## Break the module line by line and see which breaks no test notices (hours; one: ONLY='*fold*')
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[mutants]'
	$(BIN)/mutmut run $(ONLY)
	$(BIN)/mutmut results

notebooks: .venv/installed  ## For authors: run the .py notebooks (one: ONLY=03), rewrite the .ipynb beside them
	@$(BIN)/python notebooks/build.py --rewrite $(ONLY)

clean:  ## Remove what was built, the environment too
	rm -rf build mutants .site-* .venv .pytest_cache .ruff_cache .hypothesis *.egg-info
