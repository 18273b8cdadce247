"""One forward pass of an extended model: where its tokens stand, and attention for each of its layers.

Turns what transformers hands over (positions, a padding mask, some cache) into what `selfextend.attention` takes. All
that a pass needs to remember is in its `ForwardPass`, which `selfextend.cache.current` holds: two threads that call one
model have two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from selfextend.attention.blockwise import blockwise_attention
from selfextend.attention.eager import Visibility, eager_attention
from selfextend.batch_cache import BatchCache
from selfextend.masks import DeferredMask
from selfextend.observing import AttentionObserver, AttentionOptions, RotatedStates
from selfextend.positions import PositionMap, largest_relative_position, logn_query_scale
from selfextend.probe import AttentionLayer
from selfextend.rotary import PlacedTables, RotaryEmbedding
from selfextend.rows import Content, PlacedRows, ReadRow, ReadRows, evenly_ahead

_SCORES_AT_ONCE = 1 << 24
_HIDES = -1e4
"""A score that is lower by this is of no weight, in any dtype."""


@dataclass
class ForwardPass:
    """Where the tokens of one forward pass stand.

    Attributes:
        positions: the position map.
        trained_window: L, in tokens.
        past: tokens in the cache before this pass.
        rows: where each row stands; None for one of nothing but padding.
        query_positions: i, (batch or 1, q).
        key_positions: j of cached and new tokens together, (batch or 1, past + q).
        starts: for each row, the index of its first token that is not padding; None where all are 0.
        key_mask: True where keys may be seen, (batch, past + q) or (batch, q, past + q); None where causality and
            `starts` say it all.
        jumps: whether some row's positions do not rise by one a token. Distances are then counted by position.
        observer: sees the layers' rotated states, if given.
        expected: tokens that the whole text is known to have, if so; see `SelfExtendCache.reserve`.
        batch: where the rows go on from one beginning: what holds it. The pass is one token a row.
        layer: the extended layer under way.
    """

    positions: PositionMap
    trained_window: int
    past: int
    rows: ReadRows
    query_positions: torch.Tensor
    key_positions: torch.Tensor
    starts: list[int] | None = None
    key_mask: torch.Tensor | None = None
    jumps: bool = False
    observer: AttentionObserver | None = None
    expected: int = 0
    batch: BatchCache | None = None
    layer: LayerPass | None = None
    _tables: dict[Any, PlacedTables] = field(default_factory=dict)
    _scales: dict[Any, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bands = self.positions.bands
        self.ends = tuple(band.until for band in self.bands if band.until is not None)

    @property
    def length(self) -> int:
        """Tokens in the cache after this pass, padding included."""
        return self.past + self.query_positions.shape[1]

    @property
    def content(self) -> Content:
        """What a cache stands for after this pass."""
        return Content(self.positions, self.rows, self.key_positions if self.jumps else None)

    @cached_property
    def context_length(self) -> int:
        """One more than the largest relative position in use."""
        return largest_relative_position(max(self.longest, self.expected), self.positions) + 1

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(1, int(self.query_positions.max()) + 1)

    def distances(self, queries: slice, device: torch.device) -> torch.Tensor:
        """i - j of these queries and all keys, (batch or 1, queries, past + q)."""
        return (self.query_positions[:, queries, None] - self.key_positions[:, None]).to(device)

    def query_tables(self, rotary: RotaryEmbedding, band: int, like: torch.Tensor) -> PlacedTables:
        """Rotary tables of the queries for a band."""
        return self._tables_at(self.bands[band].query_positions, self.past, rotary, like)

    def key_tables(self, rotary: RotaryEmbedding, band: int, like: torch.Tensor, since: int) -> PlacedTables:
        """Rotary tables of the keys from index `since` on, for a band."""
        return self._tables_at(self.bands[band].key_positions, since, rotary, like)

    def _tables_at(self, seen_at: Any, since: int, rotary: RotaryEmbedding, like: torch.Tensor) -> PlacedTables:
        """One object for queries and keys where both are seen at the same positions, as near ones are."""
        key = (id(rotary), seen_at, since, like.device, like.dtype)
        if key not in self._tables:
            positions = seen_at(self.key_positions[:, since:]).to(like.device)
            self._tables[key] = rotary.placed(like, positions, self.context_length)
        return self._tables[key]

    def moving_tables(self, rotary: RotaryEmbedding, band: int, like: torch.Tensor, keys: slice) -> PlacedTables:
        """Tables that turn keys from where the last band sees them to where `band` does."""
        positions = self.key_positions[:, keys]
        moved = self.bands[band].key_positions(positions) - self.bands[-1].key_positions(positions)
        cos, sin = rotary.tables(like, moved.to(like.device), self.context_length)
        # The keys carry the embedding's scale (yarn's) already, which cos at position 0 shows.
        scale = rotary.tables(like, positions.new_zeros(1, 1).to(like.device), self.context_length)[0]
        return PlacedTables((cos / scale, sin / scale))

    def query_scale(self, like: torch.Tensor) -> torch.Tensor:
        """Log-n factors, (batch or 1, 1, q, 1)."""
        key = (like.device, like.dtype)
        if key not in self._scales:
            rows = [
                [logn_query_scale(max(0, position), self.trained_window) for position in row]
                for row in self.query_positions.tolist()
            ]
            self._scales[key] = torch.tensor(rows, dtype=torch.float64).to(like)[:, None, :, None]
        return self._scales[key]


def forward_pass(
    positions: PositionMap,
    trained_window: int,
    tokens: torch.Tensor,
    past: int,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    held: Content | None = None,
) -> ForwardPass:
    """Where the tokens stand, from what transformers was given.

    Args:
        tokens: input ids (batch, q) or embeddings (batch, q, hidden).
        past: tokens in the cache.
        attention_mask: None, (batch, past + q) with 0 for hidden tokens, or (batch, 1, q, past + q).
        position_ids: None or (batch or 1, q); several such, one an axis, where all axes agree.
        held: where the tokens in the cache stand.

    Raises:
        ValueError: positions on several axes, a mask of another shape, or padding that is seen later.
    """
    length = past + tokens.shape[1]
    index = torch.arange(length, device=tokens.device)
    seen, starts, key_mask = _hidden_tokens(attention_mask, index, past)
    given = None if position_ids is None else _one_axis(position_ids).to(index.device)
    before: ReadRows = [None] * tokens.shape[0] if held is None else held.rows_for(tokens.shape[0])
    has_jumped = held is not None and held.jumping is not None
    ahead = None if has_jumped or starts is not None else evenly_ahead(before, index[past:], given)
    jumps = False
    rows: ReadRows
    if ahead is not None:
        key_positions, rows = index[None] + ahead, [ReadRow(0, ahead, 0)] * len(before)
    else:
        placed = PlacedRows.of(before, index)
        placed.begin(starts, every_pass=attention_mask is None or attention_mask.dim() == 2)
        numbers = index - placed.start
        new, jumps = placed.positions(numbers[:, past:], given, has_jumped)
        key_positions, rows = numbers + placed.ahead, placed.told(len(before), length)
    if jumps:
        key_positions = new if held is None else held.followed_by(new, past)
        key_mask = seen if key_mask is None else key_mask
    return ForwardPass(
        positions=positions,
        trained_window=trained_window,
        past=past,
        rows=rows,
        query_positions=key_positions[:, past:].clamp_min(0),
        key_positions=key_positions.clamp_min(0),
        starts=None if starts is None or not bool(starts.any()) else starts.tolist(),
        key_mask=key_mask,
        jumps=jumps,
    )


def batch_pass(positions: PositionMap, trained_window: int, batch: BatchCache, device: torch.device) -> ForwardPass:
    """Where the next token of each text in a batch stands."""
    places = torch.tensor(batch.next_positions, device=device)[:, None]
    rows = [ReadRow(0, 0, 0)] * len(places)
    return ForwardPass(positions, trained_window, 0, rows, places, places, batch=batch)


def _hidden_tokens(
    attention_mask: torch.Tensor | None, index: torch.Tensor, past: int
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """What a mask hides: (batch, length) True for seen tokens; each row's first seen token; and a mask of keys where
    these two do not say it all. Each None where it is not needed."""
    length = len(index)
    if attention_mask is None:
        return None, None, None
    if attention_mask.dim() == 4:
        mask = attention_mask[..., :length]
        if mask.shape[1] != 1:
            raise ValueError("SelfExtend takes an attention mask that is the same for all heads.")
        if mask.dtype == torch.bool:
            return None, None, mask[:, 0]
        if not mask.is_floating_point() or bool(((mask != 0) & (mask > _HIDES)).any()):
            raise ValueError(
                "A mask for each query is to be of bools, or of numbers that are 0 where a key is seen and very small "
                "where it is not; this one holds others."
            )
        return None, None, (mask == 0)[:, 0]
    if attention_mask.dim() != 2 or attention_mask.shape[1] < length:
        raise ValueError(
            f"attention_mask must cover all {length} tokens, cached ones included; its shape is "
            f"{tuple(attention_mask.shape)}."
        )
    seen = attention_mask[:, :length].to(index.device, torch.bool)
    if bool(seen.all()):
        return None, None, None
    starts = torch.where(seen.any(dim=1), seen.int().argmax(dim=1), length)
    last = length - 1 - seen.flip(1).int().argmax(dim=1)
    hidden = ~seen & (index >= starts[:, None])
    # Right padding that is being written now is seen by nobody; anything else hidden needs a mask.
    needs_mask = bool((hidden & ((index < last[:, None]) | (index < past))).any())
    return seen, starts, seen if needs_mask else None


def _one_axis(position_ids: torch.Tensor) -> torch.Tensor:
    """Positions of text, which are the same on all axes of a model that also has height and width (Qwen-VL)."""
    if position_ids.dim() == 3 and bool((position_ids == position_ids[:1]).all()):
        return position_ids[0]
    if position_ids.dim() != 2:
        raise ValueError(
            "SelfExtend moves keys along one axis of positions, and these tokens stand on several (image or video "
            "patches with a height and a width). Give this model text alone."
        )
    return position_ids


@dataclass
class LayerPass:
    """One extended layer in one forward pass: rotates its states, tells its cache how, and computes its attention.

    Attributes:
        near_keys: what the layer's cache handed over in this pass: see `selfextend.cache.KeyWriter`. None where the
            cache keeps unrotated keys.
    """

    step: ForwardPass
    layer: AttentionLayer
    near_keys: list[torch.Tensor] | None = None

    @property
    def _rotary(self) -> RotaryEmbedding:
        assert self.layer.rotary is not None
        return self.layer.rotary

    def rotated_keys(self, key: torch.Tensor) -> list[torch.Tensor]:
        """Unrotated keys of this pass -> as each band sees them."""
        past = self.step.past
        return [self._keys(key, band, past) for band in range(len(self.step.bands))]

    def moved_keys(self, key: torch.Tensor, start: int, band: int) -> torch.Tensor:
        """Keys as the last band sees them, the first of index `start` -> the same keys as `band` sees them."""
        return self._rotate(key, self.step.moving_tables(self._rotary, band, key, slice(start, start + key.shape[2])))

    def attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
        mask: DeferredMask | None = None,
        dropout: float = 0.0,
        want_weights: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attention of this layer over all rows of the batch.

        Args:
            query: (batch, heads, q, head_dim), unrotated.
            key: (batch, kv_heads, t, head_dim): the last band's keys from SelfExtend's cache, else unrotated ones.
            value: (batch, kv_heads, t, value_dim).
            mask: what queries may see, where causality and padding do not say it all.

        Returns:
            (batch, heads, q, value_dim), zeros for queries that are padding, and the weights where they were asked for:
            (batch, heads, q, t).
        """
        step, kept = self.step, value.shape[2]
        if self.near_keys is not None:
            nearer, self.near_keys = self.near_keys, None
            if step.jumps:  # what is near by position may have been written long ago
                nearer = [self.moved_keys(key, 0, band) for band in range(len(nearer))]
            keys = [*nearer, key]
        else:
            if key.shape[2] < step.length:
                raise ValueError(
                    f"This cache keeps only the last {key.shape[2]} of {step.length} tokens, so far keys are gone. "
                    "Give none, and SelfExtend's own cache is used, or one that keeps every token."
                )
            # A static cache is longer than what it holds.
            key, value = key[:, :, : step.length], value[:, :, : step.length]
            keys = self._all_keys(key, query.shape[2])
        if step.positions.query_scaling == "logn":
            query = query * step.query_scale(query)
        queries = [self._rotate(query, step.query_tables(self._rotary, band, query)) for band in range(len(step.bands))]
        if query.dtype != value.dtype:  # autocast: rotated in fp32, as the model rotates, then as exact as the values
            queries, keys = ([s.to(value.dtype) for s in states] for states in (queries, keys))
        options = AttentionOptions(step.ends, scaling, softcap, sinks)
        states = RotatedStates(queries, keys, value)
        with torch.autocast(value.device.type, enabled=False):
            output, weights = _attend(step, self.layer.index, states, options, mask, dropout, want_weights)
        if weights is not None:
            weights = torch.nn.functional.pad(weights, (0, kept - step.length))  # none for what is not filled yet
        return output, weights

    def _all_keys(self, key: torch.Tensor, q_len: int) -> list[torch.Tensor]:
        """Unrotated keys of all tokens -> as each band needs them."""
        since = [max(0, self.step.length - (end + q_len - 1)) for end in self.step.ends]
        if self.step.key_mask is not None or self.step.jumps:
            since = [0] * len(since)
        return [self._keys(key[:, :, first:], band, first) for band, first in enumerate([*since, 0])]

    def _keys(self, key: torch.Tensor, band: int, since: int) -> torch.Tensor:
        return self._rotate(key, self.step.key_tables(self._rotary, band, key, since))

    def _rotate(self, states: torch.Tensor, placed: PlacedTables) -> torch.Tensor:
        assert self.layer.rotation is not None
        return self.layer.rotation(states, placed)


def _attend(
    step: ForwardPass,
    layer: int,
    states: RotatedStates,
    options: AttentionOptions,
    mask: DeferredMask | None,
    dropout: float,
    want_weights: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of one layer, row by row where rows are padded."""
    rows = states.value_states.shape[0]
    if step.batch is not None:
        step.batch.observe(layer, states, options)
        scores = {name: value for name, value in options._asdict().items() if name != "ends"}
        return step.batch.attention(layer, states.queries, **scores), None
    if step.observer is not None:
        if step.jumps:
            raise ValueError("Attention is recorded where positions rise by one a token. Pad on the left.")
        for row, unpadded in _unpadded(step, states, rows):
            step.observer.observe(layer, unpadded, options, row)
    learns = torch.is_grad_enabled() and any(s.requires_grad for s in (*states.queries, *states.keys, states[2]))
    if learns or mask is not None or step.key_mask is not None or step.jumps or dropout or want_weights:
        return _in_pieces(step, states, options, mask, dropout, want_weights)
    if step.starts is None:
        return blockwise_attention(*states, **options._asdict()), None
    query = states.queries[0]
    output = states.value_states.new_zeros(*query.shape[:3], states.value_states.shape[-1])
    for row, unpadded in _unpadded(step, states, rows):
        part = blockwise_attention(*unpadded, **options._asdict())
        output[row : row + 1, :, output.shape[2] - part.shape[2] :] = part
    return output, None


def _unpadded(step: ForwardPass, states: RotatedStates, rows: int) -> Iterator[tuple[int, RotatedStates]]:
    """For each row with any query: its number, and its states without left padding."""
    kv_len = states.value_states.shape[2]
    for row in range(rows):
        start = step.starts[row] if step.starts is not None else 0
        skip = max(0, start - step.past)
        if skip >= states.queries[0].shape[2]:
            continue
        this = slice(row, row + 1)
        yield (
            row,
            RotatedStates(
                [query[this, :, skip:] for query in states.queries],
                [key[this, :, max(0, start - (kv_len - key.shape[2])) :] for key in states.keys],
                states.value_states[this, :, start:],
            ),
        )


def _in_pieces(
    step: ForwardPass,
    states: RotatedStates,
    options: AttentionOptions,
    mask: DeferredMask | None,
    dropout: float,
    want_weights: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The readable attention, a bounded number of scores at a time: for masks, positions that jump, dropout, wanted
    weights and gradients.

    Where gradients are wanted, each piece is computed once more on the way back instead of being kept.
    """
    batch, heads, q_len, _ = states.queries[0].shape
    kv_len, device = states.value_states.shape[2], states.value_states.device
    padding = None if step.key_mask is None else step.key_mask.to(device)
    if padding is None and step.starts is not None:
        padding = torch.arange(kv_len, device=device)[None] >= torch.tensor(step.starts, device=device)[:, None]
    size = q_len if want_weights else max(1, _SCORES_AT_ONCE // (batch * heads * kv_len))
    outputs, weights = [], None
    for start in range(0, q_len, size):
        piece = slice(start, min(start + size, q_len))
        key_mask = padding if padding is None or padding.dim() == 2 else padding[:, piece]
        if mask is not None:
            key_mask = mask.rows(piece.start, piece.stop)[..., :kv_len].to(device)
        attention: Callable[..., tuple[torch.Tensor, torch.Tensor]] = partial(
            eager_attention,
            [query[:, :, piece] for query in states.queries],
            dropout=dropout,
            visibility=Visibility(
                kv_len - q_len + piece.start,
                key_mask,
                # A mask for each query says all that it may see.
                is_causal=mask is None and (key_mask is None or key_mask.dim() == 2),
                distances=step.distances(piece, device) if step.jumps else None,
            ),
            **options._asdict(),
        )
        if torch.is_grad_enabled():
            output, weights = checkpoint(attention, states.keys, states.value_states, use_reentrant=False)
        else:
            output, weights = attention(states.keys, states.value_states)
        outputs.append(output)
    return torch.cat(outputs, dim=2), weights if want_weights else None
