"""Plain sliding-window attention: far keys are not seen at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from selfextend.errors import UnsupportedArchitectureError
from selfextend.methods.base import Method
from selfextend.profile import Profile

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

    from selfextend.reader import Reader


@dataclass(frozen=True)
class SlidingWindow(Method):
    """Attention over the last `window` tokens, with transformers' own sliding cache and a mask to match.

    Attributes:
        window: in tokens; None is the trained window.
    """

    window: int | None = None

    kind = "window"
    heading = "Sliding window"
    symbols = (("window", "window"),)
    takes_query_scaling = False

    def at(self, profile: Profile, length: int) -> Self:
        return replace(self, window=profile.trained_window if self.window is None else self.window)

    @contextmanager
    def _change(self, model: PreTrainedModel, trained_window: int, length: int, observed: bool) -> Iterator[Reader]:
        import torch
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicSlidingWindowLayer

        from selfextend.reader import Reader

        assert self.window is not None
        window = self.window
        kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
        if not kinds <= {"full_attention", "sliding_attention"} or len(kinds) > 1:
            raise UnsupportedArchitectureError(
                f"Plain sliding-window attention does not fit this model: its layers differ by design "
                f"({', '.join(sorted(kinds))}). Leave the method 'window' out."
            )

        def new_cache(length: int) -> Cache:
            cache = DynamicCache(config=model.config)
            cache.layers = [DynamicSlidingWindowLayer(window) for _ in cache.layers]
            return cache

        def arguments(past: int, new: int) -> dict[str, Any]:
            """The mask is (1, 1, new, min(past, window - 1) + new): 0 where a key is less than `window` tokens back."""
            device = reader.device
            queries = torch.arange(past, past + new, device=device)[:, None]
            keys = torch.arange(past - min(past, window - 1), past + new, device=device)
            seen = (keys <= queries) & (queries - keys < window)
            mask = torch.zeros(seen.shape, dtype=model.dtype, device=device)
            mask.masked_fill_(~seen, torch.finfo(model.dtype).min)
            return {"position_ids": queries.T, "attention_mask": mask[None, None]}

        reader = Reader(model, new_cache, arguments)
        yield reader
