"""Secrets in attributes, labels and manifests, by the form of the value or the name of its key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from lab.doctor.findings import Finding

KEY = re.compile(
    r"(?i)authorization|api[-_.]?key|passw(or)?d|secret|access[-_.]?token|bearer|cookie|private[-_.]?key"
)
VALUES = {
    "a bearer token": r"(?i)\bbearer\s+[\w.~+/-]{8,}",
    "basic authentication": r"(?i)\bbasic\s+[A-Za-z0-9+/]{8,}={0,2}",
    "an API key": r"\b((sk|pk|rk|nvapi)-[\w-]{16,}|AIza[\w-]{30,}|hf_[A-Za-z0-9]{16,})",
    "a cloud access key": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token": r"\b(gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abp]-[\w-]{10,})",
    "a JSON web token": r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a login in a URL": r"://[^/\s:@]+:[^/\s:@]{3,}@",
    "a key in a URL": r"(?i)[?&](api[-_]?key|access[-_]?token|token|key|sig)=[^&\s]{8,}",
}
_HARMLESS = re.compile(
    r"(?i)^\W*$|redact|\*{3}|x{4}|^(\[|<|\$|\{\{).*|^(none|null|true|false|anonymous)$|secretref|/"
)


def secret_in(key: str, value: str) -> str:
    """Return what kind of secret a value is, '' if it is none."""
    for what, pattern in VALUES.items():
        match = re.search(pattern, value)
        if match and not re.search(r"(?i)redact|\*{3}", match[0]):
            return what
    if KEY.search(key) and len(value) >= 6 and not _HARMLESS.search(value):
        return f"the value of {key.rpartition('.')[2]}"
    return ""


def strings_of(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in JSON or YAML with its key; OTLP's {key, value} pairs by their own key."""
    if isinstance(node, dict):
        if set(node) == {"key", "value"} and isinstance(node["key"], str):
            yield from strings_of(node["value"], node["key"])
            return
        for name, value in node.items():
            is_wrapper = name in ("stringValue", "arrayValue", "values", "kvlistValue")
            yield from strings_of(value, key if is_wrapper and key else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from strings_of(value, key)
    elif isinstance(node, str):
        yield key, node


def check_secrets(
    pairs: Iterable[tuple[str, str]], target: str, prefix: str = "", *, counted: bool = False
) -> list[Finding]:
    """Return one finding per key with secrets among keys and values, if `counted` with a count."""
    texts: dict[str, list[str]] = {}
    for key, value in pairs:
        if what := secret_in(key, value):
            # The beginning and the length, to find it again.
            shown = f"{what}: {value[:4]}... ({len(value)} characters)"
            texts.setdefault(key, []).append(shown)
    return [
        Finding(
            "secret",
            target,
            f"{prefix}{key}",
            each[0] + (f", {len(each)} times" if counted else ""),
        )
        for key, each in texts.items()
    ]
