"""Where the time of a prefill goes in one layer, SelfExtend beside the vanilla model.

    python -m benchmarks.layer
    python -m benchmarks.layer --lengths 65536 --rounds 3 --dtype float32

Both read the same tokens in turns, round by round, and each part is timed without those inside it; figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from transformers.cache_utils import DynamicLayer
from transformers.models.llama import modeling_llama

from benchmarks import shapes
from selfextend import self_extend
from selfextend.attention import blockwise, cpu
from selfextend.cache import SelfExtendLayer
from selfextend.rotary import Rotation

PARTS: dict[str, list[tuple[Any, str]]] = {
    "attention": [(torch.nn.functional, "scaled_dot_product_attention")],
    "near": [(blockwise, "_band")],
    "far": [(blockwise, "_add_far")],
    "merging": [(blockwise, "merge_"), (cpu, "merge_")],
    "turning": [(modeling_llama, "apply_rotary_pos_emb"), (Rotation, "__call__")],
    "cache": [(DynamicLayer, "update"), (SelfExtendLayer, "update")],
}
"""What is timed, and the functions that do it. Near and far are SelfExtend's attention without merging; the model's own
function turns by nothing while SelfExtend is on. The rest is the MLP, the projections and the norms."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 16384])
    parser.add_argument("--dtype", nargs="+", choices=list(shapes.DTYPES), default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(
        f"Milliseconds of one layer of SmolLM2-135M's shape, group size {shapes.SETTINGS.group_size}, "
        f"neighbor window {shapes.SETTINGS.neighbor_window}, medians of {options.rounds} rounds"
    )
    print(f"{shapes.machine('cpu')}\n")
    columns = ["tokens", "", *PARTS, "rest", "all", "ratio"]
    for dtype in options.dtype:
        print(f"| {dtype}: {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
        model = shapes.build_model(dtype, "cpu", layers=1)
        for length in options.lengths:
            print(*_rows(model, length, options.rounds), sep="\n", flush=True)
        print(flush=True)


def _rows(model: torch.nn.Module, length: int, rounds: int) -> Iterator[str]:
    """Two rows of the table."""
    spent: dict[str, dict[str, list[float]]] = {
        name: {part: [] for part in (*PARTS, "rest")} for name in ("vanilla", "SelfExtend")
    }
    tokens = shapes.random_tokens(length, "cpu")
    for number in range(-1, rounds):
        for name in sorted(spent, reverse=bool(number % 2)):
            seconds = _prefill(model, tokens, extends=name == "SelfExtend")
            if number >= 0:  # the first round warms up
                for part, values in spent[name].items():
                    values.append(seconds[part])
    whole = {name: statistics.median(map(sum, zip(*parts.values(), strict=True))) for name, parts in spent.items()}
    for name, parts in spent.items():
        cells = [f"{1000 * statistics.median(values):,.1f}" for values in parts.values()]
        ratio = "" if name == "vanilla" else f"{whole[name] / whole['vanilla']:.3f}"
        yield f"| {length:,} | {name} | {' | '.join(cells)} | {1000 * whole[name]:,.1f} | {ratio} |"


def _prefill(model: Any, tokens: torch.Tensor, *, extends: bool) -> dict[str, float]:
    """Seconds of each part of one pass."""
    with torch.no_grad(), self_extend(model, shapes.SETTINGS) if extends else nullcontext(), _timed() as seconds:
        began = time.perf_counter()
        model.model(tokens, use_cache=True)
        seconds["rest"] = time.perf_counter() - began - sum(seconds.values())
    return seconds


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Seconds in each part, those in parts inside it left out."""
    seconds: dict[str, float] = defaultdict(float)
    inside: list[float] = []

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            inside.append(0.0)
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                seconds[part] += took - inside.pop()
                if inside:
                    inside[-1] += took

        return call

    with ExitStack() as stack:
        for part, functions in PARTS.items():
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, timed(part, getattr(owner, name))))
        yield seconds


if __name__ == "__main__":
    main()
