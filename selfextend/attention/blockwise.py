"""Attention over bands as a few plain attention calls joined by their log-sum-exp, in memory linear in t.

    nearest band   every query over the keys below its end          a band
    middle bands   the same, over keys moved to where they begin    a band
    last band      every query over all keys further away           causal (beside a rectangle for the past)

Together they are the multiply-adds of one causal call. Where the kernel takes a mask a band is computed a few rows at a
time under a mask as wide as the band; where it does not, in blocks of as many queries:

    own        each block over its own keys                                   causal
    previous   each block over the keys before it that are still in the band  causal, once queries and keys are reversed
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from selfextend.attention.cpu import attend_banded_cpu
from selfextend.attention.kernels import attend, on_cpu
from selfextend.attention.pieces import Piece, empty_piece, merge_

_Kernel = partial[Piece]
"""`attend` with scaling and soft-cap filled in: (query, key, value, is_causal=False) -> piece."""


def blockwise_attention(
    queries: Sequence[torch.Tensor],
    keys: Sequence[torch.Tensor],
    value_states: torch.Tensor,
    *,
    ends: Sequence[int],
    scaling: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of the last q of t tokens. Shapes and `ends` as in `selfextend.attention`.

    Args:
        scaling: what scores are multiplied by.
        softcap: Gemma-2's bound on scores, applied after scaling.
        sinks: (heads,) gpt-oss's score of a key that is not there, to which weight is lost.
    """
    width, value_width = queries[0].shape[-1], value_states.shape[-1]
    if width != value_width:  # the fused kernels want one width; zeros change nothing
        queries, keys = ([_widened(s, value_width) for s in states] for states in (queries, keys))
        value_states = _widened(value_states, width)
    output, lse = _joined(queries, keys, value_states, ends, partial(attend, scaling=scaling, softcap=softcap))
    if sinks is not None:
        output = output * torch.sigmoid(lse - sinks.to(lse)[:, None])[..., None].to(output.dtype)
    return output[..., :value_width]


def _widened(states: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(states, (0, max(0, width - states.shape[-1])))


def _joined(
    queries: Sequence[torch.Tensor],
    keys: Sequence[torch.Tensor],
    value_states: torch.Tensor,
    ends: Sequence[int],
    kernel: _Kernel,
) -> Piece:
    """All bands in one softmax."""
    if not ends:
        return _causal(queries[0], keys[0], value_states, kernel)
    output, lse = _band(queries[0], keys[0], value_states, ends[0], kernel)
    past = value_states.shape[2] - queries[0].shape[2]
    for begin, end, query, key in zip(ends[:-1], ends[1:], queries[1:-1], keys[1:-1], strict=True):
        first = max(0, begin - past)  # the first query row that has a key so far away
        if first < query.shape[2]:
            piece = _band(query[:, :, first:], key[:, :, :-begin], value_states[:, :, :-begin], end - begin, kernel)
            merge_(output[:, :, first:], lse[:, :, first:], piece)
    _add_far(output, lse, queries[-1], keys[-1], value_states, ends[-1], kernel)
    return output, lse


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kernel: _Kernel) -> Piece:
    """Every query over all keys up to its own: the vanilla model."""
    if query.shape[2] == 1:
        return kernel(query, key, value)
    past = key.shape[2] - query.shape[2]
    output, lse = kernel(query, key[:, :, past:], value[:, :, past:], is_causal=True)
    if past:
        merge_(output, lse, kernel(query, key[:, :, :past], value[:, :, :past]))
    return output, lse


def _band(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, kernel: _Kernel) -> Piece:
    """Query i over keys i - window + 1 ... i. `key` holds the last tokens, as many as are needed or more."""
    if query.shape[2] == 1:
        return kernel(query, key[:, :, -window:], value[:, :, -window:])
    if on_cpu(query, kernel.keywords["softcap"]):
        values = value[:, :, value.shape[2] - key.shape[2] :]
        return attend_banded_cpu(query, key, values, window=window, scaling=kernel.keywords["scaling"])
    return _in_blocks(query, key, value, window, kernel)


def _add_far(
    output: torch.Tensor,
    lse: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    begin: int,
    kernel: _Kernel,
) -> None:
    """Join query i over keys 0 ... i - begin into `output`."""
    q_len, kv_len = query.shape[2], key.shape[2]
    past = kv_len - q_len
    first = max(0, begin - past)  # the first query row that has a key so far away
    if first >= q_len:
        return
    seen = kv_len - begin
    piece = _causal(query[:, :, first:], key[:, :, :seen], value[:, :, :seen], kernel)
    merge_(output[:, :, first:], lse[:, :, first:], piece)


def _in_blocks(
    query: torch.Tensor, key_exact: torch.Tensor, value: torch.Tensor, window: int, kernel: _Kernel
) -> Piece:
    """`_band` for kernels without a mask."""
    q_len, kv_len = query.shape[2], value.shape[2]
    value_exact = value[:, :, kv_len - key_exact.shape[2] :]
    origin = key_exact.shape[2] - q_len  # where, among the exact keys, that of the first query stands
    own_key, own_value = key_exact[:, :, origin:], value_exact[:, :, origin:]
    output, lse = empty_piece(query, value)

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
