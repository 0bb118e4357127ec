# Each target does all of its own set-up. Everything it installs goes below .venvs/.

PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 /usr/bin/python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null && echo $$p && break; done)
LAB := .venvs/lab/bin
OUT ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test test-fast lab bench lint lock slides recorded up down clean

help: ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## both environments, Prometheus, data; again: nothing to do
	@test -n "$(PYTHON)" || { echo "No Python was found that can run set-up (3.9 or newer). The lab itself needs Python 3.12 or 3.13: install one, then run make again." >&2; exit 1; }
	@$(PYTHON) -m scripts.setup

run: setup ## stand the stack up, execute the notebooks, leave a report in out/<time>/, take the stack down
	@$(LAB)/lab run $(if $(OUT),--out $(OUT))

test: setup lint ## lint, unit tests, then the live ones against one stack
	@$(LAB)/python -m pytest

test-fast: setup lint ## the tests that need no running stack
	@$(LAB)/python -m pytest -m "not live and not slow"

lab: setup ## the stack and JupyterLab, on loopback
	@$(LAB)/python -m lab.runner.jupyter

recorded: ## JupyterLab on a recording (LAB_RECORDING): a light set-up without vLLM, nothing is sent
	@$(PYTHON) -m scripts.setup light
	@LAB_PLACE=recorded $(LAB)/python -m lab.runner.jupyter

bench: setup ## every benchmark, one table, benchmarks/results.json
	@$(PYTHON) -m scripts.setup bench
	@$(LAB)/python -m benchmarks

slides: setup ## slides of all notebooks in out/slides (docs/facilitator.md)
	@$(LAB)/python -m scripts.slides

lint: setup ## ruff, and the rules for notebooks
	@$(LAB)/ruff check --quiet .
	@$(LAB)/python -m scripts.check_notebooks

up: setup ## stand the stack up
	@$(LAB)/lab up

down: ## take the stack down
	@test ! -x $(LAB)/lab || $(LAB)/lab down

lock: setup ## resolve the requirements anew (needs the package registry)
	@$(PYTHON) -m scripts.setup.lock

clean: down ## remove what was set up and made: .venvs/, .lab/, out/
	@rm -rf .venvs .lab out .pytest_cache .ruff_cache .hypothesis

# The cluster room: check-cluster, smoke-minikube and what belongs to them.
include lab/k8s/Makefile.inc
