"""Peak memory of a prefill above the loaded weights, SelfExtend beside the vanilla model, and the caches' bytes.

    python -m benchmarks.memory                       # as in RESULTS.md
    python -m benchmarks.memory --lengths 4096 8192 --layers 4

Each figure comes from a process of its own, so that nothing one run freed helps the next: on a CPU the growth of its
resident set's peak, on a CUDA device the allocator's peak. On a CPU the C library is told to hand every larger block
back at once (MALLOC_MMAP_THRESHOLD_), in both methods' runs: the figures are what is held, not what it keeps in store.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from benchmarks import shapes
from selfextend import self_extend
from selfextend.reading import PrefixCache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--dtype", choices=list(shapes.DTYPES), default="float32")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--device", default=shapes.default_device())
    parser.add_argument(
        "--vanilla-up-to", type=int, default=16384, help="longer prefills of the vanilla model are left out"
    )
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "LENGTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]), options)))
        return
    print(
        f"Peak memory of a one-shot prefill above the loaded weights, {options.dtype}, {options.layers} layers, ",
        end="",
    )
    print(f"group size {shapes.SETTINGS.group_size}, neighbor window {shapes.SETTINGS.neighbor_window}")
    print(f"{shapes.machine(options.device)}\n")
    print(
        "| tokens | vanilla | SelfExtend | ratio | MB per 1,000 tokens | cache, vanilla | cache, SelfExtend | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for length in options.lengths:
        extended = _in_own_process("SelfExtend", length)
        row = [
            f"{length:,}",
            "",
            f"{extended['peak'] / 2**20:.0f} MB",
            "",
            f"{extended['peak'] / 2**20 / length * 1000:.1f}",
        ]
        row += ["", f"{extended['cache'] / 2**20:.0f} MB", ""]
        if length <= options.vanilla_up_to:
            vanilla = _in_own_process("vanilla", length)
            row[1], row[3] = f"{vanilla['peak'] / 2**20:.0f} MB", f"{extended['peak'] / vanilla['peak']:.3f}"
            row[5], row[7] = f"{vanilla['cache'] / 2**20:.0f} MB", f"{extended['cache'] / vanilla['cache']:.3f}"
        print(f"| {' | '.join(row)} |", flush=True)


def measure(method: str, length: int, options: argparse.Namespace) -> dict[str, int]:
    """Bytes at the peak above the loaded model, and bytes of the cache after prefill, in this process."""
    model = shapes.build_model(options.dtype, options.device, options.layers)
    tokens = shapes.random_tokens(length, options.device)
    with torch.no_grad(), self_extend(model, shapes.SETTINGS) if method == "SelfExtend" else nullcontext():
        model(tokens[:, :64], logits_to_keep=1)  # library buffers and thread pools are not the prefill's
        before = _reset_peak(options.device)
        cache = model(tokens, use_cache=True, logits_to_keep=1).past_key_values
        peak = _peak(options.device)
    return {"peak": peak - before, "cache": PrefixCache(cache=cache).nbytes}


def _reset_peak(device: str) -> int:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else _status("VmHWM")


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _in_own_process(method: str, length: int) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], "--one", method, str(length)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
