"""Attention over some of the keys, with its log-sum-exp, so that pieces of one softmax can be joined."""

from __future__ import annotations

import torch

Piece = tuple[torch.Tensor, torch.Tensor]
"""output (batch, heads, q, head_dim) and log-sum-exp (batch, heads, q) in fp32 or fp64."""

_QUERIES_AT_ONCE = 512
"""Queries that a processor joins at a time where that takes temporaries: few enough that they stay in its cache."""


def empty_piece(query: torch.Tensor, value: torch.Tensor) -> Piece:
    """Room for the attention of (batch, heads, q, head_dim) queries over (batch, kv_heads, k, value_dim) values."""
    lse_dtype = torch.promote_types(query.dtype, torch.float32)
    return query.new_empty(*query.shape[:3], value.shape[-1]), query.new_empty(query.shape[:3], dtype=lse_dtype)


def merge_(output: torch.Tensor, lse: torch.Tensor, piece: Piece) -> None:
    """Join a piece over further keys into `output` and `lse`, in place: the softmax over both sets of keys."""
    piece_output, piece_lse = piece
    total = torch.logaddexp(lse, piece_lse)
    kept = torch.exp(lse - total)[..., None]
    added = torch.exp(piece_lse - total)[..., None]
    if output.dtype == kept.dtype:
        output.mul_(kept).addcmul_(piece_output, added)
    else:  # low precision: round once, at the end
        size = _QUERIES_AT_ONCE if output.device.type == "cpu" else output.shape[2]
        parts = (states.split(size, dim=2) for states in (output, kept, piece_output, added))
        for part, part_kept, part_added, share in zip(*parts, strict=True):
            part.copy_((part * part_kept).addcmul_(part_added.to(kept.dtype), share))
    lse.copy_(total)
