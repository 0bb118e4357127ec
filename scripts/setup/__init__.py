"""Set the machine up: `python3 -m scripts.setup`, with any Python from 3.9 on and no packages.

It finds or fetches uv, the interpreters, both Python environments, the data that packages carry,
and Prometheus, all below `.venvs/`, which may be deleted at any time. It writes what it found to
`.venvs/tools.json` (see requirements/README.md).
"""
