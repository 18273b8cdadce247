"""Prefill, decode and follow-up times of SelfExtend beside the vanilla model, in one run.

    python -m benchmarks.speed                        # both dtypes, 16,384 tokens, as in RESULTS.md
    python -m benchmarks.speed --length 4096 --layers 4 --dtype float32

The methods take turns, round by round, so that a busy machine disturbs both alike; figures are medians. The naive
version, the authors' way, holds two N x N score maps; it has a row at each length where it fits into memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from unittest import mock

import torch
from transformers import DynamicCache, LlamaForCausalLM

import selfextend.forward
from benchmarks import shapes
from selfextend import self_extend
from selfextend.attention.eager import eager_attention

FOLLOW_UP_TOKENS = 50
DECODED_TOKENS = 24


@dataclass
class Times:
    """Seconds, one entry a round (prefill, follow-up) or a token (decode)."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    follow_up: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=16384, help="tokens of the prompt")
    parser.add_argument("--naive-lengths", type=int, nargs="*", default=[2048, 4096], help="where the naive way fits")
    parser.add_argument("--dtype", nargs="+", choices=list(shapes.DTYPES), default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--device", default=shapes.default_device())
    options = parser.parse_args()
    print(
        f"Speed at {options.length:,} tokens, SmolLM2-135M's shape with {options.layers} layers, random weights, ",
        end="",
    )
    print(f"group size {shapes.SETTINGS.group_size}, neighbor window {shapes.SETTINGS.neighbor_window}, ", end="")
    print(f"medians of {options.rounds} rounds\n{shapes.machine(options.device)}\n", flush=True)
    for dtype in options.dtype:
        model = shapes.build_model(dtype, options.device, options.layers)
        print(f"| {dtype} | vanilla | SelfExtend | ratio | naive | ratio |\n|---|---|---|---|---|---|", flush=True)
        side_by_side(model, options)
        for length in options.naive_lengths:
            naive(model, length, options)
        print(flush=True)


def side_by_side(model: LlamaForCausalLM, options: argparse.Namespace) -> None:
    """Vanilla SDPA with DynamicCache, and SelfExtend with its own cache."""
    methods: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "vanilla": nullcontext,
        "SelfExtend": lambda: self_extend(model, shapes.SETTINGS),
    }
    times = {name: Times() for name in methods}
    with torch.no_grad():
        for method in methods.values():  # warm up
            with method():
                _prefill(model, shapes.random_tokens(2 * shapes.SETTINGS.neighbor_window, options.device))
        for number in range(options.rounds):
            for name in sorted(methods, reverse=bool(number % 2)):
                with methods[name]():
                    _measure(model, times[name], options)
    for label, attribute, unit in (
        (f"prefill {options.length:,} tokens", "prefill", 1.0),
        (f"decode, per token at {options.length:,}", "decode", 1000.0),
        (f"{FOLLOW_UP_TOKENS}-token follow-up", "follow_up", 1000.0),
    ):
        vanilla, extended = (statistics.median(getattr(times[name], attribute)) for name in ("vanilla", "SelfExtend"))
        suffix = "s" if unit == 1.0 else "ms"
        print(
            f"| {label} | {vanilla * unit:.1f} {suffix} | {extended * unit:.1f} {suffix} "
            f"| {extended / vanilla:.3f} | | |"
        )
    share = statistics.median(times["SelfExtend"].follow_up) / statistics.median(times["SelfExtend"].prefill)
    print(f"| follow-up as a share of the prefill | | {share:.2%} | | | |", flush=True)


def naive(model: LlamaForCausalLM, length: int, options: argparse.Namespace) -> None:
    """One table row for the two N x N score maps, beside vanilla and SelfExtend at the same length."""
    tokens = shapes.random_tokens(length, options.device)
    seconds: dict[str, float] = {}
    with torch.no_grad():
        for name in ("vanilla", "SelfExtend", "naive"):
            method = nullcontext() if name == "vanilla" else self_extend(model, shapes.SETTINGS)
            with method, _two_score_maps() if name == "naive" else nullcontext():
                try:
                    seconds[name] = statistics.median(_prefill(model, tokens)[0] for _ in range(options.rounds))
                except (RuntimeError, MemoryError):  # it does not fit: "inf" in the table
                    seconds[name] = float("inf")
    cells = [f"prefill {length:,} tokens", f"{seconds['vanilla']:.1f} s"]
    for name in ("SelfExtend", "naive"):
        cells += [f"{seconds[name]:.1f} s", f"{seconds[name] / seconds['vanilla']:.3f}"]
    print(f"| {' | '.join(cells)} |", flush=True)


@contextmanager
def _two_score_maps() -> Iterator[None]:
    """SelfExtend computed as the authors do: both score maps whole, then chosen by distance."""

    def attention(*states: torch.Tensor, **arguments: object) -> torch.Tensor:
        return eager_attention(*states, **arguments)[0]  # type: ignore[arg-type]

    with mock.patch.object(selfextend.forward, "blockwise_attention", attention):
        yield


def _measure(model: LlamaForCausalLM, times: Times, options: argparse.Namespace) -> None:
    seconds, cache = _prefill(model, shapes.random_tokens(options.length, options.device))
    times.prefill.append(seconds)
    token = shapes.random_tokens(1, options.device)
    for _ in range(DECODED_TOKENS):
        times.decode.append(_timed(lambda: model(token, past_key_values=cache, use_cache=True), options.device))
    del times.decode[-DECODED_TOKENS]  # the first token lets the buffers grow; it is paid once
    follow_up = shapes.random_tokens(FOLLOW_UP_TOKENS, options.device)
    times.follow_up.append(
        _timed(lambda: model(follow_up, past_key_values=cache, use_cache=True, logits_to_keep=1), options.device)
    )


def _prefill(model: LlamaForCausalLM, tokens: torch.Tensor) -> tuple[float, DynamicCache]:
    caches: list[DynamicCache] = []

    def read() -> None:
        caches.append(model(tokens, use_cache=True, logits_to_keep=1).past_key_values)

    return _timed(read, str(tokens.device)), caches[0]


def _timed(work: Callable[[], object], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
