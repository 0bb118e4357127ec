"""Read what the doctor examines: files of any kind, pages, and the stores themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from lab.doctor.findings import Finding
from lab.doctor.kubernetes import flattened
from lab.doctor.manifests import check_manifests, queries_in
from lab.doctor.names import Known, known_of
from lab.doctor.pages import Page, Sample, check_fleet, check_names, check_page, read_page
from lab.doctor.queries import Query, parse
from lab.doctor.secrets import check_secrets
from lab.doctor.traces import check_traces
from lab.engines import recognise
from lab.errors import FrameError, LabError, QueryRejected, SettingsError, StoreError
from lab.observation.window import parse_window
from lab.settings import Settings, hide_password, load_settings
from lab.stores import MetricAnswer, Prometheus, Tempo, read_otlp_json
from lab.stores.http import connect
from lab.stores.prometheus_json import decode_envelope, series_of, usual_response

GPU = "(?i:dcgm_fi_).*"
SUFFIXES = (".yaml", ".yml", ".json", ".prom", ".txt", ".tsv", ".promql")
MAX_TRACES = 1000
COLUMNS = ("expression", "expr", "query", "promql")  # of a table of queries


@dataclass
class Subject:
    """What one target holds: findings that are final, documents, queries, and known series."""

    findings: list[Finding] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    series: list[Sample] = field(default_factory=list)


def read_target(target: str, settings: Settings, before: str, window: str) -> Subject:
    """Return what a file, a folder, a page or a store holds.

    Raises LabError, with what to do, where it cannot be read.
    """
    if urlsplit(target).scheme in ("http", "https"):
        return _read_url(target, settings, before, window)
    path = Path(target)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        return _together([_read_text(_text(p), str(p), "") for p in files])
    return _read_text(_text(path), target, _text(Path(before)) if before else "")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(
            f"{path} cannot be read",
            got=type(e).__name__,
            fix="name a text file, a folder or a URL",
        ) from e


def _together(subjects: Sequence[Subject]) -> Subject:
    whole = Subject()
    for each in subjects:
        whole.findings += each.findings
        whole.documents += each.documents
        whole.queries += each.queries
        whole.series += each.series
    return whole


# Files.


def _read_text(text: str, target: str, before: str) -> Subject:
    """Return what a text holds, whatever it is."""
    stripped = text.lstrip()
    if stripped.startswith(("{", "[")) and (subject := _read_json(text, target)):
        return subject
    if target.endswith((".yaml", ".yml")):
        return _read_yaml(text, target)
    try:
        page = read_page(text, target, before)
    except FrameError as e:
        not_a_page = e
    else:
        if page.samples_now or not stripped or stripped.startswith("#"):
            return _of_page(page)
        not_a_page = FrameError("this is not a page of metrics", got=target)
    if queries := _read_table(text, target):
        return Subject(queries=queries)
    try:
        return _read_yaml(text, target)
    except LabError:
        raise not_a_page from None


def _read_json(text: str, target: str) -> Subject | None:
    try:
        content = json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines or '"resourceSpans"' not in lines[0]:
            return None
        return Subject(check_traces(read_otlp_json(text), target))
    if not isinstance(content, dict):
        return _of_documents([content], target)
    trace = content.get("trace")
    if {"resourceSpans", "batches"} & {*content, *(trace if isinstance(trace, dict) else ())}:
        return Subject(check_traces(read_otlp_json(text), target))
    if "status" in content and ("data" in content or "error" in content):
        return _of_page(_page_of_answer(text.encode(), target))
    return _of_documents([content.get("dashboard", content)], target)


def _read_yaml(text: str, target: str) -> Subject:
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as e:
        raise FrameError("this is not YAML", got=f"{target}: {e}", fix="correct the file") from e
    return _of_documents(documents, target)


def _of_documents(documents: list[Any], target: str) -> Subject:
    flat = flattened(documents)
    if not flat:
        raise FrameError(
            "this is none of the kinds of file that the doctor knows",
            got=target,
            fix="give a /metrics page, OTLP JSON, a dashboard, rules, a trigger, or manifests",
        )
    return Subject(documents=flat, queries=[q for each in flat for q in queries_in(each, target)])


def _read_table(text: str, target: str) -> list[Query]:
    """Return the queries of a file with one per line, or of a tab-separated table."""
    rows = [line.split("\t") for line in text.splitlines() if line.strip() and line[0] != "#"]
    heads = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = next((heads.index(name) for name in COLUMNS if name in heads), None)
    if column is None:
        cells = [cell for row in rows if len(row) == 1 for cell in row]
        return [Query(target, "", cell) for cell in cells] if _are_queries(cells) else []
    queries = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) > column and row[column].strip():
            queries.append(Query(target, f"line {number}", row[column]))
    return queries


def _are_queries(cells: list[str]) -> bool:
    try:
        return bool(cells) and parse(cells[0]) is not None
    except ValueError:
        return False


def _of_page(page: Page) -> Subject:
    subject = Subject(check_page(page), series=page.samples_now)
    subject.findings += _secrets_of(page.samples_now, page.url)
    return subject


def _secrets_of(samples: list[Sample], target: str) -> list[Finding]:
    pairs = {(key, value) for sample in samples for key, value in sample.labels.items()}
    return check_secrets(sorted(pairs), target, "label ")


def _page_of_answer(body: bytes, target: str) -> Page:
    """Return the last value of each series of a response of Prometheus' API."""
    response = usual_response(body)
    if response is None:
        envelope = decode_envelope(body)
        raise QueryRejected(
            f"the response is a refusal: {envelope.error}",
            got=f"{target}: {envelope.errorType}",
            fix="correct the query, or query a shorter window with a coarser step",
        )
    kind, series, warnings = series_of(response)
    answer = MetricAnswer(kind, series, read_otlp_json().provenance)
    page = Page(target, _samples(answer))
    page.warnings.extend(warnings)
    return page


def _samples(answer: MetricAnswer) -> list[Sample]:
    samples = []
    for each in answer.metrics:
        labels = dict(each["metric"])
        name = labels.pop("__name__", "")
        values = each.get("values") or [each["value"]]
        bad = [value for _, value in values if value.lstrip("+-").lower() in ("nan", "inf")]
        samples.append(Sample(name, labels, float(bad[0] if bad else values[-1][1])))
    return samples


# Addresses.


def _read_url(target: str, settings: Settings, before: str, window: str) -> Subject:
    """Return what an address serves: a page, a file, a Prometheus or a Tempo."""
    shown = hide_password(target)
    text = _fetch(target, settings)
    if text is not None:
        if urlsplit(target).path.rstrip("/").endswith("metrics") or text.startswith("# "):
            return _of_page(read_page(text, shown, _text(Path(before)) if before else ""))
        try:
            return _read_text(text, shown, _text(Path(before)) if before else "")
        except LabError:
            pass  # a page for people, of a store
    there = load_settings(prometheus_url=target, tempo_url=target)
    start, end = parse_window(window)
    try:
        return _read_prometheus(Prometheus(there), shown, there.metric_prefix, start, end)
    except StoreError as not_prometheus:
        try:
            answer = Tempo(there).spans("{}", start, end, max_traces=MAX_TRACES, attributes=None)
            return Subject(check_traces(answer, shown))
        except StoreError:
            raise not_prometheus from None


def _fetch(target: str, settings: Settings) -> str | None:
    """Return the text at an address, None for HTML and for every refusal."""
    client = connect("The page", target, settings.timeout_s, settings.store_headers)
    try:
        reply = client.request("")
    finally:
        client.close()
    kind = reply.headers.get("Content-Type", "")
    if reply.status != 200 or "html" in kind:
        return None
    return reply.content.decode("utf-8", "replace")


def _read_prometheus(
    prometheus: Prometheus, target: str, prefix: str, start: float, end: float
) -> Subject:
    names = prometheus.metric_names()
    subject = Subject()
    dialects = recognise(names, prefix)
    if not dialects and not any(name.upper().startswith("DCGM_FI_") for name in names):
        evidence = f"{len(names):,} metrics, none of a known model server"
        subject.findings.append(Finding("no-engine-metrics", target, "", evidence))
    stems = [f"{dialect.stem}.*" for dialect in dialects]
    selector = f'{{__name__=~"{"|".join([*stems, GPU])}"}}'
    answer = prometheus.query(selector, end)
    earlier = prometheus.query(selector, start)
    now = _samples(answer)
    page = Page(target, now, _samples(earlier))
    page.warnings.extend(answer.provenance.warnings)
    subject.series = now
    subject.findings += check_page(page, engines=False) if now else []
    subject.findings += [f for d in dialects for f in check_names(target, d, names)]
    if dialects:
        subject.findings += check_fleet(prometheus, target, start, end, prefix)
    subject.findings += _targets(prometheus, target)
    subject.findings += _secrets_of(now, target)
    mine = tuple(dialect.stem for dialect in dialects)
    for name, expr in prometheus.rules():
        if any(stem in expr for stem in mine) or "DCGM_FI_" in expr:
            subject.queries.append(Query(target, f"rule {name}", expr, "record"))
    return subject


def _targets(prometheus: Prometheus, target: str) -> list[Finding]:
    """Return targets that are down, or whose scrape brings nothing."""
    findings = [
        Finding("target-down", target, f"{each.job} {each.instance}", each.error or "up is 0")
        for each in prometheus.targets()
        if not each.up and each.last_scrape > time.time() - 86_400
    ]
    for series in prometheus.query("scrape_samples_scraped == 0 and on(job, instance) up == 1"):
        where = f"{series.labels.get('job', '')} {series.labels.get('instance', '')}"
        findings.append(Finding("silent-target", target, where, "scrape_samples_scraped is 0"))
    return findings


def known_in(subjects: Sequence[Subject]) -> Known | None:
    """Return the series of all targets, against which queries are checked; None without any."""
    series = [(sample.name, sample.labels) for each in subjects for sample in each.series]
    return known_of(series) if series else None


def documents_findings(subjects: Sequence[Subject], target: str) -> list[Finding]:
    """Return the faults of all manifests, which refer to each other."""
    documents = [document for each in subjects for document in each.documents]
    return check_manifests(documents, target)
