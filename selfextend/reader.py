"""A model as one method reads with it: caches and forward passes. Made by `selfextend.methods.Method.on`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from selfextend.midway import ends_on_request
from selfextend.plugin import active_extension


class Reader:
    """Reads tokens with one model.

    Attributes:
        model: set up for the method.
        reads_as: the position map that keys are rotated for, or the method that has none: what must be the same for a
            cache to be read on from.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        make_cache: Callable[[int], Cache] | None = None,
        arguments: Callable[[int, int], dict[str, Any]] | None = None,
    ) -> None:
        """Args:
        make_cache: tokens of a text -> an empty cache for it; the model's own unless given.
        arguments: tokens in the cache, new tokens -> what else the model is called with; nothing unless given.
        """
        self.model = model
        self.reads_as: Any = None
        self._make_cache = make_cache
        self._arguments = arguments

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return next(self.model.get_input_embeddings().parameters()).device

    def new_cache(self, length: int) -> Cache:
        """An empty cache for a text of up to `length` tokens."""
        extension = active_extension(self.model)
        if extension is not None:
            cache = extension.new_cache()
            cache.reserve(length)
            return cache
        return DynamicCache(config=self.model.config) if self._make_cache is None else self._make_cache(length)

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor, cache: Cache, keep: int = 1) -> torch.Tensor:
        """Read tokens (rows, q) on. The logits of the last `keep` of each row, (rows, keep, vocabulary).

        Raises:
            EndNow: it ended between two layers, see `selfextend.midway`.
        """
        more = {} if self._arguments is None else self._arguments(int(cache.get_seq_length()), tokens.shape[1])
        with ends_on_request(self.model, cache, tokens.shape[1]):
            output = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=keep, **more)
        logits: torch.Tensor = output.logits
        return logits
