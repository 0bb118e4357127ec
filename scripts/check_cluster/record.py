"""Record the /metrics pages of a running lab under load: `python -m scripts.check_cluster.record`.

The pages are those that the lab's Prometheus scrapes, without paths and addresses of the machine.
"""

import json
import re
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import httpx

from lab.files import write_atomically
from lab.schema import JOBS
from lab.settings import Settings, load_settings
from scripts.check_cluster.render import RECORDED_METRICS

_KEEP_PATHS = (
    "handler",
    "http_target",
    "http_route",
    "endpoint",
)  # labels whose values are URL paths
_OTHER_RELEASE = re.compile(
    r'^(prometheus|node_exporter)_build_info\{.*?[{,]version="([^"]+)"', re.M
)


def record(settings: Settings | None = None, folder: Path = RECORDED_METRICS) -> list[Path]:
    """Save every job's page as <job>.prom, and provenance.json. Return the files."""
    settings = settings or load_settings()
    prometheus = settings.endpoint("prometheus")
    answer = httpx.get(
        f"{prometheus}/api/v1/targets", params={"state": "active"}, timeout=settings.timeout_s
    )
    urls = {
        t["labels"]["job"]: t["scrapeUrl"]
        for t in answer.raise_for_status().json()["data"]["activeTargets"]
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    releases = _releases(settings)
    for job in JOBS:
        page = httpx.get(urls[job], timeout=settings.timeout_s).raise_for_status().text
        releases |= {name: version for name, version in _OTHER_RELEASE.findall(page)}
        written.append(_write(folder / f"{job}.prom", _without_machine(page)))
    about = {
        "what": "pages of /metrics of a real local lab under load, complete except for host names, "
        "process ids and file paths",
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "releases": dict(sorted(releases.items())),
        "again": "lab up, lab load, python -m scripts.check_cluster.record",
    }
    return [*written, _write(folder / "provenance.json", json.dumps(about, indent=1) + "\n")]


def _releases(settings: Settings) -> dict[str, str]:
    vllm = httpx.get(f"{settings.endpoint('vllm')}/version", timeout=settings.timeout_s).json()[
        "version"
    ]
    own = (
        "llama-stack",
        "opentelemetry-exporter-prometheus",
        "opentelemetry-instrumentation-genai-openai",
    )
    return {"vllm": vllm} | {name: metadata.version(name) for name in own}


def _without_machine(page: str) -> str:
    lines = []
    for line in page.splitlines():
        if not line.startswith("#") and '="/' in line:
            line = re.sub(r'(\w+)="(/[^"]*)"', _replace_path, line)
        line = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _replace_path(match: re.Match[str]) -> str:
    return match[0] if match[1] in _KEEP_PATHS else f'{match[1]}="PATH"'


def _write(path: Path, text: str) -> Path:
    write_atomically(path, text)
    return path


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


if __name__ == "__main__":
    print(*record(), sep="\n")
