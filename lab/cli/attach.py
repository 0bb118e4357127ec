"""`lab attach`: look at somebody's own Prometheus and Tempo, say what of the analysis they can feed, remember them."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from lab.errors import LabError, NoData, StoreError
from lab.schema import Metric, names_of
from lab.settings import Settings, load_settings
from lab.stores import Prometheus, Tempo

RECENT_S = 3600.0
# What each group of figures needs: (what is lost without it, metrics).
NEEDS = (
    (
        "tokens and their cost",
        (Metric.PROMPT_TOKENS, Metric.GENERATION_TOKENS, Metric.CACHED_TOKENS),
    ),
    (
        "latency from histograms",
        (f"{Metric.TTFT}_bucket", f"{Metric.ITL}_bucket", f"{Metric.E2E}_bucket"),
    ),
    ("load and capacity", (Metric.RUNNING, Metric.WAITING, Metric.KV_CACHE_USAGE)),
    ("the agent", ("llama_stack_requests_total", "llama_stack_request_duration_seconds_bucket")),
    ("the machine", ("node_cpu_seconds_total",)),
    ("the GPU", ("DCGM_FI_DEV_GPU_UTIL",)),
)


def main(argv: list[str]) -> int:
    """0 if both answer and have something, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="lab attach",
        description="Check a Prometheus and a Tempo (default: those of the settings) for the analysis; --write keeps "
        "the addresses, and the scrape job of vLLM, in lab.toml. A login may stand in the URL: https://user:password@host.",
    )
    parser.add_argument("--prometheus", metavar="URL")
    parser.add_argument("--tempo", metavar="URL")
    parser.add_argument(
        "--write", action="store_true", help="write the addresses into lab.toml of this folder"
    )
    args = parser.parse_args(argv)
    given = {"prometheus_url": args.prometheus, "tempo_url": args.tempo}
    given = {name: url for name, url in given.items() if url}
    settings = load_settings(**given)
    good = [_told(check, settings) for check in (look_at_prometheus, look_at_tempo)]
    if not all(good):
        return 1
    job, lines = scrape_job(settings)
    for line in lines:
        print(line)
    given |= {"vllm_job": job} if job != settings.vllm_job else {}
    if args.write and given:
        print(f"written to {_write(Path('lab.toml'), given)}")
    return 0


def _told(check: Callable[[Settings], list[str]], settings: Settings) -> bool:
    try:
        for line in check(settings):
            print(line, flush=True)
        return True
    except LabError as e:
        print(f"{type(e).__name__}: {e}", flush=True)
        return False


def look_at_prometheus(settings: Settings) -> list[str]:
    """Lines on what this Prometheus has of what the analysis needs. Raises StoreError where it does not answer."""
    prometheus = Prometheus(settings)
    known = set(prometheus.metric_names())
    lines = [f"Prometheus {prometheus.url}: {len(known):,} metrics"]
    for what, metrics in NEEDS:
        names = {
            metric: next((n for n in names_of(metric) if n in known), "") for metric in metrics
        }
        lacking = [metric for metric, name in names.items() if not name]
        other = [
            f"{name} for {metric}" for metric, name in names.items() if name and name != metric
        ]
        state = f"lacks {', '.join(lacking)}" if lacking else "there"
        lines.append(f"  {what}: {state}" + (f" (as {', '.join(other)})" if other else ""))
    if not any(name in known for _, metrics in NEEDS for m in metrics for name in names_of(m)):
        raise NoData(
            f"Prometheus at {prometheus.url} answers, but has no metric of a model server",
            got=f"{len(known):,} other metrics",
            fix="scrape vLLM's /metrics, or give the address of the Prometheus that does",
        )
    return lines


def scrape_job(settings: Settings) -> tuple[str, list[str]]:
    """The job by which vLLM's series are to be asked for (embedding servers export the same names), and what to say.

    It is the settings' own where there is such a one, else the only one; of several none is chosen.
    """
    metrics = "|".join(names_of(Metric.PROMPT_TOKENS))
    found = (
        Prometheus(settings)
        .query(f'count by (job, model_name) ({{__name__=~"{metrics}"}})')
        .metrics
    )
    models: dict[str, list[str]] = {}
    for series in found:
        models.setdefault(series["metric"].get("job", ""), []).append(
            series["metric"].get("model_name", "?")
        )
    if settings.vllm_job in models or not models:
        return settings.vllm_job, []
    named = "; ".join(
        f"{job} (serving {', '.join(sorted(served))})" for job, served in sorted(models.items())
    )
    said = f"vLLM is scraped as the job {named}; the analysis asks for the job {settings.vllm_job}"
    if len(models) == 1:
        return next(iter(models)), [f"{said}: set LAB_VLLM_JOB, or --write keeps it"]
    return settings.vllm_job, [f"{said}: set LAB_VLLM_JOB to one of them"]


def look_at_tempo(settings: Settings) -> list[str]:
    """Lines on the traces of the last hour. Raises StoreError where it does not answer, NoData where there is none."""
    tempo, now = Tempo(settings), time.time()
    found = tempo.search("{}", now - RECENT_S, now, limit=200).require()
    services = sorted({t.root_service for t in found if t.root_service})
    lines = [
        f"Tempo {tempo.url}: {'at least ' if found.limited else ''}{len(found)} traces in the last hour"
    ]
    lines.append(f"  roots from {', '.join(services) or 'services that do not say their name'}")
    for what, query in (
        ("vLLM's requests", '{ name = "llm_request" }'),
        ("model calls", '{ name =~ "chat .*" }'),
    ):
        try:
            count = len(tempo.search(query, now - RECENT_S, now, limit=1))
            lines.append(f"  {what}: {'there' if count else 'none: switch on its tracing'}")
        except StoreError as e:
            lines.append(f"  {what}: not known ({e.happened})")
    return lines


def _write(path: Path, given: dict[str, str]) -> Path:
    """Set these names, leave the rest of the file as it is."""
    text = path.read_text() if path.exists() else ""
    for name, url in given.items():
        line = f"{name} = {json.dumps(url)}"
        pattern = rf"(?m)^{name}\s*=.*$"
        text = (
            re.sub(pattern, lambda _, line=line: line, text)
            if re.search(pattern, text)
            else f"{line}\n{text}"
        )
    path.write_text(text)
    return path.resolve()
