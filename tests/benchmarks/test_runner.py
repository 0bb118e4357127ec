"""The benchmark runner accepts measured rows, refuses others, and checks the promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import BenchmarkError, available, breaks_promise, checked, run_one

ROW = {"subject": "lab", "metric": "ingest_spans_per_s", "value": 24000.0, "better": "higher"}


def test_rows_are_checked() -> None:
    """A row without a number, or with one that cannot be judged, is no result."""
    assert checked("x", ROW) == ROW
    for bad in ({"value": None}, {"value": float("nan")}, {"better": "bigger"}, {"subject": 3}):
        with pytest.raises(BenchmarkError, match="benchmark x"):
            checked("x", {**ROW, **bad})


@pytest.mark.parametrize(
    ("value", "better", "broken"), [(9, "higher", True), (11, "higher", False), (11, "lower", True)]
)
def test_promises(value: float, better: str, broken: bool) -> None:
    """Only the lab's own numbers can break one."""
    row = {**ROW, "value": value, "better": better, "bound": 10}
    assert breaks_promise(row) is broken
    assert not breaks_promise({**row, "subject": "other 1.0"})
    assert not breaks_promise({**ROW, "better": better})


def test_every_module_or_package_with_a_main_is_found(tmp_path: Path) -> None:
    """Helpers beside them are not benchmarks."""
    (tmp_path / "ingest.py").write_text("def main(argv):\n    return []\n")
    (tmp_path / "server.py").write_text("def main() -> None:\n    pass\n")
    (tmp_path / "__main__.py").write_text("def main(argv): ...\n")
    for package, content in (("campaign", "def main(argv): ...\n"), ("helpers", "")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(content)
    assert available(tmp_path) == ["campaign", "ingest"]


def test_one_that_fails_is_named() -> None:
    """In a process of its own, so that it cannot take the others down."""
    with pytest.raises(BenchmarkError, match=r"(?s)no_such_benchmark failed.*exit status 1"):
        run_one("no_such_benchmark", [])
