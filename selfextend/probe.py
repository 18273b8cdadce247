"""Finding out, by trying, whether and where SelfExtend fits a model.

Nothing here goes by class names. Two test passes over three tokens show, layer by layer, what attention is given
with the model's rotary tables and with tables that rotate nothing. Where the first is exactly what rotating the
second gives, attention can be replaced; everything else is refused with the reason, and the model is left as it was.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel

from selfextend.errors import UnsupportedArchitectureError
from selfextend.masks import DeferredMask, deferred_mask
from selfextend.rotary import (
    RotaryEmbedding,
    Rotation,
    Tables,
    as_tables,
    kept_state,
    rotations,
    takes_positions,
    unrotated,
)

LayerKind = Literal["extended", "local", "no_rope"]

_PROBE = "selfextend_probe"
_PROBE_POSITIONS = (0, 3, 7)
_listening: ContextVar[Callable[..., Any]] = ContextVar("_listening")
_KNOWN_TENSORS = {"position_ids", "cache_position", "s_aux"}


def _probe_attention(*args: Any, **kwargs: Any) -> Any:
    return _listening.get()(*args, **kwargs)


AttentionInterface.register(_PROBE, _probe_attention)
AttentionMaskInterface.register(_PROBE, cast(Any, deferred_mask))


@dataclass(frozen=True)
class AttentionLayer:
    """One attention module and how SelfExtend treats it.

    Attributes:
        name: its name within the model.
        module: the attention module itself.
        index: its place in the cache.
        kind: "extended"; "local", a sliding window by design, kept as it is; or "no_rope", kept as it is.
        rotary: what its positions come from; None without RoPE.
        rotation: how they turn its queries and keys; None without RoPE.
        rotates_in_cache: whether keys may be rotated when they are written: attention gets them as they are cached.
    """

    name: str
    module: nn.Module
    index: int
    kind: LayerKind
    rotary: RotaryEmbedding | None = None
    rotation: Rotation | None = None
    rotates_in_cache: bool = False


@dataclass(frozen=True)
class Anatomy:
    """Where a model can be taken hold of.

    Attributes:
        decoder: the module whose forward pass goes through all attention layers.
        layers: its attention layers, in order.
        uses_interface: whether they call transformers' attention interface; else torch's attention function directly.
        own_window: whether all layers have a sliding window, which has to be off while far keys are to be seen.
        makes_own_cache: whether it takes no cache but one that it made.
    """

    decoder: nn.Module
    layers: tuple[AttentionLayer, ...]
    uses_interface: bool
    own_window: bool
    makes_own_cache: bool


@dataclass
class _Seen:
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


def examine(model: PreTrainedModel) -> Anatomy:
    """Find the attention layers of a model.

    Raises:
        UnsupportedArchitectureError: with the reason. Nothing was changed on the model.
    """
    if not isinstance(model, PreTrainedModel):
        raise _refusal("it is not a transformers model")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise _refusal("its weights are not loaded (they are on the meta device)")
    if getattr(model.config, "is_encoder_decoder", False):
        raise _refusal("it is an encoder-decoder; SelfExtend is for decoder-only language models")
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        raise _refusal("some of its layers use another layer's keys, which then have no positions of their own")
    modules = _attention_modules(model)
    if not modules and any(_names_rotary(module) for module in model.modules()):
        raise _refusal(
            "it has rotary position embeddings, but turns queries and keys inside its own attention, where they cannot "
            "be had unrotated"
        )
    if not modules:
        raise _refusal(
            "none of its attention layers takes rotary position embeddings (it may use learned positions, ALiBi or no "
            "positions at all)"
        )
    decoder = _decoder(model, modules)
    try:
        with _left_as_it_was(model):
            passes = _test_passes(decoder, modules)
    except UnsupportedArchitectureError:
        raise
    except Exception as error:
        raise _refusal(f"a test pass of three tokens through it failed ({type(error).__name__}: {error})") from error
    embeddings = _rotary_embeddings(decoder)
    local = {name for name, seen in passes.rotated.items() if _is_local(seen)}
    own_window = local == set(passes.rotated)
    layers = [
        AttentionLayer(name, modules[name], _index(modules[name], seen), "local")
        if name in local and not own_window
        else _classify(name, modules[name], seen, passes.bare[name], embeddings)
        for name, seen in passes.rotated.items()
    ]
    if all(layer.kind == "no_rope" for layer in layers):
        raise _refusal("none of its attention layers applies rotary position embeddings")
    if all(layer.kind != "extended" for layer in layers):
        raise _refusal("its layers with rotary position embeddings are local by design, so there is nothing to extend")
    return Anatomy(decoder, tuple(layers), passes.uses_interface, own_window, passes.makes_own_cache)


def _refusal(reason: str) -> UnsupportedArchitectureError:
    return UnsupportedArchitectureError(f"SelfExtend cannot be enabled on this model: {reason}.")


def _takes(module: nn.Module, *parameters: str) -> bool:
    return set(parameters) <= set(inspect.signature(type(module).forward).parameters)


def _attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The innermost modules that are given position embeddings, by name, in order."""
    given = {
        name: module
        for name, module in model.named_modules()
        if _takes(module, "position_embeddings") and isinstance(getattr(module, "layer_idx", None), int)
    }
    return {name: module for name, module in given.items() if not any(other.startswith(f"{name}.") for other in given)}


def _names_rotary(module: nn.Module) -> bool:
    """Whether what a module computes mentions rotary embeddings."""
    forward = inspect.unwrap(type(module).forward)
    return forward.__module__.startswith("transformers.") and "rotary" in inspect.getsource(forward)


def _decoder(model: nn.Module, modules: dict[str, nn.Module]) -> nn.Module:
    """The innermost module that takes texts and a cache and holds all attention layers."""
    found = None
    for name, module in model.named_modules():
        holds_all = all(layer.startswith(f"{name}." if name else "") for layer in modules)
        takes_texts = _takes(module, "attention_mask", "position_ids", "past_key_values", "inputs_embeds")
        if holds_all and takes_texts:
            found = module
    if found is None:
        raise _refusal("no module was found that passes a cache and positions to all of its attention layers")
    return found


@contextmanager
def _left_as_it_was(model: PreTrainedModel) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with kept_state(model):
            yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class _Passes:
    """How test passes go through a model, and what each layer was given rotated and not rotated."""

    uses_interface: bool
    makes_own_cache: bool
    rotated: dict[str, _Seen]
    bare: dict[str, _Seen]


def _test_passes(decoder: nn.Module, modules: dict[str, nn.Module]) -> _Passes:
    """Two passes that went through all layers that text goes through.

    Attention that does not ask transformers for its function may want a mask made in full, as it has with sdpa; and
    some models take no cache but their own.
    """
    failure, missed = None, None
    for implementation, own_cache in ((_PROBE, False), ("sdpa", False), (_PROBE, True)):
        try:
            rotated = _TestPass(decoder, modules, implementation).run(lambda embeddings: embeddings, own_cache)
            bare = _TestPass(decoder, modules, implementation).run(_unrotated_or_same, own_cache)
        except UnsupportedArchitectureError:
            raise
        except Exception as error:
            failure = failure or error
            continue
        for name in [name for name, seen in rotated.items() if seen.query is None]:
            if _same(rotated[name].output, bare[name].output):  # linear attention, say, that is given positions in vain
                del rotated[name]
        missed = next((name for name, seen in rotated.items() if seen.query is None), None)
        if rotated and missed is None:
            return _Passes(implementation == _PROBE, own_cache, rotated, bare)
    if missed is None and failure is not None:
        raise failure
    raise _refusal(
        f"the attention of {missed or 'its layers'} goes neither through transformers' attention interface nor torch's"
    )


def _unrotated_or_same(embeddings: Any) -> Any:
    return embeddings if as_tables(embeddings) is None else unrotated(embeddings)


class _TestPass(TorchFunctionMode):
    """One forward pass over three tokens, in which attention only shows what it was given.

    Args:
        implementation: the attention implementation to run under.
    """

    def __init__(self, decoder: Any, modules: dict[str, nn.Module], implementation: str) -> None:
        super().__init__()
        self.decoder = decoder
        self.modules = modules
        self.implementation = implementation
        self.seen = {name: _Seen() for name in modules}
        self.names = {module: name for name, module in modules.items()}
        self.under_way: _Seen | None = None

    @torch.no_grad()
    def run(self, change: Callable[[Any], Any], own_cache: bool) -> dict[str, _Seen]:
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
                input_ids=torch.arange(len(_PROBE_POSITIONS), device=device)[None],
                position_ids=torch.tensor([_PROBE_POSITIONS], device=device),
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
            raise _refusal(
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


def _classify(
    name: str, module: nn.Module, rotated: _Seen, bare: _Seen, embeddings: list[RotaryEmbedding]
) -> AttentionLayer:
    """What a layer is, from what it was given with and without rotation."""
    index = _index(module, rotated)
    assert rotated.query is not None
    assert rotated.key is not None
    assert bare.query is not None
    assert bare.key is not None
    if rotated.calls != rotated.visits:
        raise _refusal(f"{name} computes attention several times in one pass, where SelfExtend does it once")
    tables = as_tables(rotated.embeddings)
    if torch.equal(rotated.query, bare.query) and torch.equal(rotated.key, bare.key):
        if tables is not None or rotated.embeddings is None:
            return AttentionLayer(name, module, index, "no_rope")
        raise _refusal(
            f"{name} takes position embeddings in a form that is neither cos and sin nor complex numbers "
            f"({type(rotated.embeddings).__name__})"
        )
    if tables is None:
        raise _refusal(f"{name} applies rotary position embeddings in a way that cannot be redone outside it")
    if rotated.mask is not None and not isinstance(rotated.mask, DeferredMask):
        raise _refusal(f"{name} hides or weighs keys by a mask of its own, which SelfExtend's attention does not know")
    rotation = _rotation(module, rotated, bare, tables)
    if rotation is None:
        raise _refusal(f"{name} changes queries or keys after rotating them, so they cannot be rotated anew")
    for argument, value in (rotated.arguments or {}).items():
        if isinstance(value, torch.Tensor) and argument not in _KNOWN_TENSORS:
            raise _refusal(
                f"{name} gives its attention function more than queries, keys and values ({argument}), and what that "
                "does to a score is not known"
            )
    rotary = _that_made(tables, embeddings)
    if rotary is None:
        raise _refusal(f"the rotary embedding that {name} takes its positions from was not found")
    as_cached = bare.cached is not None and bare.cached.shape == bare.key.shape and torch.equal(bare.cached, bare.key)
    in_cache = as_cached and rotated.visits == 1
    return AttentionLayer(name, module, index, "extended", rotary, rotation, in_cache)


def _index(module: nn.Module, seen: _Seen) -> int:
    """The layer's number in a cache; where one module is several layers, the last one's."""
    return int(module.layer_idx) if seen.index is None else seen.index  # type: ignore[arg-type]


def _rotation(module: nn.Module, rotated: _Seen, bare: _Seen, tables: Tables) -> Rotation | None:
    """The rotation that makes exactly what a layer's attention was given from what it is given unrotated."""
    function = getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None)
    assert bare.query is not None
    for rotation in rotations(function, tables, bare.query.shape[-1]):
        pairs = ((bare.query, rotated.query), (bare.key, rotated.key))
        if all(_same(_rotated_or_none(states, tables, rotation), want) for states, want in pairs):
            return rotation
    return None


def _is_local(seen: _Seen) -> bool:
    """Whether a layer sees only a part of the text by design: a sliding window, or chunks."""
    masked = isinstance(seen.mask, DeferredMask) and not seen.mask.is_causal
    return masked or (seen.arguments or {}).get("sliding_window") is not None


def _rotated_or_none(states: Any, tables: Tables, rotation: Rotation) -> torch.Tensor | None:
    cos, sin = (table.to(states.device) for table in tables)
    try:
        return rotation(states, (cos, sin))
    except (RuntimeError, TypeError, ValueError):  # a function of the same name that takes something else
        return None


def _same(got: torch.Tensor | None, want: torch.Tensor | None) -> bool:
    return (
        got is not None
        and want is not None
        and got.shape == want.shape
        and torch.allclose(got, want, rtol=1e-3, atol=1e-5)
    )


def _rotary_embeddings(decoder: nn.Module) -> list[RotaryEmbedding]:
    """All rotary embeddings of a decoder, one for each layer type where a module keeps several."""
    found = []
    for module in decoder.modules():
        if takes_positions(module):
            many = "layer_type" in inspect.signature(inspect.unwrap(type(module).forward)).parameters
            layer_types = sorted(getattr(module, "layer_types", [])) if many else [None]
            found += [RotaryEmbedding(copy.deepcopy(module), layer_type) for layer_type in layer_types]
    return found


def _that_made(tables: Tables, embeddings: list[RotaryEmbedding]) -> RotaryEmbedding | None:
    """The embedding that these tables come from. Layers share it, and with it the tables of each forward pass."""
    positions = torch.tensor([_PROBE_POSITIONS], device=tables[0].device)
    for embedding in embeddings:
        try:
            made = embedding.tables(tables[0], positions, _PROBE_POSITIONS[-1] + 1)
        except (RuntimeError, AttributeError, KeyError, TypeError):
            continue
        if all(torch.equal(a, b) for a, b in zip(made, tables, strict=True)):
            return embedding
    return None
