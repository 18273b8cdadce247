"""Loads a model and its tokenizer: from a folder, a GGUF file, the hub, or the bundled one; quantized or not.

Safetensors and GGUF only, and no code from a repository is ever run. The result is transformers' own, untouched model.
"""

import os
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from selfextend.errors import IncompleteModelError, ModelLoadError
from selfextend.loading.gguf import gguf_tokenizer
from selfextend.loading.gguf_header import read_header
from selfextend.loading.hardware import AskedQuantization, check_quantization, resolve_device
from selfextend.loading.memory import (
    MemoryEstimate,
    estimate_files,
    estimate_memory,
    read_settled,
    too_big,
)
from selfextend.loading.quantized import check_own_quantization, check_stored_weights
from selfextend.loading.sources import (
    READING,
    bundled_folder,
    check_weights,
    fetch_steps,
    header_steps,
    locate,
    read_config,
)
from selfextend.loading.weights import weights_steps
from selfextend.presets import BUNDLED
from selfextend.steps import Progress, in_thread, result_of

__all__ = ["Loaded", "bundled_folder", "can_chat", "estimate_memory", "load_model", "load_steps", "load_tokenizer"]


T = TypeVar("T")


class Loaded(NamedTuple):
    """Attributes: the model and its tokenizer, the memory that was expected for it, and its folder or GGUF file."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    estimate: MemoryEstimate
    files: Path


def load_model(
    name_or_path: str | os.PathLike[str],
    quantization: AskedQuantization = "none",
    device: str = "auto",
    dtype: str = "auto",
    *,
    allow_oversize: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model and its tokenizer.

    Args:
        name_or_path: "bundled", a local folder, a GGUF file or a folder with one, or a hub id (downloaded into the
            hub's cache): "owner/name", or "owner/name:Q4_K_M" for one of its GGUF files. GGUF is unpacked.
        quantization: "none", which keeps a quantized checkpoint as it is; bitsandbytes' "int8" or "nf4", which also run
            on a CPU; or "auto": "nf4" on CUDA for what comes from the hub or from a GGUF file, unless it is quantized
            already and stays so or bitsandbytes is not installed, else "none".
        device: "auto" spreads the model over all CUDA devices (accelerate's `device_map="auto"`), or uses the CPU
            where there is none; or a device's name.
        dtype: "float32", "bfloat16", "float16", or "auto": the checkpoint's own type where the device computes well
            in it; on a CPU bfloat16 for 16-bit checkpoints where it has instructions for that, else float32.
        allow_oversize: try even if the weights do not fit into the memory that is free; with "auto" on CUDA
            what does not fit is then kept in main memory, which is slow.

    Returns:
        The model, in evaluation mode, with transformers' own attention; and the tokenizer, which always has a
        padding token (its end-of-sequence token where it had none).

    Raises:
        ModelLoadError: a subclass that says what is wrong and what to do. Nothing half-loaded remains.
        ValueError: an unknown quantization or dtype.
    """
    loaded = result_of(load_steps(name_or_path, quantization, device, dtype, allow_oversize=allow_oversize))
    return loaded.model, loaded.tokenizer


def load_steps(
    name_or_path: str | os.PathLike[str],
    quantization: AskedQuantization = "none",
    device: str = "auto",
    dtype: str = "auto",
    *,
    allow_oversize: bool = False,
) -> Generator[Progress, None, Loaded]:
    """`load_model`, step by step: for progress bars and stop buttons. Arguments and errors are the same.

    Closing the generator stops a download at once and a load at the next tensor; nothing of the model is left in memory
    then. Complete files stay in the hub's cache and are not fetched again.
    """
    name = os.fspath(name_or_path)
    spoken = "the model that comes with the app" if name == BUNDLED else name
    looking = Progress(f"Looking for {spoken}")
    yield looking
    target = resolve_device(device)
    if quantization != "auto":
        check_quantization(quantization, target)
    source = locate(name)
    files = yield from fetch_steps(source, weights=False)
    config, settled = yield from _aside(partial(read_settled, source, files, quantization, target), looking)
    if source.files is not None:
        check_weights(files)
    estimating = partial(estimate_files, config=config, settled=settled, device=device, dtype=dtype)
    headers = yield from header_steps(source, files, config)
    estimate = yield from _aside(partial(estimating, headers), looking)
    _refuse_too_big(name, estimate, allow_oversize)
    if source.files is None:
        files = yield from fetch_steps(source, weights=True)
        config = yield from _aside(partial(read_config, files), looking)
        check_weights(files)
        estimate = yield from _aside(partial(estimating, files), looking)
        _refuse_too_big(name, estimate, allow_oversize)
    if files.is_dir():
        check_stored_weights(name, files, config)
    tokenizer = yield from _aside(
        partial(load_tokenizer, files), Progress(f"Loading {spoken}: {estimate.describe()}", 0.0)
    )
    model = yield from weights_steps(name, files, config, estimate, device)
    return Loaded(model, tokenizer, estimate, files)


def _aside(read: Callable[[], T], progress: Progress) -> Generator[Progress, None, T]:
    """What is read of a model's files before its weights: a moment, but longer than who stops the load should wait."""

    def alone() -> T:
        with READING:
            return read()

    return (yield from in_thread(alone, lambda: progress))


def can_chat(files: Path, device: str = "auto") -> bool:
    """Whether a model that is here can be loaded on this device, as far as its headers tell, and was made to chat.

    Args:
        files: its folder or GGUF file.
    """
    try:
        with READING:
            config = read_config(files)
            check_own_quantization(str(files), config, resolve_device(device))
            check_weights(files)
            if files.is_file():
                return "tokenizer.chat_template" in read_header(files).metadata
            check_stored_weights(str(files), files, config)
            return load_tokenizer(files).chat_template is not None
    except ModelLoadError:
        return False


def _refuse_too_big(name: str, estimate: MemoryEstimate, allow_oversize: bool) -> None:
    if not (estimate.fits or allow_oversize):
        raise too_big(name, estimate)


def load_tokenizer(files: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder or GGUF file; it always has a padding token.

    Raises:
        IncompleteModelError: there is none, or it cannot be read.
        UnsupportedModelError: the one in a GGUF file splits text in a way that is not known here.
    """
    tokenizer = gguf_tokenizer(files) if files.is_file() else _folder_tokenizer(files)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _folder_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise IncompleteModelError(
            f"{folder} has no tokenizer (tokenizer.json). Copy the tokenizer files of the model into it."
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each tokenizer has its own ways to fail
        raise IncompleteModelError(f"The tokenizer in {folder} cannot be read: {error}") from error
    return tokenizer
