"""Set the machine up: `python3 -m scripts.setup` with any Python from 3.9 on, and nothing but the standard library.

It finds or fetches uv, the interpreters, both Python environments, the data that packages carry, and Prometheus; all of
it below `.venvs/`, which may be deleted at any time. What it found is in `.venvs/tools.json`: requirements/README.md.
"""
