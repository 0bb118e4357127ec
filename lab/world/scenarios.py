"""Scenarios: a user's questions with the ground truth of what the agent should do and say.

The same builders make training conversations (random facts, training phrasings) and the scenarios
that are asked live and in evaluation (the database's facts, held-out phrasings).
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from lab.errors import WorldError
from lab.world import documents, entities, facts
from lab.world.catalogue import TOOLS
from lab.world.entities import CURRENCIES, PROBLEMS, SEVERITIES, Split
from lab.world.phrasings import fillers, say

REFUSAL = "Sorry, I can only help with the GPU cloud."
NO_TOOL = "Sorry, I have no tool for that."
NO_ANSWER = "The service did not answer, please try again later."
SMALL_TALK = {
    "hello": "Hello! How can I help you with the GPU cloud?",
    "thanks": "You are welcome!",
    "who": "I am the help desk of the GPU cloud. "
    "Ask me about nodes, jobs, prices, invoices, quotas, orders and tickets.",
}
TICKET = "$ticket"  # stands for the number that only the server knows
KINDS = (
    "single",
    "chain",
    "follow_up",
    "rag",
    "tool_error",
    "no_tool",
    "out_of_scope",
    "not_offered",
)
_WEIGHTS = (38, 16, 12, 10, 8, 6, 6, 4)


@dataclass(frozen=True)
class Call:
    """A tool call that should happen; `result` is the tool's text, `error` whether it is one."""

    tool: str
    arguments: dict[str, Any]
    result: str = ""
    error: bool = False


@dataclass(frozen=True)
class Turn:
    """One question: its text, the calls it needs in order, a good answer, the values to state."""

    text: str
    calls: tuple[Call, ...]
    answer: str
    states: tuple[str, ...]


@dataclass(frozen=True)
class Scenario:
    """A conversation of one user. `offered` are the tools that the request offers, in order."""

    id: str
    kind: str
    intent: str
    turns: tuple[Turn, ...]
    offered: tuple[str, ...] = field(default=tuple(t.name for t in TOOLS))


# Where a scenario takes its facts from.
Facts = facts.RandomFacts | facts.DatabaseFacts


def as_text(value: Any) -> str:
    """Return a result as the tool server sends it and the model reads it."""
    return json.dumps(value, ensure_ascii=False)


def _call(tool: str, arguments: dict[str, Any], result: dict[str, Any]) -> Call:
    return Call(tool, arguments, as_text(result))


# --- single calls: each returns the turn ---


def _node_status(
    w: Facts, split: Split, node: facts.Node | None = None, intent: str = "node_status"
) -> Turn:
    n = node or w.node()
    call = _call("get_node_status", {"node": n.name}, facts.node_status(n))
    return Turn(
        say(intent, w.rng, split, node=n.name),
        (call,),
        _node_answer(n),
        (n.state, str(n.gpus_free)),
    )


def _node_answer(n: facts.Node) -> str:
    return f"Node {n.name} is {n.state}, {n.gpus_free} GPUs free."


def _job_status(w: Facts, split: Split) -> Turn:
    j = w.job()
    call = _call("get_job_status", {"job": j.id}, facts.job_status(j))
    return Turn(
        say("job_status", w.rng, split, job=j.id),
        (call,),
        f"Job {j.id} is {j.state} on node {j.node}.",
        (j.state, j.node),
    )


def _hours(w: Facts, split: Split) -> int:
    return entities.number(w.rng, 2, w.rng.choice((24, 200, 2000)), split)


def _quote_call(w: Facts, gpu: str, usd_per_hour: float, hours: int) -> tuple[Call, float]:
    result = facts.quote(usd_per_hour, hours)
    return _call("quote_price", {"gpu": gpu, "hours": hours}, result), result["usd"]


def _quote(
    w: Facts, split: Split, gpu: tuple[str, float] | None = None, intent: str = "quote"
) -> Turn:
    name, usd_per_hour = gpu or w.gpu()
    hours = _hours(w, split)
    call, usd = _quote_call(w, name, usd_per_hour, hours)
    text = say(intent, w.rng, split, hours=str(hours), gpu=name)
    return Turn(text, (call,), f"{hours} hours of {name} cost {usd} USD.", (str(usd),))


def _invoice(w: Facts, split: Split) -> Turn:
    i = w.invoice()
    call = _call("get_invoice", {"invoice": i.number}, facts.invoice_found(i))
    answer = f"Invoice {i.number} is {i.state}: {facts.plain(i.usd)} USD."
    return Turn(
        say("invoice", w.rng, split, invoice=i.number),
        (call,),
        answer,
        (i.state, str(facts.plain(i.usd))),
    )


def _conversion(w: Facts, amount_usd: float, to: str) -> tuple[Call, str]:
    amount_usd = facts.plain(amount_usd)
    result = facts.converted(amount_usd, w.rate(to), to)
    call = _call("convert_currency", {"amount_usd": amount_usd, "to": to}, result)
    return call, str(result["amount"])


def _currency(w: Facts) -> tuple[str, str]:
    code = w.rng.choice(tuple(CURRENCIES))
    return code, w.rng.choice(CURRENCIES[code])


def _convert(w: Facts, split: Split) -> Turn:
    amount_usd = facts.plain(entities.amount(w.rng, split))
    code, word = _currency(w)
    call, amount = _conversion(w, amount_usd, code)
    text = say("convert", w.rng, split, amount=str(amount_usd), currency=word)
    return Turn(text, (call,), f"{amount_usd} USD is {amount} {code}.", (amount,))


def _quota(w: Facts, split: Split) -> Turn:
    q = w.quota()
    call = _call("get_quota", {"team": q.team, "region": q.region}, facts.quota(q))
    text = say("quota", w.rng, split, team=q.team, region=q.region)
    return Turn(
        text, (call,), f"Team {q.team} may use {q.gpus} GPUs in {q.region}.", (str(q.gpus),)
    )


def _ticket_call(
    w: Facts, node: str, severity: str, problem: str
) -> tuple[Call, str, tuple[str, ...]]:
    number = w.ticket_number()
    result = facts.ticket(number) if number else {"ticket": TICKET}
    call = _call("open_ticket", {"node": node, "severity": severity, "problem": problem}, result)
    return call, f"I opened ticket {result['ticket']} for node {node}.", (result["ticket"],)


def _ticket(w: Facts, split: Split) -> Turn:
    node = w.node().name
    severity = w.rng.choice(SEVERITIES)
    problem = w.rng.choice(PROBLEMS)
    call, answer, states = _ticket_call(w, node, severity, problem)
    return Turn(
        say("ticket", w.rng, split, node=node, severity=severity, problem=problem),
        (call,),
        answer,
        states,
    )


def _delivery(w: Facts, split: Split) -> Turn:
    o = w.order()
    call = _call("get_delivery_eta", {"order": o.number}, facts.delivery(o))
    text = say("delivery", w.rng, split, order=o.number)
    return Turn(text, (call,), f"Order {o.number} arrives on {o.arrives_on}.", (o.arrives_on,))


def _diagnostics_answer(n: facts.Node) -> tuple[str, tuple[str, ...]]:
    if n.failed_check == "none":
        return f"Node {n.name} passed all checks.", ("passed",)
    return f"Node {n.name} failed the {n.failed_check} check.", (n.failed_check,)


def _diagnostics(w: Facts, split: Split) -> Turn:
    n = w.node()
    call = _call("run_diagnostics", {"node": n.name}, facts.diagnostics(n))
    answer, states = _diagnostics_answer(n)
    return Turn(say("diagnostics", w.rng, split, node=n.name), (call,), answer, states)


SINGLES: dict[str, Callable[[Facts, Split], Turn]] = {
    "node_status": _node_status,
    "job_status": _job_status,
    "quote": _quote,
    "invoice": _invoice,
    "convert": _convert,
    "quota": _quota,
    "ticket": _ticket,
    "delivery": _delivery,
    "diagnostics": _diagnostics,
}


# --- chains: the second call needs the first one's result ---


def _job_call(w: Facts) -> tuple[facts.Job, facts.Node, Call]:
    j = w.job()
    return j, w.node_of(j), _call("get_job_status", {"job": j.id}, facts.job_status(j))


def _job_node_status(w: Facts, split: Split) -> Turn:
    j, n, first = _job_call(w)
    second = _call("get_node_status", {"node": n.name}, facts.node_status(n))
    text = say("job_node_status", w.rng, split, job=j.id)
    return Turn(text, (first, second), _node_answer(n), (n.state, str(n.gpus_free)))


def _job_ticket(w: Facts, split: Split) -> Turn:
    j, n, first = _job_call(w)
    severity = w.rng.choice(SEVERITIES)
    problem = w.rng.choice(PROBLEMS)
    second, answer, states = _ticket_call(w, n.name, severity, problem)
    text = say("job_ticket", w.rng, split, job=j.id, severity=severity, problem=problem)
    return Turn(text, (first, second), answer, states)


def _job_diagnostics(w: Facts, split: Split) -> Turn:
    j, n, first = _job_call(w)
    second = _call("run_diagnostics", {"node": n.name}, facts.diagnostics(n))
    answer, states = _diagnostics_answer(n)
    return Turn(say("job_diagnostics", w.rng, split, job=j.id), (first, second), answer, states)


def _quote_convert(w: Facts, split: Split) -> Turn:
    gpu, usd_per_hour = w.gpu()
    hours = _hours(w, split)
    code, word = _currency(w)
    first, usd = _quote_call(w, gpu, usd_per_hour, hours)
    second, amount = _conversion(w, usd, code)
    text = say("quote_convert", w.rng, split, hours=str(hours), gpu=gpu, currency=word)
    return Turn(text, (first, second), f"{hours} hours of {gpu} cost {amount} {code}.", (amount,))


def _invoice_convert(w: Facts, split: Split) -> Turn:
    i = w.invoice()
    code, word = _currency(w)
    first = _call("get_invoice", {"invoice": i.number}, facts.invoice_found(i))
    second, amount = _conversion(w, i.usd, code)
    text = say("invoice_convert", w.rng, split, invoice=i.number, currency=word)
    return Turn(text, (first, second), f"Invoice {i.number} is {amount} {code}.", (amount,))


CHAINS = {
    "job_node_status": _job_node_status,
    "job_ticket": _job_ticket,
    "job_diagnostics": _job_diagnostics,
    "quote_convert": _quote_convert,
    "invoice_convert": _invoice_convert,
}


# --- follow-ups: the second turn only makes sense after the first ---


def _then_convert(w: Facts, split: Split) -> tuple[Turn, Turn]:
    first = w.rng.choice((_quote, _invoice))(w, split)
    usd = json.loads(first.calls[0].result)["usd"]
    code, word = _currency(w)
    call, amount = _conversion(w, usd, code)
    text = say("then_convert", w.rng, split, currency=word)
    return first, Turn(text, (call,), f"{facts.plain(usd)} USD is {amount} {code}.", (amount,))


def _then_node(w: Facts, split: Split) -> tuple[Turn, Turn]:
    return _node_status(w, split), _node_status(w, split, intent="then_node")


def _then_hours(w: Facts, split: Split) -> tuple[Turn, Turn]:
    gpu = w.gpu()
    return _quote(w, split, gpu), _quote(w, split, gpu, intent="then_hours")


FOLLOW_UPS = {"then_convert": _then_convert, "then_node": _then_node, "then_hours": _then_hours}


# --- everything else ---


def _no_tool(w: Facts, split: Split) -> tuple[str, Turn]:
    intent = w.rng.choice(tuple(SMALL_TALK))
    answer = SMALL_TALK[intent]
    return intent, Turn(say(intent, w.rng, split), (), answer, ())


def _out_of_scope(w: Facts, split: Split) -> Turn:
    slots = {slot: w.rng.choice(fillers(slot, split)) for slot in ("thing", "place", "food")}
    return Turn(say("out_of_scope", w.rng, split, **slots), (), REFUSAL, ("Sorry",))


def _tool_error(w: Facts, split: Split) -> tuple[str, Turn]:
    """Return a question about something that does not exist, or whose upstream times out.

    It times out once or twice. Live, only deliveries do so by themselves; in training any tool
    does, as faults may be injected into each.
    """
    intent = w.rng.choice(
        ("node_status", "job_status", "invoice", "delivery", "delivery", "delivery")
    )
    if intent != "delivery" or w.rng.random() < 0.2:
        return intent, not_found(SINGLES[intent](facts.RandomFacts(w.rng, split), split))
    if split == "train":
        intent = w.rng.choice(tuple(SINGLES))
    turn = SINGLES[intent](w, split)
    call = turn.calls[0]
    failed = Call(call.tool, call.arguments, facts.TIMED_OUT, error=True)
    if w.rng.random() < 0.6:
        return intent, Turn(turn.text, (failed, call), turn.answer, turn.states)
    return intent, Turn(turn.text, (failed, failed), NO_ANSWER, ("did not answer",))


def not_found(turn: Turn) -> Turn:
    """Return the same question about something that does not exist."""
    call = turn.calls[0]
    kind, name = next(iter(call.arguments.items()))
    failed = Call(call.tool, call.arguments, facts.unknown(kind, name), error=True)
    return Turn(turn.text, (failed,), f"I could not find {kind} {name}.", ("could not find",))


def rag_turn(
    rng: random.Random, split: Split, topics: list[tuple[str, str]], passages: list[str]
) -> Turn:
    """Return one question for the documents about [(topic, value)]; the search finds `passages`."""
    query = ", ".join(topic for topic, _ in topics)
    call = Call("file_search", {"query": query}, documents.search_result(query, passages))
    answer = " ".join(documents.sentence(topic, value) for topic, value in topics)
    text = say("search", rng, split, topic=query)
    return Turn(text, (call,), answer, tuple(value for _, value in topics))


def _random_rag(rng: random.Random, split: Split) -> Turn:
    holder, holder_facts = documents.draw_passage(rng, split)
    topic, answer = rng.choice(holder_facts)
    attribute = topic.split(" of ")[0]

    # Mostly another passage states the same attribute of another thing, so that the thing has to be
    # compared as well.
    besides = [
        rng.choice(((attribute,), (attribute,), ())) for _ in range(rng.choice((0, 1, 1, 2)))
    ]
    others = [documents.draw_passage(rng, split, attributes) for attributes in besides]
    passages = [holder] + [text for text, fs in others if topic not in dict(fs)]
    rng.shuffle(passages)
    return rag_turn(rng, split, [(topic, answer)], passages)


def build(
    kind: str, w: Facts, split: Split, rag: Callable[[], Turn] | None = None
) -> tuple[str, tuple[Turn, ...]]:
    """Return (intent, turns) of one scenario. Raises WorldError for an unknown kind."""
    rng = w.rng
    match kind:
        case "single" | "not_offered":
            intent = rng.choice(tuple(SINGLES))
            turn = SINGLES[intent](w, split)
            if kind == "not_offered":
                turn = Turn(turn.text, (), NO_TOOL, ("Sorry",))
            return intent, (turn,)
        case "chain":
            intent = rng.choice(tuple(CHAINS))
            return intent, (CHAINS[intent](w, split),)
        case "follow_up":
            intent = rng.choice(tuple(FOLLOW_UPS))
            return intent, FOLLOW_UPS[intent](w, split)
        case "rag":
            return "search", (rag() if rag else _random_rag(rng, split),)
        case "tool_error":
            intent, turn = _tool_error(w, split)
            return intent, (turn,)
        case "no_tool":
            intent, turn = _no_tool(w, split)
            return intent, (turn,)
        case "out_of_scope":
            return "out_of_scope", (_out_of_scope(w, split),)
    raise WorldError(f"there is no kind of scenario {kind!r}", fix=f"use one of {', '.join(KINDS)}")


def offer(
    rng: random.Random, intent: str, kind: str, turns: tuple[Turn, ...], smallest: int = 3
) -> tuple[str, ...]:
    """Return a random subset of the tools: all that the turns need; for `not_offered`, not that."""
    # Not a set: its order changes from process to process.
    needed = list(dict.fromkeys(call.tool for turn in turns for call in turn.calls))
    names = [t.name for t in TOOLS]
    if kind == "not_offered":
        names.remove(TOOL_OF_INTENT[intent])
    others = [n for n in names if n not in needed]
    size = rng.choice((smallest, rng.randint(smallest, len(names)), len(names)))
    chosen = [*needed, *rng.sample(others, min(len(others), max(0, size - len(needed))))]
    rng.shuffle(chosen)
    return tuple(chosen)


TOOL_OF_INTENT = {
    "node_status": "get_node_status",
    "job_status": "get_job_status",
    "quote": "quote_price",
    "invoice": "get_invoice",
    "convert": "convert_currency",
    "quota": "get_quota",
    "ticket": "open_ticket",
    "delivery": "get_delivery_eta",
    "diagnostics": "run_diagnostics",
}


def make_scenarios(
    n: int,
    seed: int,
    db: sqlite3.Connection | None = None,
    kinds: tuple[str, ...] | list[str] | None = None,
) -> list[Scenario]:
    """Return `n` scenarios about the database and the documents, in held-out phrasings.

    `db` is the database that the tool server serves; by default one like it. The same seed gives
    the same scenarios. `kinds` restricts them; several are taken in turn, so that each has its
    share.

    Raises WorldError for a kind that does not exist.
    """
    rng = random.Random(seed)
    world = facts.DatabaseFacts(db or facts.memory_database(), rng)
    rag = partial(_library_turn, rng, _library())
    every_tool = tuple(tool.name for tool in TOOLS)

    scenarios = []
    for i in range(n):
        kind = kinds[i % len(kinds)] if kinds else rng.choices(KINDS, _WEIGHTS)[0]
        intent, turns = build(kind, world, "held_out", rag)
        offered = offer(rng, intent, kind, turns) if kind == "not_offered" else every_tool
        scenarios.append(Scenario(_id(seed, kinds, i), kind, intent, turns, offered))
    return scenarios


def _library() -> list[tuple[str, tuple[str, str]]]:
    """Return [(text, (topic, value))] of all documents, with the texts as lab.stack stores them."""
    return [
        (text.rstrip(), fact)
        for text, document_facts in documents.all_documents().values()
        for fact in document_facts
    ]


def _library_turn(rng: random.Random, library: list[tuple[str, tuple[str, str]]]) -> Turn:
    texts = list(dict.fromkeys(text for text, _ in library))
    holder, fact = rng.choice(library)
    passages = [holder, rng.choice([text for text in texts if text != holder])]
    rng.shuffle(passages)
    return rag_turn(rng, "held_out", [fact], passages)


def _id(seed: int, kinds: tuple[str, ...] | list[str] | None, index: int) -> str:
    """Return an id to make the scenario from: `s7-00003`, or `s7-00003-chain+rag` with kinds."""
    return f"s{seed}-{index:05d}" + (f"-{'+'.join(kinds)}" if kinds else "")


def scenario_of(scenario_id: str) -> Scenario:
    """Make the scenario with this id again. Raises WorldError for a text that is not an id."""
    try:
        seed, index, *kinds = scenario_id.removeprefix("s").split("-", 2)
        number = int(index)
        count = -(-(number + 1) // 64) * 64  # in steps, so that neighbours share one call
        return _many(int(seed), tuple(kinds[0].split("+")) if kinds else None, count)[number]
    except (ValueError, IndexError) as e:
        raise WorldError(
            "there is no such scenario",
            got=scenario_id,
            fix="take the id from a plan, as `s7-00003` or `s7-00003-chain`",
        ) from e


@lru_cache(maxsize=32)
def _many(seed: int, kinds: tuple[str, ...] | None, n: int) -> list[Scenario]:
    return make_scenarios(n, seed, kinds=kinds)
