"""`lab attach`: check another Prometheus and Tempo for the analysis, and remember them."""

import json
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.command_line import PrometheusUrl, TempoUrl, as_main
from lab.engines import LABELS, Dialect, Name, actual_name, recognise
from lab.errors import LabError, NoData, StoreError
from lab.files import write_atomically
from lab.fleet import prefix_fix
from lab.schema import Metric, names_of
from lab.settings import CREDENTIALS, REPO, TOML_FILE, Settings, hide_password, load_settings
from lab.stores import Prometheus, Tempo

RECENT_S = 3600.0
# Questions that every engine of a kind answers, by which engines are counted.
PROBES = ("running", "in_flight", "prompt_tokens", "kv_usage")
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


def attach(
    prometheus: PrometheusUrl = "",
    tempo: TempoUrl = "",
    prefix: Annotated[
        str,
        typer.Option(
            metavar="[ENGINE=]PREFIX",
            help="What stands before the engine's metric names, where they were renamed beyond "
            "recognition (LAB_METRIC_PREFIX).",
        ),
    ] = "",
    write: Annotated[
        bool,
        typer.Option("--write", help="Keep the addresses, and vLLM's scrape job, in lab.toml."),
    ] = False,
    dashboards: Annotated[
        Path | None,
        typer.Option(help="Write Grafana's dashboards with this Prometheus' names to this folder."),
    ] = None,
) -> int:
    """Check your own Prometheus and Tempo for the analysis.

    Prometheus alone is enough for metrics (`lab fleet`): with --prometheus and no --tempo, a Tempo
    that does not answer is reported, and is not an error. A login may be in the URL
    (https://user:password@host), with special characters percent-encoded; headers are set with
    LAB_STORE_HEADERS, and a bearer token with LAB_STORE_TOKEN_FILE or LAB_STORE_TOKEN_COMMAND.
    """
    options = {"prometheus_url": prometheus, "tempo_url": tempo, "metric_prefix": prefix}
    given: dict[str, Any] = {name: text for name, text in options.items() if text}
    settings = load_settings(**given)
    if not _are_good(settings, metrics_only=bool(prometheus) and not tempo):
        return 1

    job, lines = scrape_job(settings)
    for line in lines:
        print(line)
    if job != settings.vllm_job:
        given["vllm_job"] = job
    if dashboards:
        _write_dashboards(settings, dashboards)
    if write and given:
        print(f"written to {_write(settings, given)}")
    return 0


def _write_dashboards(settings: Settings, folder: Path) -> None:
    """Write the engines' dashboards for this store, and print which panels it has no data for."""
    from lab.dashboards import for_store
    from lab.dashboards.grafana import as_json

    names = Prometheus(settings).metric_names()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("overview", "vllm", "cost", "gpu"):
        dashboard, left_out = for_store(name, names, settings.metric_prefix)
        write_atomically(folder / f"{name}.json", as_json(dashboard))
        print(f"{folder / name}.json: {len(dashboard.panels)} panels, {len(left_out)} left out")
        for title, why in left_out.items():
            print(f"  {title}: {why}")


def _are_good(settings: Settings, metrics_only: bool) -> bool:
    """Print what the two servers have. Returns whether they can be used for the analysis."""
    prometheus_is_good = _report(look_at_prometheus, settings)
    if metrics_only and not settings.tempo_url:
        print("Tempo: no address (--tempo, LAB_TEMPO_URL)")
        tempo_is_good = False
    else:
        tempo_is_good = _report(look_at_tempo, settings)
    if prometheus_is_good and not tempo_is_good and metrics_only:
        print("without traces: `lab fleet` shows the engines side by side, from metrics only")
    return prometheus_is_good and (tempo_is_good or metrics_only)


def _report(check: Callable[[Settings], list[str]], settings: Settings) -> bool:
    """Print the lines of a check, or its error. Returns whether it passed."""
    try:
        for line in check(settings):
            print(line, flush=True)
    except LabError as e:
        print(f"{type(e).__name__}: {e}", flush=True)
        return False
    return True


def look_at_prometheus(settings: Settings) -> list[str]:
    """Return lines on what this Prometheus has of the metrics that the analysis needs.

    Raises StoreError where it does not answer, NoData where it has none of them.
    """
    prometheus = Prometheus(settings)
    known = prometheus.metric_names()
    lines = [f"Prometheus {_address(settings, 'prometheus')}: {len(known):,} metrics"]
    dialects = recognise(known, settings.metric_prefix)
    lines += [f"  {_engines_line(prometheus, dialect)}" for dialect in dialects]
    names = {metric: _name_in(known, metric, settings) for _, group in NEEDS for metric in group}
    lines += [f"  {what}: {_state_of({m: names[m] for m in metrics})}" for what, metrics in NEEDS]
    if not any(names.values()):
        raise NoData(
            f"Prometheus at {prometheus.url} answers, but has no metric of a model server",
            got=f"{len(known):,} other metrics",
            fix=prefix_fix(known),
        )
    return lines


def _state_of(names: dict[str, str]) -> str:
    """Return which metrics are missing or renamed, given what this store calls each of them."""
    missing = [metric for metric, name in names.items() if not name]
    renamed = [f"{name} for {m}" for m, name in names.items() if name and name != m]
    state = f"lacks {', '.join(missing)}" if missing else "there"
    return state + (f" (as {', '.join(renamed)})" if renamed else "")


def _name_in(known: list[str], metric: str, settings: Settings) -> str:
    """Return what this store calls a metric; empty if it does not have it."""
    if name := actual_name(metric, known, settings.metric_prefix):
        return str(name)
    return next((name for name in names_of(metric) if name in known), "")


def _engines_line(prometheus: Prometheus, dialect: Dialect) -> str:
    """Return which engines export a dialect: how many, and under which scrape jobs."""
    series, warnings = _engines_of(prometheus, dialect)
    jobs = Counter(labels.get("job", "") for labels in series)
    by_job = ", ".join(f"{count} in job {job or '(none)'}" for job, count in sorted(jobs.items()))
    engines = "1 engine" if len(series) == 1 else f"{len(series)} engines"
    line = f"{dialect}: {engines}" + (f" ({by_job})" if by_job else "")
    return "; ".join([line, *(f"the store says: {warning}" for warning in warnings)])


def _engines_of(
    prometheus: Prometheus, dialect: Dialect
) -> tuple[list[dict[str, str]], Sequence[str]]:
    """Return the identifying labels of each engine of a dialect now, and the store's warnings.

    One query, whose answer has one series per engine.
    """
    names = [dialect.names[question] for question in PROBES if question in dialect.names]
    selector = names[0].selector() if names else _any_answer(dialect).selector()
    identity = LABELS["identity"]
    answer = prometheus.query(f"group by ({', '.join(identity)}) ({selector})")
    engines = {
        tuple(series.labels.get(name, "") for name in identity): series.labels for series in answer
    }
    return list(engines.values()), answer.provenance.warnings


def _any_answer(dialect: Dialect) -> Name:
    """Return a metric that this dialect has; of a histogram its count."""
    name = next(iter(dialect.names.values()))
    part = "" if name.metric.removeprefix(dialect.stem) in dialect.bare else "_count"
    return Name(name.metric + part, name.matchers, name.native)


def scrape_job(settings: Settings) -> tuple[str, list[str]]:
    """Return the scrape job of the chat model's engine, and lines to print about it.

    Embedding servers export the same metrics under jobs of their own. It is the settings' job
    where there is one of that name, else the only one; of several none is chosen.
    """
    prometheus = Prometheus(settings)
    models: dict[str, set[str]] = {}
    titles = set()
    for dialect in recognise(prometheus.metric_names(), settings.metric_prefix):
        titles.add(dialect.engine.title)
        for labels in _engines_of(prometheus, dialect)[0]:
            model = next((labels[name] for name in LABELS["model"] if labels.get(name)), "?")
            models.setdefault(labels.get("job", ""), set()).add(model)
    if settings.vllm_job in models or not models:
        return settings.vllm_job, []

    jobs = "; ".join(f"{job} (serving {', '.join(sorted(m))})" for job, m in sorted(models.items()))
    line = (
        f"{' and '.join(sorted(titles))} {'is' if len(titles) == 1 else 'are'} scraped as the job "
        f"{jobs}; "
        f"the analysis asks for the job {settings.vllm_job}"
    )
    if len(models) == 1:
        return next(iter(models)), [f"{line}: set LAB_VLLM_JOB, or --write keeps it"]
    return settings.vllm_job, [f"{line}: set LAB_VLLM_JOB to one of them"]


def look_at_tempo(settings: Settings) -> list[str]:
    """Return lines on the traces of the last hour.

    Raises StoreError where it does not answer, NoData where it has no trace.
    """
    tempo = Tempo(settings)
    now = time.time()
    traces = tempo.search("{}", now - RECENT_S, now, limit=200).require()
    services = sorted({t.root_service for t in traces if t.root_service})
    count = f"{'at least ' if traces.limited else ''}{len(traces)}"
    lines = [
        f"Tempo {_address(settings, 'tempo')}: {count} traces in the last hour",
        f"  roots from {', '.join(services) or 'services without a name'}",
    ]
    queries = {
        "vLLM's requests": '{ name = "llm_request" }',
        "model calls": '{ name =~ "chat .*" }',
    }
    for what, query in queries.items():
        try:
            some = len(tempo.search(query, now - RECENT_S, now, limit=1)) > 0
            lines.append(f"  {what}: {'there' if some else 'none: switch on its tracing'}")
        except StoreError as e:
            lines.append(f"  {what}: unknown ({e.happened})")
    return lines


def _address(settings: Settings, name: str) -> str:
    """Return a server's address and where it was read."""
    source = settings.source_of(f"{name}_url")
    address = hide_password(settings.endpoint(name))
    return address if source == "an argument" else f"{address} (from {source})"


def _write(settings: Settings, given: dict[str, str]) -> Path:
    """Set these names in lab.toml and leave the rest as it is; with a password it is private.

    It is the checkout's file if credentials are set that go nowhere else.
    """
    has_credentials = any(getattr(settings, name) for name in CREDENTIALS)
    path = REPO / TOML_FILE if has_credentials else Path(TOML_FILE)
    text = path.read_text() if path.exists() else ""
    for name, value in given.items():
        line = f"{name} = {json.dumps(value)}"
        pattern = rf"(?m)^{name}\s*=.*$"
        present = re.search(pattern, text)
        text = re.sub(pattern, line.replace("\\", r"\\"), text) if present else f"{line}\n{text}"

    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    secret = any(hide_password(value) != value for value in given.values())
    write_atomically(path, text, 0o600 if secret or "store_headers" in text else mode)
    return path.resolve()


main = as_main(attach, "lab attach")
