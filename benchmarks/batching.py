"""What it saves to answer several visitors of one document in one batch, instead of one token of each in turn.

    python -m benchmarks.batching              # the bundled model and SmolLM2-135M's shape, 16,384 tokens, fp32

The document is read once; each visitor's question of 64 tokens goes on from it. In milliseconds, medians of 16 steps:
one step of the batch, and what of it comes to a text, to be compared with a text that is read alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks import shapes
from benchmarks.serving import ROOT
from selfextend.batching import Batch
from selfextend.beginning import Beginning, Continuation
from selfextend.loading.models import load_model
from selfextend.methods import Method, SelfExtend
from selfextend.profile import Profile
from selfextend.reading import read_steps, reading
from selfextend.steps import result_of

QUESTION = 64
STEPS, WARM = 16, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    options = parser.parse_args()
    bundled, _ = load_model(ROOT / "assets" / "model", device="cpu")
    known = Profile(bundled.config.max_position_embeddings)
    shape = Profile(shapes.TRAINED_WINDOW, shapes.SETTINGS.neighbor_window)
    models: list[tuple[str, Any, Method, Profile]] = [
        ("bundled", bundled, SelfExtend(), known),
        ("SmolLM2-135M's shape", shapes.build_model("float32", "cpu"), SelfExtend.of(shapes.SETTINGS), shape),
    ]
    print(f"Decoding at {options.length:,} tokens. {shapes.machine('cpu')}\n")
    print("| model | texts | a step | a token of a text | as a share of one alone |\n|---|---|---|---|---|")
    for name, model, method, profile in models:
        alone = 0.0
        for rows, step in _step_milliseconds(model, method, profile, options.length, options.batches):
            each = step / max(1, rows)
            alone = alone or each
            words = f"{rows} in a batch" if rows else "alone"
            print(f"| {name} | {words} | {step:.1f} | {each:.1f} | {each / alone:.2f} |", flush=True)


def _step_milliseconds(
    model: Any, method: Method, profile: Profile, length: int, batches: Sequence[int]
) -> Iterator[tuple[int, float]]:
    """For each batch size, a step's milliseconds; first, for 0, those of a text that is read alone."""
    tokens = (shapes.random_tokens(length + QUESTION * max(batches), "cpu") % model.config.vocab_size)[0].tolist()
    beginning = Beginning(tokens[:length])
    texts = [Continuation(beginning) for _ in range(max(batches))]
    with reading(model, method, profile, length + 1024, observed=True) as reader:
        for place, text in enumerate(texts):
            question = tokens[length + QUESTION * place :][:QUESTION]
            result_of(read_steps(reader, text, [*beginning.tokens, *question], length=length + 1024))
        alone = texts[-1]
        yield 0, _median(lambda: alone.read(reader, tokens[:1]))
        for rows in batches:
            batch = Batch(beginning, reader)
            chosen = dict(zip(texts[:rows], tokens, strict=False))
            assert all(map(batch.add, chosen))
            yield rows, _median(partial(batch.read, chosen))
            for text in chosen:
                batch.remove(text)


def _median(step: Callable[[], object]) -> float:
    times = []
    for _ in range(WARM + STEPS):
        began = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[WARM:])


if __name__ == "__main__":
    main()
