"""Check custom resources against typed models of their CRDs: wrong values, missing and unknown fields.

The models ignore fields that they do not know, so each document is read and written again; what was
lost on the way is a fault.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

from scripts.check_cluster.render import name

_MONITORING = "monitoring.coreos.com/v1"
CUSTOM = {
    (_MONITORING, kind): ("cloudcoil.models.prometheus_operator.v1", kind)
    for kind in ("Prometheus", "ServiceMonitor", "PodMonitor", "PrometheusRule")
} | {("keda.sh/v1alpha1", "ScaledObject"): ("cloudcoil.models.keda.v1alpha1", "ScaledObject")}

# Fields that are newer than the newest models for this Python, by kind: (field, since when).
NEWER_THAN_MODELS = {
    "ScaledObject": {".spec.fallback.behavior": "KEDA 2.17; the models are of 2.16"},
}


def check(documents: list[dict[str, Any]]) -> list[str]:
    """Return the problems of the custom resources among the documents."""
    import pydantic

    problems = []
    for d in {json.dumps(d, sort_keys=True): d for d in documents}.values():
        model = CUSTOM.get((d["apiVersion"], d["kind"]))
        if model is None:
            continue
        kind = getattr(importlib.import_module(model[0]), model[1])
        try:
            read = kind.model_validate(d)
        except pydantic.ValidationError as e:
            problems += [
                f"{name(d)}: {'.'.join(map(str, x['loc']))}: {x['msg']}" for x in e.errors()
            ]
            continue
        written = read.model_dump(mode="json", by_alias=True, exclude_none=True)
        newer = NEWER_THAN_MODELS.get(d["kind"], {})
        unknown = [path for path in _lost(d, written) if path not in newer]
        problems += [f"{name(d)}: unknown field {path}" for path in unknown]
    return problems


def _lost(given: Any, kept: Any, path: str = "") -> list[str]:
    if isinstance(given, dict):
        if not isinstance(kept, dict):
            return [path]
        lost = []
        for key, value in given.items():
            lost += _lost(value, kept[key], f"{path}.{key}") if key in kept else [f"{path}.{key}"]
        return lost
    if isinstance(given, list):
        if not isinstance(kept, list) or len(kept) != len(given):
            return [path]
        return [
            x
            for i, (g, k) in enumerate(zip(given, kept, strict=True))
            for x in _lost(g, k, f"{path}[{i}]")
        ]
    return []
