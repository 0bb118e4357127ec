"""What a running lab must show: documents, answers, traces, targets, one run, panels."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx

import lab
from lab.dashboards import DASHBOARDS, panels
from lab.errors import StackError
from lab.schema import Service
from lab.settings import Settings
from lab.stack.ingest_documents import STORE_NAME
from lab.stores import Prometheus
from lab.workload import Run

ALL_THE_WAY = {Service.CLIENT, Service.LLAMA_STACK, Service.VLLM, Service.TOOLS}


def documents(settings: Settings, folder: Path) -> str:
    """Count the indexed documents. Raises StackError unless all of `folder` are there."""
    url = f"{settings.endpoint('llama_stack')}/v1/vector_stores"
    stores = httpx.get(url, timeout=60).raise_for_status().json()["data"]
    counts = [s["file_counts"]["completed"] for s in stores if s["name"] == STORE_NAME]
    expected = len(list(folder.glob("*.md")))
    _require(counts == [expected], f"{counts} documents are indexed, {expected} should be")
    return f"{expected} of {expected} documents are indexed"


def targets(settings: Settings) -> str:
    """Count the scrape targets. Raises StackError where one is down."""
    url = f"{settings.endpoint('prometheus')}/api/v1/targets"
    active = httpx.get(url, timeout=30).raise_for_status().json()["data"]["activeTargets"]
    down = [f"{t['labels']['job']}: {t['lastError']}" for t in active if t["health"] != "up"]
    _require(bool(active) and not down, f"targets are down: {'; '.join(down) or 'there are none'}")
    return f"{len(active)} of {len(active)} scrape targets are up"


def load(run: Run, shards: int, per_shard: list[int]) -> str:
    """Describe the load.

    Raises StackError unless each shard drove its part and every request was answered.
    """
    good = int((run.records.status == "ok").sum())
    _require(len(run.records) == len(run.plan), f"{len(run.records)} records of {len(run.plan)}")
    _require(good == len(run.records), f"only {good} of {len(run.records)} requests are ok")
    _require(len(per_shard) == shards and all(per_shard), f"shards drove {per_shard} requests")
    parts = " + ".join(str(n) for n in per_shard)
    return f"{good} of {len(run.plan)} requests are ok; shards of {parts} are one run"


def traces(run: Run, settings: Settings) -> str:
    """Find the run's traces.

    Raises StackError unless one leads from the client through the agent to a tool.
    """
    seen = lab.observe(run, settings, wait_s=60)
    whole = int(seen.requests.trace_complete.sum())
    services = seen.spans.groupby("trace_id").service.agg(set)
    through = int(services.map(lambda names: names >= ALL_THE_WAY).sum())
    _require(through > 0, f"no trace has all of {sorted(ALL_THE_WAY)}")
    return f"{whole} of {len(run.records)} traces are whole, {through} lead from client to tool"


def panels_with_data(run: Run, settings: Settings, say: Callable[[str], None]) -> str:
    """Report which panels of the dashboards have data; those without one are named."""
    prometheus = Prometheus(settings)
    begun, ended = run.window
    total = 0
    empty = []
    for name in DASHBOARDS:
        for panel in panels(name, range_s=int(ended - begun) + 20, rate_interval_s=20):
            if panel.needs in ("gpu", "local"):
                continue
            total += 1
            answers = [prometheus.range(q.expr, begun, ended + 10, 5) for q in panel.queries]
            if not any(_shows(a) for a in answers):
                empty.append(f"{name}: {panel.title}{' (may be quiet)' if panel.quiet else ''}")
    prometheus.close()
    for title in empty:
        say(f"  no data in {title}")
    return f"{total - len(empty)} of {total} panels for a cluster without a GPU have data"


def wait_for_scrape(run: Run, settings: Settings) -> None:
    """Wait until every target was scraped after the run."""
    prometheus = Prometheus(settings)
    prometheus.wait_for_scrape(run.window[1])
    prometheus.close()
    time.sleep(6)  # the longest scrape interval, for the targets that wait_for_scrape does not know


def _shows(answer) -> bool:
    return any(float(v) == float(v) for series in answer.metrics for _, v in series["values"])


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StackError(f"the smoke test's proof fails: {otherwise}", fix="read the logs")
