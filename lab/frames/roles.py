"""What part a span plays in the life of a request, by its name and service."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import pandas as pd

from lab.schema import Service, Span


class Role(IntEnum):
    """The roles that the request frame knows."""

    OTHER = 0
    CLIENT = 1  # the driver's root span
    SERVER = 2  # Llama Stack's span of the whole request
    MODEL_CALL = 3  # Llama Stack's view of one model call
    ENGINE = 4  # vLLM's view of it
    TOOL_CALL = 5  # Llama Stack's view of one tool call, searches included
    TOOL_LIST = 6  # Llama Stack asks which tools there are
    TOOL_RUN = 7  # the tool server's view of one tool call


def roles_of(spans: pd.DataFrame) -> np.ndarray:
    """One Role (int8) a span."""
    name, service = spans["name"].astype("category").cat, spans["service"].astype("category").cat
    by_name = np.array([*(_of_name(str(n)) for n in name.categories), Role.OTHER], dtype=np.int8)
    roles = by_name[name.codes.to_numpy()]  # the last element serves code -1, a missing name
    embedding = np.array([*(s == Service.VLLM_EMBED for s in service.categories), False])[
        service.codes.to_numpy()
    ]
    roles[(roles == Role.ENGINE) & embedding] = (
        Role.OTHER
    )  # inside a file search, which counts as a tool call
    return roles


def _of_name(name: str) -> Role:
    if name == Span.CLIENT:
        return Role.CLIENT
    if name == Span.LLAMA_STACK_RESPONSES:
        return Role.SERVER
    if name == Span.VLLM:
        return Role.ENGINE
    if name.startswith(Span.CHAT_PREFIX):
        return Role.MODEL_CALL
    if name in Span.INVOKE_TOOL:
        return Role.TOOL_CALL
    if name == Span.LIST_TOOLS:
        return Role.TOOL_LIST
    if name.startswith(Span.EXECUTE_TOOL_PREFIX):
        return Role.TOOL_RUN
    return Role.OTHER
