"""Benchmarks of the lab against alternatives. See README.md here; `main` is `lab bench`."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run benchmarks; see benchmarks.__main__."""
    from benchmarks.__main__ import main as run

    return run(argv)
