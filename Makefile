# Everything runs in .venv, which `make env` makes. Paths are relative throughout, so a folder with a space in its name is fine.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# Tools run as modules: a script that pip installs may have the environment's path in its first line, where a space breaks it.
LINT_IMPORTS := $(PYTHON) -c 'from importlinter.cli import lint_imports_command as lint; lint()'
# One worker for each core up to four; a worker that imports TFF takes 700 MB.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$(( n < 2 ? 2 : n > 4 ? 4 : n )))
ARGS ?=
SOURCES := client functions tests docs examples infra

.PHONY: help env env-with-tff demo up smoke fast test test-images test-mutations coverage test-matrix fuzz check format bench bench-fold bundle docs openapi terraform-readme tools requirements images clean

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  make demo ARGS="--clients 20 --rounds 5" passes options on.'

env: ## Make the environment .venv (about 3 GB; without TensorFlow Federated where that can't run)
	@requirements/make-env.sh

env-with-tff: ## As env, and fail where TensorFlow Federated can't run
	@requirements/make-env.sh --with-tff

demo: env ## Train over 10 client processes on this machine, with crashes, in about a minute
	@$(PYTHON) -m muster.cli demo $(ARGS)

up: env ## Serve the coordinator on this machine
	@$(PYTHON) -m muster.cli up $(ARGS)

smoke: env ## Run one real round through a deployment: make smoke URL=https://… OPERATOR_URL=https://…
	@$(PYTHON) -m muster.cli smoke $(if $(URL),--url "$(URL)") $(if $(OPERATOR_URL),--operator-url "$(OPERATOR_URL)") $(ARGS)

fast: ## Check format, lint, types, prose and the quick unit tests, without TensorFlow (half a minute)
	@SOURCES="$(SOURCES)" WORKERS=$(WORKERS) .ci/fast $(ARGS)

check: env-with-tff tools ## Check format, lint, types, import contracts, and for known vulnerabilities
	$(PYTHON) -m ruff format --check $(SOURCES)
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) docs/check_prose.py
	$(PYTHON) -m codespell_lib
	$(PYTHON) -m mypy
	$(LINT_IMPORTS)
	.venv/tools/bin/python -m bandit --quiet --recursive --configfile pyproject.toml client functions docs infra
	@requirements/audit.sh

test: export TF_CPP_MIN_LOG_LEVEL := 3
test: check ## Run the checks and all tests (about 18 minutes on two cores)
	$(PYTEST) -q -n $(WORKERS) --dist loadgroup $(ARGS) </dev/null

# Not part of make test: it takes 13 minutes or more, and 15 GB of disk.
test-images: env-with-tff ## Build all images, run them read-only and play rounds through them (Linux as root, buildah, debootstrap)
	MUSTER_IMAGE_BASE="$${MUSTER_IMAGE_BASE:-debian}" $(PYTEST) -q -s $(ARGS) tests/e2e/test_images.py </dev/null

# Not part of make test: it takes three minutes, and shows only whether the Terraform tests are strict.
test-mutations: env-with-tff ## Mutate the Terraform modules, and check that their tests notice (Terraform)
	MUSTER_MUTATIONS=1 $(PYTEST) -q -n $(WORKERS) --dist loadgroup $(ARGS) tests/infra/test_mutations.py </dev/null

# Not part of make test: tracing doubles the time of these tests on Python 3.11.
coverage: env-with-tff ## Report the share of lines that the tests run in their own process (minutes)
	$(PYTEST) -q -n $(WORKERS) --cov --cov-report=term tests/unit tests/http tests/client tests/contract tests/attacks $(ARGS) </dev/null

test-matrix: env-with-tff ## Clients on Python 3.9 to 3.13 and the newest TensorFlow of each, from a wheel (network; minutes)
	$(PYTHON) tests/matrix/run.py $(ARGS) </dev/null

fuzz: env-with-tff ## Fuzz every decoder for a minute, or longer: make fuzz ARGS="--seconds 3600"
	@cd tests && ../$(PYTHON) -m fuzz.run $(ARGS)

format: env-with-tff ## Format the code and fix what the linter can
	$(PYTHON) -m ruff format $(SOURCES)
	$(PYTHON) -m ruff check --fix $(SOURCES)

BENCH := cd tests && ../$(PYTHON) -m benchmarks
bench: env-with-tff ## Measure everything beside its yardstick and write docs/benchmarks.md: make bench [PEERS=flower] [ARGS="--quick fold"]
	@$(BENCH).suite --write $(if $(PEERS),--peers $(PEERS)) $(ARGS)

bench-fold: env-with-tff ## Print the fold's GB/s as a share of numpy's own addition, and what memory it takes
	@$(BENCH).fold $(ARGS)
	@$(BENCH).memory

bundle: env ## Write the functions as they are deployed to dist/bundles
	@$(PYTHON) -m muster.cli bundle $(ARGS)

docs: env ## Build the site of docs/ in build/site; fails on a warning
	@requirements/make-docs.sh
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/python -m mkdocs build --strict --quiet

openapi: env-with-tff ## Rewrite docs/openapi.json and the reference pages from routes, messages, settings and commands
	$(PYTHON) docs/write_openapi.py
	$(PYTHON) docs/write_reference.py

# Hashes of every file of a version, whatever machine it is for. UPGRADE= keeps the pinned versions, where the .in files still allow them.
UPGRADE ?= --upgrade
RESOLVE := uv pip compile --quiet $(UPGRADE) --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
  --no-annotate --no-header

terraform-readme: env-with-tff ## Rewrite the tables in the Terraform modules' READMEs
	$(PYTHON) infra/terraform/readme.py

tools: env-with-tff ## Make the tools' environment .venv/tools (checkov, bandit, pip-audit); the tests that need it do so themselves
	@requirements/make-tools.sh

requirements: ## Resolve requirements/*.in and those of the functions anew, with hashes, and rewrite the notices (needs uv)
	$(RESOLVE) --override requirements/overrides.txt requirements/all.in -o requirements/all.txt
	for name in tools build up fast docs; do $(RESOLVE) requirements/$$name.in -o requirements/$$name.txt; done
	cd requirements/functions && for file in *.in; do $(RESOLVE) "$$file" -o "$${file%.in}.txt"; done
	requirements/make-notices.sh

images: bundle ## Build the images of the functions and of muster up: make images PYTHON_IMAGE=docker.io/library/python@sha256:…
	@infra/images/build.sh "$(PYTHON_IMAGE)"

clean: ## Remove caches and the demo's output; .venv stays
	rm -rf .matrix .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build muster-demo
