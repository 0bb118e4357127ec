"""The part that a span plays in a request, by its name and service."""

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
    TOOL_LIST = 6  # Llama Stack lists the tools of the tool server
    TOOL_RUN = 7  # the tool server's view of one tool call


def roles_of(spans: pd.DataFrame) -> np.ndarray:
    """Return one Role (int8) per span."""
    name = spans["name"].astype("category").cat
    service = spans["service"].astype("category").cat
    # The last element of each array serves code -1, a missing name.
    role_of_name = [*(_role_of_name(str(n)) for n in name.categories), Role.OTHER]
    roles = np.array(role_of_name, dtype=np.int8)[name.codes.to_numpy()]
    is_embedding = np.array([*(service.categories == Service.VLLM_EMBED), False], dtype=bool)
    # Embeddings belong to a file search, which counts as a tool call.
    roles[(roles == Role.ENGINE) & is_embedding[service.codes.to_numpy()]] = Role.OTHER
    return roles


def _role_of_name(name: str) -> Role:
    exact = {
        Span.CLIENT: Role.CLIENT,
        Span.LLAMA_STACK_RESPONSES: Role.SERVER,
        Span.VLLM: Role.ENGINE,
        Span.LIST_TOOLS: Role.TOOL_LIST,
        **dict.fromkeys(Span.INVOKE_TOOL, Role.TOOL_CALL),
    }
    if name in exact:
        return exact[name]
    if name.startswith(Span.CHAT_PREFIX):
        return Role.MODEL_CALL
    return Role.TOOL_RUN if name.startswith(Span.EXECUTE_TOOL_PREFIX) else Role.OTHER
