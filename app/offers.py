"""Models to load instead of the teaching model, once a document comes that it cannot answer about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from selfextend.loading.local import LocalModel
from selfextend.presets import PRESETS

from .model_menu import models_here
from .settings import Settings

if TYPE_CHECKING:
    import torch
    from gradio import Request

    from selfextend.loading.hardware import AskedQuantization

_ROOM = 0.9
"""The part of the free memory that weights may take; keys and values want some too."""
MOST_HERE = 5
"""Models on this machine that are offered: they are looked into before the page says anything, which takes a second for
each large vocabulary."""


@dataclass(frozen=True)
class Offer:
    """A model to answer questions with.

    Attributes:
        name: what to load: a hub id, a folder, a file.
        label: what to call it.
        file_bytes: to be downloaded, or on the disk already.
        memory_bytes: about what its weights take.
        here: whether it is on this machine already.
        trained_window: tokens, or None where nobody says it.
        licence: as its card names it; "" where nobody says it.
        gated: whether the hub wants an account that has accepted the licence.
    """

    name: str
    label: str
    file_bytes: int
    memory_bytes: int
    here: bool = False
    trained_window: int | None = None
    licence: str = ""
    gated: bool = False


def offers_for(settings: Settings, request: Request, device: torch.device, free_bytes: int) -> list[Offer]:
    """What fits this machine: models that are on it already, for who may load them, and presets."""
    found = {model.name: model for model in models_here(settings, request)}

    def can_be_asked(offer: Offer) -> bool:
        return _can_chat(found[offer.name].files, offer.file_bytes, str(device))

    local = [_local_offer(model, device, free_bytes, settings.quantization) for model in found.values()]
    left = iter(fitting(local, free_bytes))
    here = list(islice(filter(can_be_asked, left), MOST_HERE))
    names = {offer.name for offer in (*here, *left)}  # those that are left may be whole too
    presets = preset_offers(device, free_bytes, settings.quantization)
    return [*here, *fitting([offer for offer in presets if offer.name not in names], free_bytes)]


def _local_offer(model: LocalModel, device: torch.device, free_bytes: int, quantization: AskedQuantization) -> Offer:
    from selfextend.loading.memory import local_bytes

    return Offer(
        model.name,
        model.label if model.quantization in model.label else f"{model.label} ({model.quantization})",
        model.file_bytes,
        local_bytes(model, device, free_bytes, quantization),
        here=True,
        trained_window=model.trained_window,
    )


@lru_cache(maxsize=1000)
def _can_chat(files: Path, file_bytes: int, device: str) -> bool:
    """Whether a model on this machine can be asked about a document. Looked up once for each size of its files."""
    from selfextend.loading.models import can_chat

    return can_chat(files, device)


def preset_offers(device: torch.device, free_bytes: int, quantization: AskedQuantization = "auto") -> list[Offer]:
    """The presets that were made to answer questions, as `device` would hold them."""
    from selfextend.loading.memory import rough_bytes

    return [
        Offer(
            preset.repo_id,
            preset.label,
            preset.download_bytes,
            rough_bytes(preset.download_bytes // 2, "bfloat16", device, free_bytes, quantization, takes_nf4=True),
            trained_window=preset.trained_window,
            licence=preset.licence,
            gated=preset.gated,
        )
        for preset in PRESETS
        if preset.download_bytes is not None
    ]


def fitting(offers: Sequence[Offer], free_bytes: int) -> list[Offer]:
    """The offers that fit the memory that is free: those on this machine first, then those to be had with one click,
    the smallest first."""
    fit = [offer for offer in offers if offer.memory_bytes <= _ROOM * free_bytes]
    return sorted(fit, key=lambda offer: (not offer.here, offer.gated, offer.file_bytes))
