"""What the model menu offers first: the models on this machine, for those who may load them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfextend.loading.local import LocalModel, local_models, usual_stores
from selfextend.loading.quantization_methods import missing_packages
from selfextend.loading.sizes import readable

from .server.accounts import may_load_models
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
    if not torch_is_here:
        return [(_words(model), model.name) for model in found]
    from selfextend.loading.hardware import available_bytes, resolve_device
    from selfextend.loading.memory import local_bytes

    device = resolve_device("auto")
    free = available_bytes(device)
    taken = [local_bytes(model, device, free, settings.quantization) for model in found]
    return [(_words(model, fits=needed <= free), model.name) for model, needed in zip(found, taken, strict=True)]


def _words(model: LocalModel, *, fits: bool | None = None) -> str:
    window = f"{model.trained_window:,} tokens" if model.trained_window else "window unknown"
    words = [model.label, model.quantization, readable(model.file_bytes), window]
    missing = missing_packages(model.quantization)
    if missing:
        words.append(f"needs pip install {missing}")
    elif fits is not None:
        words.append("fits" if fits else "too big for this machine now")
    return f"{' · '.join(words)} ({model.place})"
