"""`doctor`: what this machine and installation can do."""

from __future__ import annotations

import argparse
import platform
import shutil
from importlib.util import find_spec
from typing import Any

import torch
import transformers

from selfextend.errors import ModelLoadError, QuantizationUnavailableError
from selfextend.loading.hardware import available_bytes, check_quantization, has_fast_bfloat16, resolve_device
from selfextend.loading.models import bundled_folder

_EXTRAS = {"app": "gradio", "eval": "lm_eval", "ray": "ray", "quantization": "bitsandbytes"}


def run_doctor(_: argparse.Namespace) -> dict[str, Any]:
    device = resolve_device("auto")
    quantizations = {}
    for name in ("int8", "nf4"):
        try:
            check_quantization(name, device)
            quantizations[name] = "works"
        except QuantizationUnavailableError as error:
            quantizations[name] = str(error)
    try:
        bundled = str(bundled_folder())
    except ModelLoadError as error:
        bundled = f"missing: {error}"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(device),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "free_bytes": available_bytes(device),
        "free_disk_bytes": shutil.disk_usage(".").free,
        "fast_bfloat16": has_fast_bfloat16(device),
        "quantization": quantizations,
        "extras": {extra: find_spec(package) is not None for extra, package in _EXTRAS.items()},
        "bundled_model": bundled,
    }


def show_doctor(result: dict[str, Any]) -> None:
    print(f"python {result['python']}, torch {result['torch']}, transformers {result['transformers']}")
    devices = ", ".join(result["devices"]) or f"{result['threads']} threads"
    bfloat16 = "computes well in bfloat16" if result["fast_bfloat16"] else "no fast bfloat16"
    print(f"device          {result['device']} ({devices}), {result['free_bytes'] / 1e9:,.1f} GB free, {bfloat16}")
    print(f"bundled model   {result['bundled_model']}")
    for name, state in result["quantization"].items():
        print(f"{name:<15} {state}")
    for name, there in result["extras"].items():
        print(f"extra {name:<9} {'installed' if there else f'missing: pip install selfextend[{name}]'}")
