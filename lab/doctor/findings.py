"""What the doctor finds: one Finding per fault, with the meaning of its check from checks.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FIELDS = ("check", "level", "target", "where", "evidence", "consequence", "fix")


@dataclass(frozen=True)
class Check:
    """What the doctor looks for: how bad it is, what follows from it, and how to correct it."""

    level: str
    consequence: str
    fix: str


@dataclass(frozen=True)
class Finding:
    """One fault: the check, the file or address and the place in it, and what was seen there.

    `hint` replaces the check's general fix where a better one is known.
    """

    check: str
    target: str
    where: str
    evidence: str
    hint: str = ""

    @property
    def level(self) -> str:
        """Return 'error' (a number is missing or wrong) or 'note' (it is easily misread)."""
        return checks()[self.check].level

    @property
    def consequence(self) -> str:
        """Return what follows from it."""
        return checks()[self.check].consequence

    @property
    def fix(self) -> str:
        """Return how to correct it."""
        return self.hint or checks()[self.check].fix

    def as_dict(self) -> dict[str, str]:
        """Return all of it, for JSON."""
        return {name: getattr(self, name) for name in FIELDS}


@cache
def checks() -> dict[str, Check]:
    """Return every check by its name."""
    table = tomllib.loads((Path(__file__).parent / "checks.toml").read_text())
    return {name: Check(**entry) for name, entry in table.items()}
