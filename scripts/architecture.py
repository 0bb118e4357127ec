"""Draw the lab's parts from lab/stack/plan.py: `python -m scripts.architecture`.

The boxes are the parts of the plan. An arrow is drawn where the command line, the environment or a
configuration file of a part names the port of another one. Only the places of the boxes are chosen
here; a part without a place is an error, so that the picture cannot miss one.
"""

from __future__ import annotations

import re
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from lab.errors import LabError
from lab.settings import REPO, Settings, load_settings
from lab.stack import prometheus_config
from lab.stack.parts import Part
from lab.stack.plan import StackPlan, make_plan
from lab.stack.ports import PREFERRED
from lab.stack.toolbox import Toolbox, find_tools

PICTURE = REPO / "docs/images/architecture.svg"
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
TELEMETRY_ROW = 4.3
BOX_WIDTH, BOX_HEIGHT = 216, 84
COLUMN_WIDTH, ROW_HEIGHT = 280, 108
LEFT, TOP = 24, 24
STYLE = """
  svg { background: #fff; font: 13px system-ui, 'DejaVu Sans', sans-serif; }
  .box { fill: #f5f7f9; stroke: #5d6875; stroke-width: 1.2; rx: 6px; }
  .on-demand { stroke-dasharray: 5 4; }
  .band { fill: #eef4ee; stroke: none; rx: 8px; }
  .name { font-weight: 600; fill: #1c2430; }
  .text { font-size: 11.5px; fill: #47525f; }
  .requests { stroke: #2f6db3; stroke-width: 1.6; fill: none; }
  .queries { stroke: #3a7d44; stroke-width: 1.6; fill: none; }
  .forks { stroke: #9aa5b1; stroke-width: 1.2; stroke-dasharray: 3 3; fill: none; }
  .spans { fill: #d9822b; }
  .metrics { fill: #3a7d44; }
"""


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
    names = [part.name for part in plan.parts]
    if unplaced := sorted(set(names) - set(PLACES)):
        raise LabError(
            f"the architecture picture has no place for {', '.join(unplaced)}",
            fix="add it to PLACES in scripts/architecture.py, then run it again",
        )
    links = find_links(plan)
    elements = [
        _band(),
        *(_arrow(a, b, "forks") for a, b in links.forks),
        *(_arrow(a, b, "requests") for a, b in (*CALLS_BY_REQUEST, *links.requests)),
        _queries(),
        _box(USER, USER_TEXT, None, links, on_demand=False),
        *(_box(p.name, _description(p), p.port, links, p.on_demand) for p in plan.parts),
        _legend(),
    ]
    width = LEFT * 2 + COLUMN_WIDTH * 3 + BOX_WIDTH
    height = int(TOP * 2 + ROW_HEIGHT * TELEMETRY_ROW + BOX_HEIGHT + 26)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" role="img">',
            "<title>The parts of the lab on one machine</title>",
            f"<style>{STYLE}</style>",
            _markers(),
            *elements,
            "</svg>\n",
        ]
    )


def _description(part: Part) -> str:
    """Return what a part is, with file names in place of this machine's paths."""
    return re.sub(r"(?<!\w)/[^\s,]+", lambda path: Path(path[0]).name, part.what)


def _corner(name: str) -> tuple[float, float]:
    column, row = PLACES[name]
    return LEFT + column * COLUMN_WIDTH, TOP + row * ROW_HEIGHT


def _box(name: str, text: str, port: int | None, links: Links, on_demand: bool) -> str:
    x, y = _corner(name)
    title = f"{name} :{port}" if port else name
    style = "box on-demand" if on_demand else "box"
    lines = [
        f'<rect class="{style}" x="{x:.0f}" y="{y:.0f}" width="{BOX_WIDTH}"'
        f' height="{BOX_HEIGHT}"/>',
        f'<text class="name" x="{x + 12:.0f}" y="{y + 22:.0f}">{escape(title)}</text>',
    ]
    for number, line in enumerate(textwrap.wrap(text, 31)[:3]):
        position = f'x="{x + 12:.0f}" y="{y + 41 + 16 * number:.0f}"'
        lines.append(f'<text class="text" {position}>{escape(line)}</text>')

    if name in links.metrics:
        lines.append(_mark("metrics", x + BOX_WIDTH - 14, y + 16))
    if name in links.spans or name == USER:  # the driver starts each trace
        lines.append(_mark("spans", x + BOX_WIDTH - 30, y + 16))
    return "\n".join(lines)


def _mark(kind: str, x: float, y: float) -> str:
    return f'<circle class="{kind}" cx="{x:.0f}" cy="{y:.0f}" r="5"/>'


def _arrow(start: str, end: str, kind: str) -> str:
    """Return a line from the nearer side of one box to the nearer side of the other."""
    x1, y1 = _corner(start)
    x2, y2 = _corner(end)
    middle = BOX_HEIGHT / 2
    if x1 == x2:
        upwards = y2 < y1
        x1 += BOX_WIDTH / 2
        x2 = x1
        y1 += 0 if upwards else BOX_HEIGHT
        y2 += BOX_HEIGHT if upwards else 0
        return _path(f"M {x1:.0f} {y1:.0f} L {x2:.0f} {y2:.0f}", kind)

    rightwards = x2 > x1
    x1 += BOX_WIDTH if rightwards else 0
    x2 += 0 if rightwards else BOX_WIDTH
    y1 += middle
    y2 += middle
    if abs(PLACES[end][0] - PLACES[start][0]) > 1:  # over the boxes between them
        top = TOP + ROW_HEIGHT * 0.82
        x1 -= BOX_WIDTH / 2
        y1 -= middle
        y2 -= middle / 2
        bend = f"C {x1 + 60:.0f} {top - 40:.0f} {x2 - 150:.0f} {top - 40:.0f}"
        return _path(f"M {x1:.0f} {y1:.0f} {bend} {x2:.0f} {y2:.0f}", kind)
    half = (x1 + x2) / 2
    curve = f"C {half:.0f} {y1:.0f} {half:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    return _path(f"M {x1:.0f} {y1:.0f} {curve}", kind)


def _path(line: str, kind: str) -> str:
    return f'<path class="{kind}" d="{line}" marker-end="url(#{kind}-end)"/>'


def _band() -> str:
    """Return the background of the stores."""
    y = TOP + TELEMETRY_ROW * ROW_HEIGHT - 14
    x = LEFT + COLUMN_WIDTH - 20
    width = 2 * COLUMN_WIDTH + BOX_WIDTH + 32
    height = BOX_HEIGHT + 28
    return f'<rect class="band" x="{x}" y="{y:.0f}" width="{width}" height="{height}"/>'


def _queries() -> str:
    """Return the arrow from the notebooks to the stores."""
    x, y = _corner(USER)
    x += BOX_WIDTH / 2
    end_x = LEFT + COLUMN_WIDTH - 22
    end_y = TOP + TELEMETRY_ROW * ROW_HEIGHT + BOX_HEIGHT / 2
    line = f"M {x:.0f} {y + BOX_HEIGHT:.0f} L {x:.0f} {end_y:.0f} L {end_x} {end_y:.0f}"
    label = f'<text class="text" x="{x + 10:.0f}" y="{end_y - 8:.0f}">PromQL, TraceQL</text>'
    return _path(line, "queries") + "\n" + label


def _markers() -> str:
    colours = {"requests": "#2f6db3", "queries": "#3a7d44", "forks": "#9aa5b1"}
    markers = (
        f'<marker id="{kind}-end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        f' markerHeight="7" orient="auto"><path d="M 0 0 L 8 4 L 0 8 z" fill="{colour}"/></marker>'
        for kind, colour in colours.items()
    )
    return "<defs>" + "".join(markers) + "</defs>"


def _legend() -> str:
    y = TOP + TELEMETRY_ROW * ROW_HEIGHT + BOX_HEIGHT + 40
    marks = {"spans": "sends spans to the trace store", "metrics": "is scraped by Prometheus"}
    lines = {"requests": "calls", "forks": "is forked into"}
    pieces = []
    x = LEFT + 6
    for kind, text in marks.items():
        pieces += [_mark(kind, x, y - 4), _legend_text(text, x + 12, y)]
        x += 230
    for kind, text in lines.items():
        pieces += [_path(f"M {x} {y - 4:.0f} L {x + 34} {y - 4:.0f}", kind)]
        pieces += [_legend_text(text, x + 42, y)]
        x += 130
    pieces.append(_legend_text("dashed box: started on demand", x, y))
    return "\n".join(pieces)


def _legend_text(text: str, x: float, y: float) -> str:
    return f'<text class="text" x="{x:.0f}" y="{y:.0f}">{text}</text>'


def main() -> int:
    """Write the picture. Returns the exit status."""
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw(default_plan()), encoding="utf-8")
    print(PICTURE.relative_to(REPO))
    return 0


if __name__ == "__main__":
    sys.exit(main())
