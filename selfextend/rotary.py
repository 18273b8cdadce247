"""Rotating query and key states at any positions, with the model's own rotary embedding.

RoPE scaling, interleaving and partial rotation all stay the model's: its tables come from its own rotary module, and
the states are turned by a `Rotation` of ours that gives the same bits as the model does, or else by the model's own
`apply_rotary_pos_emb`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import nn

Tables = tuple[torch.Tensor, torch.Tensor]
"""cos and sin, each (batch or 1, length, rotary_dim) or half as wide, as the model makes them."""


class PlacedTables(NamedTuple):
    """What rotates some tokens.

    Attributes:
        tables: a row for each token, or for each position where many tokens share one.
        rows: then the row of each token, (length,); else None.
    """

    tables: Tables
    rows: torch.Tensor | None = None

    def of(self, tokens: slice) -> Tables:
        """The rows of these tokens."""
        cos, sin = self.tables
        if self.rows is None:
            return cos[:, tokens], sin[:, tokens]
        rows = self.rows[tokens]
        return cos.index_select(1, rows), sin.index_select(1, rows)


_BYTES_AT_ONCE = 1 << 21
"""Of states that a processor turns at a time: few enough that temporaries stay in its cache."""
_TOKENS_AT_ONCE = 512
"""Tokens that any other device turns at a time, so that temporaries stay small."""
_FEW_TOKENS = 512
"""Up to which each token has a row of the tables, whether or not others stand where it does."""


@dataclass(frozen=True)
class Rotation:
    """How the states of one layer are turned by tables.

    Attributes:
        turn: (turning states, cos, sin) -> turned states.
        rotary_dim: how many of the head_dim numbers of a state turn.
        last: whether those are the last ones, not the first.
    """

    turn: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    rotary_dim: int
    last: bool = False

    def __call__(self, states: torch.Tensor, placed: PlacedTables) -> torch.Tensor:
        """Rotate states (batch, heads, length, head_dim) at the positions that the tables were made for."""
        at_once = _tokens_at_once(states)
        if self.rotary_dim == states.shape[-1] and states.shape[2] <= at_once:
            return self.turn(states, *placed.of(slice(None))).to(states.dtype)
        output = torch.empty_like(states)
        begin = states.shape[-1] - self.rotary_dim if self.last else 0
        turning = slice(begin, begin + self.rotary_dim)
        for start in range(0, states.shape[2], at_once):
            tokens = slice(start, start + at_once)
            output[:, :, tokens, turning] = self.turn(states[:, :, tokens, turning], *placed.of(tokens))
        if self.rotary_dim < states.shape[-1]:
            kept = slice(0, begin) if self.last else slice(self.rotary_dim, None)
            output[..., kept] = states[..., kept]
        return output


def _tokens_at_once(states: torch.Tensor) -> int:
    if states.device.type != "cpu":
        return _TOKENS_AT_ONCE
    return max(1, _BYTES_AT_ONCE * states.shape[2] // max(1, states.nbytes))


def rotations(function: Callable[..., Any] | None, tables: Tables, head_dim: int) -> Iterator[Rotation]:
    """Every way known to turn states by a layer's tables; which one is the model's is found by trying.

    Args:
        function: the `apply_rotary_pos_emb` of the model's own modeling file, if it has one: the last way.
    """
    width = tables[0].shape[-1]
    for rotary_dim in (width, 2 * width):
        for last in (False, True) if rotary_dim < head_dim else (False,):
            if rotary_dim <= head_dim:
                yield Rotation(_turn_halves, rotary_dim, last)
                yield Rotation(_turn_pairs, rotary_dim, last)
    if function is not None:
        # Such a function turns a query and a key together, so that turning one alone takes it longer than ours.
        yield Rotation(lambda states, cos, sin: function(states, states[:, :0], cos, sin)[0], width)


def _turn_halves(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Number n turns with number n + rotary_dim / 2."""
    half = states.shape[-1] // 2
    cos, sin = (table[:, None, :, :half] for table in (cos, sin))
    return states * torch.cat((cos, cos), dim=-1) + states.roll(half, dims=-1) * torch.cat((-sin, sin), dim=-1)


def _turn_pairs(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Number 2n turns with number 2n + 1."""
    first, second = states[..., ::2], states[..., 1::2]
    step = cos.shape[-1] // first.shape[-1]
    cos, sin = (table[:, None, :, ::step] for table in (cos, sin))
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)


def as_tables(embeddings: Any) -> Tables | None:
    """A layer's position_embeddings as cos and sin, whether it has them so or as complex numbers; None: it has not."""
    if isinstance(embeddings, torch.Tensor) and embeddings.is_complex() and embeddings.dim() == 3:
        return embeddings.real, embeddings.imag
    is_pair = isinstance(embeddings, (tuple, list)) and len(embeddings) == 2
    if is_pair and all(isinstance(table, torch.Tensor) and table.dim() == 3 for table in embeddings):
        return embeddings[0], embeddings[1]
    return None


def unrotated(embeddings: Any) -> Any:
    """position_embeddings that leave every state as it is: cos 1, sin 0."""
    if isinstance(embeddings, torch.Tensor):
        return torch.ones_like(embeddings)
    cos, sin = embeddings
    return torch.ones_like(cos), torch.zeros_like(sin)


@dataclass(frozen=True)
class RotaryEmbedding:
    """One rotary embedding of a model, to be evaluated at positions of our choosing.

    Attributes:
        module: a private copy of the model's rotary module, so that dynamic RoPE types keep their state apart.
        layer_type: which of its embeddings, for models that keep one per layer type (Gemma-3), else None.
        lock: held while tables are made: frequencies that follow the length are state of the module.
    """

    module: nn.Module
    layer_type: str | None = None
    lock: Any = field(default_factory=Lock, compare=False, repr=False)

    def tables(self, like: torch.Tensor, position_ids: torch.Tensor, context_length: int) -> Tables:
        """cos and sin at `position_ids`, for states like `like`.

        Args:
            position_ids: (batch or 1, length) integers.
            context_length: one more than the largest relative position in use. RoPE types whose frequencies depend
                on the length (dynamic, longrope) choose them by it: what counts is how far the model has to look,
                not how far the grouped text runs.
        """
        tables = as_tables(self.embeddings(like, position_ids, context_length))
        if tables is None:
            raise TypeError(f"{type(self.module).__name__} makes no cos and sin.")
        return tables

    def placed(self, like: torch.Tensor, position_ids: torch.Tensor, context_length: int) -> PlacedTables:
        """The same, small where many tokens stand at one position, as grouped ones do."""
        if position_ids.shape[0] == 1 and position_ids.shape[1] > _FEW_TOKENS:
            distinct, rows = position_ids[0].unique(return_inverse=True)
            if 2 * len(distinct) <= len(rows):
                return PlacedTables(self.tables(like, distinct[None], context_length), rows)
        return PlacedTables(self.tables(like, position_ids, context_length))

    @cached_property
    def follows_length(self) -> bool:
        """Whether the tables depend on how long a text is: its frequencies, that is, are not always the same."""
        like = next(self.module.buffers())
        position = torch.ones(1, 1, dtype=torch.long, device=like.device)
        short, long = (self.tables(like, position, length) for length in (1, 1 << 24))
        return not all(map(torch.equal, short, long))

    def embeddings(self, like: torch.Tensor, position_ids: torch.Tensor, context_length: int) -> Any:
        """What the module makes of the same: most make cos and sin, some make complex numbers."""
        with self.lock:
            self._evaluate(type(self.module).forward, like, position_ids.new_tensor([[context_length - 1]]))
            # Below the decorator that updates the frequencies: they have just been chosen.
            return self._evaluate(inspect.unwrap(type(self.module).forward), like, position_ids)

    @torch.no_grad()
    def _evaluate(self, forward: Callable[..., Any], like: torch.Tensor, position_ids: torch.Tensor) -> Any:
        if self.layer_type is None:
            return forward(self.module, like, position_ids)
        return forward(self.module, like, position_ids, self.layer_type)


class RotaryForLength(nn.Module):
    """A rotary module whose frequencies are those for one length, however the text is cut into chunks."""

    def __init__(self, module: nn.Module, length: int) -> None:
        super().__init__()
        self.module = module
        self.length = length

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Any:
        return RotaryEmbedding(self.module, layer_type).embeddings(x, position_ids, self.length)


def takes_positions(module: nn.Module) -> bool:
    """Whether this module is a rotary embedding: it turns position_ids and inverse frequencies into tables."""
    parameters = inspect.signature(type(module).forward).parameters
    has_frequencies = any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))
    return "position_ids" in parameters and has_frequencies


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Put back, afterwards, what a model's rotary embeddings remember: dynamic types keep the longest length seen."""
    saved = [
        (module, _remembered(module), {k: v.clone() for k, v in module._buffers.items() if v is not None})
        for module in model.modules()
        if takes_positions(module)
    ]
    try:
        yield
    finally:
        for module, attributes, buffers in saved:
            for name in _remembered(module).keys() - attributes.keys():
                delattr(module, name)
            vars(module).update(attributes)
            # Not copied into the buffers that are there: the module may have made two of them one.
            for name, buffer in buffers.items():
                module._buffers[name] = buffer.to(module.get_buffer(name))


def _remembered(module: nn.Module) -> dict[str, Any]:
    plain = {name: value for name, value in vars(module).items() if name != "training" and not name.startswith("_")}
    return {name: value for name, value in plain.items() if isinstance(value, (int, float, torch.Tensor))}
