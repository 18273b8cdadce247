"""Finding out, by trying, whether and where SelfExtend fits a model.

Nothing here goes by class names. Two test passes over three tokens show, layer by layer, what attention is given
with the model's rotary tables and with tables that rotate nothing. Where the first is exactly what rotating the
second gives, attention can be replaced; everything else is refused with the reason, and the model is left as it was.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from selfextend.errors import UnsupportedArchitectureError
from selfextend.masks import DeferredMask
from selfextend.probe_pass import POSITIONS, Seen, probe_passes, refusal, same
from selfextend.rotary import (
    PlacedTables,
    RotaryEmbedding,
    Rotation,
    Tables,
    as_tables,
    kept_state,
    rotations,
    takes_positions,
)

LayerKind = Literal["extended", "local", "no_rope"]

_KNOWN_TENSORS = {"position_ids", "cache_position", "s_aux"}


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


def examine(model: PreTrainedModel) -> Anatomy:
    """Find the attention layers of a model.

    Raises:
        UnsupportedArchitectureError: with the reason. Nothing was changed on the model.
    """
    if not isinstance(model, PreTrainedModel):
        raise refusal("it is not a transformers model")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise refusal("its weights are not loaded (they are on the meta device)")
    if getattr(model.config, "is_encoder_decoder", False):
        raise refusal("it is an encoder-decoder; SelfExtend is for decoder-only language models")
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        raise refusal("some of its layers use another layer's keys, which then have no positions of their own")
    modules = _attention_modules(model)
    if not modules and any(_names_rotary(module) for module in model.modules()):
        raise refusal(
            "it has rotary position embeddings, but turns queries and keys inside its own attention, where they cannot "
            "be had unrotated"
        )
    if not modules:
        raise refusal(
            "none of its attention layers takes rotary position embeddings (it may use learned positions, ALiBi or no "
            "positions at all)"
        )
    decoder = _decoder(model, modules)
    try:
        with _left_as_it_was(model):
            passes = probe_passes(decoder, modules)
    except UnsupportedArchitectureError:
        raise
    except Exception as error:
        raise refusal(f"a test pass of three tokens through it failed ({type(error).__name__}: {error})") from error
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
        raise refusal("none of its attention layers applies rotary position embeddings")
    if all(layer.kind != "extended" for layer in layers):
        raise refusal("its layers with rotary position embeddings are local by design, so there is nothing to extend")
    return Anatomy(decoder, tuple(layers), passes.uses_interface, own_window, passes.makes_own_cache)


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
        raise refusal("no module was found that passes a cache and positions to all of its attention layers")
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


def _classify(
    name: str, module: nn.Module, rotated: Seen, bare: Seen, embeddings: list[RotaryEmbedding]
) -> AttentionLayer:
    """What a layer is, from what it was given with and without rotation."""
    index = _index(module, rotated)
    assert rotated.query is not None
    assert rotated.key is not None
    assert bare.query is not None
    assert bare.key is not None
    if rotated.calls != rotated.visits:
        raise refusal(f"{name} computes attention several times in one pass, where SelfExtend does it once")
    tables = as_tables(rotated.embeddings)
    if torch.equal(rotated.query, bare.query) and torch.equal(rotated.key, bare.key):
        if tables is not None or rotated.embeddings is None:
            return AttentionLayer(name, module, index, "no_rope")
        raise refusal(
            f"{name} takes position embeddings in a form that is neither cos and sin nor complex numbers "
            f"({type(rotated.embeddings).__name__})"
        )
    if tables is None:
        raise refusal(f"{name} applies rotary position embeddings in a way that cannot be redone outside it")
    if rotated.mask is not None and not isinstance(rotated.mask, DeferredMask):
        raise refusal(f"{name} hides or weighs keys by a mask of its own, which SelfExtend's attention does not know")
    rotation = _rotation(module, rotated, bare, tables)
    if rotation is None:
        raise refusal(f"{name} changes queries or keys after rotating them, so they cannot be rotated anew")
    for argument, value in (rotated.arguments or {}).items():
        if isinstance(value, torch.Tensor) and argument not in _KNOWN_TENSORS:
            raise refusal(
                f"{name} gives its attention function more than queries, keys and values ({argument}), and what that "
                "does to a score is not known"
            )
    rotary = _that_made(tables, embeddings)
    if rotary is None:
        raise refusal(f"the rotary embedding that {name} takes its positions from was not found")
    as_cached = bare.cached is not None and bare.cached.shape == bare.key.shape and torch.equal(bare.cached, bare.key)
    in_cache = as_cached and rotated.visits == 1
    return AttentionLayer(name, module, index, "extended", rotary, rotation, in_cache)


def _index(module: nn.Module, seen: Seen) -> int:
    """The layer's number in a cache; where one module is several layers, the last one's."""
    return cast(int, module.layer_idx) if seen.index is None else seen.index


def _rotation(module: nn.Module, rotated: Seen, bare: Seen, tables: Tables) -> Rotation | None:
    """The rotation that makes what a layer's attention was given from what it is given unrotated: to the bit, or else
    the last one that does, which is the model's own where it has one."""
    function = getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None)
    wanted = (rotated.query, rotated.key)
    found = None
    assert bare.query is not None
    for rotation in rotations(function, tables, bare.query.shape[-1]):
        turned = (_rotated_or_none(states, tables, rotation) for states in (bare.query, bare.key))
        pairs = list(zip(turned, wanted, strict=True))
        if all(same(got, want) for got, want in pairs):
            found = rotation
            if all(same(got, want, rtol=0.0, atol=0.0) for got, want in pairs):
                break
    return found


def _is_local(seen: Seen) -> bool:
    """Whether a layer sees only a part of the text by design: a sliding window, or chunks."""
    masked = isinstance(seen.mask, DeferredMask) and not seen.mask.is_causal
    return masked or (seen.arguments or {}).get("sliding_window") is not None


def _rotated_or_none(states: Any, tables: Tables, rotation: Rotation) -> torch.Tensor | None:
    cos, sin = (table.to(states.device) for table in tables)
    try:
        return rotation(states, PlacedTables((cos, sin)))
    except (RuntimeError, TypeError, ValueError):  # a function of the same name that takes something else
        return None


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
    positions = torch.tensor([POSITIONS], device=tables[0].device)
    for embedding in embeddings:
        try:
            made = embedding.tables(tables[0], positions, POSITIONS[-1] + 1)
        except (RuntimeError, AttributeError, KeyError, TypeError):
            continue
        if all(torch.equal(a, b) for a, b in zip(made, tables, strict=True)):
            return embedding
    return None
