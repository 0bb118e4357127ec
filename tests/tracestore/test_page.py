"""The built-in page in a real browser: it lists the traces and draws the chosen one, without any other server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import CHROMIUM, dom
from tests.tracestore.conftest import Running
from tests.tracestore.corpus import random_spans, request_of


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_lists_and_draws(running: Running, tmp_path: Path) -> None:
    """Every trace is in the list; the chosen one has a bar for each span; a span's name cannot become markup."""
    spans = random_spans(31, traces=4)
    spans[0].name = "<img src=x onerror=document.title='owned'>"
    for span in spans:
        span.trace >>= 12  # three leading zeros, as one trace in 4,096 has
    running.export(request_of(spans).SerializeToString())
    chosen = spans[0].trace
    page = dom(f"{running.tempo.base_url}/#{chosen:x}", tmp_path / "profile")
    for trace in {s.trace for s in spans}:
        assert f'data-id="{trace:032x}"' in page
    assert f"{chosen:032x} · " in page
    assert page.count('class="lane"') == sum(1 for s in spans if s.trace == chosen)
    assert "<img" not in page
    assert "<title>Traces</title>" in page


def test_the_page_asks_nobody_else(running: Running) -> None:
    """One file, no other origin: it works offline."""
    answer = running.tempo.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "http://" not in answer.text and "https://" not in answer.text
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
