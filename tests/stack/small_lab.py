"""Supervise a lab of three small real processes, for test_supervisor.py.

`LAB_SMALL` is JSON with the keys "ports" ([web, other]), "fail" (a part that exits at once),
"on_demand" (a part that runs only when requested), "temporary" (whether that is temporary),
"files" (paths that are written before the start) and "grace_s" (seconds until `other`, which
ignores SIGTERM, is killed). A port that is taken is increased by 1.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lab.stack import supervisor
from lab.stack.parts import Part, Probe
from lab.stack.plan import StackPlan
from lab.stack.ports import is_free

WEB = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
print('listening', flush=True)
handler = http.server.SimpleHTTPRequestHandler
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), handler).serve_forever()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + WEB.replace(
    "subprocess.Popen", "print"
)


def make_plan(given: dict, keep: Mapping[str, int]) -> tuple[StackPlan, dict[str, int]]:
    """Return a plan with three parts and its ports.

    `web` starts a child process, `other` needs `web` and ignores SIGTERM, `task` runs once.
    """
    web_port, other_port = given["ports"]
    # The port is taken at the first attempt, as when it is bound between choice and start.
    if "web" not in keep:
        web_port = web_port if not given.get("moved") else next_free(web_port)
        given["moved"] = True
    web = _server("web", WEB, web_port)
    grace_s = given.get("grace_s", 0.5)
    other = _server("other", STUBBORN, other_port, needs=("web",), grace_s=grace_s)
    argv = (sys.executable, "-c", "print('worked')")
    task = Part("task", "runs once", argv, Probe("exit"), task=True, essential=False)
    parts = [_failing(p) if p.name == given.get("fail") else p for p in (web, other, task)]
    on_demand = given.get("on_demand")
    parts = [
        replace(p, on_demand=True, essential=False, temporary=given.get("temporary", False))
        if p.name == on_demand
        else p
        for p in parts
    ]
    endpoints = {"prometheus": f"http://127.0.0.1:{web_port}"}
    files = {Path(name): "text" for name in given.get("files", ())}
    plan = StackPlan(tuple(parts), files, endpoints, endpoints)
    return plan, {"web": web_port, "other": other_port}


def next_free(port: int) -> int:
    while not is_free(port):
        port += 1
    return port


def _server(name: str, code: str, port: int, **more) -> Part:
    probe = Probe("http", {"url": f"http://127.0.0.1:{port}/"})
    url = f"http://127.0.0.1:{port}/"
    argv = (sys.executable, "-c", code, str(port))
    return Part(name, f"the part {name}", argv, probe, ports={name: port}, alive=url, **more)


def _failing(part: Part) -> Part:
    argv = (sys.executable, "-c", "raise ValueError('no such luck')")
    return Part(
        part.name,
        part.what,
        argv,
        part.ready,
        needs=part.needs,
        essential=part.essential,
        task=part.task,
    )


if __name__ == "__main__":
    given = json.loads(os.environ["LAB_SMALL"])
    sys.exit(supervisor.main(lambda *_: lambda keep: make_plan(given, keep)))
