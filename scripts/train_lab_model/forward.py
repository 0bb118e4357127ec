"""The forward pass of training: transformers' Llama in fewer, larger operations that compile well.

On a CPU the attention of transformers (its backward pass above all) takes most of a step. The
parameters are the ones of `LlamaForCausalLM`, and so are the numbers: a test compares the two.
"""

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM


def losses(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each next token in nats: (conversations, tokens - 1)."""
    logits = _logits(model, ids)[:, :-1].float()
    return functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).view(len(ids), -1)


def _logits(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    config = model.config
    tokens = ids.shape[1]
    head = config.hidden_size // config.num_attention_heads
    base = config.rope_parameters["rope_theta"]
    frequency = base ** (-torch.arange(0, head, 2, device=ids.device, dtype=torch.float32) / head)
    angle = torch.arange(tokens, device=ids.device, dtype=torch.float32)[:, None] * frequency
    # Padding stands on the right, so a causal mask hides it from all that counts.
    mask = torch.full((tokens, tokens), -1e9, device=ids.device).triu(1)
    x = functional.embedding(ids, model.model.embed_tokens.weight)
    for layer in model.model.layers:
        x = x + _attention(layer.self_attn, _norm(x, layer.input_layernorm), config, angle, mask)
        x = x + _feed_forward(layer.mlp, _norm(x, layer.post_attention_layernorm))
    return functional.linear(_norm(x, model.model.norm), model.lm_head.weight)


def _norm(x: torch.Tensor, norm: torch.nn.Module) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon) * norm.weight


def _feed_forward(mlp: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    gate = functional.silu(functional.linear(x, mlp.gate_proj.weight))
    return functional.linear(gate * functional.linear(x, mlp.up_proj.weight), mlp.down_proj.weight)


def _attention(
    attention: torch.nn.Module,
    x: torch.Tensor,
    config: LlamaConfig,
    angle: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Grouped-query attention: queries that share keys are stacked, so no key is repeated."""
    n, tokens, _ = x.shape
    heads = config.num_attention_heads
    groups = config.num_key_value_heads
    share = heads // groups

    def split(weight: torch.Tensor, parts: int) -> torch.Tensor:
        return functional.linear(x, weight).view(n, tokens, parts, -1).transpose(1, 2)

    q = _rotate(split(attention.q_proj.weight, heads), angle).reshape(n, groups, share * tokens, -1)
    k = _rotate(split(attention.k_proj.weight, groups), angle)
    v = split(attention.v_proj.weight, groups)
    scores = torch.matmul(q, k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    scores = scores + mask.repeat(share, 1)
    seen = torch.matmul(torch.softmax(scores, -1).to(v.dtype), v)
    joined = seen.reshape(n, heads, tokens, -1).transpose(1, 2).reshape(n, tokens, -1)
    return functional.linear(joined, attention.o_proj.weight)


def _rotate(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    cos = angle.cos()
    sin = angle.sin()
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
