"""Attention of chosen rows, kept while the model runs: pooled over bins of keys, never N x N.

The rotated states of each layer pass by once. Rows of a text that is read are computed again from them and summed up
at once. While an answer is written, token by token, only the tokens' rotated queries are kept; all rows are computed in
one go when recording ends, so that writing costs what it costs without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import Cache, PreTrainedModel

from selfextend.attention.eager import Visibility, attention_weights
from selfextend.cache import SelfExtendLayer
from selfextend.observing import AttentionOptions, RotatedStates, TokenStates
from selfextend.plugin import Extension, active_extension
from selfextend.steps import Clock, Progress


@dataclass(frozen=True)
class RecordingRequest:
    """Which attention to keep.

    Attributes:
        query_rows: token indices of the queries. The query that predicts token t stands at t - 1.
        bin_starts: where each bin of keys begins, ascending, the first 0; the last bin takes all that follows.
        layers: layer indices; all extended ones unless given.
        heads: head indices; all unless given.
        top: so many keys of each row are kept one by one, those with the largest weights.
        top_within: the keys that these are chosen from; all unless given.
        max_bytes: what the record may hold, and what its computation may hold at a time besides.
    """

    query_rows: range
    bin_starts: Sequence[int]
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    top: int = 0
    top_within: range | None = None
    max_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        starts = np.asarray(self.bin_starts)
        if starts.ndim != 1 or len(starts) == 0 or starts[0] != 0 or (np.diff(starts) <= 0).any():
            raise ValueError("bin_starts must ascend from 0, each bin holding at least one token.")
        if len(self.query_rows) == 0 or self.query_rows.step != 1 or self.query_rows.start < 0:
            raise ValueError("query_rows must be a range of at least one token index, in steps of 1.")
        within = self.top_within
        if self.top < 0 or (within is not None and (within.step != 1 or within.start < 0)):
            raise ValueError("top must be 0 or more, and top_within a range of token indices in steps of 1.")


@dataclass(frozen=True)
class AttentionRecord:
    """Pooled attention. Rows that the model has not computed (yet) are NaN.

    Attributes:
        query_rows: token indices, as requested.
        bin_starts: (bins,) as requested.
        layers, heads: indices, in the order of the arrays.
        sums: (layers, heads, rows, bins) fp32: attention summed within each bin; each row adds up to 1.
        maxima: the same shape: the largest single weight in each bin. Means hide needles; this shows them.
        top_keys: (layers, heads, rows, top) int32: token indices of the keys with the largest weights, the largest
            first; -1 where there are fewer keys.
        top_weights: the same shape, fp32: their weights.
    """

    query_rows: range
    bin_starts: np.ndarray
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    sums: np.ndarray
    maxima: np.ndarray
    top_keys: np.ndarray
    top_weights: np.ndarray

    @property
    def arrays_of_rows(self) -> dict[str, np.ndarray]:
        """The arrays whose third axis is the rows, by name."""
        names = ("sums", "maxima", "top_keys", "top_weights")
        return {name: getattr(self, name) for name in names}

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays_of_rows.values())


def joined(first: AttentionRecord, second: AttentionRecord) -> AttentionRecord:
    """Two records of one text as one, the rows of the second going on where those of the first end.

    Raises:
        ValueError: they do not fit together.
    """
    fits = first.query_rows.stop == second.query_rows.start and np.array_equal(first.bin_starts, second.bin_starts)
    kept = [(record.layers, record.heads, record.top_keys.shape[3]) for record in (first, second)]
    if not fits or kept[0] != kept[1]:
        raise ValueError(
            "Records are joined of the same layers, heads, bins and number of top keys, and of rows that follow one "
            "another."
        )
    rows, more = first.arrays_of_rows, second.arrays_of_rows
    arrays: dict[str, Any] = {name: np.concatenate([rows[name], more[name]], axis=2) for name in rows}
    return replace(first, query_rows=range(first.query_rows.start, second.query_rows.stop), **arrays)


@dataclass
class _Pending:
    """Rows of one layer that are yet to be computed: tokens that came one by one.

    Attributes:
        first: the first of them.
        queries: for each band, each row's (1, heads, 1, head_dim).
        nearer: for each band but the last, its keys as the first row had them, then one for each further row.
        options: how the scores are made.
        whole: the last band's keys and the values as the last row had them, of all tokens; None where it was read in a
            batch, whose texts have them in their caches.
    """

    first: int
    queries: list[list[torch.Tensor]]
    nearer: list[list[torch.Tensor]]
    options: AttentionOptions
    whole: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def next(self) -> int:
        return self.first + len(self.queries[0])

    def add(self, queries: Sequence[torch.Tensor], keys: Sequence[torch.Tensor]) -> None:
        """Add a row: for each band its query, and for each but the last its own key."""
        for held, query in zip(self.queries, queries, strict=True):
            held.append(query)
        for nearer, key in zip(self.nearer, keys, strict=True):
            nearer.append(key)

    def joined(self, whole: tuple[torch.Tensor, torch.Tensor]) -> RotatedStates:
        """The states of all these rows as one pass over them would have had them."""
        nearer = [torch.cat(keys, dim=2) for keys in self.nearer]
        queries = [torch.cat(queries, dim=2) for queries in self.queries]
        far, values = (states[:, :, : self.next] for states in whole)
        return RotatedStates(queries, [*nearer, far], values)


class AttentionRecorder:
    """Sees the layers' states while installed by `recorder_of`, and keeps what its request asks for."""

    def __init__(self, request: RecordingRequest, extension: Extension) -> None:
        extended = tuple(layer.index for layer in extension.anatomy.layers if layer.kind == "extended")
        layers = extended if request.layers is None else request.layers
        if not set(layers) <= set(extended):
            raise ValueError(f"Attention can be recorded in layers {extended}, not in {layers}.")
        config: Any = extension.anatomy.decoder.config
        count = config.num_attention_heads
        heads = tuple(range(count)) if request.heads is None else request.heads
        if not set(heads) <= set(range(count)):
            raise ValueError(f"This model has heads 0 ... {count - 1}, not {heads}.")
        shape = (len(layers), len(heads), len(request.query_rows))
        needed = 4 * int(np.prod(shape)) * (2 * len(request.bin_starts) + 2 * request.top)
        if needed > request.max_bytes:
            top = f" and {request.top} top keys" if request.top else ""
            raise ValueError(
                f"Recording {shape[0]} layers x {shape[1]} heads x {shape[2]} rows x {len(request.bin_starts)} bins"
                f"{top} takes {needed / 2**20:.0f} MB, more than the {request.max_bytes / 2**20:.0f} MB allowed. Ask "
                "for fewer layers, heads, rows, bins or top keys."
            )
        self.request = request
        self._pending: dict[int, _Pending] = {}
        self._layer_of = {layer: number for number, layer in enumerate(layers)}
        self._heads = torch.tensor(heads)
        self._bin_starts = np.asarray(request.bin_starts, dtype=np.int64)
        pooled = np.full((2, *shape, len(request.bin_starts)), np.nan, dtype=np.float32)
        keys = np.full((*shape, request.top), -1, dtype=np.int32)
        self.record = AttentionRecord(
            request.query_rows,
            np.asarray(request.bin_starts),
            layers,
            heads,
            pooled[0],
            pooled[1],
            keys,
            np.zeros(keys.shape, dtype=np.float32),
        )

    @torch.no_grad()
    def observe(self, layer: int, states: RotatedStates, options: AttentionOptions, row: int) -> None:
        """Keep the requested rows of one layer. Of a batch only the first row is recorded."""
        if row != 0 or layer not in self._layer_of:
            return
        if states.queries[0].shape[2] > 1:
            self._settle(layer)
            self._compute(layer, states, options)
        else:
            newest = [key[:, :, -1:].clone() for key in states.keys[:-1]]
            place = states.value_states.shape[2] - 1
            token = TokenStates(place, states.queries, newest, lambda: states.keys[:-1])
            self._wait(layer, token, options, (states.keys[-1], states.value_states))

    def observe_token(self, layer: int, token: TokenStates, options: AttentionOptions) -> None:
        """Keep one token of a text that is read in a batch, until `finish` is given its cache."""
        if layer in self._layer_of:
            self._wait(layer, token, options, None)

    def _wait(
        self,
        layer: int,
        token: TokenStates,
        options: AttentionOptions,
        whole: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """Keep what a token's row is computed from later."""
        if token.place not in self.request.query_rows:
            return
        pending = self._pending.get(layer)
        if pending is None or pending.next != token.place:
            self._settle(layer)
            queries, nearer = [[query] for query in token.queries], [[keys] for keys in token.nearer()]
            pending = self._pending[layer] = _Pending(token.place, queries, nearer, options)
        else:
            pending.add(token.queries, token.keys)
        pending.whole = whole

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to compute."""
        return not self._pending

    def finish(self, cache: Cache | None = None) -> Iterator[Progress]:
        """Compute the rows that are left, layer by layer.

        Args:
            cache: of the text, where it was read in a batch.
        """
        total = len(self._pending)
        clock = Clock(total)
        for done, layer in enumerate(list(self._pending), start=1):
            self._settle(layer, cache)
            yield Progress("tracing the answer to its passages", done / total, clock.seconds_left(done))

    @torch.no_grad()
    def _settle(self, layer: int, cache: Cache | None = None) -> None:
        pending = self._pending.pop(layer, None)
        if pending is None:
            return
        whole, held = pending.whole, None if cache is None else cache.layers[layer]
        if whole is None and isinstance(held, SelfExtendLayer) and held.get_seq_length() >= pending.next:
            assert held.keys is not None
            assert held.values is not None
            whole = held.keys, held.values
        # Without its keys a text is read again, and then these rows pass by once more.
        if whole is not None:
            self._compute(layer, pending.joined(whole), pending.options)

    def _compute(self, layer: int, states: RotatedStates, options: AttentionOptions) -> None:
        """Keep the requested ones of these rows."""
        heads, q_len = states.queries[0].shape[1:3]
        kv_len = states.value_states.shape[2]
        past = kv_len - q_len
        wanted = range(max(self.request.query_rows.start, past), min(self.request.query_rows.stop, kv_len))
        at_once = max(1, self.request.max_bytes // (4 * 4 * heads * kv_len))
        for start in range(wanted.start, wanted.stop, at_once):
            self._keep(self._layer_of[layer], states, options, range(start, min(start + at_once, wanted.stop)))

    def _keep(self, layer: int, states: RotatedStates, options: AttentionOptions, rows: range) -> None:
        past = states.value_states.shape[2] - states.queries[0].shape[2]
        queries = [query[:, :, rows.start - past : rows.stop - past] for query in states.queries]
        all_heads = attention_weights(queries, states.keys, visibility=Visibility(rows.start), **options._asdict())[0]
        chosen = all_heads[self._heads.to(all_heads.device)].float()
        first = rows.start - self.request.query_rows.start
        target = slice(first, first + len(rows))
        self._keep_top(layer, chosen, target)
        weights = chosen.cpu().numpy()
        starts = self._bin_starts[self._bin_starts < weights.shape[-1]]
        for pooled, pool in ((self.record.sums, np.add), (self.record.maxima, np.maximum)):
            pooled[layer, :, target] = 0
            pooled[layer, :, target, : len(starts)] = pool.reduceat(weights, starts, axis=-1)

    def _keep_top(self, layer: int, weights: torch.Tensor, target: slice) -> None:
        """Keep the keys with the largest ones of these weights, (heads, rows, t)."""
        within = self.request.top_within or range(weights.shape[-1])
        inside = weights[..., within.start : within.stop]
        values, places = inside.topk(min(self.request.top, inside.shape[-1]))
        # A key that a row may not see has no weight; it is none of the row's.
        keys = torch.where(values > 0, places + within.start, -1)
        self.record.top_keys[layer, :, target, : keys.shape[-1]] = keys.cpu().numpy()
        self.record.top_weights[layer, :, target, : keys.shape[-1]] = values.cpu().numpy()


@contextmanager
def recorder_of(
    model: PreTrainedModel, request: RecordingRequest, begun: AttentionRecorder | None = None
) -> Iterator[AttentionRecorder]:
    """Record attention of the forward passes inside a `with` block. The record is whole once `finish` came to its end.

    A method must be on with `observed=True`, or SelfExtend by `enable`.

    Args:
        begun: the recorder to go on with, finished so far; a new one unless given.

    Raises:
        RuntimeError: SelfExtend is off.
        ValueError: layers or heads the model does not have, or more than `max_bytes`.
    """
    extension = active_extension(model)
    if extension is None:
        raise RuntimeError(
            "Attention is recorded while SelfExtend is on. Enable it; group_size=1 is the vanilla model."
        )
    before, recorder = extension.observer, AttentionRecorder(request, extension) if begun is None else begun
    extension.observer = recorder
    try:
        yield recorder
    finally:
        extension.observer = before
