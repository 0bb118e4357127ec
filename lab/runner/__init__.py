"""`lab run`: execute the notebooks in order against the real stack, and write a report.

execute.run_notebooks(paths, out_dir, parameters, settings)   runs all, whatever fails
report.write_report(out_dir, runs, facts)                     writes one self-contained page
session.run_session(settings, paths, out_dir, parameters)     stack up, notebooks, report, down
"""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run `lab run`; see lab.runner.session. Returns the exit status."""
    from lab.runner import session

    return session.main(argv)
