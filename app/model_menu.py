"""What the model menu offers first: the models on this machine, for those who may load them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfextend.loading.local import LocalModel, local_models, usual_stores
from selfextend.loading.sizes import readable

from .accounts import may_load_models
from .settings import Settings

if TYPE_CHECKING:
    from gradio import Request


def models_here(settings: Settings, request: Request) -> list[LocalModel]:
    """The models on this machine; none for who may not load them, since their names and folders are nobody else's."""
    return local_models(usual_stores(settings.models_folders)) if may_load_models(settings, request) else []


def local_choices(settings: Settings, request: Request, *, torch_is_here: bool) -> list[tuple[str, str]]:
    """What to call each model on this machine, its facts, and its name; none for who may not load them.

    Args:
        request: of who asks.
        torch_is_here: whether torch was imported, which knows how much memory is free. It takes seconds to import, and
            is imported where the first model is loaded.
    """
    found = models_here(settings, request)
    free = nf4 = None
    if torch_is_here:
        from selfextend.loading.hardware import available_bytes, resolve_device

        device = resolve_device("auto")
        free, nf4 = available_bytes(device), device.type == "cuda"
    return [(_words(model, free, nf4=bool(nf4)), model.name) for model in found]


def _words(model: LocalModel, free: int | None, *, nf4: bool) -> str:
    window = f"{model.trained_window:,} tokens" if model.trained_window else "window unknown"
    words = [model.label, model.quantization, readable(model.file_bytes), window]
    if free is not None and model.memory_bytes(nf4=nf4) > free:
        words.append("too big for this machine now")
    elif free is not None:
        words.append("fits")
    return f"{' · '.join(words)} ({model.place})"
