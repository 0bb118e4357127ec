"""Checks of the cluster form of the lab (lab/k8s), without a cluster. `python -m scripts.check_cluster`.

Each module has one check: a function from rendered documents (or files) to a list of problems, in words; empty is good.
All run in the lab's environment, so that `make test` runs them too; only checkov (policies) has one of its own.
"""
