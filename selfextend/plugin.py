"""Switching SelfExtend on and off for a loaded transformers model, through one seam and without copied forwards.

Each extended attention layer is given rotary tables that rotate nothing, so that its queries and keys reach the
attention function unrotated; there they are rotated at SelfExtend's positions (`selfextend.forward`). Everything is
undone by `disable`.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn
from transformers import DynamicCache, PreTrainedModel

from selfextend import windows
from selfextend.cache import SelfExtendCache, SelfExtendLayer, writing
from selfextend.config import SelfExtendConfig, check_window
from selfextend.errors import PastReachError, PastReachWarning, UnsupportedArchitectureError
from selfextend.forward import AttentionObserver, LayerPass, current, forward_pass
from selfextend.interface import ATTRIBUTE, IMPLEMENTATION, DirectAttention, padding_mask, pass_under_way
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
        anatomy = examine(model) if extension is None else extension.anatomy
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
        trained_window: the paper's L, in tokens; read from the model's configuration unless given.
        on_overflow: what to do about a sequence past the reach: "warn", "error" or "ignore".

    Raises:
        UnsupportedArchitectureError: with the reason; nothing was changed on the model.
        ValueError: neighbor_window is not below the trained window, or an unknown `on_overflow`.
    """
    if on_overflow not in ("warn", "error", "ignore"):
        raise ValueError(f"on_overflow must be 'warn', 'error' or 'ignore', not {on_overflow!r}.")
    if trained_window is None:
        trained_window = windows.trained_window(model.config)
    check_window(trained_window, config)
    _extend(model, config, trained_window, on_overflow)


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
        self.original_implementation = "sdpa"
        self._warned = False
        self._undo = ExitStack()

    def new_cache(self) -> SelfExtendCache:
        """An empty cache for this model with these settings."""
        count = max(layer.index for layer in self.anatomy.layers) + 1
        plain = DynamicCache(config=self.anatomy.decoder.config)  # type: ignore[arg-type]
        layers: list[Any] = [plain.layers[index] for index in range(count)]
        ends = [band.until for band in self.positions.bands if band.until is not None]
        for layer in self.anatomy.layers:
            if layer.kind == "extended":
                layers[layer.index] = SelfExtendLayer(ends)
        return SelfExtendCache(self.positions, layers)

    def install(self, model: PreTrainedModel) -> None:
        """Take hold of the model. Whatever fails on the way, nothing stays half done."""
        with ExitStack() as undo:
            decoder = self.anatomy.decoder
            undo.enter_context(kept_state(decoder))
            _attach(undo, decoder, ATTRIBUTE, self)
            modules = [decoder, *(layer.module for layer in self.anatomy.layers)]
            for config in {id(m.config): m.config for m in modules if hasattr(m, "config")}.values():
                self._change_config(undo, config)
            for layer in self.anatomy.layers:
                _attach(undo, layer.module, ATTRIBUTE, layer)
                if layer.kind == "extended":
                    before = functools.partial(self._before_attention, layer)
                    undo.callback(layer.module.register_forward_pre_hook(before, with_kwargs=True).remove)
                    if not self.anatomy.uses_interface:
                        _attach(undo, layer.module, "forward", self._direct_forward(layer))
            undo.callback(decoder.register_forward_pre_hook(self._before_forward, with_kwargs=True).remove)
            undo.callback(decoder.register_forward_hook(self._after_forward, always_call=True).remove)
            if hasattr(model, "generate"):
                _attach(undo, model, "generate", self._generate(cast(Any, model.generate)))
            _attach(undo, model, "save_pretrained", self._save_pretrained(model))
            # For static caches generate() makes masks outside the forward pass; there, ours are made inside it.
            _attach(undo, model, "create_masks_for_generate", padding_mask)
            self._undo = undo.pop_all()

    def remove(self) -> None:
        """Let go of the model."""
        self._undo.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "A model with SelfExtend on cannot be copied or pickled. Disable it first, or use save_pretrained."
        )

    def _change_config(self, undo: ExitStack, config: Any) -> None:
        self.original_implementation = config._attn_implementation
        undo.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation)
        config._attn_implementation_internal = IMPLEMENTATION if self.anatomy.uses_interface else "sdpa"
        if self.anatomy.own_window:
            # With its own sliding window on, the model's masks and caches would drop the far keys.
            name = "sliding_window" if getattr(config, "layer_types", None) is None else "layer_types"
            before = getattr(config, name)
            undo.callback(setattr, config, name, before)
            setattr(config, name, None if name == "sliding_window" else ["full_attention"] * len(before))

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
            if kwargs.get("past_key_values") is None and not makes_its_own:
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
        cache = kwargs.get("past_key_values")
        use_cache = kwargs.get("use_cache")
        if use_cache is None:
            use_cache = getattr(decoder.config, "use_cache", False)
        if cache is None and use_cache and not decoder.training:
            cache = kwargs["past_key_values"] = self.new_cache()
        if isinstance(cache, SelfExtendCache) and cache.positions != self.positions:
            raise ValueError(
                f"This cache was filled with {cache.positions}, but the model now runs with {self.positions}. Start "
                "with a new cache: with other settings every layer above the first computes something else."
            )
        past = int(cache.get_seq_length()) if cache is not None else 0
        mask, position_ids = kwargs.get("attention_mask"), kwargs.get("position_ids")
        step = forward_pass(self.positions, self.trained_window, tokens, past, mask, position_ids)
        step.observer = self.observer
        step.kept = frozenset(layer.kind for layer in self.anatomy.layers) - {"extended"}
        step.kept_implementation = self.original_implementation
        if isinstance(cache, SelfExtendCache):
            step.expected = cache.reserved
        if position_ids is None:
            kwargs["position_ids"] = step.query_positions
        self._check_reach(step.longest)
        current.set(step)
        return (), kwargs

    def _after_forward(self, *_: Any) -> None:
        current.set(None)
        writing.set(None)

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
        """Have this layer leave its queries and keys unrotated, and tell its cache how to rotate the keys."""
        cache = next((value for value in kwargs.values() if isinstance(value, SelfExtendCache)), None)
        LayerPass.begin(pass_under_way(), layer, cache)
        return args, {**kwargs, "position_embeddings": unrotated(kwargs["position_embeddings"])}

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


def _attach(undo: ExitStack, module: nn.Module, name: str, value: Any) -> None:
    """Set an instance attribute until `undo` closes, whatever the class or the instance had before."""
    attributes = vars(module)
    if name in attributes:
        undo.callback(attributes.__setitem__, name, attributes[name])
    else:
        undo.callback(attributes.pop, name, None)
    attributes[name] = value
