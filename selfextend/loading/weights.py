"""Loads a model's weights in a thread of its own, which reports how far it is and can be stopped."""

import gc
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from selfextend.errors import IncompleteModelError, ModelLoadError, is_out_of_memory
from selfextend.loading.gguf_weights import load_gguf
from selfextend.loading.memory import MemoryEstimate, too_big
from selfextend.loading.quantized import loading_arguments
from selfextend.steps import POLL_SECONDS, Progress, in_thread

# Loading reports through a hook that transformers has one of, so two loads take turns.
_LOADING = threading.Lock()


class _Stopped(BaseException):
    """Ends transformers' loading loop; a BaseException, so that no handler on the way treats it as a fault."""


class _Loading:
    """What the loading thread and the generator that watches it share."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.fraction = 0.0
        self.model: PreTrainedModel | None = None
        self.error: BaseException | None = None


def weights_steps(
    name: str, files: Path, config: PreTrainedConfig, estimate: MemoryEstimate, device: str
) -> Generator[Progress, None, PreTrainedModel]:
    """The model in `files`, in evaluation mode, its weights without gradients.

    Closing the generator stops the load at the next tensor and frees what was loaded.

    Args:
        name: what to call the model.
        files: its folder, or its GGUF file, as `config` was read from it.
        estimate: its quantization, number format and device.
        device: as it was asked for; "auto" spreads the model over all CUDA devices.

    Raises:
        ModelLoadError: a subclass that says what is wrong. Nothing half-loaded remains.
    """
    words = "Loading the weights"
    while not _LOADING.acquire(timeout=POLL_SECONDS):
        yield Progress(words, 0.0)
    try:
        with _leaving_no_garbage():
            return (yield from _watched(words, name, files, config, estimate, device))
    finally:
        _LOADING.release()
        torch.cuda.empty_cache()


@contextmanager
def _leaving_no_garbage() -> Iterator[None]:
    """A block whose garbage is collected in milliseconds, since what was there before is not looked at.

    Where a program has frozen what it imported, that is most of it: then nothing else is, and it stays so.
    """
    freezes = gc.get_freeze_count() == 0
    if freezes:
        gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        if freezes:
            gc.unfreeze()


def _watched(
    words: str, name: str, files: Path, config: PreTrainedConfig, estimate: MemoryEstimate, device: str
) -> Generator[Progress, None, PreTrainedModel]:
    shared = _Loading()
    arguments = _from_pretrained_arguments(estimate, device) | loading_arguments(config)
    if files.is_file():
        load: Callable[[], Any] = partial(load_gguf, files, config, **arguments)
    else:
        load = partial(AutoModelForCausalLM.from_pretrained, files, **arguments)
    try:
        yield from in_thread(partial(_load, load, shared), lambda: Progress(words, shared.fraction), shared.stop.set)
        if shared.error is not None:
            raise _translated(shared.error, name, estimate)
        assert shared.model is not None
        return shared.model
    finally:
        shared.model = shared.error = None


def _from_pretrained_arguments(estimate: MemoryEstimate, device: str) -> dict[str, Any]:
    spread = device == "auto" and estimate.device == "cuda"
    arguments: dict[str, Any] = {
        "dtype": getattr(torch, estimate.dtype),
        "device_map": "auto" if spread else {"": estimate.device},
        "use_safetensors": True,
        "trust_remote_code": False,
        "output_loading_info": True,
    }
    if estimate.quantization == "int8":
        arguments["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    elif estimate.quantization == "nf4":
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=arguments["dtype"]
        )
    return arguments


def _load(load: Callable[[], Any], shared: _Loading) -> None:
    previous: Any = None

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.current_thread() is not own_thread:
            return previous(factory, args, kwargs) if previous else factory(*args, **kwargs)
        return _watched_bar(shared)(*args, **kwargs)

    own_thread = threading.current_thread()
    previous = logging.set_tqdm_hook(hook)
    try:
        # With `output_loading_info` the result is a pair, which its annotation does not say.
        model, info = load()
        missing = sorted(info["missing_keys"])
        if missing:
            raise IncompleteModelError(
                f"{len(missing)} weights of the model are in none of its files, for instance {missing[0]}. "
                "The files belong to another model, or some are missing: download or copy them again."
            )
        _keep_odd_layers_unpacked(model)
        shared.model = model.eval().requires_grad_(False)
    except BaseException as error:
        # The frames of the traceback hold what was loaded so far.
        traceback.clear_frames(error.__traceback__)
        shared.error = error
    finally:
        logging.set_tqdm_hook(previous)


def _keep_odd_layers_unpacked(model: PreTrainedModel) -> None:
    """On processors with bfloat16 instructions bitsandbytes packs 4-bit weights anew, in blocks of 32 outputs and 64
    inputs, and fails where they do not fit a layer. Its other way works there."""
    layers: list[Any] = [each for each in model.modules() if getattr(each, "support_avx512bf16_for_cpu", False)]
    for layer in layers:
        if layer.out_features % 32 or layer.in_features % 64:
            layer.support_avx512bf16_for_cpu = False


def _watched_bar(shared: _Loading) -> type:
    class WatchedBar(tqdm):
        """Counts instead of drawing, and ends the loop when the load was stopped."""

        def __iter__(self) -> Iterator[Any]:
            total = self.total or 0
            for count, item in enumerate(self.iterable):
                if shared.stop.is_set():
                    raise _Stopped
                yield item
                shared.fraction = (count + 1) / total if total else 0.0

        def display(self, *args: Any, **options: Any) -> None:
            """Draws nothing."""

    return WatchedBar


def _translated(error: BaseException, name: str, estimate: MemoryEstimate) -> BaseException:
    if isinstance(error, ModelLoadError):
        return error
    dispatched_elsewhere = "Some modules are dispatched on the CPU or the disk" in str(error)
    if is_out_of_memory(error) or dispatched_elsewhere:
        translated: ModelLoadError = too_big(name, estimate, "Memory ran out while loading. ")
    else:
        translated = ModelLoadError(f"{name} could not be loaded ({type(error).__name__}): {error}")
    translated.__cause__ = error
    return translated
