"""Hypothesis strategies for TraceQL queries that are valid, or almost valid, by construction."""

from __future__ import annotations

from hypothesis import strategies as st

ATTRIBUTES = (
    "span.foo",
    "span.bar",
    ".foo",
    "resource.foo",
    "resource.service.name",
    ".service.name",
    "span.gen_ai.request.model",
    "span.gen_ai.usage.prompt_tokens",
    ".gen_ai.usage.prompt_tokens",
    "event.e",
    "span.never",
    ".e",
)
_EQUAL = st.sampled_from(("=", "!="))
_ORDER = st.sampled_from(("=", "!=", ">", ">=", "<", "<="))
_LITERALS = st.sampled_from(
    (
        '"a"',
        '"b"',
        '"200"',
        '""',
        '"m1"',
        "`api`",
        "0",
        "1",
        "2",
        "3",
        "-7",
        "200",
        "0.25",
        "2.0",
        "1s",
        "1ns",
        "true",
        "false",
    )
)
_REGEX = st.sampled_from(('"a|b"', '"m."', '".*"', '"[0-9]+"', '"a.*p.*"', '""'))
_INTRINSIC_CONDITIONS = st.sampled_from(
    (
        'name = "chat"',
        'name != "tool"',
        'name =~ "llm.*"',
        "duration > 1ms",
        "duration <= 2ns",
        "kind = server",
        "kind != client",
        "status = error",
        "status != unset",
        'statusMessage = ""',
        'statusMessage != "boom"',
        'rootName = "chat"',
        'rootServiceName = "api"',
        "traceDuration > 5s",
        "trace:duration < 1s",
        "span:childCount > 1",
        "span:childCount = 0",
        'event:name = "exception"',
        'event:name != "token"',
        "event:timeSinceStart >= 2ns",
        'span:parentID = ""',
        'span:id != "0000000000000001"',
        "name != nil",
    )
)


def _numbers() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(
        (
            "span.foo",
            ".foo",
            "span.bar",
            "span.gen_ai.usage.prompt_tokens",
            "1",
            "2",
            "-3",
            "0.5",
            "span:childCount",
        )
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from((" + ", " - ", " * ", " / ", " % ")), inner).map(
                lambda t: f"({''.join(t)})"
            ),
            inner.map(lambda e: f"(-{e})"),
        ),
        max_leaves=4,
    )


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> str:
    """Return a condition inside a span filter."""
    kind = draw(st.integers(0, 9))
    attribute = draw(st.sampled_from(ATTRIBUTES))
    if kind <= 2:
        literal = draw(_LITERALS.filter(lambda x: x not in ("true", "false")))
        return f"{attribute} {draw(_ORDER)} {literal}"
    if kind == 3:
        return f"{attribute} {draw(_EQUAL)} {draw(st.sampled_from(('true', 'false')))}"
    if kind == 4:
        return f"{attribute} {draw(st.sampled_from(('=~', '!~')))} {draw(_REGEX)}"
    if kind == 5:
        return draw(_INTRINSIC_CONDITIONS)
    if kind == 6:
        return f"{draw(_numbers())} {draw(_ORDER)} {draw(_numbers())}"
    if kind == 7:
        nil = draw(_EQUAL)
        return f"{attribute.replace('resource.service.name', 'resource.foo')} {nil} nil"
    if depth == 0:
        return draw(
            st.sampled_from(
                (
                    attribute,
                    f"!{attribute}",
                    "true",
                    "false",
                    f"{attribute} = span.bar",
                    f"{attribute} < .foo",
                )
            )
        )
    if kind == 8:
        return f"!({draw(conditions(depth - 1))})"
    left = draw(conditions(depth - 1))
    operator = draw(st.sampled_from(("&&", "||")))
    return f"({left} {operator} {draw(conditions(depth - 1))})"


_SPANSET_OPS = (
    "&&",
    "||",
    ">",
    ">>",
    "<",
    "<<",
    "~",
    "!>",
    "!>>",
    "!<",
    "!<<",
    "!~",
    "&>",
    "&>>",
    "&<",
    "&<<",
    "&~",
)


@st.composite
def spansets(draw: st.DrawFn, depth: int = 1) -> str:
    """Return a filter, or filters combined by operators."""
    if depth == 0 or draw(st.booleans()):
        return "{ " + draw(st.one_of(conditions(), st.just(""))) + " }"
    left = draw(spansets(depth - 1))
    operator = draw(st.sampled_from(_SPANSET_OPS))
    return f"({left} {operator} {draw(spansets(depth - 1))})"


_AGGREGATES = st.one_of(
    st.tuples(st.just("count()"), _ORDER, st.sampled_from(("1", "2", "3"))),
    st.tuples(
        st.tuples(
            st.sampled_from(("avg", "min", "max", "sum")),
            st.sampled_from(("duration", "span.foo", ".bar", "span.foo + 1")),
        ).map(lambda t: f"{t[0]}({t[1]})"),
        st.sampled_from((">", ">=", "<", "<=")),
        st.sampled_from(("0", "1", "2.5", "1ms", "1s")),
    ),
).map(" ".join)
_GROUPS = st.sampled_from(
    (
        "name",
        "span.foo",
        ".foo",
        "resource.service.name",
        "status",
        "span.bar + 1",
        "kind",
        "span.never",
    )
)


@st.composite
def pipelines(draw: st.DrawFn) -> str:
    """Return a spanset expression followed by up to three more stages."""
    stages = [draw(spansets(2))]
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.integers(0, 4))
        if kind == 0:
            stages.append("{ " + draw(conditions()) + " }")
        elif kind == 1:
            stages.append(draw(_AGGREGATES))
        elif kind == 2:
            stages.append(f"by({draw(_GROUPS)})")
        elif kind == 3:
            stages.append("coalesce()")
        else:
            stages.append("select(span.foo, name)")
    return " | ".join(stages)
