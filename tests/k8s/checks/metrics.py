"""Check that every metric and label in panels, rules and notebooks exists in pinned releases.

promtool checks the expressions of rules and panels; here promql-parser, whose tree names the parts.
"""

import ast
import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import promql_parser

from lab.dashboards import DASHBOARDS, expand
from lab.dashboards.model import Dashboard
from lab.dashboards.rules import alerts, recording_rules
from lab.schema import JOBS, PREFIXES, Metric
from tests.k8s.checks.render import RECORDED_METRICS, REPO

# Labels and series that Prometheus adds for every target.
TARGET_LABELS = {"job", "instance", "namespace", "pod", "container", "endpoint", "service"}
OF_EVERY_TARGET = ("up", "scrape_duration_seconds", "scrape_samples_scraped")
_LLAMA_STACK = r"llama_stack_(?:requests?|concurrent|inference|tool_runtime|vector_io|responses)_"
_OURS = re.compile(
    rf"\b(?:vllm:|{_LLAMA_STACK}|gen_ai_client_|lab_tool_|tracestore_|DCGM_FI_|otelcol_)\w+"
)


@dataclass(frozen=True)
class Known:
    """Metrics that were recorded or are only documented ({name: labels}), and bucket bounds."""

    recorded: dict[str, set[str]]
    documented: dict[str, set[str]]
    bounds: dict[str, set[str]]


def known(folder: Path = RECORDED_METRICS) -> Known:
    """Return the metrics of the recorded pages and of documented.toml, and OGX's names of them."""
    recorded: dict[str, set[str]] = {name: set() for name in OF_EVERY_TARGET}
    bounds: dict[str, set[str]] = {}
    for job in JOBS:
        text = (folder / f"{job}.prom").read_text()
        for name, labels in families(text).items():
            recorded.setdefault(name, set()).update(labels)
        for name, le in re.findall(r'^([\w:]+_bucket)\{.*?\ble="([^"]+)"', text, re.M):
            bounds.setdefault(name, set()).add(le)
    parts = tomllib.loads((folder / "documented.toml").read_text()).values()
    documented = {name: set(labels) for part in parts for name, labels in part["metrics"].items()}
    older, newer = PREFIXES[:2]
    for table in (recorded, documented, bounds):
        of_ogx = {n.replace(older, newer): v for n, v in table.items() if n.startswith(older)}
        table.update(of_ogx)
    return Known(recorded, documented, bounds)


def families(page: str) -> dict[str, set[str]]:
    """Return {sample name: label names} of a page; a family without samples has no labels."""
    found: dict[str, set[str]] = {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()[:4]
            for suffix in {
                "histogram": ("_bucket", "_sum", "_count"),
                "summary": ("_sum", "_count"),
            }.get(kind, ("",)):
                found.setdefault(name + suffix, set())
        elif line and not line.startswith("#"):
            name = re.match(r"[a-zA-Z_:][\w:]*", line)[0]
            found.setdefault(name, set()).update(re.findall(r'[{,](\w+)="', line))
    return found


def check_expression(expr: str, k: Known, only_recorded: bool = False) -> Iterator[str]:
    """Yield the names in an expression that do not exist."""
    names = read(expr)
    there = k.recorded if only_recorded else k.recorded | k.documented
    labels = set(TARGET_LABELS)
    for name, matchers in names.metrics:
        if name not in there:
            yield f"there is no metric {name}" + (
                " in the recorded pages" if name in k.documented else ""
            )
            continue
        labels |= there[name]
        for label, (operator, value) in matchers.items():
            if label not in there[name] | TARGET_LABELS:
                yield f"{name} has no label {label}"
            elif (label, operator) == ("le", "=") and value not in k.bounds.get(name, {value}):
                yield f"{name} has no bucket bound {value}"
    if all(name in there for name, _ in names.metrics):
        for label in sorted(names.groups - labels):
            yield f"no metric in it has label {label} to group by"


def check_dashboards(
    k: Known, dashboards: Iterable[Dashboard] = tuple(DASHBOARDS.values())
) -> list[str]:
    """Return the panels that query what does not exist.

    A panel for every place may only use metrics that were recorded.
    """
    problems = []
    for dashboard in dashboards:
        variables = {variable.name: variable.default for variable in dashboard.variables}
        for panel in dashboard.panels:
            for query in panel.queries:
                expr = expand(query.expr, variables, 20, 1800)
                only_recorded = panel.needs in ("", "local")
                found = [
                    *check_expression(expr, k, only_recorded),
                    *_unknown_legend_labels(expr, query.legend, k),
                ]
                problems += [f"{dashboard.name}: {panel.title}: {problem}" for problem in found]
    return problems


def _unknown_legend_labels(expr: str, legend: str, k: Known) -> Iterator[str]:
    names = read(expr)
    there = set(names.groups)
    for metric, _ in names.metrics:
        there |= _labels(metric, k)
    for label in sorted(set(re.findall(r"{{(\w+)}}", legend)) - there):
        yield f"legend label {label} never exists"


def check_rules(k: Known) -> list[str]:
    """Return the rules that query what does not exist; series of recording rules exist."""
    with_recorded = Known(k.recorded | _recorded_rules(), k.documented, k.bounds)
    rules = [*recording_rules(), *alerts()]
    names = [rule.get("record") or rule["alert"] for rule in rules]
    return [
        f"{name}: {problem}"
        for name, rule in zip(names, rules, strict=True)
        for problem in check_expression(rule["expr"], with_recorded)
    ]


def check_names(k: Known, texts: dict[str, str]) -> list[str]:
    """Return unknown metric names in {where: text}; a histogram may be named without its suffix."""
    there = k.recorded.keys() | k.documented.keys() | _recorded_rules().keys()
    bases = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in there}
    problems = []
    for where, text in texts.items():
        for name in sorted(set(_OURS.findall(text))):
            if name not in there and name not in bases and not name.endswith("_"):
                problems.append(f"{where}: there is no metric {name}")
    return problems


def check_queries(k: Known, queries: Iterable[tuple[str, str]]) -> list[str]:
    """Return unknown metrics, labels and bucket bounds in (where, PromQL) pairs."""
    with_recorded = Known(k.recorded | _recorded_rules(), k.documented, k.bounds)
    return [
        f"{where}: {p}: {expr}"
        for where, expr in queries
        for p in check_expression(expr, with_recorded)
    ]


def queries_in(texts: dict[str, str]) -> list[tuple[str, str]]:
    """Return the strings of Python text that select metrics; an f-string's values become 1."""
    found = []
    for where, text in texts.items():
        plain = re.sub(r"(?m)^\s*[%!].*$", "", text)  # what only a notebook understands
        for expr in _strings(ast.parse(plain)):
            if re.search(r"[{(\[]", expr) and (_OURS.search(expr) or "__name__" in expr):
                # A value of an f-string may stand for a whole matcher.
                found.append((where, expr.replace(",1}", "}")))
    return found


def _strings(node: ast.AST) -> Iterator[str]:
    """Yield strings of one line; longer ones are prose."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(v.value if isinstance(v, ast.Constant) else "1" for v in node.values)
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from _strings(child)


def analysis_texts(folder: Path = REPO / "lab") -> dict[str, str]:
    """Return {file: source} of the modules that the notebooks call."""
    paths = [
        *(folder / f"{topic}.py" for topic in ("capacity", "cost", "latency", "quality")),
        *sorted(folder.glob("observation/*.py")),
        *sorted(folder.glob("utilisation/*.py")),
    ]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def notebook_texts(folder: Path = REPO / "notebooks") -> dict[str, str]:
    """Return the source of each notebook's code cells, by file name."""
    texts = {}
    for path in sorted(folder.glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        texts[path.name] = "\n".join(
            "".join(c["source"]) for c in cells if c["cell_type"] == "code"
        )
    return texts


def schema_texts() -> dict[str, str]:
    """Return the metric names of lab.schema."""
    values = (
        v for name, v in vars(Metric).items() if not name.startswith("_") and isinstance(v, str)
    )
    return {"lab.schema.Metric": "\n".join(values)}


def _labels(name: str, k: Known) -> set[str]:
    return TARGET_LABELS | k.recorded.get(name, set()) | k.documented.get(name, set())


def _recorded_rules() -> dict[str, set[str]]:
    return {r["record"]: read(r["expr"]).groups for r in recording_rules()}


# By the text of promql-parser's MatchOp, which cannot be hashed.
OPERATORS = {
    "MatchOp.Equal": "=",
    "MatchOp.NotEqual": "!=",
    "MatchOp.Re": "=~",
    "MatchOp.NotRe": "!~",
}


@dataclass
class Names:
    """The names in an expression.

    - `metrics`: (name, {label: (operator, value)}) of each selector.
    - `groups`: the labels in by, on and the other grouping clauses.
    """

    metrics: list[tuple[str, dict[str, tuple[str, str]]]] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)


def read(expr: str) -> Names:
    """Return the names in an expression whose Grafana variables have been replaced.

    Raises ValueError for text that is not PromQL.
    """
    names = Names()

    def visit(node: Any) -> None:
        modifier = getattr(node, "modifier", None)
        names.groups.update(getattr(modifier, "group_labels", None) or ())
        for labels in (modifier, getattr(modifier, "matching", None)):
            names.groups.update(getattr(labels, "labels", None) or ())
        if isinstance(node, promql_parser.VectorSelector):
            matchers = {m.name: (OPERATORS[str(m.op)], m.value) for m in node.matchers.matchers}
            spelled_out = _spelled_out(*matchers.pop("__name__", ("", "")))
            selected = [node.name] if node.name else spelled_out
            names.metrics += [(name, matchers) for name in selected]

    promql_parser.walk(promql_parser.parse(expr), visit)
    return names


def _spelled_out(operator: str, pattern: str) -> list[str]:
    """Return the names that `__name__=~"a_(b|c)"` spells out; none for patterns that are looser."""
    if operator == "=":
        return [pattern]
    parts = [part.split("|") for part in re.split(r"[()]", pattern)]
    names = ["".join(chosen) for chosen in itertools.product(*parts)]
    return [n for n in names if re.fullmatch(r"[a-zA-Z_:][\w:]*", n)] if operator == "=~" else []
