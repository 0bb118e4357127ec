"""One verb each, run as `python -m scripts.VERB` from the repository root."""
