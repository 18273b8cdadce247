"""`suggest`, `map` and `doctor`: what needs no model."""

from __future__ import annotations

import argparse
import platform
import shutil
from typing import Any

from selfextend.config import (
    SelfExtendConfig,
    explain_max_length,
    max_length,
    paper_max_length,
    rule_share,
    suggest,
)


def add_commands(commands: Any) -> None:
    one = commands.add_parser("suggest", help="group size and neighbor window for a length")
    one.add_argument("--trained-window", "-L", type=int, help="tokens the model was trained on")
    one.add_argument("--model", help="take the trained window from this model's configuration")
    one.add_argument("--length", "-N", type=int, required=True, help="tokens of prompt and answer together")
    one.add_argument("--neighbor-window", "-w", type=int, help="a quarter of the trained window unless given")
    one.set_defaults(run=run_suggest, show=show_suggest)

    one = commands.add_parser("map", help="the relative positions that SelfExtend gives, for any part of a text")
    one.add_argument("--trained-window", "-L", type=int, required=True)
    one.add_argument("--group-size", "-G", type=int, required=True)
    one.add_argument("--neighbor-window", "-w", type=int, required=True)
    one.add_argument("--length", "-N", type=int, required=True, help="tokens in the text")
    one.add_argument("--query-from", type=int, default=0)
    one.add_argument("--query-to", type=int, help="one past the last; the length unless given")
    one.add_argument("--key-from", type=int, default=0)
    one.add_argument("--key-to", type=int)
    one.add_argument("--method", choices=("selfextend", "vanilla", "difference"), default="selfextend")
    one.add_argument("--cells", type=int, default=16, help="most rows and columns (at most 512)")
    one.set_defaults(run=run_map, show=show_map)

    one = commands.add_parser("doctor", help="what this machine and installation can do")
    one.set_defaults(run=run_doctor, show=show_doctor)


def run_suggest(arguments: argparse.Namespace) -> dict[str, Any]:
    window = arguments.trained_window
    if (window is None) == (arguments.model is None):
        raise ValueError("Give either --trained-window or --model.")
    if window is None:
        from selfextend.lab.target import find_target

        window = find_target(arguments.model).trained_window
    config = suggest(window, arguments.length, neighbor_window=arguments.neighbor_window)
    return {
        "trained_window": window,
        "length": arguments.length,
        "group_size": config.group_size,
        "neighbor_window": config.neighbor_window,
        "reach": max_length(window, config),
        "reach_of_the_paper": paper_max_length(window, config),
        "reach_explained": explain_max_length(window, config),
        "rule_share": round(rule_share(window, arguments.length, config), 4),
    }


def show_suggest(result: dict[str, Any]) -> None:
    print(f"group size       {result['group_size']}")
    print(f"neighbor window  {result['neighbor_window']}")
    print(f"reach            {result['reach']:,} tokens = {result['reach_explained']}")
    print(f"paper's formula  {result['reach_of_the_paper']:,} tokens")
    print(f"rule             {result['rule_share']:.0%} of the trained window (advised: below 67%)")


def run_map(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.position_map import position_map

    config = SelfExtendConfig(arguments.group_size, arguments.neighbor_window)
    found = position_map(
        arguments.trained_window,
        arguments.length,
        config,
        arguments.query_from,
        arguments.query_to,
        arguments.key_from,
        arguments.key_to,
        method=arguments.method,
        max_cells=arguments.cells,
    )
    return {
        "trained_window": arguments.trained_window,
        "group_size": config.group_size,
        "neighbor_window": config.neighbor_window,
        "length": arguments.length,
        "reach": max_length(arguments.trained_window, config),
        "method": found.method,
        "query": found.query.tolist(),
        "key": found.key.tolist(),
        "relative": found.relative.tolist(),
        "unseen": found.unseen.tolist(),
    }


def show_map(result: dict[str, Any]) -> None:
    rows = [
        [_cell(*pair) for pair in zip(*both, strict=True)]
        for both in zip(result["relative"], result["unseen"], strict=True)
    ]
    width = max(len(cell) for row in [*rows, [str(key) for key in result["key"]]] for cell in row)
    margin = len(str(result["query"][-1]))
    print(" " * margin, *(f"{key:>{width}}" for key in result["key"]), sep="  ")
    for query, row in zip(result["query"], rows, strict=True):
        print(f"{query:>{margin}}", *(f"{cell:>{width}}" for cell in row), sep="  ")
    print("Rows: query position i. Columns: key position j. ! marks a position the model never saw.")


def _cell(relative: int, unseen: bool) -> str:
    return "." if relative < 0 else f"{relative}!" if unseen else str(relative)


def run_doctor(_: argparse.Namespace) -> dict[str, Any]:
    import torch
    import transformers

    from selfextend.errors import ModelLoadError, QuantizationUnavailableError
    from selfextend.loading.hardware import available_bytes, check_quantization, has_fast_bfloat16, resolve_device
    from selfextend.loading.models import bundled_folder

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
        "extras": _extras(),
        "bundled_model": bundled,
    }


def _extras() -> dict[str, bool]:
    from importlib.util import find_spec

    packages = {"app": "gradio", "eval": "lm_eval", "ray": "ray", "quantization": "bitsandbytes"}
    return {extra: find_spec(package) is not None for extra, package in packages.items()}


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
