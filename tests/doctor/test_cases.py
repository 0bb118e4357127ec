"""The doctor finds each fault of the supplied inputs, and none in good ones."""

from __future__ import annotations

import pytest

pytest.importorskip("promql_parser")  # a dependency of lab/doctor alone

from benchmarks.doctor import Case, cases

ALL = list(cases())


@pytest.mark.parametrize("case", [c for c in ALL if c.check], ids=lambda c: f"{c.check}:{c.name}")
def test_a_fault_is_found(case: Case) -> None:
    """By the check that is meant for it; other findings may follow from the same fault."""
    assert case.check in case.checks()


@pytest.mark.parametrize("case", [c for c in ALL if not c.check], ids=lambda c: c.name)
def test_a_good_input_has_no_finding(case: Case) -> None:
    """No false alarm, on pages of every engine, and on the lab's own boards and manifests."""
    assert case.checks() == set()
