"""Masks that transformers asks for while SelfExtend is on, made only when a layer needs one.

Most extended layers need none: causality and padding are all that their masks say. What says more (an image whose
tokens see each other, packed texts) is made here, for a few rows at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function, sdpa_mask


class DeferredMask:
    """A mask as it was asked for. Passes through a model in a mask's place.

    Args:
        arguments: of the call by which transformers makes a mask. See `transformers.masking_utils.sdpa_mask`.
    """

    ndim = 4

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments
        self._made: dict[str, Any] = {}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the mask in full: (batch, 1, q, past + q)."""
        return self._arguments["batch_size"], 1, self._arguments["q_length"], self._arguments["kv_length"]

    def __getitem__(self, _: Any) -> DeferredMask:
        """Models cut masks to the number of keys, which these have anyway."""
        return self

    @property
    def padding(self) -> torch.Tensor | None:
        """True where tokens may be seen, (batch, past + q); None where all may."""
        padding: torch.Tensor | None = self._arguments.get("attention_mask")
        return padding

    @property
    def is_causal(self) -> bool:
        """Whether causality and padding are all that it says."""
        return self._arguments["mask_function"] is causal_mask_function

    def made(self, implementation: str) -> Any:
        """The mask as an attention implementation of transformers wants it."""
        if implementation not in self._made:
            make = ALL_MASK_ATTENTION_FUNCTIONS.get(implementation)
            self._made[implementation] = None if make is None else make(**self._arguments)
        return self._made[implementation]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """What queries start ... stop - 1 may see, (batch, stop - start, past + q)."""
        offset = self._arguments["q_offset"] + start
        arguments = {**self._arguments, "q_length": stop - start, "q_offset": offset, "allow_is_causal_skip": False}
        mask = sdpa_mask(**arguments)
        assert mask is not None
        return mask[:, 0]


def deferred_mask(**arguments: Any) -> DeferredMask:
    """What transformers calls to make a mask. A mask that a wrapping model asked for already stays what it is."""
    given = arguments.get("attention_mask")
    return given if isinstance(given, DeferredMask) else DeferredMask(**arguments)


def padding_of(mask: Any) -> Any:
    """What a model was given as attention_mask, with masks asked for already turned back into the padding they had.

    A model may be given one mask for each type of layer. Masks made in full stay as they are, the full layers' first.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    return mask.padding if isinstance(mask, DeferredMask) else mask
