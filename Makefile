# Every target sets itself up: Python >= 3.11 with venv, and make, are all it needs.
#
#   make demo | test | test-free-threaded | test-journald | torture | mutants
#   make lint | types | benchmark | clean
#
# VENV=DIR       the virtual environment (.venv)
# PYTHON=EXE     what to make it with; else the first usable of the names below
# WORKERS=N      test processes (2)
# TESTS=PATHS    a part of the suite;  ARGS=...  more arguments for the job,
#                as in: make torture ARGS="--seed 7 --scale 0.1 worker engine"

VENV ?= .venv
WORKERS ?= 2
TESTS ?=
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Run, not only looked up: a version manager's shim exists and fails.
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,\
	$(shell $(p) -c '$(USABLE)' >/dev/null 2>&1 && echo $(p))))

.PHONY: demo test test-free-threaded test-journald torture mutants lint types
.PHONY: benchmark clean

demo: $(STAMP)
	$(BIN)/femtomp demo $(ARGS)

# A worker that died (a crash, a hung test) is replaced and tries its test again: twice.
test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup \
		--max-worker-restart 2 $(ARGS) $(TESTS)

# Whole counts: an hour. It exits with 1 if a figure was missed.
torture: $(STAMP)
	$(BIN)/python -m tests.torture $(ARGS)

# The lanes' tests on a Python without a global lock, which is built if there is none.
# Not femtomp whole: msgspec, which writes JSON, has no build for 3.13 without the lock.
# Newer versions of hypothesis have compiled parts, and no wheel for such a Python.
FREE ?= .free-threaded
test-free-threaded: $(FREE)/.installed
	PYTHONPATH=$(CURDIR) PYTHON_GIL=0 $(FREE)/venv/bin/python -m pytest \
		-n $(WORKERS) $(ARGS) $(or $(TESTS),tests/lanes)

$(FREE)/.installed: pyproject.toml
	set -e; python=$$(tests/free_threaded.sh $(FREE)); \
		"$$python" -m venv --clear $(FREE)/venv
	$(FREE)/venv/bin/python -m pip install --quiet --disable-pip-version-check \
		psutil 'hypothesis>=6.100,<6.140' pytest pytest-xdist
	touch $@

# journald's tests at their full counts, against Debian unstable's systemd in a
# directory; root, debootstrap. JOURNALD_ROOT= (empty) takes the system's own.
JOURNALD_ROOT ?= $(CURDIR)/.journald-root
test-journald: $(STAMP) $(if $(JOURNALD_ROOT),$(JOURNALD_ROOT)/usr/lib/systemd/systemd-journald)
	FEMTOMP_TEST_JOURNALD_ROOT=$(JOURNALD_ROOT) FEMTOMP_TEST_REQUIRE=journald \
	FEMTOMP_TEST_JOURNALD_RECORDS=100000 FEMTOMP_TEST_JOURNALD_AWAY_S=60 \
		$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS) \
		$(or $(TESTS),$(wildcard tests/real/test_journald*.py))

$(CURDIR)/.journald-root/usr/lib/systemd/systemd-journald:
	debootstrap --variant=minbase --include=systemd sid $(CURDIR)/.journald-root

# Faults put into a copy of the tree; it exits with 1 if the tests miss one.
mutants: $(STAMP)
	$(BIN)/python -m tests.mutants $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy femtomp $(wildcard tests/typing)

benchmark: $(STAMP)
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(FREE) .journald-root build dist .hypothesis .mypy_cache
	rm -rf .pytest_cache .ruff_cache
	find benchmarks examples femtomp tests -name __pycache__ -type d \
		-exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "femtomp needs Python 3.11 or later with the venv module." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	touch $@
