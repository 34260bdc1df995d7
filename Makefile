# make install | demo | test | test-live | test-cdk | test-browser | check | docs | bench | bench-growth | bench-peers | lambda-zip      (nothing but Python 3.11 or newer is needed)
#
#   VENV=dir    where the environment is made (.venv)
#   WHEEL=file  test this wheel, not the source tree (VENV should then be a fresh one)
#   ARGS=…      arguments of `dsqlcdc demo`, or of the Lambda zip's builder
#   TESTS=…     what pytest is to run, with options

PYTHON ?= python3
VENV ?= .venv
WHEEL ?=
ARGS ?=
TESTS ?= tests
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SUBJECT := $(if $(WHEEL),$(WHEEL),-e .)

# Neither the working directory nor a script's goes onto sys.path: what is installed is what runs.
export PYTHONSAFEPATH := 1

.PHONY: install demo test test-live test-cdk test-browser check docs bench bench-growth bench-peers lambda-zip clean
.DELETE_ON_ERROR:

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/dsqlcdc demo $(ARGS)

test: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist worksteal $(TESTS)

# Real servers on loopback: a single-node OpenSearch (Java 17 and Maven are needed, and said to be where they are not there).
# OPENSEARCH_VERSION=3.6.0 takes that one: Java 21 or newer, from JAVA_HOME or the path.
test-live: $(VENV)/.dev
	$(BIN)/pytest -m live -p no:xdist tests/live

# The CDK constructs, synthesised and linted: their libraries are 430 MB.
test-cdk: $(VENV)/.cdk
	$(BIN)/pytest -m cdk -p no:xdist tests/deploy

# The status page in a real Chromium, which is installed where that can be done.
test-browser: $(VENV)/.browser
	tests/browser/chromium
	$(BIN)/pytest -m browser -p no:xdist tests/browser

check: $(VENV)/.dev $(VENV)/.deploy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	deploy/check $(BIN)
	$(BIN)/python docs/site.py --out dist/docs

# The documentation as a site, in dist/docs; a broken link is an error.
docs: $(VENV)/.dev
	$(BIN)/python docs/site.py --out dist/docs

bench: $(VENV)/.bench
	$(BIN)/pytest -m bench -s -p no:xdist tests/benchmarks

# What grows, and what one machine carries; the charts of docs/performance.md are drawn anew. KEYS=10000000: ten million keys too.
bench-growth: $(VENV)/.bench
	BENCH_CHARTS=$(abspath docs/performance) BENCH_KEYS=$(or $(KEYS),1000000) \
		$(BIN)/pytest -m bench -s -p no:xdist tests/benchmarks/test_growth.py tests/benchmarks/test_shards.py

# Against other consumers: needs Go (1.24 or newer), and some minutes for Bento's build the first time.
bench-peers: $(VENV)/.bench $(VENV)/peers/.installed
	BENCH_PEERS=$(abspath $(VENV)/peers) $(BIN)/pytest -m bench -s -p no:xdist tests/benchmarks/test_daemon.py tests/benchmarks/test_peers.py

$(VENV)/peers/.installed: tests/benchmarks/bento/main.go tests/benchmarks/bento/go.mod | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/peers/venv
	$(VENV)/peers/venv/bin/python -m pip --disable-pip-version-check install --quiet async-kinesis==3.0.1 orjson==3.13.0 uvloop==0.23.0
	mkdir -p $(VENV)/peers/bento
	cp tests/benchmarks/bento/main.go tests/benchmarks/bento/go.mod $(VENV)/peers/bento
	cd $(VENV)/peers/bento && go mod tidy && go build -trimpath -ldflags '-s -w' -o ../bento-bench .
	touch $@

# The Lambda zip: ARGS='--add orders.yaml' puts the config beside the packages, --platform and --python say for which system.
lambda-zip: $(VENV)/.installed
	$(BIN)/python deploy/lambda/build.py --out dist/lambda.zip $(ARGS)

$(VENV)/.bench: pyproject.toml constraints.txt $(WHEEL) | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt $(SUBJECT)[bench]
	touch $@ $(VENV)/.dev $(VENV)/.installed

clean:
	rm -rf .venv dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dsqlcdc needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt $(WHEEL) | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt $(SUBJECT)[local]
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(WHEEL) | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt $(SUBJECT)[dev]
	touch $@ $(VENV)/.installed

# What lints deploy/: some 400 MB, so only `make check` has it.
$(VENV)/.deploy: $(VENV)/.dev
	$(PIP) install --quiet --constraint constraints.txt $(SUBJECT)[deploy]
	touch $@

$(VENV)/.browser: $(VENV)/.dev
	$(PIP) install --quiet --constraint constraints.txt $(SUBJECT)[browser]
	touch $@

$(VENV)/.cdk: $(VENV)/.deploy
	$(PIP) install --quiet --constraint constraints.txt $(SUBJECT)[cdk]
	touch $@
