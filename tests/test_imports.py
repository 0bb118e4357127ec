"""The rooms import downwards only, and importing the lab has no consequences."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parent.parent / "lab"

# Values and small helpers, which everything may use. They may use each other.
FLOOR = {
    "schema",
    "dialects",
    "errors",
    "settings",
    "files",
    "durations",
    "environment",
    "command_line",
    "world",
    "prices",
    "notebook",
}

# Room -> what it may import besides itself and the floor. A stage imports no other stage.
STAGES = dict.fromkeys(
    ("workload", "stack", "tools", "stores", "frames", "measures", "figures", "dashboards"),
    frozenset[str](),
)

# From here on several stages meet, as in a notebook.
ABOVE = {
    "runs": {"workload"},
    "places": {"runs", "stack", "stores", "workload"},
    "observation": {"places", "runs", "frames", "stores", "workload"},
    "latency": {"observation", "places", "runs", "frames", "measures", "workload"},
    "capacity": {"latency", "observation", "places", "frames", "measures", "workload"},
    "cost": {"observation", "frames", "measures"},
    "quality": {"observation", "places", "measures", "stack"},
    "utilisation": {"observation", "places", "frames", "measures", "stack", "workload"},
    "exercises": {"latency", "measures"},
    "runner": {"stack"},
    "recording": {"runs", "runner", "stores", "utilisation", "workload"},
    "cli": {
        "observation",
        "recording",
        "runs",
        "runner",
        "stack",
        "stores",
        "tracestore",
        "workload",
    },
}

ALLOWED = dict.fromkeys(FLOOR, frozenset[str]()) | STAGES | ABOVE

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
    if room in ("__init__", "tracestore"):
        return
    assert room in ALLOWED, f"lab/{room} is not a room of the design: name it here, with its floor"
    allowed = ALLOWED[room] | FLOOR | {room}
    assert _imported_rooms(path) <= allowed, f"lab/{room} imports {_imported_rooms(path) - allowed}"


def test_every_rule_is_about_a_room_that_exists() -> None:
    """A rule for a room that was renamed would protect nothing."""
    rooms = {_room(path) for path in FILES} - {"__init__", "tracestore"}
    assert rooms == set(ALLOWED)


def test_rooms_have_no_cycle() -> None:
    """Above the stages too there is an order in which the rooms can be read."""
    graph = {room: ALLOWED[room] - {room} for room in ABOVE}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    "path", sorted(LAB.glob("tracestore/**/*.py")), ids=lambda p: str(p.relative_to(LAB))
)
def test_the_trace_store_depends_on_nothing_in_the_lab(path: Path) -> None:
    """It is a product of its own, which can be moved to a repository of its own."""
    assert _imported_rooms(path) <= {"tracestore"}


def test_importing_lab_does_nothing() -> None:
    """`import lab` loads no third-party package and prints nothing."""
    code = (
        "import sys, lab; "
        "heavy = {'pandas', 'pydantic', 'opentelemetry', 'duckdb'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=LAB.parent
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
