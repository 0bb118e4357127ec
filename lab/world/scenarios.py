"""Scenarios: a user's questions with the ground truth of what the agent should do and say.

The same builders make training conversations (random facts, training phrasings) and the scenarios
that are asked live and in evaluation (the database's facts, held-out phrasings).
"""

import json
import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from typing import Any

from lab.errors import WorldError
from lab.world import documents, entities, facts
from lab.world.catalogue import BY_NAME
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
    offered: tuple[str, ...] = field(default_factory=lambda: tuple(BY_NAME))


# Where a scenario takes its facts from.
Facts = facts.RandomFacts | facts.DatabaseFacts


def as_text(value: Any) -> str:
    """Return a result as the tool server sends it and the model reads it."""
    return json.dumps(value, ensure_ascii=False)


def _call(tool: str, arguments: dict[str, Any], result: dict[str, Any]) -> Call:
    return Call(tool, arguments, as_text(result))


# --- single calls: each returns the turn ---


def _node_status(world: Facts, split: Split, intent: str = "node_status") -> Turn:
    n = world.node()
    call = _call("get_node_status", {"node": n.name}, facts.node_status(n))
    return Turn(
        say(intent, world.rng, split, node=n.name),
        (call,),
        _node_answer(n),
        (n.state, str(n.gpus_free)),
    )


def _node_answer(n: facts.Node) -> str:
    return f"Node {n.name} is {n.state}, {n.gpus_free} GPUs free."


def _job_status(world: Facts, split: Split) -> Turn:
    j = world.job()
    call = _call("get_job_status", {"job": j.id}, facts.job_status(j))
    return Turn(
        say("job_status", world.rng, split, job=j.id),
        (call,),
        f"Job {j.id} is {j.state} on node {j.node}.",
        (j.state, j.node),
    )


def _hours(world: Facts, split: Split) -> int:
    return entities.number(world.rng, 2, world.rng.choice((24, 200, 2000)), split)


def _quote_call(world: Facts, gpu: str, usd_per_hour: float, hours: int) -> tuple[Call, float]:
    result = facts.quote(usd_per_hour, hours)
    return _call("quote_price", {"gpu": gpu, "hours": hours}, result), result["usd"]


def _quote(
    world: Facts, split: Split, gpu: tuple[str, float] | None = None, intent: str = "quote"
) -> Turn:
    name, usd_per_hour = gpu or world.gpu()
    hours = _hours(world, split)
    call, usd = _quote_call(world, name, usd_per_hour, hours)
    text = say(intent, world.rng, split, hours=str(hours), gpu=name)
    return Turn(text, (call,), f"{hours} hours of {name} cost {usd} USD.", (str(usd),))


def _invoice(world: Facts, split: Split) -> Turn:
    i = world.invoice()
    call = _call("get_invoice", {"invoice": i.number}, facts.invoice_found(i))
    answer = f"Invoice {i.number} is {i.state}: {facts.plain(i.usd)} USD."
    return Turn(
        say("invoice", world.rng, split, invoice=i.number),
        (call,),
        answer,
        (i.state, str(facts.plain(i.usd))),
    )


def _conversion(world: Facts, amount_usd: float, to: str) -> tuple[Call, str]:
    amount_usd = facts.plain(amount_usd)
    result = facts.converted(amount_usd, world.rate(to), to)
    call = _call("convert_currency", {"amount_usd": amount_usd, "to": to}, result)
    return call, str(result["amount"])


def _currency(world: Facts) -> tuple[str, str]:
    code = world.rng.choice(tuple(CURRENCIES))
    return code, world.rng.choice(CURRENCIES[code])


def _convert(world: Facts, split: Split) -> Turn:
    amount_usd = facts.plain(entities.amount(world.rng, split))
    code, word = _currency(world)
    call, amount = _conversion(world, amount_usd, code)
    text = say("convert", world.rng, split, amount=str(amount_usd), currency=word)
    return Turn(text, (call,), f"{amount_usd} USD is {amount} {code}.", (amount,))


def _quota(world: Facts, split: Split) -> Turn:
    q = world.quota()
    call = _call("get_quota", {"team": q.team, "region": q.region}, facts.quota(q))
    text = say("quota", world.rng, split, team=q.team, region=q.region)
    return Turn(
        text, (call,), f"Team {q.team} may use {q.gpus} GPUs in {q.region}.", (str(q.gpus),)
    )


def _ticket_call(
    world: Facts, node: str, severity: str, problem: str
) -> tuple[Call, str, tuple[str, ...]]:
    number = world.ticket_number()
    result = facts.ticket(number) if number else {"ticket": TICKET}
    call = _call("open_ticket", {"node": node, "severity": severity, "problem": problem}, result)
    return call, f"I opened ticket {result['ticket']} for node {node}.", (result["ticket"],)


def _ticket(world: Facts, split: Split) -> Turn:
    node = world.node().name
    severity = world.rng.choice(SEVERITIES)
    problem = world.rng.choice(PROBLEMS)
    call, answer, states = _ticket_call(world, node, severity, problem)
    return Turn(
        say("ticket", world.rng, split, node=node, severity=severity, problem=problem),
        (call,),
        answer,
        states,
    )


def _delivery(world: Facts, split: Split) -> Turn:
    o = world.order()
    call = _call("get_delivery_eta", {"order": o.number}, facts.delivery(o))
    text = say("delivery", world.rng, split, order=o.number)
    return Turn(text, (call,), f"Order {o.number} arrives on {o.arrives_on}.", (o.arrives_on,))


def _diagnostics_answer(n: facts.Node) -> tuple[str, tuple[str, ...]]:
    if n.failed_check == "none":
        return f"Node {n.name} passed all checks.", ("passed",)
    return f"Node {n.name} failed the {n.failed_check} check.", (n.failed_check,)


def _diagnostics(world: Facts, split: Split) -> Turn:
    n = world.node()
    call = _call("run_diagnostics", {"node": n.name}, facts.diagnostics(n))
    answer, states = _diagnostics_answer(n)
    return Turn(say("diagnostics", world.rng, split, node=n.name), (call,), answer, states)


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


def _job_call(world: Facts) -> tuple[facts.Job, facts.Node, Call]:
    j = world.job()
    return j, world.node_of(j), _call("get_job_status", {"job": j.id}, facts.job_status(j))


def _job_node_status(world: Facts, split: Split) -> Turn:
    j, n, first = _job_call(world)
    second = _call("get_node_status", {"node": n.name}, facts.node_status(n))
    text = say("job_node_status", world.rng, split, job=j.id)
    return Turn(text, (first, second), _node_answer(n), (n.state, str(n.gpus_free)))


def _job_ticket(world: Facts, split: Split) -> Turn:
    j, n, first = _job_call(world)
    severity = world.rng.choice(SEVERITIES)
    problem = world.rng.choice(PROBLEMS)
    second, answer, states = _ticket_call(world, n.name, severity, problem)
    text = say("job_ticket", world.rng, split, job=j.id, severity=severity, problem=problem)
    return Turn(text, (first, second), answer, states)


def _job_diagnostics(world: Facts, split: Split) -> Turn:
    j, n, first = _job_call(world)
    second = _call("run_diagnostics", {"node": n.name}, facts.diagnostics(n))
    answer, states = _diagnostics_answer(n)
    return Turn(say("job_diagnostics", world.rng, split, job=j.id), (first, second), answer, states)


def _quote_convert(world: Facts, split: Split) -> Turn:
    gpu, usd_per_hour = world.gpu()
    hours = _hours(world, split)
    code, word = _currency(world)
    first, usd = _quote_call(world, gpu, usd_per_hour, hours)
    second, amount = _conversion(world, usd, code)
    text = say("quote_convert", world.rng, split, hours=str(hours), gpu=gpu, currency=word)
    return Turn(text, (first, second), f"{hours} hours of {gpu} cost {amount} {code}.", (amount,))


def _invoice_convert(world: Facts, split: Split) -> Turn:
    i = world.invoice()
    code, word = _currency(world)
    first = _call("get_invoice", {"invoice": i.number}, facts.invoice_found(i))
    second, amount = _conversion(world, i.usd, code)
    text = say("invoice_convert", world.rng, split, invoice=i.number, currency=word)
    return Turn(text, (first, second), f"Invoice {i.number} is {amount} {code}.", (amount,))


CHAINS = {
    "job_node_status": _job_node_status,
    "job_ticket": _job_ticket,
    "job_diagnostics": _job_diagnostics,
    "quote_convert": _quote_convert,
    "invoice_convert": _invoice_convert,
}


# --- follow-ups: the second turn only makes sense after the first ---


def _then_convert(world: Facts, split: Split) -> tuple[Turn, Turn]:
    first = world.rng.choice((_quote, _invoice))(world, split)
    usd = json.loads(first.calls[0].result)["usd"]
    code, word = _currency(world)
    call, amount = _conversion(world, usd, code)
    text = say("then_convert", world.rng, split, currency=word)
    return first, Turn(text, (call,), f"{facts.plain(usd)} USD is {amount} {code}.", (amount,))


def _then_hours(world: Facts, split: Split) -> tuple[Turn, Turn]:
    gpu = world.gpu()
    return _quote(world, split, gpu), _quote(world, split, gpu, intent="then_hours")


FOLLOW_UPS: dict[str, Callable[[Facts, Split], tuple[Turn, Turn]]] = {
    "then_convert": _then_convert,
    "then_node": lambda world, split: (
        _node_status(world, split),
        _node_status(world, split, intent="then_node"),
    ),
    "then_hours": _then_hours,
}


# --- everything else ---


def _no_tool(world: Facts, split: Split) -> tuple[str, Turn]:
    intent = world.rng.choice(tuple(SMALL_TALK))
    answer = SMALL_TALK[intent]
    return intent, Turn(say(intent, world.rng, split), (), answer, ())


def _out_of_scope(world: Facts, split: Split) -> Turn:
    slots = {slot: world.rng.choice(fillers(slot, split)) for slot in ("thing", "place", "food")}
    return Turn(say("out_of_scope", world.rng, split, **slots), (), REFUSAL, ("Sorry",))


def _tool_error(world: Facts, split: Split) -> tuple[str, Turn]:
    """Return a question about something that does not exist, or whose upstream times out.

    It times out once or twice. Live, only deliveries do so by themselves; in training any tool
    does, as faults may be injected into each.
    """
    intent = world.rng.choice(
        ("node_status", "job_status", "invoice", "delivery", "delivery", "delivery")
    )
    if intent != "delivery" or world.rng.random() < 0.2:
        return intent, not_found(SINGLES[intent](facts.RandomFacts(world.rng, split), split))
    if split == "train":
        intent = world.rng.choice(tuple(SINGLES))
    turn = SINGLES[intent](world, split)
    call = turn.calls[0]
    failed = replace(call, result=facts.TIMED_OUT, error=True)
    if world.rng.random() < 0.6:
        return intent, replace(turn, calls=(failed, call))
    return intent, Turn(turn.text, (failed, failed), NO_ANSWER, ("did not answer",))


def not_found(turn: Turn) -> Turn:
    """Return the same question about something that does not exist."""
    call = turn.calls[0]
    kind, name = next(iter(call.arguments.items()))
    failed = replace(call, result=facts.unknown(kind, name), error=True)
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
    kind: str, world: Facts, split: Split, rag: Callable[[], Turn] | None = None
) -> tuple[str, tuple[Turn, ...]]:
    """Return (intent, turns) of one scenario. Raises WorldError for an unknown kind."""
    rng = world.rng
    match kind:
        case "single" | "not_offered":
            intent = rng.choice(tuple(SINGLES))
            turn = SINGLES[intent](world, split)
            if kind == "not_offered":
                turn = Turn(turn.text, (), NO_TOOL, ("Sorry",))
            return intent, (turn,)
        case "chain":
            intent = rng.choice(tuple(CHAINS))
            return intent, (CHAINS[intent](world, split),)
        case "follow_up":
            intent = rng.choice(tuple(FOLLOW_UPS))
            return intent, FOLLOW_UPS[intent](world, split)
        case "rag":
            return "search", (rag() if rag else _random_rag(rng, split),)
        case "tool_error":
            intent, turn = _tool_error(world, split)
            return intent, (turn,)
        case "no_tool":
            intent, turn = _no_tool(world, split)
            return intent, (turn,)
        case "out_of_scope":
            return "out_of_scope", (_out_of_scope(world, split),)
    raise WorldError(f"there is no kind of scenario {kind!r}", fix=f"use one of {', '.join(KINDS)}")


def offer(
    rng: random.Random, intent: str, kind: str, turns: tuple[Turn, ...], smallest: int = 3
) -> tuple[str, ...]:
    """Return a random subset of the tools: all that the turns need; for `not_offered`, not that."""
    # Not a set: its order changes from process to process.
    needed = list(dict.fromkeys(call.tool for turn in turns for call in turn.calls))
    names = list(BY_NAME)
    if kind == "not_offered":
        names.remove(_tool_of(intent))
    others = [n for n in names if n not in needed]
    size = rng.choice((smallest, rng.randint(smallest, len(names)), len(names)))
    chosen = [*needed, *rng.sample(others, min(len(others), max(0, size - len(needed))))]
    rng.shuffle(chosen)
    return tuple(chosen)


@cache
def _tool_of(intent: str) -> str:
    """Return the tool that a single question of this intent needs."""
    world = facts.RandomFacts(random.Random(0), "train")
    return SINGLES[intent](world, "train").calls[0].tool


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
    all_documents = documents.all_documents().values()  # lab.stack stores them without line ends
    library = [(text.rstrip(), fact) for text, stated in all_documents for fact in stated]
    rag = partial(_library_turn, rng, library)
    every_tool = tuple(BY_NAME)

    scenarios = []
    for i in range(n):
        kind = kinds[i % len(kinds)] if kinds else rng.choices(KINDS, _WEIGHTS)[0]
        intent, turns = build(kind, world, "held_out", rag)
        offered = offer(rng, intent, kind, turns) if kind == "not_offered" else every_tool
        name = f"s{seed}-{i:05d}" + (f"-{'+'.join(kinds)}" if kinds else "")
        scenarios.append(Scenario(name, kind, intent, turns, offered))
    return scenarios


def _library_turn(rng: random.Random, library: list[tuple[str, tuple[str, str]]]) -> Turn:
    """Return a question about one of [(text, (topic, value))], the facts of all documents."""
    texts = list(dict.fromkeys(text for text, _ in library))
    holder, fact = rng.choice(library)
    passages = [holder, rng.choice([text for text in texts if text != holder])]
    rng.shuffle(passages)
    return rag_turn(rng, "held_out", [fact], passages)


def scenario_of(scenario_id: str) -> Scenario:
    """Make the scenario with this id again: `s7-00003`, or `s7-00003-chain+rag` with kinds.

    Raises WorldError for a text that is not an id.
    """
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
