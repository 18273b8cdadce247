"""A loaded model as one method runs it: set up in a `with` block, read in chunks, put back as it was.

Sliding-window attention is transformers' own sliding cache with a mask to match; the RoPE scalings are its own
rotary module built anew with other rope parameters. Knows nothing about probes, scores or records.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer

from selfextend.cache import SelfExtendCache
from selfextend.errors import UnsupportedArchitectureError
from selfextend.lab.methods import Method
from selfextend.plugin import active_extension, disable, self_extend
from selfextend.rotary import RotaryEmbedding, Tables, takes_positions


class Runner:
    """Reads tokens with one model under one method. Made by `running`."""

    def __init__(self, model: PreTrainedModel, window: int | None = None) -> None:
        self.model = model
        self.window = window

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[return-value]

    def new_cache(self, length: int) -> Cache:
        """An empty cache for a text of up to `length` tokens."""
        extension = active_extension(self.model)
        if extension is not None:
            cache = extension.new_cache()
            cache.reserve(length)
            return cache
        plain = DynamicCache(config=self.model.config)
        if self.window is not None:
            plain.layers = [DynamicSlidingWindowLayer(self.window) for _ in plain.layers]
        return plain

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor, cache: Cache, keep: int = 1) -> torch.Tensor:
        """Read tokens (rows, q) on. The logits of the last `keep` of each row, (rows, keep, vocabulary)."""
        arguments = {}
        if self.window is not None:
            past = int(cache.get_seq_length())
            arguments["position_ids"] = torch.arange(past, past + tokens.shape[1], device=self.device)[None]
            arguments["attention_mask"] = self._window_mask(past, tokens.shape[1])
        output = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=keep, **arguments)
        logits: torch.Tensor = output.logits
        return logits

    def _window_mask(self, past: int, new: int) -> torch.Tensor:
        """(1, 1, new, min(past, window - 1) + new): 0 where a key is less than `window` tokens back."""
        assert self.window is not None
        queries = torch.arange(past, past + new, device=self.device)[:, None]
        keys = torch.arange(past - min(past, self.window - 1), past + new, device=self.device)
        seen = (keys <= queries) & (queries - keys < self.window)
        dtype = self.model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=self.device)
        return mask.masked_fill_(~seen, torch.finfo(dtype).min)[None, None]


def fork(cache: Cache, rows: int, length: int) -> Cache:
    """A copy of a cache of one row, for `rows` continuations of up to `length` tokens each."""
    copied = copy.deepcopy(cache)
    if rows > 1:
        copied.batch_repeat_interleave(rows)
    if isinstance(copied, SelfExtendCache):
        copied.reserve(length)
    return copied


@contextmanager
def running(model: PreTrainedModel, method: Method, trained_window: int, length: int) -> Iterator[Runner]:
    """The model as `method` runs it on texts of up to `length` tokens. Afterwards it is as it was before.

    Args:
        trained_window: the paper's L, in tokens.

    Raises:
        UnsupportedArchitectureError: the method does not fit this model, and why.
        PastReachError: SelfExtend's settings do not reach `length`.
    """
    method.check(trained_window, length)
    config = method.config(trained_window, length)
    with ExitStack() as undo:
        before = active_extension(model)
        if before is not None:
            undo.callback(before.install, model)
            disable(model)
        window = None
        if config is not None:
            undo.enter_context(self_extend(model, config, trained_window=trained_window, on_overflow="ignore"))
        elif method.name == "window":
            window = _checked_window(model, trained_window)
        elif method.name != "vanilla" and length > trained_window:
            undo.enter_context(_rope(model, method.settings(trained_window, length), trained_window, length))
        yield Runner(model, window)


def _checked_window(model: PreTrainedModel, window: int) -> int:
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    if not kinds <= {"full_attention", "sliding_attention"} or len(kinds) > 1:
        raise UnsupportedArchitectureError(
            f"Plain sliding-window attention does not fit this model: its layers differ by design "
            f"({', '.join(sorted(kinds))}). Leave the method 'window' out."
        )
    return window


class _RotaryForLength(nn.Module):
    """A rotary module whose frequencies are those for one length, however the text is cut into chunks."""

    def __init__(self, module: nn.Module, length: int) -> None:
        super().__init__()
        self.module = module
        self.length = length

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Tables:
        return RotaryEmbedding(self.module, layer_type).tables(x, position_ids, self.length)


@contextmanager
def _rope(model: PreTrainedModel, settings: dict[str, Any], trained_window: int, length: int) -> Iterator[None]:
    """Transformers' rotary module with its `rope_parameters` changed, in place of the model's own."""
    changed = {
        "rope_type": settings["rope_type"],
        "factor": settings["factor"],
        "original_max_position_embeddings": trained_window,
    }
    found = [(name, module) for name, module in model.named_modules() if takes_positions(module)]
    if not found:
        raise UnsupportedArchitectureError(
            f"RoPE scaling ({settings['rope_type']}) does not fit this model: it has no rotary embedding."
        )
    with ExitStack() as undo:
        for name, module in found:
            config = copy.deepcopy(module.config)
            config.rope_parameters = _changed_parameters(config.rope_parameters, changed)
            config.max_position_embeddings = trained_window
            parent_name, _, attribute = name.rpartition(".")
            parent = model.get_submodule(parent_name)
            undo.callback(setattr, parent, attribute, module)
            rebuilt = type(module)(config=config).to(next(module.buffers()).device)
            setattr(parent, attribute, _RotaryForLength(rebuilt, length))
        yield


def _changed_parameters(parameters: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """The rope parameters with the scaling put in; of a set per layer type, in that of the layers that see all."""
    per_type = parameters.get("full_attention")
    if isinstance(per_type, dict):
        return {**parameters, "full_attention": _changed_parameters(per_type, changed)}
    own = parameters.get("rope_type", "default")
    if own != "default":
        raise UnsupportedArchitectureError(
            f"This model was trained with RoPE scaling of its own ({own}); putting {changed['rope_type']} in its place "
            "would break it inside its window too. Leave linear, dynamic and yarn out."
        )
    return {**parameters, **changed}
