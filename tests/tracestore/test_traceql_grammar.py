"""TraceQL's grammar and checks follow Tempo's documentation, construct by construct."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.tracestore.errors import TraceQLError, TraceQLInvalid, TraceQLSyntax, TraceQLUnsupported
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.literals import duration_ns
from lab.tracestore.traceql.parse import parse
from lab.tracestore.traceql.text import field_text, go_duration
from lab.tracestore.traceql.validate import validate
from tests.tracestore.hypotheses import QUICK
from tests.tracestore.queries import pipelines

VALID = """
{}
{ }
{ true }
{ span.http.status_code = 500 }
{ resource.service.name = "llama-stack" && span.gen_ai.usage.input_tokens > 1000 }
{ .foo }
{ !.foo }
{ !(span.a = 1 || span.b != "x") }
{ event.exception.type = "ValueError" }
{ link.reason = "retry" }
{ instrumentation.language = "python" }
{ span."key with space".more = 1 }
{ span."quo\\"te" = 1 }
{ name = `raw string` }
{ name =~ "GET|POST" && name !~ ".*health.*" }
{ duration > 1.5s && span:duration < 1h30m }
{ duration >= 10ms || duration = 100us }
{ status = error || span:status != ok || status = unset }
{ kind = server || kind != client || span:kind = internal || kind = producer || kind = consumer || kind = unspecified }
{ statusMessage = "boom" || span:statusMessage =~ ".+" }
{ traceDuration > 1s || trace:duration > 1s }
{ rootName = "a" || trace:rootName = "a" || rootServiceName = "b" || trace:rootService = "b" }
{ trace:id = "0123456789abcdef0123456789abcdef" }
{ span:id = "0123456789abcdef" && span:parentID != "0123456789abcdef" }
{ span:childCount > 3 }
{ event:name = "exception" && event:timeSinceStart > 2ms }
{ link:traceID = "ab" || link:spanID = "cd" }
{ instrumentation:name = "grpc" && instrumentation:version = "1.0" }
{ span.a != nil && span.b = nil && nil != .c }
{ span.tokens / span.seconds > 100.5 }
{ -span.a < -1 && span.b ^ 2 % 3 = 1 }
{ span.a + 1 = 2 && span.b * 2 - 1 >= 0 }
{ span.max = maxInt || span.min = minInt }
{ 1 = 1 }
{ duration > .5 }
{ span.a > 1e3 }
{ span.flag = true && span.other != false }
{ .a } && { .b }
{ .a } || { .b } && { .c }
{ .a } > { .b }
{ .a } >> { .b }
{ .a } < { .b }
{ .a } << { .b }
{ .a } ~ { .b }
{ .a } !> { .b }
{ .a } !>> { .b }
{ .a } !< { .b }
{ .a } !<< { .b }
{ .a } !~ { .b }
{ .a } &> { .b }
{ .a } &>> { .b }
{ .a } &< { .b }
{ .a } &<< { .b }
{ .a } &~ { .b }
({ .a } >> { .b }) && { .c }
({ .a } | count() > 2) && ({ .b } | avg(duration) > 1s)
{ .a } | { .b } | { .c }
{ .a } | count() > 2
{ .a } | count() >= 2 | { .b }
count() = 1
{ .a } | avg(duration) > 1s
{ .a } | min(span.x) < 3 | max(span.x) != 4.5 | sum(span.x * 2) > -1
{ .a } | by(resource.service.name)
{ .a } | by(name) | count() > 1 | coalesce()
{ .a } | select(span.b, resource.c, name, trace:id)
by(span.a) | count() > 1
select(span.a)
{} | rate()
{ .a } | rate() by (resource.service.name, name)
{ .a } >> { .b } | count_over_time() by (kind)
{} | min_over_time(duration)
{} | max_over_time(span.x) by (name)
{} | avg_over_time(span.gen_ai.latency.e2e) by (span.gen_ai.request.model)
{} | sum_over_time(span.gen_ai.usage.prompt_tokens)
{} | quantile_over_time(duration, .5, 0.9, 1)
{} | quantile_over_time(duration, 0.99) by (name, kind, status, span.a)
{} | histogram_over_time(duration) by (name)
{} | rate() by (name) | topk(3)
{} | rate() by (name) | bottomk(3) | topk(1)
{} | rate() > 10
{} | rate() by (name) >= 0.5 | topk(2) < 100
{} | quantile_over_time(duration, .9) > 100ms
{} | rate() with(exemplars=true)
{ .a } with(most_recent=true)
{ .a = 1 } // a comment
{ .a = /* inside */ 1 }
"""

SYNTAX = """
true
{
}
{ .a = }
{ = 1 }
{ .a == 1 }
{ .a = 1
{ (.a = 1 }
{ . }
{ span. }
{ a = 1 }
{ foo }
{ .a = 'x' }
{ .a = "x }
{ .a = "\\q" }
{ .a = 99999999999999999999 }
{ nil }
{ .a & .b }
{ .a > .b > }
{ span:rootName = "a" }
{ trace:status = ok }
{ childCount > 1 }
{ .a } + { .b }
{ .a } = { .b }
{ .a } >= { .b }
{ .a } { .b }
{ .a } |
| { .a }
{ .a } | count()
{ .a } | count(1) > 1
{ .a } | avg() > 1
{ .a } | avg(.b, .c) > 1
{ .a } | median(.b) > 1
{ .a } | count() > "x"
{ .a } | count() > ok
{ .a } | by()
{ .a } | select()
{ .a } | select(.b + 1)
coalesce() | { .a }
({ .a } | count() > 1) && { .b }
({ .a } | { .b }) | { .c }
rate()
{} | rate(.a)
{} | rate() by ()
{} | rate() by (.a + 1)
{} | min_over_time()
{} | min_over_time(.a + 1)
{} | quantile_over_time(duration)
{} | quantile_over_time(0.5, duration)
{} | rate() | { .a }
{} | rate() | rate()
{} | topk(3)
{} | rate() | topk()
{} | rate() | topk(1.5)
{} | rate() | topk(-1)
{} | rate() + 5
5 + {} | rate()
2 * 3
({} | rate()) % ({} | rate())
({ status = error } | rate()) / ({} | rate())
({ status = error } | rate() by (name)) / ({} | rate() by (name)) * 100
100 * ({} | rate()) - 1 > 5
({} | rate()) + ({} | rate()) | topk(5) > 10
({} | rate()) ^ 2
({}) + ({})
{} | count() by (name) > 1
{} with
{} with()
{} with(a)
"""

INVALID = """
{ "x" }
{ 1 }
{ 1s }
{ status }
{ name }
{ duration }
{ 1 + 1 }
{ 1 = "x" }
{ name = 1 }
{ name > true }
{ duration = "1s" }
{ duration && true }
{ status = "error" }
{ status > ok }
{ kind = error }
{ kind >= server }
{ 1 =~ "x" }
{ .a =~ 1 }
{ .a =~ .b }
{ .a =~ "(" }
{ .a !~ "[" }
{ -name = "x" }
{ -true }
{ !1 = 1 }
{ !name = "x" }
{ 1 + name = 2 }
{ true && 1 }
{ "a" + "b" = "ab" }
{ name = nil }
{ nil = duration }
{ resource.service.name = nil }
{ rootServiceName != 1 }
{ span:childCount = "x" }
{ .a } | avg(name) > 1
{ .a } | sum(1) > 1
{ .a } | max(.b = 1) > 1
{ .a } | by(1)
{ .a } | by("x")
{ nestedSetLeft = "x" }
{} | quantile_over_time(duration, 1.1)
{} | rate() | topk(0)
{} | compare({ status = error }) | topk(3)
"""

UNSUPPORTED = """
{ parent.a = 1 }
{ parent.span.a = 1 }
{ parent }
{} | rate() by (.a, .b, .c, .d, .e, .f)
{} | quantile_over_time(duration, .5) by (.a, .b, .c, .d, .e)
{ .a } | count() + count() > 1
{ .a } | avg(.b) > avg(.c)
{ .a } | 1 < count()
({ .a } | count()) > ({ .b } | count())
"""


def lines(text: str) -> list[str]:
    return [line for line in text.strip("\n").split("\n") if line]


@pytest.mark.parametrize("text", lines(VALID))
def test_valid(text: str) -> None:
    """The query is accepted."""
    validate(parse(text))


@pytest.mark.parametrize("text", [*lines(SYNTAX), "", " "])
def test_syntax_errors(text: str) -> None:
    """The grammar refuses the query with a position in the text."""
    with pytest.raises(TraceQLSyntax) as caught:
        parse(text)
    assert 0 <= caught.value.position <= len(text)
    assert "line 1, col" in str(caught.value)


@pytest.mark.parametrize("text", lines(INVALID))
def test_invalid(text: str) -> None:
    """The query is parsed, but refused because it makes no sense."""
    query = parse(text)
    with pytest.raises(TraceQLInvalid):
        validate(query)


@pytest.mark.parametrize("text", lines(UNSUPPORTED))
def test_unsupported(text: str) -> None:
    """The query is valid TraceQL but not supported, and the error names the construct."""
    query = parse(text)
    with pytest.raises(TraceQLUnsupported) as caught:
        validate(query)
    assert caught.value.construct in str(caught.value)


@pytest.mark.parametrize(
    "condition",
    (
        ".a > nil",
        ".a <= nil",
        "nil < .a",
        ".a =~ nil",
        "nil !~ .a",
        "nil > nil",
        ".a + nil = 1",
        ".a && nil",
        ".a = (nil)",
        "!nil",
    ),
)
def test_nil_is_only_compared_for_equality(condition: str) -> None:
    """As in Tempo's grammar, nil is allowed next to = and != only, and the error explains it."""
    with pytest.raises(TraceQLSyntax, match="nil can only be compared with = or !="):
        parse("{ " + condition + " }")


def test_the_position_is_where_it_went_wrong() -> None:
    """Line and column are counted from 1, over several lines."""
    with pytest.raises(TraceQLSyntax) as caught:
        parse("{ .a = 1 }\n| { .b == 2 }")
    assert (caught.value.line, caught.value.column) == (2, 9)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        (".a || .b && .c", "(.a || .b) && .c"),
        (".a && .b || .c", "(.a && .b) || .c"),
        ("!.a = .b", "(!.a) = .b"),
        ("-.a * .b = 1", "(-(.a * .b)) = 1"),
        ("-.a + .b = 1", "((-.a) + .b) = 1"),
        (".a ^ .b ^ .c = 1", "(.a ^ (.b ^ .c)) = 1"),
        (".a - .b - .c = 1", "((.a - .b) - .c) = 1"),
        (".a + .b * .c = 1", "(.a + (.b * .c)) = 1"),
        (".a = 1 && .b = 2", "(.a = 1) && (.b = 2)"),
    ],
)
def test_operators_bind_as_in_tempo(text: str, bound: str) -> None:
    """Precedence is Tempo's, including its surprises."""
    condition = parse("{ " + text + " }").pipeline.stages[0].condition
    assert field_text(condition) == bound


def test_the_end_of_attribute_names() -> None:
    """Only white space and a few characters end an attribute, and quoted parts are unquoted."""
    condition = parse('{ span.a+b-c/"d e".f=1 }').pipeline.stages[0].condition
    assert condition.left == ast.Attribute("span", "a+b-c/d e.f")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1ns", 1),
        ("1us", 10**3),
        ("1µs", 10**3),
        ("1.5ms", 1_500_000),
        ("1m30s", 90 * 10**9),
        ("1d", 86400 * 10**9),
        ("2w", 14 * 86400 * 10**9),
    ],
)
def test_durations(text: str, ns: int) -> None:
    """Durations of Prometheus and Go are parsed."""
    assert parse("{ duration > " + text + " }").pipeline.stages[0].condition.right == ast.Static(
        ast.Type.DURATION, ns
    )


@QUICK
@given(ns=st.integers(0, 10**15))
def test_go_prints_durations_that_parse_back(ns: int) -> None:
    """A printed duration is parsed back to the same duration."""
    assert abs(duration_ns(go_duration(ns)) - ns) <= 1


@QUICK
@given(text=st.text(max_size=60))
def test_any_text_is_answered_with_a_query_or_a_position(text: str) -> None:
    """No text crashes the parser or makes it hang."""
    try:
        validate(parse(text))
    except TraceQLError as e:
        assert 0 <= e.position <= len(text)


@QUICK
@given(data=st.data(), text=pipelines())
def test_damaged_queries_are_answered_too(data: st.DataObject, text: str) -> None:
    """A valid query with a piece removed or doubled is answered, or refused with a position."""
    a, b = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    for damaged in (text[:a] + text[b:], text[:b] + text[a:]):
        try:
            validate(parse(damaged))
        except TraceQLError as e:
            assert 0 <= e.position <= len(damaged)


@pytest.mark.parametrize(
    ("text", "construct"),
    [
        ("{}" + " >> {}" * 21, "operators between spansets"),
        ("({} || {}) | " + " | ".join(["by(name)"] * 6), "by()"),
        ("{ 2" + " ^ 9" * 101 + " = 1 }", "arithmetic operators"),
    ],
)
def test_expensive_constructs_are_limited(text: str, construct: str) -> None:
    """A query of one client must not use the memory of all others."""
    with pytest.raises(TraceQLUnsupported) as caught:
        validate(parse(text))
    assert caught.value.construct == construct and construct in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{" + "(" * 5000 + ".a" + ")" * 5000 + "}",
        "{ .a = 1" + " && .a = 1" * 5000 + " }",
        "{ " + "-" * 5000 + "1 = 1 }",
        "(" * 3000 + "{}",
    ],
)
def test_extremely_long_queries_are_refused(text: str) -> None:
    """Deep nesting and endless chains get an answer, not a stack overflow."""
    with pytest.raises(TraceQLError):
        validate(parse(text))
