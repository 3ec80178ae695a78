# Everything a contributor types. `make` lists the targets; `make test` is what CI runs.
PYTHON ?= python3
LABEL_STUDIO_VERSION := 1.23.2
READY := .venv/.ready
LABEL_STUDIO_READY := .venv-label-studio/.ready-$(LABEL_STUDIO_VERSION)
export UV_HTTP_TIMEOUT ?= 300
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup setup-label-studio setup-browser test check fix docs screenshots bench serve demo constraints

# $(call install,VENV,WHAT): with uv, which is fast; with pip where uv cannot be had or does not reach the packages.
install = .venv/bin/uv pip install -q --python $(1)/bin/python $(2) \
	|| { echo "uv did not do it: trying pip, which takes longer"; $(1)/bin/python -m pip install -q $(2); }

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 28

setup: $(READY) ## Make .venv with the package and its tools; instant when nothing changed
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install -q -c constraints.txt uv || echo "uv cannot be had"
	@$(call install,.venv,-c constraints.txt -e .[dev])
	@$(call install,.venv,-c constraints.txt --no-deps label-studio-ml)
	@touch $@

setup-label-studio: $(LABEL_STUDIO_READY) ## Make .venv-label-studio with the Label Studio the tests and the demo start
$(LABEL_STUDIO_READY): | $(READY)
	@test -x .venv-label-studio/bin/python || $(PYTHON) -m venv .venv-label-studio
	@$(call install,.venv-label-studio,label-studio==$(LABEL_STUDIO_VERSION))
	@touch $@

setup-browser: ## Install Debian's Chromium for the browser tests, if it is missing
	@! command -v chromium >/dev/null || exit 0; \
	as_root=env; [ "$$(id -u)" = 0 ] || as_root="sudo -n env"; \
	if $$as_root apt-get update -qq 2>/dev/null && $$as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	then exit 0; fi; \
	echo "NO BROWSER: the browser tests will be skipped. Install a program named chromium to run them." >&2; [ "$${CI:-}" != true ]

test: setup setup-label-studio setup-browser ## Run every test, the static checks and the real Label Studio among them
	@.venv/bin/pytest $(or $(ARGS),-n 2 --dist loadfile)
check: setup ## Run the static checks one by one, then every test
	.venv/bin/ruff format --check && .venv/bin/ruff check
	.venv/bin/mypy && .venv/bin/lint-imports && .venv/bin/codespell
	@$(MAKE) --no-print-directory test
fix: setup ## Format, and mend what ruff can mend
	.venv/bin/ruff format && .venv/bin/ruff check --fix
docs: setup; @.venv/bin/python docs/generate.py ## Write the pages of docs/ that come from the code
screenshots: setup setup-label-studio setup-browser ## Photograph every page of the dashboard for docs/images; some minutes
	@.venv/bin/python docs/screenshots.py
bench: setup ## Run every benchmark, beside other libraries; the first time it fetches and embeds MNIST
	@$(call install,.venv,-c constraints.txt -e .[dev,bench])
	@for script in benchmarks/*.py; do echo "== $$script"; .venv/bin/python "$$script"; done
serve: setup ## Run the backend from this checkout: server, workers and an embedded Redis
	.venv/bin/ls-backend start
demo: setup setup-label-studio ## Show the whole loop with a Label Studio of its own
	.venv/bin/ls-backend demo
constraints: setup ## Renew constraints.txt: newest versions that pyproject.toml allows
	.venv/bin/uv pip install -q --upgrade -e .[dev]
	.venv/bin/uv pip install -q --upgrade --no-deps 'label-studio-ml<3'
	@{ sed '/^[^#]/,$$d' constraints.txt; .venv/bin/uv pip freeze --exclude-editable \
		| grep -vE '^(torch|torchvision|triton|nvidia-.*|cuda-.*|pip|setuptools)=='; } > .venv/constraints && cp .venv/constraints constraints.txt
	@touch $(READY)
