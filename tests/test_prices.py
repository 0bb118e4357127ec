"""Prices have a date and a source, and costs follow the price list."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import SettingsError
from lab.prices import ApiPrice, api_prices, machine_prices

DATA = Path(__file__).resolve().parent.parent / "data"


def test_every_price_has_a_source_and_a_date() -> None:
    """Each price records where and when it was read."""
    for price in [*machine_prices(DATA).values(), *api_prices(DATA).values()]:
        assert price.source.startswith("https://") and price.read_on.year >= 2026, price


def test_the_cost_of_tokens_is_correct() -> None:
    """1,000 prompt tokens (400 cached) and 200 generated, at 1, 0.1 and 5 USD per million."""
    price = ApiPrice("x", 1.0, 5.0, "", None, "", cached_input_usd_per_mtok=0.1)
    assert price.cost_usd(1000, 200, 400) == pytest.approx((600 * 1 + 400 * 0.1 + 200 * 5) / 1e6)


def test_a_price_without_a_source_is_refused(tmp_path: Path) -> None:
    """The error names the row and the missing field."""
    (tmp_path / "prices").mkdir()
    (tmp_path / "prices" / "machines.toml").write_text("[mine]\nusd_per_hour = 1\n")
    with pytest.raises(SettingsError, match=r"\[mine\].*\n.*source"):
        machine_prices(tmp_path)
