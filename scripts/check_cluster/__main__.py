"""Run every check and print its time; `generate` and `record` write files instead."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

from lab.errors import LabError
from scripts.check_cluster import (
    collector,
    generate,
    image_build,
    metrics,
    network,
    policies,
    references,
    render,
    rules,
    schemas,
    vllm_arguments,
    workloads,
)
from scripts.check_cluster.render import K8S, OVERLAYS


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status: 1 if a check found a problem."""
    parser = argparse.ArgumentParser(prog="python -m scripts.check_cluster", description=__doc__)
    parser.add_argument("verb", nargs="?", default="check", choices=["check", "generate", "record"])
    verb = parser.parse_args(argv).verb
    try:
        if verb == "generate":
            print(
                "\n".join(str(p) for p in generate.write())
                or "nothing to do: all generated files are current"
            )
            return 0
        if verb == "record":
            from scripts.check_cluster import record

            print("\n".join(str(p) for p in record.record()))
            return 0
        return _check()
    except LabError as e:
        print(e, file=sys.stderr)
        return 1


def _check() -> int:
    problems = 0
    clock = _Clock()
    overlays = {name: render.overlay(name) for name in OVERLAYS}
    overlays["load"] = overlays["minikube-cpu"] + render.folder(K8S / "load")
    print(f"{clock}  rendered {', '.join(overlays)}", flush=True)
    operated = {
        name: d for name, d in overlays.items() if any(x["kind"] == "Prometheus" for x in d)
    }
    everything = [d for documents in overlays.values() for d in documents]
    known = metrics.known()
    texts = metrics.notebook_texts() | metrics.analysis_texts()
    checks: dict[str, Callable[[], list[str]]] = {
        "generated files are current": _stale,
        "image build": image_build.check,
        "references": lambda: _each(overlays, references.check),
        "workloads": lambda: _each(overlays, workloads.check),
        "network policies": lambda: _each(overlays, network.check),
        "arguments (vLLM's parser)": lambda: _each(overlays, vllm_arguments.check),
        "scrape configuration (promtool)": lambda: _each(
            operated, rules.check_scrape_configuration
        ),
        "collector and Tempo": lambda: _each(overlays, collector.check),
        "rules and panels (promtool)": lambda: rules.check_syntax() + rules.check_panels(),
        "runbooks": rules.check_runbooks,
        "metric names": lambda: (
            metrics.check_dashboards(known)
            + metrics.check_rules(known)
            + metrics.check_names(known, texts | metrics.schema_texts())
            + metrics.check_queries(known, metrics.queries_in(texts))
        ),
        "custom resources": lambda: schemas.check_custom_resources(everything),
        "schemas of three releases": lambda: schemas.check(everything),
        "policies (checkov)": lambda: policies.check(everything) + policies.unused(everything),
    }
    for name, check in checks.items():
        clock = _Clock()
        found = check()
        problems += len(found)
        print(f"{clock}  {name}: {len(found) or 'no'} problems", flush=True)
        for problem in found:
            print(f"             {problem}")
    return 1 if problems else 0


class _Clock:
    """Wall-clock and CPU seconds since it was made, child processes included."""

    def __init__(self) -> None:
        self._wall_s = time.perf_counter()
        self._cpu_s = sum(os.times()[:4])

    def __str__(self) -> str:
        wall_s = time.perf_counter() - self._wall_s
        cpu_s = sum(os.times()[:4]) - self._cpu_s
        return f"{wall_s:7.1f} s ({cpu_s:5.1f} s CPU)"


def _each(overlays: dict[str, list[dict]], check: Callable[[list[dict]], list[str]]) -> list[str]:
    return [f"{name}: {p}" for name, documents in overlays.items() for p in check(documents)]


def _stale() -> list[str]:
    return [
        f"{path} is not current: run `make cluster-generate`"
        for path, text in generate.files()
        if not path.exists() or path.read_text() != text
    ]


if __name__ == "__main__":
    sys.exit(main())
