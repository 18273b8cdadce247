"""torch's flash attention for processors, called so that it works faster than in one plain call.

The kernel takes one head after the other and reads the keys anew for each. Here the heads that share keys
(grouped-query attention) become queries of one head; a causal call on many tokens is computed as rectangles as far as
it goes; and where queries are few, keys are cut into slices that stay in a core's cache and give every core its share.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from selfextend.attention.pieces import Piece, empty_piece, merge_

_TILE_QUERIES = 1024
"""Queries of a causal call that are computed at a time."""

_SLICE_KEYS = 2048
"""Keys of a slice: at usual head sizes they and their values fit a core's own cache."""

_FEW_QUERIES = 2048
"""Queries, those of all heads of a group counted, up to which keys are cut into slices. With more, joining the slices
costs what they gain."""

_BAND_QUERIES = 192
"""Queries, counted the same way, of a piece of a band. With fewer the kernel takes smaller matrix products, with more
it computes more scores that the mask takes away."""

_BAND_PIECES = 16
"""Such pieces in one call: enough to keep the cores busy, few enough that copies stay small."""


def attend_cpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, is_causal: bool) -> Piece:
    """`selfextend.attention.kernels.attend` on a processor."""
    if not is_causal:
        return _rectangle(query, key, value, scaling)
    if query.shape[1] == key.shape[1] or query.shape[2] <= _TILE_QUERIES:
        return _flash(query, key, value, scaling, is_causal=True)
    output, lse = empty_piece(query, value)
    for start in range(0, query.shape[2], _TILE_QUERIES):
        rows = slice(start, start + _TILE_QUERIES)
        piece = _causal_tile(query[:, :, rows], key, value, start, scaling)
        output[:, :, rows], lse[:, :, rows] = piece
    return output, lse


def _causal_tile(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, start: int, scaling: float) -> Piece:
    """Query r over keys 0 ... start + r, as far as there are keys."""
    before, own = slice(0, start), slice(start, start + query.shape[2])
    if start >= key.shape[2]:
        return _rectangle(query, key, value, scaling)
    output, lse = _flash(query, key[:, :, own], value[:, :, own], scaling, is_causal=True)
    if start:
        merge_(output, lse, _rectangle(query, key[:, :, before], value[:, :, before], scaling))
    return output, lse


def _rectangle(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> Piece:
    """Every query over all keys."""
    batch, kv_heads, kv_len = key.shape[:3]
    packed = query.reshape(batch, kv_heads, -1, query.shape[-1])
    slices = kv_len // _SLICE_KEYS if batch == 1 and packed.shape[2] <= _FEW_QUERIES else 0
    if slices > 1:
        output, lse = _sliced(packed, key, value, scaling, slices)
    else:
        output, lse = _flash(packed, key, value, scaling)
    return output.reshape(*query.shape[:3], -1), lse.reshape(query.shape[:3])


def _sliced(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, slices: int) -> Piece:
    """`_rectangle` of one row, the keys cut into slices that take the place of rows."""
    size = key.shape[2] // slices
    cut = slices * size
    keys, values = (states[0, :, :cut].unflatten(1, (slices, size)).transpose(0, 1) for states in (key, value))
    outputs, lses = _flash(query.expand(slices, -1, -1, -1), keys, values, scaling)
    lse = torch.logsumexp(lses, dim=0, keepdim=True)
    weights = torch.exp(lses - lse)[..., None]
    output = (outputs * weights).sum(dim=0, keepdim=True).to(query.dtype)
    if cut < key.shape[2]:
        merge_(output, lse, _flash(query, key[:, :, cut:], value[:, :, cut:], scaling))
    return output, lse


def attend_banded_cpu(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, window: int, scaling: float
) -> Piece:
    """Attention of the last q of k tokens over the keys at distances 0 ... window - 1.

    A few queries at a time, under a mask as wide as the window: nothing that grows with q x k. Shapes as in `attend`,
    with k >= q.
    """
    q_len, past = query.shape[2], key.shape[2] - query.shape[2]
    output, lse = empty_piece(query, value)
    start = min(q_len, max(0, window - 1 - past))  # the queries that see every key before them
    if start:
        rows, own = slice(0, start), slice(past, past + start)
        output[:, :, rows], lse[:, :, rows] = attend_cpu(
            query[:, :, rows], key[:, :, own], value[:, :, own], scaling, is_causal=True
        )
        if past:
            piece = _rectangle(query[:, :, rows], key[:, :, :past], value[:, :, :past], scaling)
            merge_(output[:, :, rows], lse[:, :, rows], piece)
    length = -(-_BAND_QUERIES * key.shape[1] // query.shape[1])
    while start < q_len:
        length = min(length, q_len - start)
        stop = start + min(_BAND_PIECES, (q_len - start) // length) * length
        keys = slice(past + start - window + 1, past + stop)
        for row in range(query.shape[0]):
            states = (query[row, :, start:stop], key[row, :, keys], value[row, :, keys])
            _copy_bands(output[row, :, start:stop], lse[row, :, start:stop], *states, length, scaling)
        start = stop
    return output, lse


def _copy_bands(
    output: torch.Tensor,
    lse: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: int,
    scaling: float,
) -> None:
    """Attention of queries (heads, q, head_dim) over the k - q + 1 keys up to their own, into `output` and `lse`.

    Args:
        length: of the pieces in which the queries are taken; it divides q.
    """
    kv_heads, width = key.shape[0], key.shape[1] - query.shape[1] + length

    def pieces(states: torch.Tensor) -> torch.Tensor:
        """(heads, q, ...) -> (kv_heads, group, piece, length, ...), a view."""
        return states.unflatten(1, (-1, length)).unflatten(0, (kv_heads, -1))

    group = query.shape[0] // kv_heads
    packed = pieces(query).movedim(2, 0).flatten(2, 3)
    keys, values = (states.unfold(1, width, length).permute(1, 0, 3, 2) for states in (key, value))
    mask = _band_mask(group, length, width, query.dtype)
    piece_output, piece_lse = _flash(packed, keys, values, scaling, mask=mask)
    pieces(output).copy_(piece_output.unflatten(2, (group, length)).movedim(0, 2))
    pieces(lse).copy_(piece_lse.unflatten(2, (group, length)).movedim(0, 2))


@lru_cache(maxsize=8)
def _band_mask(group: int, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """What the last `rows` of `columns` tokens may not see of a window that just fits the first of them, as -inf; the
    same for each head of a group, (group * rows, columns)."""
    distance = torch.arange(columns - rows, columns)[:, None] - torch.arange(columns)
    seen = (distance >= 0) & (distance <= columns - rows)
    return torch.zeros(rows, columns, dtype=dtype).masked_fill_(~seen, -torch.inf).repeat(group, 1)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    *,
    is_causal: bool = False,
    mask: torch.Tensor | None = None,
) -> Piece:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=mask, scale=scaling
    )
