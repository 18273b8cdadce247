"""What this machine offers a model: devices, free memory, number formats, quantization."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import psutil
import torch

from selfextend.errors import DeviceUnavailableError, QuantizationUnavailableError
from selfextend.loading.quantization_methods import missing_packages

Quantization = Literal["none", "int8", "nf4"]
AskedQuantization = Literal["auto", "none", "int8", "nf4"]


def resolve_device(device: str) -> torch.device:
    """The device of a name; "auto" is "cuda" (without a number: all CUDA devices) where there is one, else the CPU.

    Args:
        device: "auto", "cpu", "cuda", "cuda:0", "mps", ...

    Raises:
        DeviceUnavailableError: no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise DeviceUnavailableError(
            f"{device!r} is not a device. Use 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'."
        ) from None
    if found.type == "cuda" and not 0 <= (found.index or 0) < torch.cuda.device_count():
        raise DeviceUnavailableError(
            f"{device!r} is not here: this torch ({torch.__version__}) sees {torch.cuda.device_count()} CUDA "
            "device(s). Use 'auto' or 'cpu', or install a CUDA build of torch."
        )
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceUnavailableError("'mps' is not available on this machine. Use 'auto' or 'cpu'.")
    return found


def available_bytes(device: torch.device) -> int:
    """Bytes that are free on the device now; "cuda" without a number means all CUDA devices together."""
    if device.type == "cuda":
        indices = range(torch.cuda.device_count()) if device.index is None else [device.index]
        return sum(torch.cuda.mem_get_info(index)[0] for index in indices)
    free = psutil.virtual_memory().available
    limit = _container_limit()
    return free if limit is None else min(free, limit)


def _container_limit() -> int | None:
    """Bytes that this container may still take, where it has a limit of its own (cgroup v2), which psutil ignores."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((group / "memory.current").read_text())
        # The page cache counts as used there, and is freed on demand.
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(statistics.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 rather than emulating it.

    On a CPU without such instructions a bfloat16 matrix product is several times slower than a float32 one.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # The oldest supported torch lacks this; the answer is then no.
    capabilities: Mapping[str, bool | int | str] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"))


def check_quantization(quantization: Quantization, device: torch.device) -> None:
    """Checks that this machine can run the quantization, by running a small piece of it on the device.

    Raises:
        ValueError: not one of "none", "int8", "nf4".
        QuantizationUnavailableError: bitsandbytes is missing, or does not work with this device.
    """
    if quantization not in get_args(Quantization):
        raise ValueError(f"quantization must be 'none', 'int8' or 'nf4', not {quantization!r}.")
    if quantization == "none":
        return
    missing = missing_packages("bitsandbytes")
    if missing:
        raise QuantizationUnavailableError(
            f"{quantization} needs the package bitsandbytes, which is not installed: pip install {missing}, or choose "
            "quantization 'none'."
        )
    try:
        from bitsandbytes import functional

        sample = torch.ones(64, 64, dtype=torch.float16, device=device)
        if quantization == "nf4":
            functional.quantize_4bit(sample, quant_type="nf4")
        else:
            functional.int8_vectorwise_quant(sample)
    except Exception as error:  # bitsandbytes fails in as many ways as there are drivers
        raise QuantizationUnavailableError(
            f"bitsandbytes cannot run {quantization} on {device} here ({type(error).__name__}: {error}). "
            "Choose quantization 'none', or device 'cpu'."
        ) from error
    # It logs a notice for every layer of every forward pass, which is dropped unless it was asked for.
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
