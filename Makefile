# Everything a developer does from the command line. `make help` lists it.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && exit; done; echo python3)
BIN := .venv/bin
LOCK := infra/requirements.lock
# A copy of the lock that .venv was built from.
INSTALLED := .venv/requirements.lock
INVOCATIONS ?= 600
KILLS ?= 100

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run dev servers-up servers-down test test-all test-containers lint format bench simulate chaos schemas lock \
	clean prerequisites

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: prerequisites $(INSTALLED) ## Run the payments demo through Kafka and Postgres: INVOCATIONS=600
	$(BIN)/streams demo --invocations $(INVOCATIONS)

dev: prerequisites $(INSTALLED) ## Keep the demo's pipeline and its servers up for playing, until Ctrl-C
	$(BIN)/streams dev streams.demo.app:app

test: prerequisites $(INSTALLED) ## Run the tests: ARGS="tests/unit -k breaker"
	$(BIN)/pytest $(ARGS)

test-all: test lint ## Run all tests, the long ones too, then the checks of the code
	$(BIN)/pytest -m long
	$(BIN)/python -m tests.simulation --seeds 200

test-containers: $(INSTALLED) ## Run the integration tests on containers, from images made on the spot (Linux, root)
	$(BIN)/python infra/docker/test_containers.py $(ARGS)

lint: $(INSTALLED) ## Check style, types, import rules and docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/interrogate --quiet streams

format: $(INSTALLED) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: prerequisites $(INSTALLED) ## Measure, one JSON line a case: ONLY=name, PLOTS=folder
	$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY)) $(if $(PLOTS),--plots $(PLOTS))

simulate: $(INSTALLED) ## Simulate crashes and races in virtual time: SEEDS=10000, or SEED=n for one again
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000))

chaos: prerequisites $(INSTALLED) ## Kill every role under load and verify that nothing is lost or done twice: KILLS=100
	$(BIN)/python -m tests.chaos --kills $(KILLS)

servers-up: prerequisites $(INSTALLED) ## Start a Kafka and a Postgres in the background and print their addresses
	@$(BIN)/streams servers up

servers-down: $(INSTALLED) ## Stop them; their data stays
	@$(BIN)/streams servers down

schemas: $(INSTALLED) ## Write schemas/ again after a change of the records: VERSION=0.1.0 keeps them as released
	$(BIN)/python -m streams.records write
	$(if $(VERSION),$(BIN)/python -m streams.records release --version $(VERSION))

lock: $(INSTALLED) ## Choose the newest versions that pyproject.toml allows and write them to the lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" --quiet --output-file $(LOCK)

clean: ## Remove what was built or started here: servers and their data, .venv, caches
	@if [ -x $(BIN)/streams ]; then $(BIN)/streams servers down; fi
	rm -rf .venv .streams .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

prerequisites:
	@$(PYTHON) infra/check_prerequisites.py

$(INSTALLED): $(LOCK)
	@$(PYTHON) infra/check_prerequisites.py --python-only
	@if cmp -s $(LOCK) $@; then touch $@; else \
		set -e; \
		echo "Installing into .venv; this takes a minute."; \
		$(PYTHON) -m venv --clear .venv; \
		$(BIN)/pip install --quiet --require-hashes -r $(LOCK); \
		$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .; \
		cp $(LOCK) $@; \
	fi
