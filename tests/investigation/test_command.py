"""`lab investigate` against a real Prometheus, without any traces."""

from __future__ import annotations

import json

import pytest

from lab.cli.investigate import main
from lab.errors import NoData, SettingsError, WorkloadError
from lab.investigation import NOTHING
from lab.stores.timestamps import utc
from tests.investigation.recorded import CALM, STILL, WINDOWS, openmetrics
from tests.observation.prometheus_of import prometheus_of

NOWHERE = "http://127.0.0.1:9"  # discard: nothing listens


def _text(span: tuple[float, float]) -> str:
    return f"{utc(span[0])}/{utc(span[1])}"


def _half(number: int) -> str:
    middle = (CALM[0] + STILL) / 2
    return _text((CALM[0], middle) if number == 0 else (middle, STILL))


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory):
    """Serve the recorded samples."""
    with prometheus_of(openmetrics(), tmp_path_factory.mktemp("prometheus")) as url:
        yield ["--prometheus", url, "--tempo", NOWHERE]


@pytest.fixture(autouse=True)
def at_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows lie in the past, whatever this machine's clock says."""
    monkeypatch.setattr("lab.observation.window.time.time", lambda: WINDOWS["spans_lost"][1] + 900)


def test_metrics_alone_are_enough_to_see_a_change(prometheus, tmp_path, capsys) -> None:
    """The status says that something changed; the report names signals, and what is missing."""
    out = tmp_path / "report.html"
    options = ["--baseline", _text(CALM), "--out", str(out), "--json", *prometheus]
    assert main([_text(WINDOWS["noisy_neighbour"]), *options]) == 1
    content = json.loads(capsys.readouterr().out)
    certain = {row["signal"] for row in content["changes"] if row["certain"]}
    assert "requests running in vLLM" in certain
    assert {row["from"] for row in content["changes"]} == {"metrics"}
    assert any(note.startswith("traces cannot be read") for note in content["notes"])
    assert out.read_text().startswith("<!doctype html>")


def test_calm_ends_with_status_0(prometheus, capsys) -> None:
    """Two halves of a calm time do not differ, by metrics either."""
    assert main([_half(1), "--baseline", _half(0), *prometheus]) == 0
    assert "Nothing changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["yesterday"], WorkloadError),
        ([_text(CALM), "--baseline", _text(WINDOWS["slow_tool"])], WorkloadError),
        (["2020-01-01T00:00:00Z/2020-01-01T00:05:00Z"], NoData),
        ([_half(1), "--out", "/dev/null/report.md"], SettingsError),
    ],
)
def test_what_cannot_be_done_says_why(prometheus, arguments, error) -> None:
    """A window that is none, a baseline after it, a time without data, a file that cannot be."""
    with pytest.raises(error) as refused:
        main([*arguments, *prometheus])
    assert refused.value.fix


def test_a_report_has_a_known_form(prometheus, capsys) -> None:
    """Another suffix is refused before anything is read."""
    assert main([_text(CALM), "--out", "report.pdf", *prometheus]) == 2
    assert NOTHING not in capsys.readouterr().out
