"""What it would save to answer several visitors of one document in one batch, instead of one token of each in turn.

    python -m benchmarks.batching              # the bundled model and SmolLM2-135M's shape, 16,384 tokens, fp32

The document is read once and its cache repeated for each row, as transformers' batches have it. In milliseconds,
medians of 16 steps: one step of the batch, and what of it comes to a row, to be compared with a batch of one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks import shapes
from benchmarks.serving import ROOT
from selfextend import SelfExtendConfig, self_extend, suggest
from selfextend.loading.models import load_model

CHUNK = 1024
STEPS, WARM = 16, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    bundled, _ = load_model(ROOT / "assets" / "model", device="cpu")
    window = bundled.config.max_position_embeddings
    models: list[tuple[str, Any, SelfExtendConfig, int]] = [
        ("bundled", bundled, suggest(window, options.length + 1024), window),
        ("SmolLM2-135M's shape", shapes.build_model("float32", "cpu"), shapes.SETTINGS, shapes.TRAINED_WINDOW),
    ]
    print(f"Decoding at {options.length:,} tokens. {shapes.machine('cpu')}\n")
    print("| model | rows | a step of the batch | a token of a row | as a share of one alone |\n|---|---|---|---|---|")
    for name, model, config, trained_window in models:
        alone = None
        for rows in options.batches:
            step = _step_milliseconds(model, config, trained_window, options.length, rows)
            alone = alone or step / rows
            print(f"| {name} | {rows} | {step:.1f} | {step / rows:.1f} | {step / rows / alone:.2f} |", flush=True)


def _step_milliseconds(model: Any, config: SelfExtendConfig, trained_window: int, length: int, rows: int) -> float:
    tokens = shapes.random_tokens(length, "cpu") % model.config.vocab_size
    times: list[float] = []
    past: Any = None
    with torch.inference_mode(), self_extend(model, config, trained_window=trained_window):
        for start in range(0, length, CHUNK):
            chunk = tokens[:, start : start + CHUNK]
            past = model(chunk, past_key_values=past, use_cache=True, logits_to_keep=1).past_key_values
        if rows > 1:
            past.batch_repeat_interleave(rows)
        for _ in range(WARM + STEPS):
            began = time.perf_counter()
            model(tokens[:, :1].expand(rows, -1), past_key_values=past, use_cache=True)
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[WARM:])


if __name__ == "__main__":
    main()
