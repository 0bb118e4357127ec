"""The two ways to a model: an agent behind the Responses API, and plain chat completions.

Each API writes the bodies of a conversation's requests, and has a Stream that reads its answers.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lab.errors import NotUp, WorkloadError
from lab.settings import Settings
from lab.workload.connection import Exchange, Pool, Server
from lab.workload.outcome import (
    ABSENT,
    UNREADABLE,
    Outcome,
    PromptDetails,
    Stream,
    TokenCount,
    error_message,
    is_present,
    parse_arguments,
)
from lab.workload.plan import Plan, PlannedRequest
from lab.world import catalogue

MCP_LABEL = "lab-tools"


# What the model generated, as it came: text, reasoning, and the arguments of tool calls.
_ANSWER_EVENTS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_TOKEN_EVENTS = _ANSWER_EVENTS | frozenset(
    {
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.function_call_arguments.delta",
        "response.mcp_call.arguments.delta",
    }
)
_FINAL_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})


class _Event(msgspec.Struct):
    type: str = ""
    delta: str = ""
    item: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


class _ResponseUsage(msgspec.Struct):
    input_tokens: TokenCount = -1
    output_tokens: TokenCount = -1
    input_tokens_details: PromptDetails | None = None


class _Reason(msgspec.Struct):
    code: str | None = None
    message: str | None = None
    reason: str | None = None


class _Response(msgspec.Struct):
    id: str = ""
    status: str = ""
    output: list[dict[str, Any]] = []
    usage: _ResponseUsage | None = None
    error: _Reason | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _ChatUsage(msgspec.Struct):
    prompt_tokens: TokenCount = -1
    completion_tokens: TokenCount | None = None
    prompt_tokens_details: PromptDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _ChatUsage | None = None
    error: msgspec.Raw = ABSENT


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_response = msgspec.json.Decoder(_Response).decode
_decode_item = msgspec.json.Decoder(dict[str, Any]).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode


@dataclass
class ResponsesApi:
    """Llama Stack's Responses API: the server runs the tools and keeps the conversation.

    `mcp_url` is the tool server as Llama Stack reaches it, with its path. `models` maps the plan's
    name of a model to Llama Stack's.
    """

    pool: Pool
    mcp_url: str
    vector_store_id: str = ""
    models: dict[str, str] = field(default_factory=dict)
    search_results: int = 2
    path: str = "/v1/responses"

    def begin(self) -> _ResponsesConversation:
        """Begin a conversation."""
        return _ResponsesConversation(self)

    def tools(self, offered: list[str]) -> list[dict[str, Any]]:
        """Return the tool entries for the names that a request offers."""
        entries: list[dict[str, Any]] = []
        by_mcp = [name for name in offered if catalogue.BY_NAME[name].mcp]
        if by_mcp:
            entries.append(
                {
                    "type": "mcp",
                    "server_label": MCP_LABEL,
                    "server_url": self.mcp_url,
                    "require_approval": "never",
                    "allowed_tools": by_mcp,
                }
            )
        if len(by_mcp) < len(offered) and self.vector_store_id:
            entries.append(
                {
                    "type": "file_search",
                    "vector_store_ids": [self.vector_store_id],
                    "max_num_results": self.search_results,
                }
            )
        return entries


@dataclass
class _ResponsesConversation:
    api: ResponsesApi
    previous: str = ""

    def body(self, request: PlannedRequest) -> bytes:
        """Return the next request: streamed, and stored, so that a follow-up can name it."""
        fields: dict[str, Any] = {
            "model": self.api.models.get(request.model, request.model),
            "input": request.text,
            "stream": True,
            "store": True,
            "max_output_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        tools = self.api.tools(request.tools)
        optional = {"tools": tools, "previous_response_id": self.previous}
        return msgspec.json.encode(fields | {k: v for k, v in optional.items() if v})

    def read(self, events: list[tuple[float, bytes]]) -> Outcome:
        """Read the answer to it."""
        outcome = ResponseStream().read(events)
        self.previous = outcome.response_id
        return outcome


@dataclass
class ChatApi:
    """Chat completions: tools are offered, not run; each request holds the whole conversation.

    `extra` are further fields of each request's body, such as vLLM's own `ignore_eos`.
    """

    pool: Pool
    path: str = "/v1/chat/completions"
    extra: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> _ChatConversation:
        """Begin a conversation."""
        return _ChatConversation(self.extra)


@dataclass
class _ChatConversation:
    extra: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)

    def body(self, request: PlannedRequest) -> bytes:
        """Return the next request: streamed, with usage at the end."""
        self.messages.append({"role": "user", "content": request.text})
        tools = [catalogue.BY_NAME[name].openai() for name in request.tools]
        fields: dict[str, Any] = {
            "model": request.model,
            "messages": self.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            **self.extra,
        }
        return msgspec.json.encode(fields | {"tools": tools} if tools else fields)

    def read(self, events: list[tuple[float, bytes]]) -> Outcome:
        """Read the answer to it."""
        outcome = ChatStream().read(events)
        self.messages.append({"role": "assistant", "content": outcome.answer})
        return outcome


Api = ResponsesApi | ChatApi
Conversation = _ResponsesConversation | _ChatConversation


class ResponseStream(Stream):
    """The events of one answer as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._items: list[dict[str, Any]] = []  # finished ones, for an answer that is cut
        self._final: _Response | None = None

    def add(self, at: float, data: bytes) -> None:
        """Take one event. Raises one of UNREADABLE."""
        event = _decode_event(data)
        if event.type in _TOKEN_EVENTS:
            if event.delta:
                self.outcome.add_tokens(at, of_answer=event.type in _ANSWER_EVENTS)
        elif event.type == "response.output_item.done" and is_present(event.item):
            self._items.append(_decode_item(event.item))
        elif event.type in _FINAL_EVENTS and is_present(event.response):
            self._final = _decode_response(event.response)
        elif event.type == "response.created" and is_present(event.response):
            self.outcome.response_id = _decode_response(event.response).id
        if is_present(event.error) or event.type == "error":
            self.outcome.fail("stream_error", error_message(data))

    def finish(self) -> Outcome:
        """Take answer and tool calls from the final response, or from what came before a cut."""
        items = self._items
        if self._final is None:
            self.outcome.fail("stream_incomplete", "the stream ended without response.completed")
        else:
            self._take_final(self._final)
            items = self._final.output or items
        for item in items:
            self._take_item(item)
        return self.outcome

    def _take_final(self, response: _Response) -> None:
        outcome = self.outcome
        outcome.response_id = response.id
        outcome.finish_reason = response.status
        if response.usage is not None:
            usage = response.usage
            outcome.take_usage(usage.input_tokens, usage.output_tokens, usage.input_tokens_details)
        if response.status == "failed":
            reason = response.error or _Reason()
            outcome.fail(
                "response_failed", f"{reason.code or 'no code'}: {reason.message or 'no message'}"
            )

    def _take_item(self, item: dict[str, Any]) -> None:
        kind = item.get("type")
        if kind == "message":
            self.outcome.answer = _text(item.get("content") or [])
        elif kind in ("mcp_call", "function_call"):
            arguments = parse_arguments(item.get("arguments") or "")
            name = item.get("name", "")
            self.outcome.add_call(name, arguments, item.get("output"), item.get("error"))
        elif kind == "file_search_call":
            query = " ".join(item.get("queries") or [])
            texts = [result.get("text", "") for result in item.get("results") or []]
            error = "the search failed" if item.get("status") == "failed" else None
            self.outcome.add_call("file_search", {"query": query}, texts, error)


def _text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or part.get("refusal") or "" for part in content)


class ChatStream(Stream):
    """The pieces of one answer as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []
        self._calls: dict[int, tuple[list[str], list[str]]] = {}  # pieces of (name, arguments)

    def add(self, at: float, data: bytes) -> None:
        """Take one event. Raises one of UNREADABLE."""
        chunk = _decode_chunk(data)
        if is_present(chunk.error):
            self.outcome.fail("stream_error", error_message(data))
        if chunk.usage is not None:
            usage = chunk.usage
            self.outcome.take_usage(
                usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details
            )
        for choice in chunk.choices:
            if choice.finish_reason:
                self.outcome.finish_reason = choice.finish_reason
            if choice.delta is not None:
                self._take_delta(at, choice.delta)

    def _take_delta(self, at: float, delta: _Delta) -> None:
        if delta.content:
            self._texts.append(delta.content)
        for call in delta.tool_calls or ():
            names, arguments = self._calls.setdefault(call.index, ([], []))
            if call.function is not None:
                names.append(call.function.name or "")
                arguments.append(call.function.arguments or "")
        if delta.content or delta.tool_calls or delta.reasoning_content or delta.reasoning:
            self.outcome.add_tokens(at, of_answer=bool(delta.content))

    def finish(self) -> Outcome:
        """Put the pieces together."""
        self.outcome.answer = "".join(self._texts)
        for _, (names, arguments) in sorted(self._calls.items()):
            self.outcome.add_call("".join(names), parse_arguments("".join(arguments)))
        if not self.ended or not self.outcome.finish_reason:
            self.outcome.fail(
                "stream_incomplete", "the stream ended without a finish reason and [DONE]"
            )
        return self.outcome


VECTOR_STORE = "help-desk"
TIMEOUT_S = 30.0


class _List(msgspec.Struct):
    data: list[dict[str, Any]]


def apis_for(plan: Plan, settings: Settings, vector_store_id: str = "") -> dict[str, Api]:
    """Return each API that the plan uses.

    Raises NotUp where no address is known or Llama Stack does not answer, WorkloadError where it
    lacks the plan's model or a tool of the plan does not exist.
    """
    unknown = {name for r in plan.requests for name in r.tools} - set(catalogue.BY_NAME)
    if unknown:
        raise WorkloadError(
            "the plan offers tools that do not exist",
            got=", ".join(sorted(unknown)),
            fix=f"use tools of the catalogue: {', '.join(catalogue.BY_NAME)}",
        )
    names = {r.api for r in plan.requests}
    apis: dict[str, Api] = {}
    if "chat" in names:
        apis["chat"] = ChatApi(Pool(Server.at(settings.endpoint("vllm"))))
    if "responses" in names:
        apis["responses"] = _responses(plan, settings, vector_store_id)
    return apis


def _responses(plan: Plan, settings: Settings, vector_store_id: str) -> ResponsesApi:
    url = settings.endpoint("llama_stack")
    names = {r.model for r in plan.requests if r.api == "responses"}
    models = find_models(url, {name for name in names if "/" not in name})
    searches = any(not catalogue.BY_NAME[tool].mcp for r in plan.requests for tool in r.tools)
    if searches and not vector_store_id:
        vector_store_id = find_vector_store(url)
    mcp_url = f"{settings.endpoint('mcp')}/mcp"
    return ResponsesApi(Pool(Server.at(url)), mcp_url, vector_store_id, models)


def find_models(llama_stack_url: str, names: set[str]) -> dict[str, str]:
    """Return Llama Stack's names of models, with their provider: {'lab-model': 'vllm/lab-model'}.

    Raises NotUp if Llama Stack does not answer, WorkloadError if it does not have one of the
    models.
    """
    if not names:
        return {}
    known = [str(model.get("id")) for model in _list(llama_stack_url, "/v1/models")]
    full_names = {
        name: full for name in names for full in known if full == name or full.endswith(f"/{name}")
    }
    if missing := names - set(full_names):
        raise WorkloadError(
            "Llama Stack does not have the plan's model",
            got=f"{', '.join(sorted(missing))}; it has {', '.join(known) or 'none'}",
            fix="make the plan for one that it has",
        )
    return full_names


def find_vector_store(llama_stack_url: str, name: str = VECTOR_STORE) -> str:
    """Return the id of the vector store with the documents; '' if there is none.

    Without one, no search is offered. Raises NotUp if Llama Stack does not answer.
    """
    stores = _list(llama_stack_url, "/v1/vector_stores?limit=100")
    return next((str(store["id"]) for store in stores if store.get("name") == name), "")


def _list(url: str, path: str) -> list[dict[str, Any]]:
    """Return the objects of one of Llama Stack's lists, within TIMEOUT_S in all. Raises NotUp."""
    exchange = _get(Server.at(url), path)
    answer = exchange.answer
    if exchange.error_type:
        raise _not_up(url, f"{exchange.error_type}: {exchange.error_message}")
    if answer.status != 200:
        raise _not_up(url, f"HTTP {answer.status} for {path}: {error_message(answer.body)}")
    try:
        return msgspec.json.decode(answer.body, type=_List).data
    except UNREADABLE as e:
        raise _not_up(url, f"no list for {path}: {e}: {answer.body[:100]!r}") from e


def _get(server: Server, path: str) -> Exchange:
    lines = [
        f"GET {server.path}{path} HTTP/1.1",
        f"Host: {server.host_header}",
        "Connection: close",
    ]
    request = "\r\n".join(lines).encode() + b"\r\n\r\n"
    sending = Pool(server).send(request, timeout_s=TIMEOUT_S)
    with ThreadPoolExecutor(1) as thread:  # a notebook's own thread has a running loop already
        return thread.submit(asyncio.run, sending).result()


def _not_up(url: str, got: str) -> NotUp:
    return NotUp(f"Llama Stack at {url} does not answer", got=got, fix="look at `lab status`")
