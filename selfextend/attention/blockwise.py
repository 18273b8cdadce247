"""SelfExtend attention as a few plain attention calls joined by their log-sum-exp, in memory linear in t.

    neighbors  every query over the keys at distances below w_n
    grouped    every query over the keys at distance w_n and more   causal (beside a rectangle for the past)

Together they are the multiply-adds of one causal call. The neighbors are a band. Where the kernel takes a mask it is
computed a few rows at a time under a mask as wide as the band; where it does not, in blocks of w_n queries:

    own        each block over its own keys                                   causal
    previous   each block over the keys before it that are still neighbors    causal, once queries and keys are reversed
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from selfextend.attention.kernels import Piece, attend, attend_banded, merge_, takes_mask

_Kernel = Callable[..., Piece]
"""`attend` with scaling and soft-cap filled in: (query, key, value, is_causal=False) -> piece."""


def blockwise_attention(
    query_exact: torch.Tensor,
    query_grouped: torch.Tensor,
    key_exact: torch.Tensor,
    key_grouped: torch.Tensor,
    value_states: torch.Tensor,
    *,
    neighbor_window: int,
    scaling: float,
    softcap: float | None = None,
) -> torch.Tensor:
    """SelfExtend attention of the last q of t tokens. Arguments and result as in `selfextend.attention`.

    Args:
        neighbor_window: w_n, in tokens.
        scaling: what scores are multiplied by.
        softcap: Gemma-2's bound on scores, applied after scaling.
    """
    kernel = partial(attend, scaling=scaling, softcap=softcap)
    q_len, kv_len = query_grouped.shape[2], key_grouped.shape[2]
    if q_len == 1:
        recent = slice(max(0, kv_len - neighbor_window), None)
        output, lse = kernel(query_exact, key_exact[:, :, -neighbor_window:], value_states[:, :, recent])
    elif takes_mask(query_exact, softcap):
        exact = slice(kv_len - key_exact.shape[2], None)
        output, lse = attend_banded(
            query_exact, key_exact, value_states[:, :, exact], window=neighbor_window, scaling=scaling
        )
    else:
        output, lse = _neighbors(query_exact, key_exact, value_states, neighbor_window, kernel)
    _add_grouped(output, lse, query_grouped, key_grouped, value_states, neighbor_window, kernel)
    return output


def _add_grouped(
    output: torch.Tensor,
    lse: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int,
    kernel: _Kernel,
) -> None:
    """Query i over keys 0 ... i - w_n."""
    q_len, kv_len = query.shape[2], key.shape[2]
    past = kv_len - q_len
    first = max(0, window - past)  # the first query row that has a key so far away
    if first >= q_len:
        return
    query, output, lse = query[:, :, first:], output[:, :, first:], lse[:, :, first:]
    shared = past + first - window  # keys before the diagonal: every one of these queries sees them
    if shared > 0:
        merge_(output, lse, kernel(query, key[:, :, :shared], value[:, :, :shared]))
    diagonal = slice(shared, shared + query.shape[2])
    merge_(output, lse, kernel(query, key[:, :, diagonal], value[:, :, diagonal], is_causal=True))


def _neighbors(
    query: torch.Tensor, key_exact: torch.Tensor, value: torch.Tensor, window: int, kernel: _Kernel
) -> Piece:
    """Query i over keys i - w_n + 1 ... i."""
    q_len, kv_len = query.shape[2], value.shape[2]
    value_exact = value[:, :, kv_len - key_exact.shape[2] :]
    origin = key_exact.shape[2] - q_len  # where, among the exact keys, that of the first query stands
    own_key, own_value = key_exact[:, :, origin:], value_exact[:, :, origin:]
    output = query.new_empty(*query.shape[:3], value.shape[-1])
    lse = query.new_empty(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))

    whole = q_len // window * window
    if whole:
        rows = slice(0, whole)
        piece = _each_block(kernel, *(_blocks(s[:, :, rows], window) for s in (query, own_key, own_value)))
        _blocks(output[:, :, rows], window).copy_(piece[0])
        _blocks(lse[:, :, rows], window).copy_(piece[1])
    if whole < q_len:
        rows = slice(whole, q_len)
        piece = kernel(query[:, :, rows], own_key[:, :, rows], own_value[:, :, rows], is_causal=True)
        output[:, :, rows], lse[:, :, rows] = piece

    # Whole blocks with a whole window before them go in one call. The first block, short of keys, and the last,
    # short of queries, go alone.
    first = 0 if origin >= window - 1 else window
    if window > 1 and first < whole:
        before = slice(origin + first - window + 1, origin + whole - window)
        piece = _each_block(
            kernel,
            _blocks(query[:, :, first:whole], window)[:, :, :, :-1].flip(3),
            *(s[:, :, before].unfold(2, window - 1, window).transpose(3, 4).flip(3) for s in (key_exact, value_exact)),
        )
        merge_(
            _blocks(output[:, :, first:whole], window)[:, :, :, :-1],
            _blocks(lse[:, :, first:whole], window)[:, :, :, :-1],
            (piece[0].flip(3), piece[1].flip(3)),
        )
    for start, stop in ((0, min(first, q_len)), (max(first, whole), q_len)):
        before = slice(max(0, origin + start - window + 1), origin + start)
        keys, values = key_exact[:, :, before], value_exact[:, :, before]
        if start < stop and keys.shape[2]:
            rows = slice(start, min(stop, start + window - 1))
            _add_previous(output[:, :, rows], lse[:, :, rows], query[:, :, rows], keys, values, window, kernel)
    return output, lse


def _add_previous(
    output: torch.Tensor,
    lse: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int,
    kernel: _Kernel,
) -> None:
    """One block's queries over the keys right before the block that are still their neighbors."""
    query, key, value = query.flip(2), key.flip(2), value.flip(2)
    # Reversed, query row r sees keys 0 ... shared + r.
    shared = window - 1 - query.shape[2]
    pieces = []
    if shared > 0:
        pieces.append(kernel(query, key[:, :, :shared], value[:, :, :shared]))
    if shared < key.shape[2]:
        pieces.append(kernel(query, key[:, :, shared:], value[:, :, shared:], is_causal=True))
    for piece_output, piece_lse in pieces:
        merge_(output, lse, (piece_output.flip(2), piece_lse.flip(2)))


def _blocks(states: torch.Tensor, size: int) -> torch.Tensor:
    """(batch, heads, blocks * size, ...) as (batch, heads, blocks, size, ...), without a copy."""
    return states.unflatten(2, (-1, size))


def _each_block(kernel: _Kernel, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Piece:
    """Causal attention within each block of (batch, heads, blocks, size, head_dim) states."""
    batch, blocks = query.shape[0], query.shape[2]
    output, lse = kernel(*(states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)), is_causal=True)
    return output.unflatten(0, (batch, blocks)).transpose(1, 2), lse.unflatten(0, (batch, blocks)).transpose(1, 2)
