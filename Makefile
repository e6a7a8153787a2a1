# Every target sets itself up: Python >= 3.11 with venv, and make, are all it needs.
#
#   make demo | test | test-free-threaded | test-oldest-otel | test-journald
#   make test-collector | torture | mutants | lint | types | benchmark | clean
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

.PHONY: demo test test-free-threaded test-oldest-otel test-journald
.PHONY: test-collector torture mutants lint types benchmark clean

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

# What touches OpenTelemetry, with the oldest that is supported: `test` has the newest.
OLDEST ?= .oldest-otel
OTEL_TESTS := tests/otel tests/codec/test_otlp.py tests/codec/test_exceptions.py \
	$(wildcard tests/sinks/test_otlp*.py) $(wildcard tests/real/test_otlp*.py) \
	tests/worker/test_carry.py tests/worker/test_tasks.py \
	tests/worker/test_span_after_fork.py
test-oldest-otel: $(OLDEST)/.installed
	PYTHONPATH=$(CURDIR) $(OLDEST)/bin/python -m pytest -p femtomp.pytest_plugin \
		-n $(WORKERS) --dist loadgroup $(ARGS) $(or $(TESTS),$(OTEL_TESTS))

$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		'opentelemetry-exporter-otlp==1.39.*' 'opentelemetry-sdk==1.39.*' \
		'msgspec>=0.20' 'psutil>=6' 'hypothesis>=6.100' 'pytest>=9' \
		'pytest-xdist>=3.6'
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

# Against the OpenTelemetry Collector, which is built if there is none: as root.
COLLECTOR ?= .collector
COLLECTOR_TESTS := tests/real/test_collector.py tests/real/test_fleet.py \
	tests/examples/test_collector.py
test-collector: $(STAMP)
	set -e; otelcol=$$(tests/real/otelcol/build.sh $(COLLECTOR)); \
		FEMTOMP_TEST_REQUIRE="$${FEMTOMP_TEST_REQUIRE:-otlp,netns},otelcol" \
		OTELCOL=$$otelcol $(BIN)/python -m pytest -rP $(ARGS) \
		$(or $(TESTS),$(COLLECTOR_TESTS))

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
	rm -rf $(VENV) $(FREE) $(OLDEST) $(COLLECTOR) .journald-root build dist
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
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
