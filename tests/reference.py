"""A naive SelfExtend that the library is measured against. Imports nothing from `selfextend`.

Everything here is the method read aloud: positions by a double loop over (query, key), one score per pair at its own
relative position, one softmax over all keys, in float64, without a cache. Slow and large on purpose.

`NaiveModel` runs a whole transformers model this way. It never splits the formula into "rotate queries here, keys
there": each attention layer is evaluated once per distinct relative position p, with every token at position p, which
gives q rotated by p; the score of (i, j) is then that q_i against k_j at position 0. Whatever the architecture does
with its rotary tables (partial, interleaved, scaled) is done by its own code.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

NAME = "naive_reference"


def relative_position(query: int, key: int, group_size: int, neighbor_window: int) -> int:
    """The paper's map for one pair, key <= query."""
    distance = query - key
    return distance if distance < neighbor_window else _grouped(query, key, group_size, neighbor_window)


def _grouped(query: Any, key: Any, group_size: int, neighbor_window: int) -> Any:
    """The paper's map of a far pair; both may be arrays of them."""
    return query // group_size - key // group_size + neighbor_window - neighbor_window // group_size


def relative_positions(
    queries: Iterable[int], keys: Iterable[int], group_size: int, neighbor_window: int
) -> list[list[int | None]]:
    """One row a query, one entry a key; None where the key comes after the query."""
    keys = list(keys)
    return [[relative_position(i, j, group_size, neighbor_window) if j <= i else None for j in keys] for i in queries]


def row_of_positions(query: int, group_size: int, neighbor_window: int) -> np.ndarray:
    """`relative_position` of one query and every key up to it, all keys at once: a loop over them takes minutes."""
    keys = np.arange(query + 1)
    grouped = _grouped(query, keys, group_size, neighbor_window)
    return np.where(query - keys < neighbor_window, query - keys, grouped)


def largest_position(length: int, group_size: int, neighbor_window: int) -> int:
    """The largest relative position that occurs among `length` tokens, by looking at all pairs."""
    return max(int(row_of_positions(i, group_size, neighbor_window).max()) for i in range(length))


@functools.cache
def largest_of_last(length: int, group_size: int, neighbor_window: int) -> int:
    """The largest relative position of the last of `length` tokens; what counts up for other windows asks it again."""
    return int(row_of_positions(length - 1, group_size, neighbor_window).max())


def reach(trained_window: int, group_size: int, neighbor_window: int, limit: int = 100_000) -> int:
    """The longest sequence whose largest relative position stays below `trained_window`, by counting up.

    Only the last query's row is new when a token is added. Its farthest key past the window is one of the smallest
    group so far, so that group is kept along: each key counts in every row, and is looked at once.
    """
    for tokens in (1_000, limit):
        queries = np.arange(tokens)
        smallest_group = np.minimum.accumulate(queries // group_size)
        largest = np.minimum(queries, neighbor_window - 1)
        past = queries[neighbor_window:]
        farthest = group_size * smallest_group[past - neighbor_window]
        grouped = _grouped(past, farthest, group_size, neighbor_window)
        largest[neighbor_window:] = np.maximum(largest[neighbor_window:], grouped)
        if (largest >= trained_window).any():
            return int((largest >= trained_window).argmax())
    raise AssertionError("limit too small")


def logn(position: int, trained_window: int) -> float:
    return max(1.0, math.log(position + 1) / math.log(trained_window))


def two_map_attention(
    query_exact: torch.Tensor,
    query_grouped: torch.Tensor,
    key_exact: torch.Tensor,
    key_grouped: torch.Tensor,
    value_states: torch.Tensor,
    *,
    neighbor_window: int,
    scaling: float,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The authors' way, in float64: two full score maps, merged by distance, one softmax.

    Queries (b, h, q, d) are the last q of the t tokens whose keys and values are (b, kvh, t, d); both key tensors are
    whole here. Returns the output (b, h, q, d) and the weights (b, h, q, t).
    """
    repeat = query_exact.shape[1] // value_states.shape[1]
    q_exact, q_grouped = query_exact.double(), query_grouped.double()
    k_exact, k_grouped, values = (
        x.double().repeat_interleave(repeat, dim=1) for x in (key_exact, key_grouped, value_states)
    )
    length, total = q_exact.shape[2], values.shape[2]
    exact = q_exact @ k_exact.transpose(-1, -2) * scaling
    grouped = q_grouped @ k_grouped.transpose(-1, -2) * scaling
    distance = torch.arange(total - length, total)[:, None] - torch.arange(total)[None, :]
    scores = torch.where(distance < neighbor_window, exact, grouped)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(distance < 0, -math.inf).softmax(-1)
    return weights @ values, weights


class _DoublePrecision(TorchFunctionMode):
    """Turns transformers' hard-wired float32 islands (norms, rotary tables, softmax) into float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


class _Exchange:
    """What passes between an attention module's wrapper and the attention function that the module calls."""

    def __init__(self) -> None:
        self.mode = "plain"
        self.captured: dict[str, Any] = {}
        self.output: torch.Tensor | None = None


_exchange = _Exchange()


def _repeat(states: torch.Tensor, heads: int) -> torch.Tensor:
    return states.repeat_interleave(heads // states.shape[1], dim=1)


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    if sinks is None:
        return scores.softmax(-1)
    column = sinks.to(scores).view(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
    return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]


def _attention(query: Any, key: Any, value: Any, mask: Any, scaling: float, softcap: Any, sinks: Any) -> torch.Tensor:
    """(b, h, n, d). Untouched layers: transformers' own mask, the module's own rotation."""
    if _exchange.mode == "capture":
        _exchange.captured = {
            "query": query, "key": key, "value": value, "scaling": scaling, "softcap": softcap, "sinks": sinks,
        }  # fmt: skip
        return query.new_zeros(*query.shape[:-1], value.shape[-1])
    if _exchange.mode == "deliver":
        assert _exchange.output is not None
        return _exchange.output
    scores = query @ _repeat(key, query.shape[1]).transpose(-1, -2) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.full(scores.shape[-2:], -math.inf, dtype=scores.dtype).triu(1)
    elif mask.dtype == torch.bool:
        mask = torch.zeros_like(scores).masked_fill(~mask, -math.inf)
    return _softmax(scores + mask[..., : scores.shape[-1]], sinks) @ _repeat(value, query.shape[1])


def _interface(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _attention(query, key, value, attention_mask, scaling, softcap, s_aux)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _interface)
AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def _functional_replaced() -> Iterator[None]:
    """Falcon calls torch's attention itself instead of asking transformers for an attention function."""
    original = torch.nn.functional.scaled_dot_product_attention

    def replacement(query: Any, key: Any, value: Any, attn_mask: Any = None, **kwargs: Any) -> torch.Tensor:
        return _attention(query, key, value, attn_mask, query.shape[-1] ** -0.5, None, None)

    torch.nn.functional.scaled_dot_product_attention = replacement
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = original


def attention_modules(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The model's attention modules that are given rotary tables, in the order of their layers."""
    found = [
        module
        for module in model.modules()
        if type(module).__name__.endswith("Attention")
        and "position_embeddings" in inspect.signature(type(module).forward).parameters
        and getattr(module, "layer_idx", None) is not None
    ]
    return sorted(found, key=lambda module: module.layer_idx)


def _cos(embeddings: Any) -> torch.Tensor:
    """What a layer's position embeddings are known by: the first of two tables, or the one table of complex numbers."""
    return embeddings if isinstance(embeddings, torch.Tensor) else embeddings[0]


class NaiveModel:
    """A float64 copy of `model` whose attention is computed pair by pair.

    Args:
        model: left as it is.
        group_size, neighbor_window: the paper's G_s and w_n. group_size 1 is the vanilla model.
        trained_window: the paper's L; only log-n query scaling looks at it.
        local_layers, no_rope_layers: indices of the layers that keep what they do.
        relative: another map than SelfExtend's, (query, key) -> relative position, for keys up to the query.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        group_size: int,
        neighbor_window: int,
        *,
        query_scaling: str = "none",
        trained_window: int = 0,
        local_layers: tuple[int, ...] = (),
        no_rope_layers: tuple[int, ...] = (),
        relative: Callable[[int, int], int] | None = None,
    ) -> None:
        self.model = copy.deepcopy(model).double().eval()
        self.relative = relative or partial(relative_position, group_size=group_size, neighbor_window=neighbor_window)
        self.query_scaling, self.trained_window = query_scaling, trained_window
        self.weights: dict[int, torch.Tensor] = {}
        if "Falcon" not in type(model).__name__:
            self.model.set_attn_implementation(NAME)
        if getattr(self.model.config, "_experts_implementation", None) is not None:
            self.model.set_experts_implementation("eager")  # grouped matrix products know no float64
        self._rotary_calls: list[tuple[torch.Tensor, torch.nn.Module, tuple[Any, ...], dict[str, Any]]] = []
        for module in self.model.modules():
            if "RotaryEmbedding" in type(module).__name__:
                module.register_forward_hook(self._remember, with_kwargs=True)
        for module in attention_modules(self.model):
            if module.layer_idx not in (*local_layers, *no_rope_layers):
                module.forward = self._wrapped(module, module.forward)

    def logits(self, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """(batch, length, vocab) in float64, from one forward pass without a cache."""
        with torch.no_grad(), _functional_replaced(), _DoublePrecision():
            return self.model(input_ids, use_cache=False, **kwargs).logits.double()

    def gradients(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of the loss of predicting the text, by parameter, in float64."""
        with _functional_replaced(), _DoublePrecision():
            self.model(input_ids, labels=input_ids, use_cache=False).loss.backward()
        return {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}

    def generate(self, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """transformers' own generation, every step from one pass over all tokens so far."""
        with torch.no_grad(), _functional_replaced(), _DoublePrecision():
            return self.model.generate(input_ids, use_cache=False, **kwargs)

    def _remember(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._rotary_calls = [*self._rotary_calls[-3:], (_cos(output), module, args, kwargs)]

    def _tables(self, cos: torch.Tensor, positions: torch.Tensor) -> Any:
        """The rotary tables at other positions, from the module and with the arguments that made `cos`."""
        _, module, args, kwargs = next(call for call in self._rotary_calls if call[0] is cos)
        bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
        bound.arguments["position_ids"] = positions
        return type(module).forward(*bound.args, **bound.kwargs)

    def _positions(self, cos: torch.Tensor) -> list[int]:
        _, module, args, kwargs = next(call for call in self._rotary_calls if call[0] is cos)
        position_ids = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments["position_ids"]
        assert (position_ids == position_ids[:1]).all(), "the reference takes rows of equal length only"
        return position_ids[0].tolist()

    def _wrapped(self, module: torch.nn.Module, forward: Callable[..., Any]) -> MethodType:
        signature = inspect.signature(type(module).forward)

        def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(module, *args, **kwargs)
            extra = bound.arguments.pop("kwargs", {})
            named = {k: v for k, v in bound.arguments.items() if k != "self"} | extra
            hidden, cos = named["hidden_states"], _cos(named["position_embeddings"])
            tokens = self._positions(cos)
            pairs = [[self.relative(i, j) if j <= i else None for j in tokens] for i in tokens]
            distinct = sorted({p for row in pairs for p in row if p is not None})
            assert distinct[0] == 0  # every query sees itself at 0: that copy holds the keys at position 0
            batch, length = hidden.shape[:2]
            positions = torch.tensor(distinct).repeat_interleave(batch)[:, None].expand(-1, length)
            everywhere = named | {
                "hidden_states": hidden.repeat(len(distinct), 1, 1),
                "position_embeddings": self._tables(cos, positions),
                "attention_mask": torch.zeros(1, 1, length, length, dtype=hidden.dtype),
            }
            _exchange.mode = "capture"
            try:
                forward(**everywhere)
                _exchange.output = self._output(module.layer_idx, tokens, pairs, distinct, batch)
                _exchange.mode = "deliver"
                return forward(**named)
            finally:
                _exchange.mode = "plain"

        return MethodType(call, module)

    def _output(self, layer: int, tokens: list[int], pairs: Any, distinct: list[int], batch: int) -> torch.Tensor:
        seen, length = _exchange.captured, len(tokens)
        heads, width = seen["query"].shape[1], seen["query"].shape[-1]
        queries = seen["query"].reshape(len(distinct), batch, heads, length, width)
        keys = _repeat(seen["key"], heads).reshape(len(distinct), batch, heads, length, width)[0]
        values = _repeat(seen["value"], heads).reshape(len(distinct), batch, heads, length, -1)[0]
        scores = torch.full((batch, heads, length, length), -math.inf, dtype=torch.float64)
        which = {p: n for n, p in enumerate(distinct)}
        index = torch.tensor([[0 if p is None else which[p] for p in row] for row in pairs])
        causal = torch.tensor([[p is not None for p in row] for row in pairs])
        every = queries @ keys.transpose(-1, -2) * seen["scaling"]  # (position, batch, head, query, key)
        chosen = every.gather(0, index.expand(1, batch, heads, length, length))[0]
        if self.query_scaling == "logn":
            factors = [logn(i, self.trained_window) for i in tokens]
            chosen = chosen * torch.tensor(factors, dtype=torch.float64)[:, None]
        if seen["softcap"] is not None:
            chosen = seen["softcap"] * torch.tanh(chosen / seen["softcap"])
        weights = _softmax(torch.where(causal, chosen, scores), seen["sinks"])
        self.weights[layer] = weights
        return weights @ values
