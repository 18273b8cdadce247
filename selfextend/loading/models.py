"""Loads a model and its tokenizer: from a folder, from the hub, or the bundled one; quantized or not.

Safetensors only, and no code from a repository is ever run. `load_model` does it in one call; `load_steps`
does the same as a generator that reports progress and can be closed at any point, after which nothing of the
model is left in memory. Knows nothing about SelfExtend: what comes out is transformers' own, untouched model.
"""

import gc
import os
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from selfextend.errors import (
    IncompleteModelError,
    ModelLoadError,
    ModelTooBigError,
    QuantizationUnavailableError,
    is_out_of_memory,
)
from selfextend.loading.hardware import Quantization, check_quantization, resolve_device
from selfextend.loading.memory import LayerCache, MemoryEstimate, estimate_memory
from selfextend.loading.sources import BUNDLED, bundled_folder, check_weights, fetch_steps, locate, read_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "BUNDLED",
    "LayerCache",
    "LoadStep",
    "MemoryEstimate",
    "bundled_folder",
    "estimate_memory",
    "load_model",
    "load_steps",
]

_POLL = 0.1
# Loading reports through a hook that transformers has one of, so two loads take turns.
_LOADING = threading.Lock()


@dataclass(frozen=True)
class LoadStep:
    """How far loading is.

    Attributes:
        phase: what is going on.
        fraction: 0 to 1 within the phase, or None where it cannot be told.
        message: one sentence for people.
        estimate: the memory it will take, from the phase "loading" on.
        model: the model, in the last step ("ready") only; in evaluation mode, its weights without gradients.
        tokenizer: its tokenizer, in the last step only.
        folder: where its files are, in the last step only.
    """

    phase: Literal["checking", "downloading", "loading", "ready"]
    fraction: float | None
    message: str
    estimate: MemoryEstimate | None = None
    model: "PreTrainedModel | None" = None
    tokenizer: "PreTrainedTokenizerBase | None" = None
    folder: Path | None = None


def load_model(
    name_or_path: str | os.PathLike[str],
    quantization: Quantization = "none",
    device: str = "auto",
    dtype: str = "auto",
    *,
    allow_oversize: bool = False,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Loads a causal language model and its tokenizer.

    Args:
        name_or_path: "bundled", a local folder, or a hub id such as "owner/name" (downloaded into the hub's
            cache).
        quantization: "none", or bitsandbytes' "int8" or "nf4", which also run on a CPU.
        device: "auto" spreads the model over all CUDA devices (accelerate's `device_map="auto"`), or takes
            the CPU where there is none; or a device's name.
        dtype: "float32", "bfloat16", "float16", or "auto": the checkpoint's own type where the device
            computes well in it, else float32.
        allow_oversize: try even if the weights do not fit into the memory that is free; with "auto" on CUDA
            what does not fit is then kept in main memory, which is slow.

    Returns:
        The model, in evaluation mode, with transformers' own attention; and the tokenizer, which always has a
        padding token (its end-of-sequence token where it had none).

    Raises:
        ModelLoadError: a subclass that says what is wrong and what to do. Nothing half-loaded remains.
        ValueError: an unknown quantization or dtype.
    """
    *_, last = load_steps(name_or_path, quantization, device, dtype, allow_oversize=allow_oversize)
    assert last.model is not None
    assert last.tokenizer is not None
    return last.model, last.tokenizer


def load_steps(
    name_or_path: str | os.PathLike[str],
    quantization: Quantization = "none",
    device: str = "auto",
    dtype: str = "auto",
    *,
    allow_oversize: bool = False,
) -> Generator[LoadStep, None, None]:
    """`load_model`, step by step: for progress bars and stop buttons.

    Closing the generator stops a download at once and a load at the next tensor. Files that arrived whole stay in
    the hub's cache and are not fetched again.

    Yields:
        LoadStep; the last one, of phase "ready", carries model and tokenizer.

    Raises:
        As `load_model`.
    """
    name = os.fspath(name_or_path)
    yield LoadStep("checking", None, f"Looking for {name}")
    target = resolve_device(device)
    check_quantization(quantization, target)
    source = locate(name)
    folder = yield from _with_progress(source.name, fetch_steps(source, weights=False), "Reading the config of")
    config = read_config(folder)
    if source.folder is not None:
        check_weights(folder)
    _refuse_second_quantization(name, config, quantization)
    estimate = estimate_memory(config, quantization, device, dtype)
    if not (estimate.fits or allow_oversize):
        raise ModelTooBigError(_too_big(name, estimate), estimate)
    folder = yield from _with_progress(source.name, fetch_steps(source, weights=True), "Downloading")
    check_weights(folder)
    yield LoadStep("loading", 0.0, f"Loading {name}: {estimate.describe()}", estimate)
    tokenizer = load_tokenizer(folder)
    model = None
    for fraction, model in _load_weights(folder, name, estimate, target, device):
        if model is None:
            yield LoadStep("loading", fraction, f"Loading the weights of {name}", estimate)
    yield LoadStep("ready", 1.0, f"{name} is ready", estimate, model, tokenizer, folder)


def _with_progress(name: str, steps: Generator[Any, None, Path], what: str) -> Generator[LoadStep, None, Path]:
    try:
        while True:
            try:
                progress = next(steps)
            except StopIteration as finished:
                folder: Path = finished.value
                return folder
            message, fraction = f"{what} {name}", None
            if progress.total_bytes:
                fraction = progress.done_bytes / progress.total_bytes
                message += f": {progress.done_bytes / 1e6:,.0f} of {progress.total_bytes / 1e6:,.0f} MB"
            yield LoadStep("downloading", fraction, message)
    finally:
        steps.close()


def _refuse_second_quantization(name: str, config: "PreTrainedConfig", quantization: Quantization) -> None:
    own = getattr(config, "quantization_config", None)
    if own and quantization != "none":
        method = own.get("quant_method", "some method") if isinstance(own, dict) else type(own).__name__
        raise QuantizationUnavailableError(
            f"The weights of {name} are quantized already ({method}). Load it with quantization 'none'."
        )


def _too_big(name: str, estimate: MemoryEstimate) -> str:
    advice = []
    if estimate.quantization != "nf4":
        advice.append("choose quantization 'nf4', which takes about a quarter of 16-bit weights")
    if estimate.dtype == "float32":
        advice.append("choose dtype 'bfloat16'")
    if estimate.device != "cpu":
        advice.append("choose device 'cpu' if there is more memory")
    advice.append("choose a smaller model, or close other programs")
    return f"{name} takes {estimate.describe()} Either {', or '.join(advice)}."


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in a model's folder; it always has a padding token.

    Raises:
        IncompleteModelError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise IncompleteModelError(
            f"{folder} has no tokenizer (tokenizer.json). Copy the tokenizer files of the model into it."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each tokenizer has its own ways to fail
        raise IncompleteModelError(f"The tokenizer in {folder} cannot be read: {error}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class _Stopped(BaseException):
    """Unwinds transformers' loading loop; a BaseException, so that no handler on the way takes it for a
    fault."""


class _Loading:
    """What the loading thread and the generator that watches it share."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.fraction = 0.0
        self.model: PreTrainedModel | None = None
        self.error: BaseException | None = None


def _load_weights(
    folder: Path, name: str, estimate: MemoryEstimate, target: torch.device, device: str
) -> "Iterator[tuple[float, PreTrainedModel | None]]":
    """Yields how far the weights are, and at the end the model."""
    while not _LOADING.acquire(timeout=_POLL):
        yield 0.0, None
    try:
        shared = _Loading()
        arguments = _from_pretrained_arguments(estimate, target, device)
        thread = threading.Thread(target=_load_in_thread, args=(folder, arguments, shared), daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_POLL)
                yield shared.fraction, None
        finally:
            shared.stop.set()
            thread.join()
            model, error = shared.model, shared.error
            shared.model = shared.error = None
        if error is not None:
            raise _translated(error, name, estimate)
        yield 1.0, model
    finally:
        _LOADING.release()
        model = None
        gc.collect()
        if target.type == "cuda":
            torch.cuda.empty_cache()


def _from_pretrained_arguments(estimate: MemoryEstimate, target: torch.device, device: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "dtype": getattr(torch, estimate.dtype),
        "use_safetensors": True,
        "trust_remote_code": False,
        "output_loading_info": True,
    }
    if device == "auto" and target.type == "cuda":
        arguments["device_map"] = "auto"
    else:
        arguments["device_map"] = {"": str(target)}
    if estimate.quantization != "none":
        from transformers import BitsAndBytesConfig

        if estimate.quantization == "int8":
            arguments["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        else:
            arguments["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=arguments["dtype"]
            )
    return arguments


def _load_in_thread(folder: Path, arguments: dict[str, Any], shared: _Loading) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    previous: Any = None

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.current_thread() is not own_thread:
            return previous(factory, args, kwargs) if previous else factory(*args, **kwargs)
        return _watched_bar(shared)(*args, **kwargs)

    own_thread = threading.current_thread()
    previous = logging.set_tqdm_hook(hook)
    try:
        # With `output_loading_info` the result is a pair, which its annotation does not tell.
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **arguments)
        model, info = loaded
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise IncompleteModelError(
                f"{len(missing)} weights of the model are in none of its files, for instance {missing[0]}. "
                "The files belong to another model, or some are missing: download or copy them again."
            )
        model.eval()
        model.requires_grad_(False)
        shared.model = model
    except BaseException as error:
        # The frames of the traceback hold what was loaded so far.
        traceback.clear_frames(error.__traceback__)
        shared.error = error
    finally:
        logging.set_tqdm_hook(previous)


def _watched_bar(shared: _Loading) -> type:
    from tqdm.auto import tqdm

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
    text = str(error)
    dispatched_elsewhere = "Some modules are dispatched on the CPU or the disk" in text
    if is_out_of_memory(error) or dispatched_elsewhere:
        translated: ModelLoadError = ModelTooBigError(
            f"Memory ran out while loading. {_too_big(name, estimate)}", estimate
        )
    else:
        translated = ModelLoadError(f"{name} could not be loaded ({type(error).__name__}): {text}")
    translated.__cause__ = error
    return translated
