"""A real Prometheus that scraped pages of tests/data/engines, or of a test."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from lab.settings import Settings, load_settings
from tests.observation.prometheus_of import prometheus_of

DATA = Path(__file__).parent.parent / "data" / "engines"
T0 = 1_790_000_000
AT = (0, 15, 30, 45, 60)  # seconds of the scrapes; from 30 on the second page
WINDOW = (T0 + 15, T0 + 60)
_SAMPLE = re.compile(r"([\w:]+)(?:\{(.*)\})?\s+(\S+)")


def page(name: str) -> str:
    """Return a page of tests/data/engines."""
    return (DATA / f"{name}.prom").read_text()


def window() -> str:
    """Return the window of the scrapes, as `lab.fleet.look` takes it."""
    start, end = (datetime.fromtimestamp(at, UTC).isoformat() for at in WINDOW)
    return f"{start}/{end}"


def samples(text: str, target: Mapping[str, str]) -> dict[str, str]:
    """Return value by series of a page, with the target's labels as Prometheus adds them."""
    result = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _SAMPLE.match(line)
        assert match, line
        name, labels, value = match.groups()
        own = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or "")
        # A target's label wins; the page's is kept as exported_LABEL.
        renamed = {(f"exported_{key}" if key in target else key): text for key, text in own}
        every = {**renamed, **target}
        result[f"{name}{_labels(every)}"] = value
    return result


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{key}="{text}"' for key, text in labels.items()) + "}"


def exposition(targets: Sequence[tuple[Mapping[str, str], str, str]]) -> str:
    """Return OpenMetrics text of (labels, first page, second page) per target."""
    lines = []
    for labels, before, after in targets:
        first = samples(before, labels)
        second = samples(after, labels)
        up = f"up{_labels(labels)}"
        first[up] = second[up] = "1"
        for series in {**first, **second}:
            for at in AT:
                value = (first if at < 30 else second).get(series)
                if value is not None:
                    lines.append(f"{series} {value} {T0 + at}")
    return "\n".join([*lines, "# EOF\n"])


@contextmanager
def scraped(
    *targets: tuple[Mapping[str, str], str, str], folder: Path, **settings: str
) -> Iterator[Settings]:
    """Yield settings of a Prometheus that scraped these targets."""
    with prometheus_of(exposition(targets), folder) as url:
        yield load_settings(place="recorded", prometheus_url=url, **settings)
