"""Check the cluster form of the lab (lab/k8s) without a cluster: `python -m scripts.check_cluster`.

Each module has one check: a function from rendered documents (or files) to a list of problems, one
sentence each; an empty list means that nothing is wrong. All checks run in the lab's environment,
so `make test` runs them too; only checkov (policies) has an environment of its own.
"""
