"""Checks of the cluster form of the lab (lab/k8s), without a cluster. `python -m scripts.check_cluster`.

Each module has one check: a function from rendered documents (or files) to a list of problems, in words; empty is good.
Those that need packages of their own (schemas, custom_resources) run in .venvs/cluster; the rest in the lab's own
environment, so that `make test` runs them too.
"""
