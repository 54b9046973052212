# A newcomer's two commands: make demo, make test. Everything Python goes to .venv in this checkout; the control-plane
# programs are built once into the user's cache folder.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
GENERATED := crds helm/spillway docs/reference

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-fast test-cluster cluster history report lint verify generate bench setup binaries constraints check-go clean

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: binaries ## Watch a GPU burst come and go on a real control plane (5 minutes once built)
	@$(BIN)/python -m tests.cluster.demo

test: test-fast test-cluster ## Run every test, fast ones first

test-fast: setup ## Run the tests that need no control plane (under a minute)
	$(BIN)/pytest -n 2 -m "not cluster and not bench" tests

# Two control planes side by side: these tests mostly wait for windows to pass.
test-cluster: binaries ## Run the tests on the real control plane
	$(BIN)/pytest -n 2 --dist loadfile -m "cluster and not bench" tests/cluster tests/chart

cluster: binaries ## Keep a control plane, Prometheus and stand-in exporter running until Ctrl-C
	@$(BIN)/python -m tests.cluster

history: binaries ## Keep a Prometheus with a made-up fortnight running until Ctrl-C
	@$(BIN)/python -m tests.cluster.past

lint: setup ## Check style, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

verify: generate ## Generate CRDs, chart schema and reference pages again; fail if that changes a file
	@git diff --exit-code -- $(GENERATED) \
	  || { echo 'Generated files were out of date; they are fresh now: review and commit them.' >&2; exit 1; }
	@new=$$(git ls-files --others --exclude-standard -- $(GENERATED)); test -z "$$new" \
	  || { printf 'Not in git yet:\n%s\nReview and commit them.\n' "$$new" >&2; exit 1; }

generate: setup ## Write the generated files anew
	$(BIN)/python -m spillway.api.crdgen crds
	$(BIN)/python -m spillway.api.reference docs/reference/api.md
	$(BIN)/python -m spillway.app.reference docs/reference
	$(BIN)/python -m spillway.cli.reference docs/reference/cli.md
	$(BIN)/python -m tests.edge_cases docs/reference/edge-cases.md
	$(BIN)/python helm/generate.py

report: setup ## Play the synthetic traces again: docs/reports/synthetic.html and docs/images/day.svg
	@mkdir -p docs/reports
	$(BIN)/spillway simulate --demand synthetic --spot synthetic --days 2 --bound --format html --output docs/reports/synthetic.html
	$(BIN)/python docs/images/make.py

bench: binaries ## Measure speed, memory and requests; the figures of the release notes
	@for script in tests/bench/bench_*.py; do \
	  name=$$(basename "$$script" .py); echo "== $$name"; $(BIN)/python -m "tests.bench.$$name" || exit 1; \
	done

setup: $(STAMP) ## Make .venv and install what pyproject.toml and constraints.txt ask for

$(STAMP): pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" tests/check-machine.sh python
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@echo 'Installing Spillway and its tools into .venv …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

check-go:
	@tests/check-machine.sh go

binaries: check-go setup ## Build etcd, Kubernetes, kwok, helm and Prometheus once (about 12 minutes on 2 cores)
	@$(BIN)/python -m tests.cluster.binaries > /dev/null

constraints: ## Pin the newest versions that pyproject.toml allows into constraints.txt
	@PYTHON="$(PYTHON)" tests/check-machine.sh python
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && "$(PYTHON)" -m venv "$$fresh" \
	  && "$$fresh/bin/python" -m pip install --quiet --disable-pip-version-check '.[dev]' \
	  && { echo "# Reproducible installs: pip install -c constraints.txt -e '.[dev]'. Refreshed by make constraints."; \
	       "$$fresh/bin/python" -m pip freeze --exclude spillway; } > "$$fresh/pins" && cp "$$fresh/pins" constraints.txt

clean: ## Remove .venv and every cache in this checkout (the built programs stay)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist bench-results
	find operator tests helm -name __pycache__ -type d -prune -exec rm -rf {} +
