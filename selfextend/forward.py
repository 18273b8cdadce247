"""One forward pass of an extended model: where its tokens stand, and attention for each of its layers.

Turns what transformers hands over (positions, a padding mask, some cache) into what `selfextend.attention` takes.
Knows nothing about how a model is taken hold of: that is `selfextend.plugin`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch

from selfextend.attention.blockwise import blockwise_attention
from selfextend.attention.eager import eager_attention
from selfextend.config import SelfExtendConfig
from selfextend.positions import (
    grouped_key_positions,
    grouped_query_positions,
    largest_relative_position,
    logn_query_scale,
)
from selfextend.rotary import ApplyRotary, RotaryEmbedding, Tables, rotate

_SCORES_AT_ONCE = 1 << 24


class AttentionObserver(Protocol):
    """Something that wants to see rotated states as attention gets them. See `selfextend.recording`."""

    def observe(self, layer: int, states: RotatedStates, row: int, first_key: int) -> None: ...


@dataclass(frozen=True)
class RotatedStates:
    """One row's input to attention, shapes as in `selfextend.attention`, with batch 1."""

    query_exact: torch.Tensor
    query_grouped: torch.Tensor
    key_exact: torch.Tensor
    key_grouped: torch.Tensor
    value_states: torch.Tensor
    neighbor_window: int
    scaling: float
    softcap: float | None


@dataclass
class ForwardPass:
    """Where the tokens of one forward pass stand.

    Attributes:
        config: the SelfExtend settings.
        trained_window: L, in tokens.
        past: tokens in the cache before this pass.
        query_positions: i, (batch or 1, q).
        key_positions: j of cached and new tokens together, (batch or 1, past + q).
        starts: for each row, the index of its first token that is not padding; None where all are 0.
        key_mask: True where keys may be seen, (batch, past + q) or (batch, q, past + q); None where causality and
            `starts` say it all.
        expected: tokens that the whole text is known to have, if so; see `SelfExtendCache.reserve`.
    """

    config: SelfExtendConfig
    trained_window: int
    past: int
    query_positions: torch.Tensor
    key_positions: torch.Tensor
    starts: list[int] | None = None
    key_mask: torch.Tensor | None = None
    observer: AttentionObserver | None = None
    expected: int = 0
    _tables: dict[Any, Tables] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens in the cache after this pass, padding included."""
        return self.past + self.query_positions.shape[1]

    @cached_property
    def context_length(self) -> int:
        """One more than the largest relative position in use."""
        return largest_relative_position(max(self.longest, self.expected), self.config) + 1

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(1, int(self.query_positions.max()) + 1)

    def tables(self, rotary: RotaryEmbedding, kind: str, like: torch.Tensor, since: int = 0) -> Tables:
        """Rotary tables for `kind`: "query_exact", "query_grouped", "key_exact" or "key_grouped" from `since` on."""
        key = (id(rotary), kind, since, like.device, like.dtype)
        if key not in self._tables:
            positions = self.query_positions if kind.startswith("query") else self.key_positions[:, since:]
            if kind == "query_grouped":
                positions = grouped_query_positions(positions, self.config)
            elif kind == "key_grouped":
                positions = grouped_key_positions(positions, self.config)
            self._tables[key] = rotary.tables(like, positions.to(like.device), self.context_length)
        return self._tables[key]

    def turn_tables(self, rotary: RotaryEmbedding, like: torch.Tensor, keys: slice) -> Tables:
        """Tables that turn keys from their grouped to their exact positions."""
        positions = self.key_positions[:, keys]
        difference = (positions - grouped_key_positions(positions, self.config)).to(like.device)
        cos, sin = rotary.tables(like, difference, self.context_length)
        # The keys carry the embedding's scale (yarn's) already, which cos at position 0 shows.
        scale = rotary.tables(like, difference.new_zeros(1, 1), self.context_length)[0]
        return cos / scale, sin / scale

    def query_scale(self, like: torch.Tensor) -> torch.Tensor:
        """Log-n factors, (batch or 1, 1, q, 1)."""
        key = ("scale", like.device, like.dtype)
        if key not in self._tables:
            rows = [
                [logn_query_scale(max(0, position), self.trained_window) for position in row]
                for row in self.query_positions.tolist()
            ]
            scale = torch.tensor(rows, dtype=torch.float64).to(like)[:, None, :, None]
            self._tables[key] = (scale, scale)
        return self._tables[key][0]


@dataclass(frozen=True)
class LayerRotation:
    """How one layer's states are rotated in one forward pass."""

    step: ForwardPass
    rotary: RotaryEmbedding
    apply_rotary_pos_emb: ApplyRotary

    def queries(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unrotated queries -> at exact and at grouped positions, log-n scaled if so configured."""
        if self.step.config.query_scaling == "logn":
            query = query * self.step.query_scale(query)
        return self._rotate(query, "query_exact"), self._rotate(query, "query_grouped")

    def new_keys(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unrotated keys of this pass -> at exact and at grouped positions."""
        return self.all_keys(key, self.step.past, self.step.past)

    def all_keys(self, key: torch.Tensor, exact_since: int, since: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Unrotated keys from index `since` on -> exact ones from `exact_since` on, and all grouped ones."""
        exact = self._rotate(key[:, :, exact_since - since :], "key_exact", exact_since)
        return exact, self._rotate(key, "key_grouped", since)

    def grouped_to_exact(self, key: torch.Tensor, start: int) -> torch.Tensor:
        """Keys at grouped positions, the first of index `start` -> the same keys at exact positions."""
        tables = self.step.turn_tables(self.rotary, key, slice(start, start + key.shape[2]))
        return rotate(key, tables, self.apply_rotary_pos_emb)

    def _rotate(self, states: torch.Tensor, kind: str, since: int = 0) -> torch.Tensor:
        return rotate(states, self.step.tables(self.rotary, kind, states, since), self.apply_rotary_pos_emb)


def attend(
    step: ForwardPass,
    layer: int,
    queries: tuple[torch.Tensor, torch.Tensor],
    key_exact: torch.Tensor,
    key_grouped: torch.Tensor,
    value_states: torch.Tensor,
    *,
    scaling: float,
    softcap: float | None,
    dropout: float,
    want_weights: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of one layer over all rows of the batch. Shapes as in `selfextend.attention`.

    Returns:
        (batch, heads, q, head_dim), zeros for queries that are padding, and the weights where they were asked for.
    """
    arguments: dict[str, Any] = {"neighbor_window": step.config.neighbor_window, "scaling": scaling, "softcap": softcap}
    rows = _Rows(step, queries, key_exact, key_grouped, value_states)
    if step.observer is not None:
        for row, first_key, states in rows.unpadded(range(value_states.shape[0])):
            step.observer.observe(layer, RotatedStates(*states, **arguments), row, first_key)
    if step.key_mask is not None or dropout or want_weights:
        return rows.in_pieces(dropout, want_weights, arguments)
    if step.starts is None:
        return blockwise_attention(*queries, key_exact, key_grouped, value_states, **arguments), None
    output = value_states.new_zeros(*queries[0].shape[:3], value_states.shape[-1])
    for row, _, states in rows.unpadded(range(value_states.shape[0])):
        part = blockwise_attention(*states, **arguments)
        output[row : row + 1, :, output.shape[2] - part.shape[2] :] = part
    return output, None


@dataclass(frozen=True)
class _Rows:
    step: ForwardPass
    queries: tuple[torch.Tensor, torch.Tensor]
    key_exact: torch.Tensor
    key_grouped: torch.Tensor
    value_states: torch.Tensor

    def unpadded(self, rows: range) -> Any:
        """For each row with any query: its number, its first token, and its states without left padding."""
        kv_len, exact_len = self.key_grouped.shape[2], self.key_exact.shape[2]
        for row in rows:
            start = self.step.starts[row] if self.step.starts is not None else 0
            skip = max(0, start - self.step.past)
            if skip >= self.queries[0].shape[2]:
                continue
            one = slice(row, row + 1)
            yield (
                row,
                start,
                (
                    self.queries[0][one, :, skip:],
                    self.queries[1][one, :, skip:],
                    self.key_exact[one, :, max(0, start - (kv_len - exact_len)) :],
                    self.key_grouped[one, :, start:],
                    self.value_states[one, :, start:],
                ),
            )

    def in_pieces(
        self, dropout: float, want_weights: bool, arguments: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The readable attention, a bounded number of scores at a time: for masks, dropout and wanted weights."""
        batch, heads, q_len, _ = self.queries[0].shape
        kv_len = self.key_grouped.shape[2]
        device = self.key_grouped.device
        mask, index = self.step.key_mask, torch.arange(kv_len, device=device)
        if mask is not None:
            mask = mask.to(device)
        if mask is None and self.step.starts is not None:
            mask = index[None] >= torch.tensor(self.step.starts, device=device)[:, None]
        size = q_len if want_weights else max(1, _SCORES_AT_ONCE // (batch * heads * kv_len))
        outputs, weights = [], None
        for start in range(0, q_len, size):
            piece = slice(start, min(start + size, q_len))
            output, weights = eager_attention(
                self.queries[0][:, :, piece],
                self.queries[1][:, :, piece],
                self.key_exact,
                self.key_grouped,
                self.value_states,
                dropout=dropout,
                first_query=kv_len - q_len + piece.start,
                key_mask=mask if mask is None or mask.dim() == 2 else mask[:, piece],
                **arguments,
            )
            outputs.append(output)
        return torch.cat(outputs, dim=2), weights if want_weights else None
