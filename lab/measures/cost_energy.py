"""Energy of a window, from whichever counter there is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Energy:
    """Joules of a window. `source` is the metric; without one `joules` is NaN and `why` says why."""

    joules: float
    source: str
    why: str = ""

    @property
    def known(self) -> bool:
        return self.joules == self.joules

    def per_token_j(self, tokens: float) -> float:
        """Joules a token, idle time's energy in it; NaN of none."""
        return self.joules / tokens if tokens else float("nan")

    def cost_usd(self, usd_per_kwh: float) -> float:
        """USD of this energy: 3.6 million joules are a kilowatt-hour."""
        return self.joules / 3.6e6 * usd_per_kwh

    def __str__(self) -> str:
        if not self.known:
            return f"no energy figure: {self.why}"
        return f"{self.joules:,.1f} J ({self.joules / 3.6e6:.3g} kWh) by {self.source}{self.why and ': ' + self.why}"
