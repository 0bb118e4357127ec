"""Draw the lab's parts from lab/stack/plan.py: `python -m scripts.architecture`.

The boxes are the parts of the plan. An arrow is drawn where the command line, the environment or a
configuration file of a part names the port of another one. Only the places of the boxes are chosen
here; a part without a place is an error, so that the picture cannot miss one.
"""

import re
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from lab.errors import LabError
from lab.settings import REPO, Settings, load_settings
from lab.stack import prometheus_config
from lab.stack.parts import Part
from lab.stack.plan import StackPlan, make_plan
from lab.stack.ports import PREFERRED
from lab.stack.toolbox import Toolbox, find_tools

PICTURE = REPO / "docs/images/architecture.svg"
TEMPLATE = Path(__file__).with_name("architecture.svg.jinja")  # style, legend and other fixed parts
USER = "you"
# Column and row of each box; row 4.3 is the band of telemetry.
PLACES = {
    USER: (0, 1.0),
    "llama-stack": (1, 1.0),
    "documents": (1, 2.5),
    "tools": (2, 0.0),
    "vllm": (2, 1.0),
    "vllm-canary": (2, 2.0),
    "vllm-embed": (2, 3.0),
    "vllm-base": (3, 2.0),
    "tracestore": (1, 4.3),
    "prometheus": (2, 4.3),
    "node": (3, 4.3),
    "live-view": (0, 2.6),  # on the arrow of the queries
    "alertmanager": (3, 3.2),
    "incident": (3, 0.4),
}
# Each request names its tool server; no configuration does.
CALLS_BY_REQUEST = ((USER, "llama-stack"), (USER, "vllm"), ("llama-stack", "tools"))
USER_TEXT = "notebooks and load driver: ask questions, query the stores"
BOX_WIDTH = 216
BOX_HEIGHT = 84
COLUMN_WIDTH = 280
ROW_HEIGHT = 108
LEFT = 24
TOP = 24


@dataclass(frozen=True)
class Links:
    """Which parts depend on which, by name.

    Attributes:
        requests: (from, to), where one part calls another
        forks: (from, to), where one process is forked from another
        spans: parts that send spans to the trace store
        metrics: parts that Prometheus scrapes
    """

    requests: list[tuple[str, str]]
    forks: list[tuple[str, str]]
    spans: set[str]
    metrics: set[str]


def default_plan() -> StackPlan:
    """Return the plan of a lab with default settings and ports, on Linux without a GPU."""
    tools = find_tools(needs=("embedding_model_dir",))
    paths = {"python_lab": "python", "python_vllm": "python", "prometheus": "prometheus"}
    tools = Toolbox(
        **paths,
        node_exporter="node_exporter",
        alertmanager="alertmanager",
        embedding_model_dir=tools.embedding_model_dir,
        tiktoken_cache_dir="tiktoken",
    )
    with tempfile.TemporaryDirectory() as state:
        return make_plan(_default_settings(Path(state)), tools, dict(PREFERRED), {})


def _default_settings(state: Path) -> Settings:
    return load_settings(
        running_stack=False,
        place="local",
        state_dir=state,
        data_dir=REPO / "data",
        model="",
        model_name="lab-model",
        vllm_args="",
    )


def find_links(plan: StackPlan) -> Links:
    """Return how the parts depend on each other, as their configuration says."""
    requests = []
    spans = set()
    for part in plan.parts:
        if part.name == "prometheus":
            continue
        text = _configuration(part, plan)
        if _names_port(text, PREFERRED["otlp"]) and part.name != "tracestore":
            spans.add(part.name)
        others = [other for other in plan.parts if other is not part]
        requests += [(part.name, other.name) for other in others if _names_part(text, other)]

    forks = [(part.base, part.name) for part in plan.parts if part.base]
    return Links(requests, forks, spans, _scraped(plan))


def _scraped(plan: StackPlan) -> set[str]:
    """Return the parts that Prometheus scrapes, those on demand included once they are started."""
    urls = {name: f"http://127.0.0.1:{port}" for name, port in PREFERRED.items()}
    targets = prometheus_config.targets(PREFERRED, urls, {}).values()
    ports = {int(target.rpartition(":")[2]) for target in targets}
    return {p.name for p in plan.parts if (p.on_demand and p.port) or ports & set(p.ports.values())}


def _configuration(part: Part, plan: StackPlan) -> str:
    """Return all text that configures a part: arguments, environment, files that it reads."""
    files = [text for path, text in plan.files.items() if part.uses(str(path))]
    return "\n".join([*part.argv, *part.env.values(), *files])


def _names_part(text: str, part: Part) -> bool:
    """Return whether a text has an address of a part other than that for its spans."""
    return any(_names_port(text, port) for name, port in part.ports.items() if name != "otlp")


def _names_port(text: str, port: int) -> bool:
    return re.search(rf"127\.0\.0\.1:{port}\b", text) is not None


def draw(plan: StackPlan) -> str:
    """Return the picture as SVG. Raises LabError for a part that has no place in it."""
    if unplaced := sorted({part.name for part in plan.parts} - set(PLACES)):
        raise LabError(
            f"the architecture picture has no place for {', '.join(unplaced)}",
            fix="add it to PLACES in scripts/architecture.py, then run it again",
        )
    links = find_links(plan)
    arrows = [("forks", _arrow(a, b)) for a, b in links.forks]
    arrows += [("requests", _arrow(a, b)) for a, b in (*CALLS_BY_REQUEST, *links.requests)]
    boxes = [_box(USER, USER_TEXT, links)]
    for part in plan.parts:
        # Without the paths of this machine.
        text = re.sub(r"(?<!\w)/[^\s,]+", lambda path: Path(path[0]).name, part.what)
        box = _box(part.name, text, links)
        title = f"{part.name} :{part.port}" if part.port else part.name
        boxes.append(box | {"title": title, "on_demand": part.on_demand})
    environment = Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text()).render(arrows=arrows, boxes=boxes)


def _box(name: str, text: str, links: Links) -> dict[str, Any]:
    x, y = _corner(name)
    return {
        "title": name,
        "x": x,
        "y": y,
        "lines": textwrap.wrap(text, 31)[:3],
        "metrics": name in links.metrics,
        "spans": name in links.spans or name == USER,  # the driver starts each trace
    }


def _corner(name: str) -> tuple[int, int]:
    column, row = PLACES[name]
    return round(LEFT + column * COLUMN_WIDTH), round(TOP + row * ROW_HEIGHT)


def _arrow(start: str, end: str) -> str:
    """Return a line from the nearer side of one box to the nearer side of the other."""
    x1, y1 = _corner(start)
    x2, y2 = _corner(end)
    if x1 == x2:
        upwards = y2 < y1
        middle = x1 + BOX_WIDTH // 2
        y1 += 0 if upwards else BOX_HEIGHT
        y2 += BOX_HEIGHT if upwards else 0
        return f"M {middle} {y1} L {middle} {y2}"

    rightwards = x2 > x1
    if abs(PLACES[end][0] - PLACES[start][0]) > 1:  # from the top, over the boxes between them
        top = round(TOP + ROW_HEIGHT * 0.82 - 40)
        x1 += BOX_WIDTH // 2
        y2 += BOX_HEIGHT // 4
        return f"M {x1} {y1} C {x1 + 60} {top} {x2 - 150} {top} {x2} {y2}"
    x1 += BOX_WIDTH if rightwards else 0
    x2 += 0 if rightwards else BOX_WIDTH
    y1 += BOX_HEIGHT // 2
    y2 += BOX_HEIGHT // 2
    half = (x1 + x2) // 2
    return f"M {x1} {y1} C {half} {y1} {half} {y2} {x2} {y2}"


def main() -> int:
    """Write the picture. Returns the exit status."""
    PICTURE.write_text(draw(default_plan()), encoding="utf-8")
    print(PICTURE.relative_to(REPO))
    return 0


if __name__ == "__main__":
    sys.exit(main())
