# Each target sets up what it needs. Everything is installed below .venvs/.

PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 /usr/bin/python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null && echo $$p && break; done)
LAB := .venvs/lab/bin
OUT ?=
# Two workers take the files of tests in order; one of them runs all live tests (tests/conftest.py).
TWO_WORKERS := -n 2 --no-loadscope-reorder
# Many container images set it; every worker, kernel and command would then compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help attach instrumentations setup run test test-fast lab bench soak lint lock slides solutions handout recorded up down clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install the environments, Prometheus and data; does nothing if they are current
	@test -n "$(PYTHON)" || { echo "No Python that can run set-up (3.9 or newer) was found. The lab itself needs Python 3.12 or 3.13: install one, then run make again." >&2; exit 1; }
	@$(PYTHON) -m scripts.setup

run: setup ## start the stack, execute the notebooks, write a report to out/<time>/, stop the stack
	@$(LAB)/lab run $(if $(OUT),--out $(OUT))

test: setup lint ## lint, then run all tests on two workers; live tests share one stack
	@$(LAB)/python -m pytest $(TWO_WORKERS)

test-fast: setup lint ## lint, then run the tests that are neither live nor slow
	@$(LAB)/python -m pytest $(TWO_WORKERS) -m "not live and not slow"

lab: setup ## start the stack and JupyterLab on the loopback interface
	@$(LAB)/python -m lab.runner.jupyter

recorded: ## open JupyterLab on a recording (LAB_RECORDING) after a light set-up without vLLM; nothing is sent
	@$(PYTHON) -m scripts.setup light
	@LAB_PLACE=recorded $(LAB)/python -m lab.runner.jupyter

attach: ## after a light set-up without vLLM: check PROMETHEUS=URL (and TEMPO=URL), and show its engines
	@$(PYTHON) -m scripts.setup light
ifdef PROMETHEUS
	@$(LAB)/lab attach --prometheus "$(PROMETHEUS)" $(if $(TEMPO),--tempo "$(TEMPO)") --write
	@$(LAB)/lab fleet
else
	@echo "ready. Next: $(LAB)/lab attach --prometheus URL --write, then $(LAB)/lab fleet (docs/hosting.md)"
endif

bench: setup ## run all benchmarks; print a table and write benchmarks/results.json
	@$(PYTHON) -m scripts.setup bench
	@$(LAB)/python -m benchmarks

soak: setup ## load the lab for 30 minutes and report how its memory grows (SOAK="--minutes 5" for less)
	@$(LAB)/python -m benchmarks.soak $(SOAK)

instrumentations: setup ## record the spans of all GenAI libraries again, with the running lab's vLLM
	@$(PYTHON) -m scripts.setup instrumentations
	@for library in genai openinference openllmetry litellm; do \
		.venvs/instrumentations/bin/python tests/instrumentations/record.py $$library \
			$$($(LAB)/python -c 'from lab.settings import load_settings as s; print(s().endpoint("vllm"))')/v1 \
			lab-model || exit 1; done

slides: setup ## make slides of all notebooks in out/slides (docs/facilitator.md)
	@$(LAB)/python -m scripts.slides

solutions: setup ## write notebooks with the solutions of the exercises to out/solutions
	@$(LAB)/python -m scripts.handout --solutions

handout: setup ## make out/handout.zip from the newest run: executed notebooks, report, glossary
	@$(LAB)/python -m scripts.handout

lint: setup ## run ruff, mypy and the notebook checks
	@$(LAB)/ruff check --quiet .
	@$(LAB)/mypy
	@$(LAB)/python -m scripts.check_notebooks

up: setup ## start the stack
	@$(LAB)/lab up

down: ## stop the stack
	@test ! -x $(LAB)/lab || $(LAB)/lab down

lock: setup ## resolve the requirements again (needs a package index)
	@$(PYTHON) -m scripts.setup.lock

clean: down ## stop the stack and delete .venvs/, .lab/, out/ and caches
	@rm -rf .venvs .lab out .pytest_cache .ruff_cache .hypothesis

# check-cluster, smoke-minikube and related targets
include lab/k8s/Makefile.inc
