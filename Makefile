# `make demo` and `make test` do all of their set-up themselves.
PYTHON ?= python3
BIN := .venv/bin
LOWEST := .venv-lowest/bin
# One thread for each of the test processes: more of them only wait for each other.
export OMP_NUM_THREADS ?= 1
# glibc keeps what is freed, as under scripts/launch.sh.
export MALLOC_TRIM_THRESHOLD_ ?= -1
export MALLOC_MMAP_THRESHOLD_ ?= 67108864

.PHONY: venv demo test test-lowest lint browser

venv: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

demo: venv
	$(BIN)/mllm demo

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if npx --yes --package typescript@5 tsc --version >/dev/null 2>&1; \
	then npx --yes --package typescript@5 tsc --project mllm/serving/page; \
	else echo "no node or no typescript: the types of mllm/serving/page are not checked"; fi

# The page's tests drive Chromium, which root may install.
browser:
	@command -v chromedriver >/dev/null || test "$$(id -u)" != 0 || \
	(apt-get update -qq && apt-get install -qq --no-install-recommends chromium chromium-driver fonts-liberation >/dev/null) || true
	@command -v chromedriver >/dev/null || \
	echo "no Chromium: tests marked browser will fail; apt-get install chromium chromium-driver"

test: lint browser
	$(BIN)/pytest -n 2 -m "not launch"
	$(BIN)/pytest -m launch

# The same tests with the lowest versions that pyproject.toml allows.
test-lowest: .venv-lowest/.installed browser
	$(LOWEST)/pytest -n 2 -m "not launch"
	$(LOWEST)/pytest -m launch

.venv-lowest/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/pip install --quiet --upgrade pip uv
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --resolution lowest-direct --editable '.[test]'
	touch $@
