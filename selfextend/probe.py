"""Finding out, by trying, whether and where SelfExtend fits a model.

Nothing here goes by class names. Two test passes over three tokens show, layer by layer, what attention receives
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
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, PreTrainedModel

from selfextend.errors import UnsupportedArchitectureError
from selfextend.rotary import ApplyRotary, RotaryEmbedding, Tables, kept_state, rotate, takes_positions, unrotated

LayerKind = Literal["extended", "local", "no_rope"]

_PROBE = "selfextend_probe"
_PROBE_POSITIONS = (0, 3, 7)
_listening: ContextVar[Callable[..., Any]] = ContextVar("_listening")
_HARMLESS_TENSORS = {"position_ids", "cache_position"}


def _probe_attention(*args: Any, **kwargs: Any) -> Any:
    return _listening.get()(*args, **kwargs)


AttentionInterface.register(_PROBE, _probe_attention)


@dataclass(frozen=True)
class AttentionLayer:
    """One attention module and how SelfExtend treats it.

    Attributes:
        name: its name within the model.
        module: the attention module itself.
        index: its place in the cache.
        kind: "extended"; "local", a sliding window by design, kept as it is; or "no_rope", kept as it is.
        rotary: what its positions come from; None without RoPE.
        apply_rotary_pos_emb: its modeling file's own function; None without RoPE.
    """

    name: str
    module: nn.Module
    index: int
    kind: LayerKind
    rotary: RotaryEmbedding | None = None
    apply_rotary_pos_emb: ApplyRotary | None = None


@dataclass(frozen=True)
class Anatomy:
    """Where a model can be taken hold of.

    Attributes:
        decoder: the module whose forward pass goes through all attention layers.
        layers: its attention layers, in order.
        uses_interface: whether they call transformers' attention interface; else torch's attention function directly.
        own_window: whether all layers have a sliding window, which has to be off while far keys are to be seen.
    """

    decoder: nn.Module
    layers: tuple[AttentionLayer, ...]
    uses_interface: bool
    own_window: bool


@dataclass
class _Seen:
    """What one attention module was given in a test pass, and how often it asked for attention."""

    calls: int = 0
    masked: bool = False
    tables: Any = None
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
    if getattr(model.config, "is_encoder_decoder", False):
        raise _refusal("it is an encoder-decoder; SelfExtend is for decoder-only language models")
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        raise _refusal("some of its layers use another layer's keys, which then have no positions of their own")
    modules = _attention_modules(model)
    if not modules:
        raise _refusal(
            "none of its attention layers takes rotary position embeddings (it may use learned positions or ALiBi)"
        )
    decoder = _decoder(model, modules)
    try:
        with _left_as_it_was(model):
            uses_interface, rotated, bare = _test_passes(decoder, modules)
    except UnsupportedArchitectureError:
        raise
    except Exception as error:
        raise _refusal(f"a test pass of three tokens through it failed ({type(error).__name__}: {error})") from error
    embeddings = _rotary_embeddings(decoder)
    layers, windows = [], []
    for name, module in modules.items():
        layer = _classify(name, module, rotated[name], bare[name], embeddings)
        layers.append(layer)
        windows.append((rotated[name].arguments or {}).get("sliding_window") is not None)
    if all(layer.kind == "no_rope" for layer in layers):
        raise _refusal("none of its attention layers applies rotary position embeddings")
    own_window = all(windows)
    if not own_window:
        layers = [_as_local(layer, rotated[layer.name]) for layer in layers]
    if all(layer.kind != "extended" for layer in layers):
        raise _refusal("its layers with rotary position embeddings are local by design, so there is nothing to extend")
    return Anatomy(decoder, tuple(layers), uses_interface, own_window)


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


def _decoder(model: nn.Module, modules: dict[str, nn.Module]) -> nn.Module:
    """The innermost module that holds all attention layers and takes their cache."""
    found = None
    for name, module in model.named_modules():
        holds_all = all(layer.startswith(f"{name}." if name else "") for layer in modules)
        if holds_all and _takes(module, "attention_mask", "position_ids", "past_key_values"):
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


def _test_passes(decoder: nn.Module, modules: dict[str, nn.Module]) -> tuple[bool, dict[str, _Seen], dict[str, _Seen]]:
    """Whether attention goes through the interface, and what each layer sees rotated and not rotated."""
    for implementation in (_PROBE, "sdpa"):
        try:
            rotated = _pass(decoder, modules, implementation, lambda tables: tables)
        except (TypeError, RuntimeError):
            if implementation == "sdpa":
                raise
            continue  # attention that asks for no function falls back to one that may want a mask, and there is none
        if all(seen.query is not None for seen in rotated.values()):
            return (
                implementation == _PROBE,
                rotated,
                _pass(decoder, modules, implementation, _unrotated_or_same),
            )
    missed = next(name for name, seen in rotated.items() if seen.query is None)
    raise _refusal(f"the attention of {missed} goes neither through transformers' attention interface nor torch's")


def _unrotated_or_same(tables: Any) -> Any:
    return unrotated(tables) if _is_pair(tables) else tables


def _is_pair(tables: Any) -> bool:
    return (
        isinstance(tables, tuple)
        and len(tables) == 2
        and all(isinstance(table, torch.Tensor) and table.dim() == 3 for table in tables)
    )


@torch.no_grad()
def _pass(
    decoder: nn.Module, modules: dict[str, nn.Module], implementation: str, change: Callable[[Any], Any]
) -> dict[str, _Seen]:
    seen = {name: _Seen() for name in modules}
    names = {module: name for name, module in modules.items()}
    current: list[str] = []

    def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        name = names[module]
        current[:] = [name]
        seen[name].tables = kwargs.get("position_embeddings")
        return args, {**kwargs, "position_embeddings": change(kwargs.get("position_embeddings"))}

    def keep(name: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **arguments: Any) -> torch.Tensor:
        seen[name].calls += 1
        seen[name].query, seen[name].key, seen[name].arguments = query, key, arguments
        # Depends on the values alone, so that both passes give the next layer the same input.
        return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)

    def interface(
        module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any = None, **arguments: Any
    ) -> Any:
        seen[names[module]].masked = attention_mask is not None
        return keep(names[module], query, key, value, **arguments).transpose(1, 2).contiguous(), None

    class Direct(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is torch.nn.functional.scaled_dot_product_attention:
                return keep(current[0], *args[:3])
            return func(*args, **kwargs)

    holders: list[Any] = [decoder, *modules.values()]
    configs = {id(m.config): m.config for m in holders if hasattr(m, "config")}.values()
    device = next(holders[0].get_input_embeddings().parameters()).device
    with ExitStack() as stack:
        for config in configs:
            stack.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation)
            config._attn_implementation_internal = implementation
        for module in modules.values():
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(_listening.reset, _listening.set(interface))
        stack.enter_context(Direct())
        decoder(
            input_ids=torch.arange(len(_PROBE_POSITIONS), device=device)[None],
            position_ids=torch.tensor([_PROBE_POSITIONS], device=device),
            use_cache=False,
        )
    return seen


def _classify(
    name: str, module: nn.Module, rotated: _Seen, bare: _Seen, embeddings: list[RotaryEmbedding]
) -> AttentionLayer:
    """What a layer is, from what it was given with and without rotation."""
    index = int(module.layer_idx)  # type: ignore[arg-type]
    assert rotated.query is not None
    assert rotated.key is not None
    assert bare.query is not None
    assert bare.key is not None
    if rotated.calls != 1:
        raise _refusal(
            f"{name} computes attention {rotated.calls} times over, where SelfExtend knows how to do it once"
        )
    if rotated.masked:
        raise _refusal(f"{name} hides or weighs keys by a mask of its own, which SelfExtend's attention does not know")
    if torch.equal(rotated.query, bare.query) and torch.equal(rotated.key, bare.key):
        if _is_pair(rotated.tables) or rotated.tables is None:
            return AttentionLayer(name, module, index, "no_rope")
        raise _refusal(f"{name} takes position embeddings in a form other than (cos, sin)")
    apply = getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None)
    if apply is None or not _is_pair(rotated.tables):
        raise _refusal(f"{name} applies rotary position embeddings in a way that cannot be redone outside it")
    if not (
        _same(_rotated_or_none(bare.query, rotated.tables, apply), rotated.query)
        and _same(_rotated_or_none(bare.key, rotated.tables, apply), rotated.key)
    ):
        raise _refusal(f"{name} changes queries or keys after rotating them, so they cannot be rotated anew")
    for argument, value in (rotated.arguments or {}).items():
        if isinstance(value, torch.Tensor) and argument not in _HARMLESS_TENSORS:
            raise _refusal(f"{name} passes {argument} to attention, which SelfExtend's attention does not know")
    rotary = _that_made(rotated.tables, embeddings)
    if rotary is None:
        raise _refusal(f"the rotary embedding that {name} takes its positions from was not found")
    return AttentionLayer(name, module, index, "extended", rotary, apply)


def _as_local(layer: AttentionLayer, seen: _Seen) -> AttentionLayer:
    if layer.kind == "extended" and (seen.arguments or {}).get("sliding_window") is not None:
        return AttentionLayer(layer.name, layer.module, layer.index, "local")
    return layer


def _rotated_or_none(states: torch.Tensor, tables: Tables, apply: ApplyRotary) -> torch.Tensor | None:
    try:
        return rotate(states, (tables[0].to(states.device), tables[1].to(states.device)), apply)
    except (RuntimeError, TypeError, ValueError):  # a function of the same name that takes something else
        return None


def _same(got: torch.Tensor | None, want: torch.Tensor) -> bool:
    return got is not None and got.shape == want.shape and torch.allclose(got, want, rtol=1e-3, atol=1e-5)


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
