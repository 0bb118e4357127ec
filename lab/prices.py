"""Prices with their date and source, from data/prices/. A price without a source is refused."""

import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lab.errors import SettingsError


@dataclass(frozen=True)
class MachinePrice:
    """One hour of a whole machine, on demand."""

    name: str
    usd_per_hour: float
    what: str
    read_on: date
    source: str


@dataclass(frozen=True)
class ApiPrice:
    """A million tokens at a public API. Without a price for cached input, input counts."""

    name: str
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    what: str
    read_on: date
    source: str
    cached_input_usd_per_mtok: float | None = None

    def cost_usd(
        self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0
    ) -> float:
        """Return USD for tokens; `cached_tokens` of the `prompt_tokens` came from the cache."""
        cached_price = self.cached_input_usd_per_mtok
        if cached_price is None:
            cached_price = self.input_usd_per_mtok
        fresh = prompt_tokens - cached_tokens
        prompt = fresh * self.input_usd_per_mtok + cached_tokens * cached_price
        return (prompt + completion_tokens * self.output_usd_per_mtok) / 1e6


def machine_prices(data_dir: Path) -> dict[str, MachinePrice]:
    """Return the rows of machines.toml by name. Raises SettingsError for a malformed file."""
    return _read(data_dir / "prices" / "machines.toml", MachinePrice)


def api_prices(data_dir: Path) -> dict[str, ApiPrice]:
    """Return the rows of api.toml by name. Raises SettingsError for a malformed file."""
    return _read(data_dir / "prices" / "api.toml", ApiPrice)


def _read(path: Path, kind: type) -> dict:
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as e:
        raise SettingsError(
            f"the price list {path.name} cannot be read", got=str(e), fix=f"restore {path}"
        ) from e
    prices = {}
    for name, row in rows.items():
        try:
            prices[name] = kind(name=name, **row)
        except TypeError as e:
            raise SettingsError(
                f"row [{name}] of {path.name} is not a price",
                got=str(e),
                fix="give its price, what, read_on and source; see data/prices/README.md",
            ) from e
    return prices
