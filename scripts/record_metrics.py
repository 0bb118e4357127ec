"""Record the /metrics pages of a running lab under load: `python -m scripts.record_metrics`.

The pages are those that the lab's Prometheus scrapes, without paths and addresses of the machine.
"""

import json
import re
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import httpx

from lab.files import write_atomically
from lab.schema import JOBS
from lab.settings import REPO, load_settings

FOLDER = REPO / "data" / "recorded" / "metrics"
PACKAGES = (
    "llama-stack",
    "opentelemetry-exporter-prometheus",
    "opentelemetry-instrumentation-genai-openai",
)
_KEEP_PATHS = ("handler", "http_target", "http_route", "endpoint")  # their values are URL paths
_OTHER_RELEASE = re.compile(
    r'^(prometheus|node_exporter)_build_info\{.*?[{,]version="([^"]+)"', re.M
)


def record() -> None:
    """Save every job's page as <job>.prom, and provenance.json."""
    settings = load_settings()
    targets = _json(f"{settings.endpoint('prometheus')}/api/v1/targets?state=active")
    urls = {t["labels"]["job"]: t["scrapeUrl"] for t in targets["data"]["activeTargets"]}

    releases = {name: metadata.version(name) for name in PACKAGES}
    releases["vllm"] = _json(f"{settings.endpoint('vllm')}/version")["version"]
    for job in JOBS:
        page = _get(urls[job]).text
        releases |= dict(_OTHER_RELEASE.findall(page))
        write_atomically(FOLDER / f"{job}.prom", _without_machine(page))

    about = {
        "what": "pages of /metrics of a real local lab under load, complete except for host names, "
        "process ids and file paths",
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "releases": dict(sorted(releases.items())),
        "again": "lab up, lab load, python -m scripts.record_metrics",
    }
    write_atomically(FOLDER / "provenance.json", json.dumps(about, indent=1) + "\n")


def _get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=30).raise_for_status()


def _json(url: str) -> dict[str, Any]:
    return _get(url).json()


def _without_machine(page: str) -> str:
    """Return the page with file paths and addresses of this machine replaced."""
    page = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", page)
    lines = page.splitlines()
    return "".join(f"{x if x.startswith('#') else _without_paths(x)}\n" for x in lines)


def _without_paths(sample: str) -> str:
    return re.sub(
        r'(\w+)="/[^"]*"', lambda m: m[0] if m[1] in _KEEP_PATHS else f'{m[1]}="PATH"', sample
    )


if __name__ == "__main__":
    record()
