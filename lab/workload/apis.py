"""The two ways to a model: an agent behind the Responses API, and plain chat completions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lab.workload import chat_api, responses_api
from lab.workload.connection import Pool
from lab.workload.outcome import Outcome
from lab.workload.plan import PlannedRequest
from lab.world import catalogue

MCP_LABEL = "lab-tools"


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
    instructions: str = ""
    search_results: int = 2
    path: str = responses_api.PATH

    def begin(self) -> _ResponsesConversation:
        """Begin a conversation."""
        return _ResponsesConversation(self)

    def tools(self, offered: list[str]) -> list[dict[str, Any]]:
        """Return the tool entries for the names that a request offers."""
        by_mcp = [name for name in offered if catalogue.BY_NAME[name].mcp]
        entries = [responses_api.mcp_tool(MCP_LABEL, self.mcp_url, by_mcp)] if by_mcp else []
        if len(by_mcp) < len(offered) and self.vector_store_id:
            entries.append(
                responses_api.file_search_tool(self.vector_store_id, self.search_results)
            )
        return entries


class _ResponsesConversation:
    def __init__(self, api: ResponsesApi) -> None:
        self._api = api
        self._previous = ""

    def body(self, request: PlannedRequest) -> bytes:
        """Return the body of the next request."""
        return responses_api.body(
            model=self._api.models.get(request.model, request.model),
            text=request.text,
            max_output_tokens=request.max_tokens,
            temperature=request.temperature,
            tools=self._api.tools(request.tools),
            instructions=self._api.instructions,
            previous_response_id=self._previous,
        )

    def read(self, events: list[tuple[float, bytes]]) -> Outcome:
        """Read the answer to it."""
        outcome = responses_api.ResponseStream().read(events)
        self._previous = outcome.response_id
        return outcome


@dataclass
class ChatApi:
    """Chat completions: tools are offered, not run; each request holds the whole conversation.

    `extra` are further fields of each request's body, such as vLLM's own `ignore_eos`.
    """

    pool: Pool
    instructions: str = ""
    path: str = chat_api.PATH
    extra: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> _ChatConversation:
        """Begin a conversation."""
        return _ChatConversation(self)


class _ChatConversation:
    def __init__(self, api: ChatApi) -> None:
        self._extra = api.extra
        self._messages: list[dict[str, Any]] = []
        if api.instructions:
            self._messages.append({"role": "system", "content": api.instructions})

    def body(self, request: PlannedRequest) -> bytes:
        """Return the body of the next request."""
        self._messages.append({"role": "user", "content": request.text})
        return chat_api.body(
            model=request.model,
            messages=self._messages,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            tools=[catalogue.BY_NAME[name].openai() for name in request.tools],
            extra=self._extra,
        )

    def read(self, events: list[tuple[float, bytes]]) -> Outcome:
        """Read the answer to it."""
        outcome = chat_api.ChatStream().read(events)
        self._messages.append({"role": "assistant", "content": outcome.answer})
        return outcome


Api = ResponsesApi | ChatApi
Conversation = _ResponsesConversation | _ChatConversation
