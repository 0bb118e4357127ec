"""`lab run`: execute the notebooks in order against the real stack, and write a report.

execute.run_notebooks(paths, out_dir, parameters, settings)   runs all, whatever fails
report.write_report(out_dir, runs, facts)                     writes one self-contained page
session.run_session(settings, paths, out_dir, parameters)     stack up, notebooks, report, down
"""
