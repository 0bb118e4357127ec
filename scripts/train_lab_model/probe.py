"""Measure what the model has learned, on held-out conversations without a server.

Each token is predicted after the right past. This is kinder than the evaluation through a server,
where a mistake changes all that comes after it; but it takes seconds.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lab.world import BY_NAME, KINDS, make_scenarios
from lab.world.scenarios import TICKET
from scripts.train_lab_model.corpus import Conversation, messages_of
from scripts.train_lab_model.forward import predictions
from scripts.train_lab_model.tokenizer import Encoder

SEED = 77  # not the evaluation's
TOGETHER = 16  # conversations that are predicted at once
MEASURES = ("tool", "call", "answer")


@dataclass(frozen=True)
class Example:
    """A held-out conversation.

    `spans` are (first token, behind the last, is a call) of the assistant's parts.
    """

    kind: str
    ids: list[int]
    spans: list[tuple[int, int, bool]]


def examples(tokenizer: PreTrainedTokenizerFast, per_kind: int, seed: int = SEED) -> list[Example]:
    """Return `per_kind` held-out conversations of each kind."""
    encode = Encoder(tokenizer)
    call = tokenizer.convert_tokens_to_ids("<tool_call>")
    made = []
    for scenario in make_scenarios(per_kind * len(KINDS), seed, kinds=KINDS):
        # A number as the server would give it.
        messages = json.loads(json.dumps(messages_of(scenario.turns)).replace(TICKET, "T-1042"))
        tools = [BY_NAME[name].openai() for name in scenario.offered]
        ids, mask = encode(Conversation(messages, tools))
        edges = [i for i in range(1, len(ids) + 1) if mask[i - 1] != (i < len(ids) and mask[i])]
        spans = [(a, b, ids[a] == call) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        made.append(Example(scenario.kind, ids, spans))
    return sorted(made, key=lambda example: len(example.ids))


@torch.no_grad()
def probe(model: LlamaForCausalLM, cases: list[Example]) -> dict[str, dict[str, float]]:
    """Return the share of each kind's conversations with all right: {kind: {tool, call, answer}}.

    tool: whether to call, and what; call: the whole text of every call; answer: the whole text of
    every answer.
    """
    counts = Counter(example.kind for example in cases)
    hits: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    device = model.lm_head.weight.device
    for first in range(0, len(cases), TOGETHER):
        batch = cases[first : first + TOGETHER]
        longest = -(-max(len(e.ids) for e in batch) // 32) * 32
        pad = model.config.pad_token_id
        ids = torch.tensor([e.ids + [pad] * (longest - len(e.ids)) for e in batch])
        predicted = predictions(model, ids.to(device)).tolist()
        for example, tokens in zip(batch, predicted, strict=True):
            hits[example.kind].update(_right(example, tokens))
    return {kind: {m: hits[kind][m] / counts[kind] for m in MEASURES} for kind in KINDS}


def _right(example: Example, predicted: list[int]) -> set[str]:
    """Return the measures that are right in all parts of the conversation."""
    right = set(MEASURES)
    for a, b, is_call in example.spans:
        head = 3 if is_call else 1  # <tool_call>, {"name": ", and the name
        if predicted[a - 1 : a - 1 + head] != example.ids[a : a + head]:
            right.discard("tool")
        if predicted[a - 1 : b - 1] != example.ids[a:b]:
            right.discard("call" if is_call else "answer")
    return right
