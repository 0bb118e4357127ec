"""Which spans are views of one call: a proxy, a library and an engine each report the same one.

Several libraries in one process, and every hop between the caller and the engine, write a span of
the same model call, often with the same tokens. Every call is counted once here, however many spans
repeat it; an outer span that holds several calls is a wrapper, whose tokens are sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lab.frames.roles import Role, claimed_roles, field_numbers
from lab.frames.spans import codes, end_ns, start_ns
from lab.schema import Service

_NS = 1_000_000_000
MAX_LEVELS = 64  # spans between two views of one call; also ends the search in a circle
STRANGER_NS = 1 * _NS  # a child that begins so much later than its parent's end is not its child
MIN_SKEWED = 3  # so many children of one service, all of them late: its clock is wrong
TOLERANCE_NS = 50_000_000  # of two machines' clocks, for spans that should lie within each other
TOKENS = ("prompt_tokens", "completion_tokens")  # by which a call is recognised
RAW_REQUEST = "raw_gen_ai_request"


@dataclass(frozen=True)
class Calls:
    """One element per span.

    - `role`: its Role, after all views of a call were compared;
    - `parent`: the row of its parent, -1 for none. An engine's span beside the call that it
      answers is below that call here: some proxies pass on their caller's context, not their own;
    - `call`: the row of the outermost span of the model call that it is a view of, -1 for none;
    - `tool`: the same of a tool call.
    """

    role: np.ndarray
    parent: np.ndarray
    call: np.ndarray
    tool: np.ndarray


def resolve_calls(
    spans: pd.DataFrame, group: np.ndarray, parent: np.ndarray, parent_id: np.ndarray
) -> Calls:
    """Return the calls of a span frame.

    `group` is each span's trace, `parent` its parent's row (-1 for none), `parent_id` the id of its
    parent as a number (0 for none), also where the parent is absent.
    """
    role = claimed_roles(spans)
    is_call = _is_any(role, Role.MODEL_CALL, Role.ENGINE, Role.TOOL_CALL, Role.AGENT)
    own = parent == np.arange(len(parent))
    parent = np.where(own, -1, parent)
    strangers = _strangers(spans, parent, own, is_call)
    role = np.where(strangers, Role.STRANGER, role)
    parent = _with_brothers(spans, group, parent, parent_id, role)
    _promote_agents(spans, parent, role)
    call = _model_calls(parent, role)
    tool = _tool_calls(spans, group, parent, role)
    _name_servers(group, parent, role)
    return Calls(role, parent, call, tool)


def _is_any(role: np.ndarray, *wanted: Role) -> np.ndarray:
    """Return which spans have one of these roles; faster than np.isin for few small numbers."""
    table = np.zeros(len(Role), dtype=bool)
    table[list(wanted)] = True
    return table[role]


def ancestor(parent: np.ndarray, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the nearest ancestor of each row that is wanted (a mask of all spans), -1 for none."""
    above = parent[rows].copy()
    for _ in range(MAX_LEVELS):
        climb = (above >= 0) & ~wanted[above]
        if not climb.any():
            break
        above[climb] = parent[above[climb]]
    return np.where((above >= 0) & wanted[above], above, -1)


def _call_above(
    parent: np.ndarray, rows: np.ndarray, role: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Return the nearest wanted ancestor of each row, -1 for none or with a tool call between.

    Google's ADK runs tools within the span of the call that asked for them, and in a tool there may
    be an agent with calls of its own.
    """
    is_tool = role == Role.TOOL_CALL
    up = ancestor(parent, rows, wanted | is_tool)
    return np.where((up >= 0) & is_tool[up], -1, up)


def outermost(mask: np.ndarray, rows: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return for each span of the mask the outermost span of the mask above it or itself, else -1.

    `rows` are the mask's, and `up` the nearest span of the mask above each, -1 for none.
    """
    top = np.full(len(mask), -1)
    top[rows] = np.where(up >= 0, up, rows)
    _climb(top, rows)
    return top


def _levels_above(parent: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the parents of these rows, then their parents, and so on; a row may be repeated."""
    for _ in range(MAX_LEVELS):
        rows = parent[rows]
        rows = rows[rows >= 0]
        if not len(rows):
            return
        yield rows


def _climb(top: np.ndarray, rows: np.ndarray) -> None:
    """Replace the `top` of these rows by the top of that, until it is its own."""
    for _ in range(MAX_LEVELS):
        higher = top[top[rows]]
        if (higher == top[rows]).all():
            break
        top[rows] = higher


def _strangers(
    spans: pd.DataFrame, parent: np.ndarray, own: np.ndarray, is_call: np.ndarray
) -> np.ndarray:
    """Return which spans belong to another request than their trace says, with all below them.

    Such a span is its `own` parent, or began long after its parent in another service had ended.
    """
    service = codes(spans, "service")
    start = start_ns(spans)
    end = end_ns(spans)
    crossing = is_call & (parent >= 0) & (service[parent] != service)
    late = crossing & (start - end[parent] > STRANGER_NS)
    if late.any():
        size = int(service.max()) + 2
        crossings = np.bincount(service[crossing] + 1, minlength=size)
        skewed = np.bincount(service[late] + 1, minlength=size) == crossings
        late &= ~(skewed & (crossings >= MIN_SKEWED))[service + 1]

    strangers = own | late
    if strangers.any():  # what is below a stranger came with it
        strangers |= ancestor(parent, np.arange(len(parent)), strangers) >= 0
    return strangers


def _mixed_siblings(
    spans: pd.DataFrame, rows: np.ndarray, parent: np.ndarray, parent_id: np.ndarray
) -> np.ndarray:
    """Return those of the rows whose parent has children of several services or names among them.

    Two libraries in one process give their spans different names.
    """
    rows = rows[parent_id[rows] != 0]
    key = parent[rows].copy()
    absent = key < 0
    key[absent] = len(parent) + pd.factorize(parent_id[rows[absent]])[0]
    name = codes(spans, "name")[rows].astype(np.int64)
    writer = codes(spans, "service")[rows] * (name.max(initial=0) + 1) + name
    # Where siblings differ, some of them are not the one that was written last.
    last = np.empty(len(parent) + len(rows), dtype=np.int64)
    last[key] = writer
    is_mixed = np.zeros(len(last), dtype=bool)
    is_mixed[key[last[key] != writer]] = True
    return rows[is_mixed[key]]


def _with_equal_tokens(
    spans: pd.DataFrame,
    group: np.ndarray,
    calls: np.ndarray,
    parent: np.ndarray,
    role: np.ndarray,
) -> pd.DataFrame:
    """Return the outermost calls (`row`) of which a trace has several with the same tokens.

    A library that is called back does not set the context, so what its client library writes of the
    same call is not below it.
    """
    prompt, completion = (field_numbers(spans, name)[calls] for name in TOKENS)
    known = np.flatnonzero(~np.isnan(prompt + completion))
    written_by = calls[known]
    names = codes(spans, "name")[written_by]
    services = codes(spans, "service")[written_by]
    # Most windows have one engine that reports tokens, and nothing that could repeat it.
    if not len(known) or (np.ptp(names) == 0 and np.ptp(services) == 0):
        known = known[:0]
    # One number per trace and tokens; two of them may be equal by chance.
    tokens = (prompt[known].astype(np.int64) << 24) + completion[known].astype(np.int64)
    key = group[calls[known]].astype(np.int64) * 1_000_003 + tokens
    order = np.argsort(key, kind="stable")
    again = np.flatnonzero(key[order[1:]] == key[order[:-1]])
    chosen = order[np.union1d(again, again + 1)]
    rows = calls[known[chosen]]
    is_call = _is_any(role, Role.MODEL_CALL, Role.ENGINE)
    is_top = _call_above(parent, rows, role, is_call) < 0
    return pd.DataFrame({"row": rows, "key": key[chosen], "group": group[rows]})[is_top]


def _with_brothers(
    spans: pd.DataFrame,
    group: np.ndarray,
    parent: np.ndarray,
    parent_id: np.ndarray,
    role: np.ndarray,
) -> np.ndarray:
    """Return the parents, with spans that repeat a call beside it placed below that call.

    The inner one lies within the outer one's time, was written by another service, and has the same
    tokens where both have any; or by another library of one process (it has another name), and has
    the same tokens. LiteLLM's raw request has none.
    """
    calls = np.flatnonzero(_is_any(role, Role.MODEL_CALL, Role.ENGINE))
    rows = _mixed_siblings(spans, calls, parent, parent_id)
    equals = _with_equal_tokens(spans, group, calls, parent, role)
    if not len(rows) and equals.empty:
        return parent

    siblings = pd.DataFrame({"group": group[rows], "parent": parent_id[rows], "row": rows})
    pairs = siblings.merge(siblings, on=["group", "parent"], suffixes=("", "_inner"))
    pairs = pd.concat([pairs, equals.merge(equals, on=["key", "group"], suffixes=("", "_inner"))])
    pairs = pairs.drop_duplicates(["row", "row_inner"])
    outer = pairs["row"].to_numpy()
    inner = pairs["row_inner"].to_numpy()
    start = start_ns(spans)
    end = end_ns(spans)
    possible = (outer != inner) & (role[outer] == Role.MODEL_CALL)
    possible &= (start[inner] >= start[outer] - TOLERANCE_NS) & (
        end[inner] <= end[outer] + TOLERANCE_NS
    )
    length = end - start
    possible &= (length[inner] < length[outer]) | (
        (length[inner] == length[outer]) & (outer < inner)
    )
    agree, same_tokens = _tokens_agree(spans, outer, inner)
    possible &= agree
    service = codes(spans, "service")
    raw = (spans["name"] == RAW_REQUEST).to_numpy(bool)
    is_raw = raw[inner] & ~raw[outer]
    name = codes(spans, "name")
    by_another_library = (name[outer] != name[inner]) & same_tokens
    possible &= (service[outer] != service[inner]) | by_another_library | is_raw
    chosen = pairs.assign(
        same=same_tokens, gap=np.abs(start[inner] - start[outer]), engine=role[inner] == Role.ENGINE
    )[possible]
    chosen = chosen.sort_values(["same", "gap"], ascending=[False, True], kind="stable")
    chosen = chosen.drop_duplicates("row_inner").drop_duplicates(["row", "engine"])
    parent = parent.copy()
    parent[chosen["row_inner"].to_numpy()] = chosen["row"].to_numpy()
    return parent


def _tokens_agree(
    spans: pd.DataFrame, outer: np.ndarray, inner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs of spans have no different tokens, and which have the same ones."""
    agree = np.ones(len(outer), dtype=bool)
    same = np.ones(len(outer), dtype=bool)
    for name in TOKENS:
        tokens = field_numbers(spans, name)
        known = ~np.isnan(tokens[outer]) & ~np.isnan(tokens[inner])
        equal = tokens[outer] == tokens[inner]
        agree &= ~known | equal
        same &= equal
    return agree, same


def _promote_agents(spans: pd.DataFrame, parent: np.ndarray, role: np.ndarray) -> None:
    """Take agents with tokens, but without any model call below, for the call itself."""
    agents = np.flatnonzero(role == Role.AGENT)
    if not len(agents):
        return
    has_call = np.zeros(len(role), dtype=bool)
    calls = np.flatnonzero(_is_any(role, Role.MODEL_CALL, Role.ENGINE))
    for rows in _levels_above(parent, calls):
        has_call[rows] = True
    tokens = field_numbers(spans, "prompt_tokens")[agents]
    role[agents[~has_call[agents] & ~np.isnan(tokens)]] = Role.MODEL_CALL


def _model_calls(parent: np.ndarray, role: np.ndarray) -> np.ndarray:
    """Return each view's outermost span of its model call; `role` gets wrappers and repetitions."""
    calls = np.flatnonzero(role == Role.MODEL_CALL)
    up = _call_above(parent, calls, role, role == Role.MODEL_CALL)
    if (up >= 0).any():
        above = np.full(len(role), -1)
        above[calls] = up
        inner = np.zeros(len(role), dtype=np.int64)  # innermost calls below each
        for rows in _levels_above(above, calls[~np.isin(calls, up)]):
            np.add.at(inner, rows, 1)
        role[inner > 1] = Role.AGENT

    calls = np.flatnonzero(role == Role.MODEL_CALL)
    is_call = role == Role.MODEL_CALL
    top = outermost(is_call, calls, _call_above(parent, calls, role, is_call))
    role[(top >= 0) & (top != np.arange(len(top)))] = Role.REPEAT
    engines = np.flatnonzero(role == Role.ENGINE)
    role[engines[ancestor(parent, engines, role == Role.ENGINE) >= 0]] = Role.REPEAT
    engines = np.flatnonzero(role == Role.ENGINE)
    is_view = (role == Role.MODEL_CALL) | ((role == Role.REPEAT) & (top >= 0))
    nearest = _call_above(parent, engines, role, is_view)
    top[engines] = np.where(nearest >= 0, top[nearest], engines)
    return top


def _tool_calls(
    spans: pd.DataFrame, group: np.ndarray, parent: np.ndarray, role: np.ndarray
) -> np.ndarray:
    """Return each view's outermost span of its tool call; `role` gets servers' and repeated views.

    A tool that is an agent itself has tool calls of its own below that agent.
    """
    rows = np.flatnonzero(role == Role.TOOL_CALL)
    tool = np.full(len(role), -1)
    service = codes(spans, "service")
    is_server = (spans["kind"] == "server").to_numpy(bool)[rows]
    is_lab = (spans["service"] == Service.TOOLS).to_numpy(bool)[rows]
    wanted = _is_any(role, Role.TOOL_CALL, Role.AGENT, Role.MODEL_CALL)
    up = ancestor(parent, rows, wanted)
    inside = (up >= 0) & (role[up] == Role.TOOL_CALL)
    tool[rows] = np.where(inside, up, rows)
    _climb(tool, rows)

    is_run = (service[rows] != service[tool[rows]]) | is_server
    alone_at_server = ~inside & is_lab
    role[rows[inside]] = np.where(is_run[inside], Role.TOOL_RUN, Role.REPEAT)
    role[rows[alone_at_server]] = Role.TOOL_RUN
    _adopt_runs(spans, group, rows[~inside], is_server[~inside] | is_lab[~inside], role, tool)
    # A list is the agent's; what a tool server writes of it, is a view of it.
    lists = np.flatnonzero(role == Role.TOOL_LIST)
    at_server = (spans["kind"] == "server").to_numpy(bool)[lists]
    inner = ancestor(parent, lists, role == Role.TOOL_LIST) >= 0
    role[lists[inner | at_server]] = Role.REPEAT
    return tool


def _adopt_runs(
    spans: pd.DataFrame,
    group: np.ndarray,
    rows: np.ndarray,
    at_server: np.ndarray,
    role: np.ndarray,
    tool: np.ndarray,
) -> None:
    """Take a tool server's span in the time of a caller's tool call of its trace for its run.

    MCP sessions often pass on the context of the session, not of the call. `rows` are the outermost
    spans of tool calls, those `at_server` of tool servers; `role` and `tool` are changed.
    """
    if not at_server.any():
        return
    table = pd.DataFrame({"group": group[rows], "row": rows})
    pairs = table[at_server].merge(table[~at_server], on="group", suffixes=("", "_call"))
    run = pairs["row"].to_numpy()
    call = pairs["row_call"].to_numpy()
    start = start_ns(spans)
    end = end_ns(spans)
    service = codes(spans, "service")
    inside = (start[run] >= start[call] - TOLERANCE_NS) & (end[run] <= end[call] + TOLERANCE_NS)
    pairs = pairs.assign(gap=np.abs(start[run] - start[call]))
    pairs = pairs[inside & (service[run] != service[call])]
    pairs = pairs.sort_values("gap", kind="stable").drop_duplicates("row")
    adopted = pairs["row"].to_numpy()
    tool[adopted] = pairs["row_call"].to_numpy()
    role[adopted] = Role.TOOL_RUN
    views = np.flatnonzero(tool >= 0)
    tool[views] = tool[tool[views]]


def _name_servers(group: np.ndarray, parent: np.ndarray, role: np.ndarray) -> None:
    """Take the outermost agent above a model call for the server, in traces without another."""
    if not (role == Role.AGENT).any():
        return
    is_agent = role == Role.AGENT
    rows = np.flatnonzero(is_agent)
    top = outermost(is_agent, rows, ancestor(parent, rows, is_agent))
    calls = np.flatnonzero(role == Role.MODEL_CALL)
    agents = ancestor(parent, calls, role == Role.AGENT)
    with_server = np.unique(group[role == Role.SERVER])
    servers = np.unique(top[agents[agents >= 0]])
    role[servers[~np.isin(group[servers], with_server)]] = Role.SERVER
