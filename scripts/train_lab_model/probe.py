"""What the model has learned so far: held-out conversations, predicted token by token with the right past given.

Kinder than the evaluation through a server, where a mistake changes all that comes after it; but it takes seconds.
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


@dataclass(frozen=True)
class Example:
    """A held-out conversation, and where the assistant speaks in it: [(first token, behind the last, is it a call)]."""

    kind: str
    ids: list[int]
    spans: list[tuple[int, int, bool]]


def examples(tokenizer: PreTrainedTokenizerFast, per_kind: int, seed: int = SEED) -> list[Example]:
    """`per_kind` held-out conversations of each kind."""
    encode, call = Encoder(tokenizer), tokenizer.convert_tokens_to_ids("<tool_call>")
    made = []
    for s in make_scenarios(per_kind * len(KINDS), seed, kinds=KINDS):
        messages = json.loads(
            json.dumps(messages_of(s.turns)).replace(TICKET, "T-1042")
        )  # as a server would number it
        ids, mask = encode(Conversation(messages, [BY_NAME[name].openai() for name in s.offered]))
        edges = [i for i in range(1, len(ids) + 1) if mask[i - 1] != (i < len(ids) and mask[i])]
        spans = [(a, b, ids[a] == call) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        made.append(Example(s.kind, ids, spans))
    return sorted(made, key=lambda e: len(e.ids))


@torch.no_grad()
def probe(model: LlamaForCausalLM, found: list[Example]) -> dict[str, dict[str, float]]:
    """Share of each kind's conversations with all right: {kind: {tool, call, answer}}.

    tool: whether to call, and what; call: the whole text of every call; answer: the whole text of every answer.
    """
    cases, hits = Counter(e.kind for e in found), {e.kind: Counter() for e in found}
    device = model.lm_head.weight.device
    for first in range(0, len(found), TOGETHER):
        batch = found[first : first + TOGETHER]
        longest = -(-max(len(e.ids) for e in batch) // 32) * 32
        ids = torch.tensor(
            [e.ids + [model.config.pad_token_id] * (longest - len(e.ids)) for e in batch]
        )
        for example, said in zip(batch, predictions(model, ids.to(device)).tolist(), strict=True):
            right = {"tool": True, "call": True, "answer": True}
            for a, b, is_call in example.spans:
                head = 3 if is_call else 1  # <tool_call>, {"name": ", and the name
                right["tool"] &= said[a - 1 : a - 1 + head] == example.ids[a : a + head]
                right["call" if is_call else "answer"] &= said[a - 1 : b - 1] == example.ids[a:b]
            hits[example.kind].update(k for k, v in right.items() if v)
    return {k: {m: hits[k][m] / cases[k] for m in ("tool", "call", "answer")} for k in KINDS}
