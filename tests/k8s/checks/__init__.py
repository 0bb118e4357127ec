"""Check the cluster form of the lab (lab/k8s) without a cluster: `make check-cluster`.

Each module has one check: a function from rendered documents (or files) to a list of problems, one
sentence each; an empty list means that nothing is wrong. The tests (tests/k8s) run them on every
overlay, in the lab's environment; only checkov (policies) has an environment of its own.
"""
