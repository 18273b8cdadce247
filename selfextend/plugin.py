"""Switching SelfExtend on and off for a loaded transformers model, through one seam and without copied forwards.

Each extended attention layer is given rotary tables that rotate nothing, so that its queries and keys reach the
attention function unrotated; there they are rotated at SelfExtend's positions (`selfextend.forward`). Everything is
undone by `disable`.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from selfextend import windows
from selfextend.batch_cache import BatchCache
from selfextend.cache import SelfExtendCache, SelfExtendLayer, content_of, current, keep_content
from selfextend.config import SelfExtendConfig, check_window
from selfextend.errors import PastReachError, PastReachWarning, UnsupportedArchitectureError
from selfextend.forward import ForwardPass, LayerPass, batch_pass, forward_pass
from selfextend.interface import ATTRIBUTE, IMPLEMENTATION, KEPT, DirectAttention, generation_masks, pass_under_way
from selfextend.masks import padding_of
from selfextend.observing import AttentionObserver
from selfextend.positions import PositionMap
from selfextend.probe import Anatomy, AttentionLayer, LayerKind, examine
from selfextend.rotary import kept_state, unrotated

OnOverflow = Literal["warn", "error", "ignore"]


@dataclass(frozen=True)
class LayerSupport:
    """One attention layer: its name in the model, what SelfExtend does with it, and its number (`layer_idx`).

    kind: "extended"; "local", a sliding window by design, kept as it is; or "no_rope", kept as it is.
    """

    name: str
    kind: LayerKind
    index: int


@dataclass(frozen=True)
class Support:
    """Whether SelfExtend can be enabled on a model, why not, and what becomes of each attention layer."""

    supported: bool
    reason: str
    layers: tuple[LayerSupport, ...] = ()

    @property
    def extended_layers(self) -> int:
        """How many of the layers get SelfExtend."""
        return sum(layer.kind == "extended" for layer in self.layers)


def support(model: PreTrainedModel) -> Support:
    """Whether SelfExtend can be enabled on this model, found out by two test passes of three tokens.

    By what the model does, not by its name. Nothing is changed on it. Where it is enabled already, says so.
    """
    extension = active_extension(model)
    try:
        anatomy = examine(_unwrapped(model)) if extension is None else extension.anatomy
    except UnsupportedArchitectureError as error:
        return Support(False, str(error))
    layers = tuple(LayerSupport(layer.name, layer.kind, layer.index) for layer in anatomy.layers)
    found = Support(True, "", layers)
    return Support(True, f"SelfExtend fits {found.extended_layers} of {len(layers)} attention layers.", layers)


def enable(
    model: PreTrainedModel,
    config: SelfExtendConfig,
    *,
    trained_window: int | None = None,
    on_overflow: OnOverflow = "warn",
) -> None:
    """Switch SelfExtend on for a model until `disable`; on an enabled model, change its settings.

    While it is on, a `model(...)` or `model.generate(...)` that is given no cache gets a `SelfExtendCache`. Caches
    filled with other settings, or without SelfExtend, do not fit.

    Args:
        model: a transformers model, or one that PEFT wraps around it.
        trained_window: the paper's L, in tokens; read from the model's configuration unless given.
        on_overflow: what to do about a sequence past the reach: "warn", "error" or "ignore".

    Raises:
        UnsupportedArchitectureError: with the reason; nothing was changed on the model.
        ValueError: neighbor_window is not below the trained window, or an unknown `on_overflow`.
    """
    if on_overflow not in ("warn", "error", "ignore"):
        raise ValueError(f"on_overflow must be 'warn', 'error' or 'ignore', not {on_overflow!r}.")
    model = _unwrapped(model)
    if trained_window is None:
        trained_window = windows.trained_window(model.config)
    check_window(trained_window, config)
    _extend(model, config, trained_window, on_overflow)


def _unwrapped(model: Any) -> Any:
    """The transformers model inside PEFT's."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _extend(model: PreTrainedModel, positions: PositionMap, trained_window: int, on_overflow: OnOverflow) -> None:
    before = active_extension(model)
    anatomy = examine(model) if before is None else before.anatomy
    disable(model)
    Extension(anatomy, positions, trained_window, on_overflow).install(model)


def disable(model: PreTrainedModel) -> None:
    """Undo `enable`. The model then computes bit for bit what it did before. Without SelfExtend on it, does nothing."""
    extension = active_extension(model)
    if extension is not None:
        extension.remove()


@contextmanager
def self_extend(
    model: PreTrainedModel,
    config: SelfExtendConfig,
    *,
    trained_window: int | None = None,
    on_overflow: OnOverflow = "warn",
) -> Iterator[PreTrainedModel]:
    """`enable` for the length of a `with` block. Settings that were on before come back afterwards."""
    with paused(model):
        enable(model, config, trained_window=trained_window, on_overflow=on_overflow)
        yield model


@contextmanager
def extended(model: PreTrainedModel, positions: PositionMap, trained_window: int) -> Iterator[PreTrainedModel]:
    """The model under any position map for the length of a `with` block, whatever the length of its texts.

    Raises:
        UnsupportedArchitectureError: with the reason; nothing was changed on the model.
    """
    with paused(model):
        _extend(model, positions, trained_window, "ignore")
        yield model


@contextmanager
def paused(model: PreTrainedModel) -> Iterator[None]:
    """The untouched model for the length of a `with` block. Settings that were on before come back afterwards."""
    before = active_extension(model)
    disable(model)
    try:
        yield
    finally:
        disable(model)
        if before is not None:
            before.install(model)


def active_extension(model: object) -> Extension | None:
    """The extension that is on for this model or for a part of it, or None."""
    if not isinstance(model, nn.Module):
        return None
    for module in model.modules():
        extension = vars(module).get(ATTRIBUTE)
        if isinstance(extension, Extension):
            return extension
    return None


class Extension:
    """SelfExtend as it is switched on for one model. Made by `enable`.

    Attributes:
        anatomy: where the model is taken hold of.
        positions: the position map; `enable` is given SelfExtend's settings as one.
        trained_window, on_overflow: as given to `enable`.
        observer: sees each layer's rotated states while set; see `selfextend.recording`.
    """

    def __init__(self, anatomy: Anatomy, positions: PositionMap, trained_window: int, on_overflow: OnOverflow) -> None:
        self.anatomy = anatomy
        self.positions = positions
        self.trained_window = trained_window
        self.on_overflow = on_overflow
        self.observer: AttentionObserver | None = None
        self._configs: list[tuple[Any, Any]] = []
        self._warned = False
        self._undo = ExitStack()
        self._first_extended = min(layer.index for layer in anatomy.layers if layer.kind == "extended")

    def new_cache(self) -> SelfExtendCache:
        """An empty cache for this model with these settings."""
        plain = DynamicCache(config=self.anatomy.decoder.config)  # type: ignore[arg-type]
        layers: list[Any] = list(plain.layers)
        layers += [DynamicLayer() for _ in range(len(layers), 1 + max(layer.index for layer in self.anatomy.layers))]
        ends = [band.until for band in self.positions.bands if band.until is not None]
        for layer in self.anatomy.layers:
            if layer.rotates_in_cache and type(layers[layer.index]) is DynamicLayer:
                layers[layer.index] = SelfExtendLayer(ends)
        return SelfExtendCache(self.positions, layers)

    def install(self, model: PreTrainedModel) -> None:
        """Take hold of the model. Whatever fails on the way, nothing stays half done."""
        with ExitStack() as undo:
            decoder = self.anatomy.decoder
            undo.enter_context(kept_state(decoder))
            self._own_configs(undo, model)
            _attach(undo, decoder, ATTRIBUTE, self)
            for layer in self.anatomy.layers:
                _attach(undo, layer.module, ATTRIBUTE, layer)
                if layer.kind == "extended":
                    before = functools.partial(self._before_attention, layer)
                    undo.callback(layer.module.register_forward_pre_hook(before, with_kwargs=True).remove)
                    if not self.anatomy.uses_interface:
                        _attach(undo, layer.module, "forward", self._direct_forward(layer))
            undo.callback(model.register_forward_pre_hook(self._adopt_implementations).remove)
            undo.callback(decoder.register_forward_pre_hook(self._before_forward, with_kwargs=True).remove)
            undo.callback(decoder.register_forward_hook(self._after_forward, always_call=True).remove)
            if hasattr(model, "generate"):
                _attach(undo, model, "generate", self._generate(cast(Any, model.generate)))
            _attach(undo, model, "save_pretrained", self._save_pretrained(model))
            # For static caches generate() makes masks outside the forward pass; there, ours are made inside it.
            _attach(undo, model, "create_masks_for_generate", generation_masks)
            self._undo = undo.pop_all()

    def remove(self) -> None:
        """Let go of the model."""
        self._undo.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "A model with SelfExtend on cannot be copied or pickled. Disable it first, or use save_pretrained."
        )

    def _own_configs(self, undo: ExitStack, model: PreTrainedModel) -> None:
        """Give the model configurations of its own while SelfExtend is on: another model may share the ones it has.

        What somebody else changes in them meanwhile stays changed.
        """
        copied: dict[int, Any] = {}
        holders: list[Any] = [m for m in model.modules() if isinstance(vars(m).get("config"), PreTrainedConfig)]
        pairs = {id(module.config): (module.config, copy.deepcopy(module.config, copied)) for module in holders}
        for module in holders:
            undo.callback(setattr, module, "config", module.config)
            module.config = pairs[id(module.config)][1]
        attending = [self.anatomy.decoder, *(layer.module for layer in self.anatomy.layers)]
        runs = {id(vars(module).get("config")) for module in attending}
        for original, own in pairs.values():
            if id(own) in runs:
                self._configs.append((original, own))
                vars(own)[KEPT] = original._attn_implementation
                own._attn_implementation_internal = self._implementation
                if self.anatomy.own_window:
                    # With its own sliding window on, the model's masks and caches would drop the far keys.
                    if getattr(own, "layer_types", None) is None:
                        own.sliding_window = None
                    else:
                        own.layer_types = ["full_attention"] * len(own.layer_types)
            undo.callback(_carry_changes, dict(vars(own)), own, original)
        undo.callback(self._configs.clear)

    def _adopt_implementations(self, *_: Any) -> None:
        """Where an attention implementation was chosen meanwhile, the layers that keep what they do take it."""
        for original, own in self._configs:
            chosen = own._attn_implementation
            if chosen != self._implementation:
                vars(own)[KEPT] = original._attn_implementation_internal = chosen
                own._attn_implementation_internal = self._implementation

    @property
    def _implementation(self) -> str:
        return IMPLEMENTATION if self.anatomy.uses_interface else "sdpa"

    def _generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """`model.generate` that starts from a cache of ours where it would have made one of its own."""

        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(original).bind_partial(*args, **kwargs).arguments.get("generation_config")
            settings = given or getattr(original.__self__, "generation_config", None)  # type: ignore[attr-defined]
            choices = {
                name: kwargs.get(name, getattr(settings, name, None)) for name in ("use_cache", "cache_implementation")
            }
            makes_its_own = choices["use_cache"] is False or choices["cache_implementation"] is not None
            if kwargs.get("past_key_values") is None and not makes_its_own and not self.anatomy.makes_own_cache:
                kwargs["past_key_values"] = self.new_cache()
            return original(*args, **kwargs)

        return generate

    def _save_pretrained(self, model: PreTrainedModel) -> Callable[..., None]:
        """`model.save_pretrained` that writes the model's own configuration, not the one changed here."""
        original = model.save_pretrained

        @functools.wraps(original)
        def save_pretrained(*args: Any, **kwargs: Any) -> None:
            self.remove()
            try:
                original(*args, **kwargs)
            finally:
                self.install(model)

        return save_pretrained

    def _before_forward(self, decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Work out where the tokens of this pass stand, and see that there is a cache if one is wanted."""
        bound = inspect.signature(type(decoder).forward).bind_partial(decoder, *args, **kwargs).arguments
        bound.pop(next(iter(bound)))  # self
        kwargs = {**{k: v for k, v in bound.items() if k != "kwargs"}, **bound.get("kwargs", {})}
        tokens = kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs["inputs_embeds"]
        if torch.compiler.is_exporting():
            raise ValueError("A model with SelfExtend on cannot be exported. Call `disable` first.")
        self._adopt_implementations()
        cache = kwargs.get("past_key_values")
        use_cache = kwargs.get("use_cache")
        if use_cache is None:
            use_cache = getattr(decoder.config, "use_cache", False)
        if cache is None and use_cache and not decoder.training and not self.anatomy.makes_own_cache:
            cache = kwargs["past_key_values"] = self.new_cache()
        past = int(cache.get_seq_length(self._first_extended)) if cache is not None else 0
        position_ids = kwargs.get("position_ids")
        mask = padding_of(kwargs.get("attention_mask"))
        if isinstance(cache, BatchCache):
            step = batch_pass(self.positions, self.trained_window, cache, tokens.device)
        else:
            held = None if cache is None else content_of(cache, past, self.positions)
            step = forward_pass(self.positions, self.trained_window, tokens, past, mask, position_ids, held)
            step.observer = self.observer
            if cache is not None:
                keep_content(cache, step.content)
                step.expected = getattr(cache, "reserved", 0)
        if position_ids is None:
            kwargs["position_ids"] = step.query_positions
        self._check_reach(step.longest)
        current.set(step)
        return (), kwargs

    def _after_forward(self, decoder: nn.Module, args: Any, output: Any) -> None:
        step = current.get()
        current.set(None)
        made = getattr(output, "past_key_values", None)
        if self.anatomy.makes_own_cache and isinstance(made, Cache) and isinstance(step, ForwardPass):
            keep_content(made, step.content)

    def _check_reach(self, length: int) -> None:
        if self.on_overflow == "ignore":
            return
        complaint = self.positions.complaint(self.trained_window, length)
        if complaint is not None and self.on_overflow == "error":
            raise PastReachError(complaint)
        if complaint is not None and not self._warned:
            self._warned = True
            warnings.warn(complaint, PastReachWarning, stacklevel=2)

    def _before_attention(
        self, layer: AttentionLayer, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Have this layer leave its queries and keys unrotated, and make it the one under way."""
        embeddings = kwargs["position_embeddings"]
        mark = embeddings if isinstance(embeddings, torch.Tensor) else embeddings[0]
        if current.get() is None and hasattr(mark, ATTRIBUTE):
            # Gradient checkpointing computes the layer once more, long after its pass, with the same embeddings.
            current.set(getattr(mark, ATTRIBUTE))
            undo = ExitStack()
            undo.callback(current.set, None)
            undo.callback(module.register_forward_hook(lambda *_: undo.close(), always_call=True).remove)
        step = pass_under_way()
        setattr(mark, ATTRIBUTE, step)
        step.layer = LayerPass(step, layer)
        return args, {**kwargs, "position_embeddings": unrotated(embeddings)}

    def _direct_forward(self, layer: AttentionLayer) -> Callable[..., Any]:
        """The attention module's forward, with torch's attention function replaced inside it."""
        original = layer.module.forward

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("output_attentions"):
                raise ValueError("This model returns no attention weights while SelfExtend is on. Ask for none.")
            with DirectAttention():
                return original(*args, **kwargs)

        return forward


def _carry_changes(before: dict[str, Any], own: Any, original: Any) -> None:
    """Set what was set in a model's own configuration since `before` in the original too."""
    for name, value in vars(own).items():
        if name != KEPT and (name not in before or value is not before[name]):
            vars(original)[name] = value


def _attach(undo: ExitStack, module: nn.Module, name: str, value: Any) -> None:
    """Set an instance attribute until `undo` closes, whatever the class or the instance had before."""
    attributes = vars(module)
    if name in attributes:
        undo.callback(attributes.__setitem__, name, attributes[name])
    else:
        undo.callback(attributes.pop, name, None)
    attributes[name] = value
