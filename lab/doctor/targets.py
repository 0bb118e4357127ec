"""Read what the doctor examines: files of any kind, pages, and the stores themselves."""

from __future__ import annotations

import csv
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
from lab.doctor.manifests import queries_in
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


def read_target(target: str, settings: Settings, before: str, window: str) -> list[Subject]:
    """Return what a file, a page or a store holds, or each file of a folder.

    Raises LabError, with what to do, where it cannot be read.
    """
    earlier = _text(Path(before)) if before else ""
    if urlsplit(target).scheme in ("http", "https"):
        return [_read_url(target, settings, earlier, window)]
    path = Path(target)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        return [_read_text(_text(file), str(file), "") for file in files]
    return [_read_text(_text(path), target, earlier)]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(
            f"{path} cannot be read",
            got=type(e).__name__,
            fix="name a text file, a folder or a URL",
        ) from e


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
    except RecursionError as e:
        raise FrameError("the JSON is nested too deeply", got=target) from e
    except ValueError:
        is_lines_of_traces = '"resourceSpans"' in text.strip().partition("\n")[0]
        return Subject(check_traces(read_otlp_json(text), target)) if is_lines_of_traces else None
    if not isinstance(content, dict):
        return _of_documents([content], target)
    if _is_trace(content) or _is_trace(content.get("trace")):
        return Subject(check_traces(read_otlp_json(text), target))
    if "status" in content and ("data" in content or "error" in content):
        return _of_page(_page_of_answer(text.encode(), target))
    return _of_documents([content.get("dashboard", content)], target)


def _is_trace(node: Any) -> bool:
    return isinstance(node, dict) and ("resourceSpans" in node or "batches" in node)


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
    lines = _content_lines(text)
    heads = [cell.strip().lower() for cell in "".join(lines[:1]).split("\t")]
    column = next((name for name in COLUMNS if name in heads), "")
    if not column:
        return _read_lines([line for line in lines if "\t" not in line], target)
    rows = csv.DictReader(lines[1:], heads, delimiter="\t", quoting=csv.QUOTE_NONE)
    return [
        Query(target, f"line {number}", row[column])
        for number, row in enumerate(rows, 2)
        if (row[column] or "").strip()
    ]


def _content_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and line[0] != "#"]


def _read_lines(lines: list[str], target: str) -> list[Query]:
    """Return the lines as queries if the first one is PromQL."""
    try:
        is_promql = bool(lines) and parse(lines[0]) is not None
    except ValueError:
        is_promql = False
    return [Query(target, "", line) for line in lines if is_promql]


def _of_page(page: Page) -> Subject:
    findings = check_page(page) + _secrets_of(page.samples_now, page.url)
    return Subject(findings, series=page.samples_now)


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
    return Page(target, _samples(answer), warnings=list(warnings))


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
            return _of_page(read_page(text, shown, before))
        try:
            subject = _read_text(text, shown, before)
        except LabError:
            pass  # a page for people, of a store
        else:
            has_kinds = all("kind" in each for each in subject.documents)
            if bool(subject.documents) == bool(subject.queries) or has_kinds and subject.documents:
                return subject
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
    dialects = recognise(names, prefix)
    stems = tuple(dialect.stem for dialect in dialects)
    patterns = "|".join([*(f"{stem}.*" for stem in stems), GPU])
    selector = f'{{__name__=~"{patterns}"}}'
    answer = prometheus.query(selector, end)
    now = _samples(answer)
    earlier = _samples(prometheus.query(selector, start))
    page = Page(target, now, earlier, warnings=list(answer.provenance.warnings))

    subject = Subject(series=now)
    if not dialects and not any(name.upper().startswith("DCGM_FI_") for name in names):
        evidence = f"{len(names):,} metrics, none of a known model server"
        subject.findings.append(Finding("no-engine-metrics", target, "", evidence))
    subject.findings += check_page(page, engines=False) if now else []
    for dialect in dialects:
        subject.findings += check_names(target, dialect, names)
    subject.findings += check_fleet(prometheus, target, start, end, prefix) if dialects else []
    subject.findings += [*_targets(prometheus, target), *_secrets_of(now, target)]
    subject.queries = [
        Query(target, f"rule {name}", expr, "record")
        for name, expr in prometheus.rules()
        if any(stem in expr for stem in (*stems, "DCGM_FI_"))
    ]
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


def known_in(subjects: Sequence[Subject]) -> Known:
    """Return the series of all targets, against which queries are checked."""
    return known_of((sample.name, sample.labels) for each in subjects for sample in each.series)
