"""Check a configuration against the options of the program that reads it.

The collector and Tempo are not in any package registry, so their own parsers cannot run here.
Their options are listed in `collector.yaml` and `tempo.yaml` beside this file, with the releases
they were read from, and are turned into a JSON Schema that refuses every key it does not know.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_TYPES: dict[str, dict[str, Any]] = {
    "any": {},
    "string": {"type": ["string", "null"]},  # an empty value is read as the empty string
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    # Go's time.ParseDuration; a bare 0 is a duration too.
    "duration": {
        "anyOf": [
            {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"},
            {"const": 0},
        ]
    },
}


def problems(config: Any, options: Any) -> Iterator[str]:
    """Yield one sentence for every unknown option and every value of the wrong type.

    `options` is a part of one of the YAML files, as `known_options` returns it.
    """
    import jsonschema

    validator = jsonschema.Draft202012Validator(_schema(options))
    for error in validator.iter_errors(config):
        place = ".".join(str(step) for step in error.absolute_path)
        yield f"{place}: {error.message}" if place else error.message


@functools.cache
def known_options(program: str) -> dict[str, Any]:
    """Return the options of 'collector' or 'tempo'."""
    return yaml.safe_load((Path(__file__).parent / f"{program}.yaml").read_text())


def _schema(options: Any) -> dict[str, Any]:
    if isinstance(options, dict):
        named = {key: _schema(value) for key, value in options.items() if key != "*"}
        others = _schema(options["*"]) if "*" in options else False
        # An empty block ('otlp:' without anything) is read as null.
        return {"type": ["object", "null"], "properties": named, "additionalProperties": others}
    if isinstance(options, list):
        return {"type": "array", "items": _schema(options[0])}
    if "|" in options:
        return {"enum": options.split("|")}
    return _TYPES[options]
