"""Attention of several texts that begin alike, one new token each: the keys of their beginning are read once for all.

    beginning      the keys that every text sees in a band     all texts' queries in one call
                   the few that only some see in it            the same, under a mask
    own            what each text goes on with                 text by text, in one product

One softmax over all, joined by the log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from selfextend.attention.kernels import attend
from selfextend.attention.pieces import Piece, merge_


@dataclass(frozen=True)
class BandSeen:
    """Which keys the texts see in one band.

    Attributes:
        common: those of the beginning that all of them see.
        partly: further ones of the beginning, each with what sees them, (texts, keys).
        own: what each sees of its own, (texts, own keys); None where nobody sees any.
    """

    common: range
    partly: tuple[tuple[range, torch.Tensor], ...]
    own: torch.Tensor | None


def bands_seen(
    beginning: int, lengths: Sequence[int], room: int, ends: Sequence[int], device: torch.device
) -> list[BandSeen]:
    """What each text's last token sees, band by band.

    Args:
        beginning: tokens that all texts begin with.
        lengths: for each text, its own tokens after them, the last one included.
        room: own keys that there is room for in a text.
        ends: as in `selfextend.attention`.
    """
    own = torch.tensor(lengths, device=device)[:, None]
    bands = []
    for near, far in zip((0, *ends), (*ends, None), strict=True):
        starts = [0 if far is None else min(beginning, max(0, beginning + length - far)) for length in lengths]
        stops = [min(beginning, max(0, beginning + length - near)) for length in lengths]
        common = range(max(starts), max(*starts, min(stops)))
        edges = [range(min(starts), common.start), range(common.stop, max(stops))]
        partly = [
            (keys, _within(beginning + own - 1 - torch.arange(keys.start, keys.stop, device=device), near, far))
            for keys in edges
            if len(keys)
        ]
        seen = _within(own - 1 - torch.arange(room, device=device), near, far)
        bands.append(BandSeen(common, tuple(partly), seen if bool(seen.any()) else None))
    return bands


def _within(distances: torch.Tensor, near: int, far: int | None) -> torch.Tensor:
    return (distances >= near) if far is None else (distances >= near) & (distances < far)


def shared_prefix_attention(
    queries: Sequence[torch.Tensor],
    keys: Sequence[torch.Tensor],
    value_states: torch.Tensor,
    own_keys: Sequence[torch.Tensor],
    own_values: torch.Tensor,
    seen: Sequence[BandSeen],
    *,
    scaling: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of the last token of each text.

    Args:
        queries: for each band (texts, heads, 1, head_dim), rotated as the band has them.
        keys: for each band (1, kv_heads, e, head_dim), the last e tokens of the beginning.
        value_states: (1, kv_heads, beginning, head_dim).
        own_keys: for each band (texts, kv_heads, room, head_dim). What a text does not see may be anything finite.
        own_values: (texts, kv_heads, room, head_dim).
        seen: see `bands_seen`.
        scaling, softcap, sinks: as in `selfextend.attention.blockwise.blockwise_attention`.

    Returns:
        (texts, heads, 1, head_dim).
    """
    texts, heads = queries[0].shape[:2]
    kv_heads = value_states.shape[1]
    kernels = partial(attend, scaling=scaling, softcap=softcap), partial(_masked, scaling=scaling, softcap=softcap)
    bands = zip(queries, keys, own_keys, seen, strict=True)
    pieces = (piece for band in bands for piece in _pieces(*band, (value_states, own_values), kernels))
    output, lse = next(pieces)  # the nearest own keys: every text sees itself, so that no sum is empty
    for piece in pieces:
        merge_(output, lse, piece)
    output = output.view(kv_heads, texts, heads // kv_heads, -1).transpose(0, 1).reshape(texts, heads, 1, -1)
    if sinks is not None:
        lse = lse.view(kv_heads, texts, heads // kv_heads).transpose(0, 1).reshape(texts, heads)
        output = output * torch.sigmoid(lse - sinks.to(lse))[..., None, None].to(output.dtype)
    return output


def _pieces(
    query: torch.Tensor,
    key: torch.Tensor,
    own_key: torch.Tensor,
    seen: BandSeen,
    values: tuple[torch.Tensor, torch.Tensor],
    kernels: tuple[Callable[..., Piece], Callable[..., Piece]],
) -> Iterator[Piece]:
    """Of one band, each with all texts' queries in a row, (1, kv_heads, texts * group, head_dim).

    Args:
        values: of the beginning, and each text's own.
        kernels: `attend` and `_masked`, with all but the states filled in.
    """
    (value, own_value), (whole, masked) = values, kernels
    by_text = query.squeeze(2).unflatten(1, (value.shape[1], -1))  # (texts, kv_heads, group, head_dim)
    packed = by_text.transpose(0, 1).flatten(1, 2)[None]
    if seen.own is not None:
        output, lse = masked(by_text, own_key, own_value, seen.own[:, None, None])
        yield output.transpose(0, 1).flatten(1, 2)[None], lse.transpose(0, 1).flatten(1, 2)[None]

    def of_beginning(part: range) -> tuple[torch.Tensor, torch.Tensor]:
        first = value.shape[2] - key.shape[2]
        return key[:, :, part.start - first : part.stop - first], value[:, :, part.start : part.stop]

    for part, mask in seen.partly:
        yield masked(packed, *of_beginning(part), mask.repeat_interleave(by_text.shape[2], dim=0))
    if len(seen.common):
        yield whole(packed, *of_beginning(seen.common))


def _masked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    *,
    scaling: float,
    softcap: float | None,
) -> Piece:
    """Attention of (batch, heads, q, head_dim) queries over as many heads of keys, where the mask is True. A query that
    sees none gets zeros, and -inf as its log-sum-exp."""
    scores = (query @ key.transpose(-1, -2)).to(torch.promote_types(query.dtype, torch.float32)) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill_(~mask, -torch.inf)
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - lse.clamp_min(torch.finfo(lse.dtype).min)[..., None])
    return weights.to(value.dtype) @ value, lse
