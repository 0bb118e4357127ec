"""The live view in a real Chromium, on a recording in a real Prometheus and trace store."""

from __future__ import annotations

import json
from urllib.parse import quote

import psutil
import pytest

from lab import stack
from lab.dashboards import DASHBOARDS, grafana_json
from lab.settings import Settings
from lab.stack import state
from lab.stores import Prometheus
from tests.browser import CHROMIUM, Page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]

SETTLED = "document.querySelectorAll('.panel').length > 0 && " + (
    "[...document.querySelectorAll('.panel')].every(p => p.dataset.state)"
)

STATE = "document.querySelector('#components tr[data-part=prometheus]')?.dataset.state"


def open_view(page: Page, lab: Settings, route: str) -> None:
    """Open one of the views from scratch."""
    page.open("about:blank")
    page.failures.clear()
    page.open(f"{lab.endpoint('view')}/#/{route}")


@pytest.mark.parametrize("name", [n for n in DASHBOARDS if n != "gpu"])
def test_every_panel_of_a_dashboard_draws_what_prometheus_has(
    page: Page, recorded_lab: Settings, name: str
) -> None:
    """No panel fails; one is empty only where Prometheus has no value for its queries."""
    page.resize(1280, 20_000)  # panels that are out of sight are not drawn
    open_view(page, recorded_lab, f"d/{name}")
    page.wait_for(SETTLED)
    read = "[...document.querySelectorAll('.panel')].map(p => [p.dataset.title, p.dataset.state])"
    states = dict(page.evaluate(read))

    expected = [p for p in json.loads(grafana_json(name, local=True))["panels"]]
    assert set(states) == {p["title"] for p in expected if p["type"] != "row"}
    assert "failed" not in states.values()
    needs_nothing = {p.title for p in DASHBOARDS[name].panels if not p.needs and not p.quiet}
    empty = {title for title, state in states.items() if state == "empty"}
    assert empty & needs_nothing == set()
    assert page.failures == []


def test_a_panel_shows_the_values_of_prometheus(page: Page, recorded_lab: Settings) -> None:
    """The number in the legend is that of the same query in Prometheus, with the same unit."""
    page.resize(1280, 900)
    open_view(page, recorded_lab, "query?promql=" + quote("count(up)"))
    cell = page.wait_for("document.querySelector('#results > table td:last-child')?.textContent")
    end = json.loads((recorded_lab.recording_dir / "recording.json").read_text())["window"][1]
    prometheus = Prometheus(recorded_lab)
    (answer,) = prometheus.query("count(up)", at=end).metrics
    assert cell == answer["value"][1]
    page.wait_for("Boolean(document.querySelector('.panel[data-state=drawn] canvas'))")
    shown = page.evaluate("document.querySelector('.legend td:last-child').textContent")
    assert shown == cell


def test_a_chart_has_ink_where_its_series_are(page: Page, recorded_lab: Settings) -> None:
    """The canvas of a chart contains the colour of its first line, that of a heatmap its cells."""
    page.resize(1280, 6000)
    open_view(page, recorded_lab, "d/vllm")
    page.wait_for(SETTLED)
    inked = """(() => {
      const of = (title, [r, g, b]) => {
        const canvas = document.querySelector(`[data-title="${title}"] canvas`);
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let i = 0; i < data.length; i += 4) {
          const colour = [data[i] - r, data[i + 1] - g, data[i + 2] - b].map(Math.abs);
          count += colour.every(d => d < 20) && data[i + 3] > 30;
        }
        return count;
      };
      return [of('Token throughput', [0, 114, 178]), of('TTFT distribution', [217, 95, 2])];
    })()"""
    line, cells = page.evaluate(inked)
    assert line > 100
    assert cells > 100


def test_a_variable_narrows_the_panels(page: Page, recorded_lab: Settings) -> None:
    """An instance that a table links to becomes the choice, and all queries use it."""
    page.resize(1280, 6000)
    open_view(page, recorded_lab, "d/vllm")
    page.wait_for("Boolean(document.querySelector('[data-title=Instances] td button'))")
    instance = page.evaluate("document.querySelector('[data-title=Instances] td button').innerText")
    page.evaluate("document.querySelector('[data-title=Instances] td button').click()")
    page.wait_for("location.hash.includes('var-instance=')")
    page.wait_for(SETTLED)

    sent = "performance.getEntriesByType('resource').map(e => decodeURIComponent(e.name))"
    narrowed = 'instance=~"' + instance.replace(".", r"\\.") + '"'
    page.wait_for(f"{sent}.some(url => url.includes({json.dumps(narrowed)}))")


def test_promql_is_completed_with_metric_names(page: Page, recorded_lab: Settings) -> None:
    """Typing the beginning of a metric offers the names that Prometheus knows."""
    open_view(page, recorded_lab, "query")
    page.wait_for("Boolean(document.querySelector('#promql .cm-content'))")
    page.type("#promql .cm-content", "vllm:num_requests")
    offered = "[...document.querySelectorAll('.cm-tooltip-autocomplete li')].map(l => l.innerText)"
    page.wait_for(f"{offered}.some(t => t.includes('vllm:num_requests_running'))")
    assert all("vllm" in text for text in page.evaluate(offered))


def test_traceql_is_completed_with_attributes_and_values(
    page: Page, recorded_lab: Settings
) -> None:
    """Inside braces the store's attributes are offered, after a comparison their values."""
    open_view(page, recorded_lab, "query")
    page.wait_for("Boolean(document.querySelector('#traceql .cm-content'))")
    offered = "[...document.querySelectorAll('.cm-tooltip-autocomplete li')].map(l => l.innerText)"
    page.type("#traceql .cm-content", "{ resource.serv")
    page.wait_for(f"{offered}.some(t => t.includes('resource.service.name'))")
    page.type("#traceql .cm-content", "ice.name = ")
    page.type("#traceql .cm-content", '"v')
    page.wait_for(f"{offered}.some(t => t.includes('vllm-embed'))")


def test_traceql_finds_traces_and_opens_one(page: Page, recorded_lab: Settings) -> None:
    """A search lists traces of the range; a click shows the waterfall with its bars."""
    open_view(page, recorded_lab, "query?traceql=" + quote("{ status = error }"))
    page.wait_for("Boolean(document.querySelector('#results a'))")
    page.evaluate("document.querySelector('#results a').click()")
    bars = "document.querySelector('iframe')?.contentDocument?.querySelectorAll('.lane').length"
    assert page.wait_for(bars) > 3


def test_a_traceql_metrics_query_is_drawn(page: Page, recorded_lab: Settings) -> None:
    """`rate()` by service gives one line per service."""
    text = quote("{} | rate() by (resource.service.name)")
    open_view(page, recorded_lab, f"query?traceql={text}")
    page.wait_for("Boolean(document.querySelector('.panel[data-state=drawn] canvas'))")
    names = page.evaluate("document.querySelector('.legend').innerText")
    assert "resource.service.name=vllm" in names and "llama-stack" in names


def test_a_wrong_query_shows_the_message_of_the_store(page: Page, recorded_lab: Settings) -> None:
    """The reader sees what Prometheus does not accept."""
    open_view(page, recorded_lab, "query?promql=" + quote("sum(up"))
    page.wait_for("document.querySelector('#results .bad')?.innerText.includes('parse error')")


def test_the_page_is_complete_offline_and_shows_the_recording(
    page: Page, recorded_lab: Settings
) -> None:
    """Nothing comes from another server, no error is logged, and no width needs scrolling."""
    page.requested.clear()
    page.resize(1920, 1080)
    open_view(page, recorded_lab, "lab")
    page.wait_for(SETTLED)
    assert page.failures == []
    origins = {url.split("/")[2] for url in page.requested if url.startswith("http")}
    assert origins == {recorded_lab.endpoint("view").removeprefix("http://")}
    assert "first-look" in page.evaluate("document.querySelector('#place').innerText")
    states = "[...document.querySelectorAll('#components tr[data-part]')].map(r => r.dataset.part)"
    assert {"prometheus", "tracestore", "live-view"} <= set(page.evaluate(states))
    for width in (1280, 1920):
        page.resize(width, 900)
        root = "document.documentElement"
        page.wait_for(
            f"{root}.clientWidth > {width - 40} && {root}.scrollWidth <= {root}.clientWidth"
        )


def test_a_part_that_died_is_shown_without_a_reload(page: Page, recorded_lab: Settings) -> None:
    """The open page shows that Prometheus is dead, what that breaks, and that it is back."""
    page.resize(1280, 900)
    page.open("about:blank")
    page.open(f"{recorded_lab.endpoint('view')}/#/lab")
    page.wait_for(f"{STATE} === '{state.READY}'")

    (prometheus,) = [p for p in stack.status(recorded_lab) if p.name == "prometheus"]
    psutil.Process(prometheus.pid).kill()
    try:
        page.wait_for(f"{STATE} === '{state.DEAD}'")
        page.evaluate("document.querySelector('#nav-alerts').click()")
        message = "document.querySelector('#alerts .bad')?.innerText"
        assert "Prometheus" in page.wait_for(message)
    finally:
        stack.up(recorded_lab, wait_for="all")
    page.evaluate("document.querySelector('#nav-lab').click()")
    page.wait_for(f"{STATE} === '{state.READY}'")
