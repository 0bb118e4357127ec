"""The rooms import downwards only, and importing the lab has no consequences."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parent.parent / "lab"
FLOOR_0 = {"schema", "errors", "settings", "world", "prices", "exercise"}
STAGES = {
    "workload",
    "stack",
    "tools",
    "tracestore",
    "stores",
    "frames",
    "measures",
    "figures",
    "dashboards",
}
STANDALONE = {"tracestore"}  # a product of its own: it imports nothing else of the lab
ABOVE = {"cli", "runner", "kit"}  # like a notebook: may use every stage

FILES = sorted(p for p in LAB.rglob("*.py") if "k8s" not in p.relative_to(LAB).parts)


def _room(path: Path) -> str:
    return path.relative_to(LAB).parts[0].removesuffix(".py")


def _imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.ImportFrom):
            names = (
                [node.module or ""]
                if node.module != "lab"
                else [f"lab.{a.name}" for a in node.names]
            )
            assert node.level == 0, f"{path.name} uses a relative import: write the full name"
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        rooms |= {n.split(".")[1] for n in names if n.startswith("lab.")}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LAB)))
def test_imports_go_down_only(path: Path) -> None:
    """A stage takes what it needs from the floor below or from itself, never from another stage."""
    room = _room(path)
    if room == "__init__" or room in ABOVE:
        return
    allowed = FLOOR_0 | {room} if room in STAGES else FLOOR_0
    if room in STANDALONE:
        allowed = {room}
    assert room in FLOOR_0 | STAGES, (
        f"lab/{room} is not a room of the design: name it here, with its floor"
    )
    assert _imported_rooms(path) <= allowed, f"lab/{room} imports {_imported_rooms(path) - allowed}"


def test_importing_lab_does_nothing() -> None:
    """`import lab` loads no third-party package and prints nothing."""
    code = (
        "import sys, lab; heavy = {'pandas', 'pydantic', 'opentelemetry', 'duckdb'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=LAB.parent
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
