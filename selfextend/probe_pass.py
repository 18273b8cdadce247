"""Test passes over three tokens: what each attention layer is given, rotated and not rotated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache

from selfextend.errors import UnsupportedArchitectureError
from selfextend.masks import deferred_mask
from selfextend.rotary import as_tables, unrotated

_PROBE = "selfextend_probe"
POSITIONS = (0, 3, 7)
_listening: ContextVar[Callable[..., Any]] = ContextVar("_listening")


def _probe_attention(*args: Any, **kwargs: Any) -> Any:
    return _listening.get()(*args, **kwargs)


AttentionInterface.register(_PROBE, _probe_attention)
AttentionMaskInterface.register(_PROBE, cast(Any, deferred_mask))


@dataclass
class Seen:
    """What one attention module was given in a test pass, and how often it ran and asked for attention.

    `cached` are the keys that its cache handed over last, under the layer number `index`.
    """

    visits: int = 0
    calls: int = 0
    index: int | None = None
    mask: Any = None
    embeddings: Any = None
    cached: torch.Tensor | None = None
    output: torch.Tensor | None = None
    query: torch.Tensor | None = None
    key: torch.Tensor | None = None
    arguments: dict[str, Any] | None = None


def refusal(reason: str) -> UnsupportedArchitectureError:
    return UnsupportedArchitectureError(f"SelfExtend cannot be enabled on this model: {reason}.")


@dataclass(frozen=True)
class Passes:
    """How test passes go through a model, and what each layer was given rotated and not rotated."""

    uses_interface: bool
    makes_own_cache: bool
    rotated: dict[str, Seen]
    bare: dict[str, Seen]


def probe_passes(decoder: nn.Module, modules: dict[str, nn.Module]) -> Passes:
    """Two passes that went through all layers that text goes through.

    Attention that does not ask transformers for its function may want a mask made in full, as it has with sdpa; and
    some models take no cache but their own.
    """
    failure, missed = None, None
    for implementation, own_cache in ((_PROBE, False), ("sdpa", False), (_PROBE, True)):
        try:
            rotated = _ProbePass(decoder, modules, implementation).run(lambda embeddings: embeddings, own_cache)
            bare = _ProbePass(decoder, modules, implementation).run(_unrotated_or_same, own_cache)
        except UnsupportedArchitectureError:
            raise
        except Exception as error:
            failure = failure or error
            continue
        for name in [name for name, seen in rotated.items() if seen.query is None]:
            if same(rotated[name].output, bare[name].output):  # linear attention, say, that is given positions in vain
                del rotated[name]
        missed = next((name for name, seen in rotated.items() if seen.query is None), None)
        if rotated and missed is None:
            return Passes(implementation == _PROBE, own_cache, rotated, bare)
    if missed is None and failure is not None:
        raise failure
    raise refusal(
        f"the attention of {missed or 'its layers'} goes neither through transformers' attention interface nor torch's"
    )


def _unrotated_or_same(embeddings: Any) -> Any:
    return embeddings if as_tables(embeddings) is None else unrotated(embeddings)


class _ProbePass(TorchFunctionMode):
    """One forward pass over three tokens, in which attention only shows what it was given.

    Args:
        implementation: the attention implementation to run under.
    """

    def __init__(self, decoder: Any, modules: dict[str, nn.Module], implementation: str) -> None:
        super().__init__()
        self.decoder = decoder
        self.modules = modules
        self.implementation = implementation
        self.seen = {name: Seen() for name in modules}
        self.names = {module: name for name, module in modules.items()}
        self.under_way: Seen | None = None

    @torch.no_grad()
    def run(self, change: Callable[[Any], Any], own_cache: bool) -> dict[str, Seen]:
        """What each layer was given when its position embeddings were changed so; layers that text goes through."""
        holders = [self.decoder, *self.modules.values()]
        configs = {id(m.config): m.config for m in holders if hasattr(m, "config")}.values()
        device = next(self.decoder.get_input_embeddings().parameters()).device
        with ExitStack() as stack:
            for config in configs:
                stack.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation)
                config._attn_implementation_internal = self.implementation
            for module in self.modules.values():
                before = partial(self._before, change)
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._after).remove)
            stack.callback(_listening.reset, _listening.set(self._interface))
            stack.enter_context(self)
            self.decoder(
                input_ids=torch.arange(len(POSITIONS), device=device)[None],
                position_ids=torch.tensor([POSITIONS], device=device),
                past_key_values=None if own_cache else self._cache(),
                use_cache=True,
            )
        return {name: seen for name, seen in self.seen.items() if seen.visits}

    def _before(self, change: Callable[[Any], Any], module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        self.under_way = self.seen[self.names[module]]
        self.under_way.visits += 1
        if "position_embeddings" not in kwargs:
            return args, kwargs
        self.under_way.embeddings = kwargs["position_embeddings"]
        return args, {**kwargs, "position_embeddings": change(kwargs["position_embeddings"])}

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self.seen[self.names[module]].output = output[0] if isinstance(output, tuple) else output
        self.under_way = None

    def _interface(
        self, module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any = None, **arguments: Any
    ) -> Any:
        return self._keep(query, key, value, attention_mask, **arguments).transpose(1, 2).contiguous(), None

    def _keep(self, query: Any, key: Any, value: Any, mask: Any, **arguments: Any) -> torch.Tensor:
        seen = self.under_way
        if seen is None:
            raise refusal(
                "it computes attention outside the parts that are given rotary position embeddings: beside them, or "
                "around an indexer that chooses keys by positions of its own and would have to move as well"
            )
        seen.calls += 1
        seen.query, seen.key, seen.mask, seen.arguments = query, key, mask, arguments
        # Depends on the values alone, so that both passes give the next layer the same input.
        return cast(torch.Tensor, value.repeat_interleave(query.shape[1] // value.shape[1], dim=1))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, key, value, *masks = args
            mask = masks[0] if masks else kwargs.get("attn_mask")
            return self._keep(query, key, value, None if _is_plainly_causal(mask) else mask)
        return func(*args, **kwargs)

    def _cache(self) -> DynamicCache:
        """A cache that shows what it hands over."""
        cache = DynamicCache(config=self.decoder.config)
        update = cache.update

        def updating(key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            handed_over = update(key_states, value_states, layer_idx, *args, **kwargs)
            if self.under_way is not None:
                self.under_way.cached, self.under_way.index = handed_over[0], layer_idx
            return handed_over

        vars(cache)["update"] = updating
        return cache


def _is_plainly_causal(mask: torch.Tensor | None) -> bool:
    """Whether a mask over the three tokens hides what comes later, and nothing else."""
    if mask is None:
        return True
    causal = torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).tril()
    if mask.dtype == torch.bool:
        return bool((mask == causal).all())
    return bool((mask[..., causal] == 0).all() and (mask[..., ~causal] <= -1e4).all())


def same(got: torch.Tensor | None, want: torch.Tensor | None, rtol: float = 1e-3, atol: float = 1e-5) -> bool:
    return (
        got is not None
        and want is not None
        and got.shape == want.shape
        and torch.allclose(got, want, rtol=rtol, atol=atol)
    )
