"""Attention over bands as the paper draws it: one score map a band, chosen by distance, one softmax over all.

The version to read. Memory is q x t, unless the caller sends its queries in pieces. It also takes what the fast version
cannot, key masks, and it returns the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch


class Visibility(NamedTuple):
    """Where queries stand among t tokens, and which keys they may see.

    Attributes:
        first_query: index of the first query among the t tokens; unless given, the queries are the last q.
        key_mask: True where a query may look, (batch, t) or (batch, q, t).
        is_causal: whether queries see no later keys. Where they do, as `key_mask` says, later keys are near ones.
        distances: i - j, (batch or 1, q, t), where positions do not rise by one a token. Keys that stand behind a query
            are near ones.
    """

    first_query: int | None = None
    key_mask: torch.Tensor | None = None
    is_causal: bool = True
    distances: torch.Tensor | None = None


EVERYTHING_BEFORE = Visibility()
"""The queries are the last tokens, and see themselves and what came before."""


def attention_weights(
    queries: Sequence[torch.Tensor],
    keys: Sequence[torch.Tensor],
    *,
    ends: Sequence[int],
    scaling: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    visibility: Visibility = EVERYTHING_BEFORE,
) -> torch.Tensor:
    """Attention weights. Shapes and `ends` as in `selfextend.attention`.

    Args:
        scaling: what scores are multiplied by, usually head_dim ** -0.5.
        softcap: Gemma-2's bound on scores, applied after scaling.
        sinks: (heads,) gpt-oss's score of a key that is not there, to which weight is lost.

    Returns:
        fp32 (fp64 for fp64 states) of shape (batch, heads, q, t). A row that may look nowhere is all zeros.
    """
    q_len, kv_len = queries[-1].shape[2], keys[-1].shape[2]
    device = queries[-1].device
    first_query, key_mask, is_causal, distances = visibility
    if first_query is None:
        first_query = kv_len - q_len
    indices = torch.arange(kv_len, device=device)
    behind = indices[first_query : first_query + q_len, None] - indices
    distance = behind if distances is None else distances[:, None, None]

    scores = _scores(queries[-1], keys[-1], scaling, softcap)
    for query, key, end in reversed(list(zip(queries, keys, ends, strict=False))):
        recent = scores[..., kv_len - key.shape[2] :]
        nearer = _scores(query, key, scaling, softcap)
        recent.copy_(torch.where(distance[..., -key.shape[2] :] < end, nearer, recent))

    visible = behind >= 0 if is_causal else torch.ones_like(behind, dtype=torch.bool)
    if key_mask is not None:
        visible = visible & (key_mask[:, None, None, None, :] if key_mask.dim() == 2 else key_mask[:, None, None])
    scores = scores.masked_fill_(~visible, -torch.inf)
    if sinks is not None:
        column = sinks.to(scores).view(1, *scores.shape[1:3], 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, column), dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., :kv_len]
    return torch.where(visible, weights, 0.0).flatten(1, 2)


def eager_attention(
    queries: Sequence[torch.Tensor],
    keys: Sequence[torch.Tensor],
    value_states: torch.Tensor,
    *,
    dropout: float = 0.0,
    **arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with its weights. `arguments` are those of `attention_weights`.

    Returns:
        The output, (batch, heads, q, head_dim), and the weights, (batch, heads, q, t), in the states' dtype.
    """
    weights = attention_weights(queries, keys, **arguments).to(value_states.dtype)
    dropped = torch.nn.functional.dropout(weights, p=dropout) if dropout else weights
    return _of_each_kv_head(dropped, value_states), weights


def _of_each_kv_head(rows: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Rows (batch, heads, q, n) @ states (batch, kv_heads, n, m). Heads that share states are rows of one product: a
    broadcast product would copy the states for each of them."""
    shared = rows.unflatten(1, (states.shape[1], -1))
    return (shared.flatten(2, 3) @ states).unflatten(2, shared.shape[2:4]).flatten(1, 2)


def _scores(query: torch.Tensor, key: torch.Tensor, scaling: float, softcap: float | None) -> torch.Tensor:
    """Scaled scores, (batch, kv_heads, heads // kv_heads, q, k), at least fp32."""
    scores = _of_each_kv_head(query, key.transpose(-1, -2)).unflatten(1, (key.shape[1], -1))
    scores = scores.to(torch.promote_types(query.dtype, torch.float32)) * scaling
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)
