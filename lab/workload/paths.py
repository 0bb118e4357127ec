"""The two ways to a model: an agent behind the Responses API, and plain chat completions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lab.workload import chat_api, responses_api
from lab.workload.outcome import Outcome
from lab.workload.plan import PlannedRequest
from lab.workload.wire import Pool
from lab.world import catalogue

MCP_LABEL = "lab-tools"


@dataclass
class ResponsesPath:
    """Llama Stack's Responses API: the server runs the tools and keeps the conversation."""

    pool: Pool
    mcp_url: str  # as Llama Stack reaches it, with its path
    vector_store_id: str = ""
    models: dict[str, str] = field(
        default_factory=dict
    )  # the plan's name of a model -> Llama Stack's
    instructions: str = ""
    search_results: int = 2
    path: str = responses_api.PATH

    def begin(self) -> _ResponsesConversation:
        return _ResponsesConversation(self)

    def tools(self, offered: list[str]) -> list[dict[str, Any]]:
        """Tool entries for the names that a request offers."""
        by_mcp = [name for name in offered if catalogue.BY_NAME[name].mcp]
        entries = [responses_api.mcp_tool(MCP_LABEL, self.mcp_url, by_mcp)] if by_mcp else []
        if len(by_mcp) < len(offered) and self.vector_store_id:
            entries.append(
                responses_api.file_search_tool(self.vector_store_id, self.search_results)
            )
        return entries


class _ResponsesConversation:
    def __init__(self, way: ResponsesPath) -> None:
        self._way, self._previous = way, ""

    def body(self, request: PlannedRequest) -> bytes:
        return responses_api.body(
            model=self._way.models.get(request.model, request.model),
            text=request.text,
            max_output_tokens=request.max_tokens,
            temperature=request.temperature,
            tools=self._way.tools(request.tools),
            instructions=self._way.instructions,
            previous_response_id=self._previous,
        )

    def read(self, request: PlannedRequest, events: list[tuple[float, bytes]]) -> Outcome:
        outcome = responses_api.read(events)
        self._previous = outcome.response_id
        return outcome


@dataclass
class ChatPath:
    """Chat completions: tools are offered, nobody runs them, and the client sends the whole conversation each time."""

    pool: Pool
    instructions: str = ""
    path: str = chat_api.PATH

    def begin(self) -> _ChatConversation:
        return _ChatConversation(self)


class _ChatConversation:
    def __init__(self, way: ChatPath) -> None:
        self._messages: list[dict[str, Any]] = []
        if way.instructions:
            self._messages.append({"role": "system", "content": way.instructions})

    def body(self, request: PlannedRequest) -> bytes:
        self._messages.append({"role": "user", "content": request.text})
        return chat_api.body(
            model=request.model,
            messages=self._messages,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            tools=[catalogue.BY_NAME[name].openai() for name in request.tools],
        )

    def read(self, request: PlannedRequest, events: list[tuple[float, bytes]]) -> Outcome:
        outcome = chat_api.read(events)
        self._messages.append({"role": "assistant", "content": outcome.answer})
        return outcome


Path = ResponsesPath | ChatPath
Conversation = _ResponsesConversation | _ChatConversation
