"""What evidence costs while an answer is written: seconds a token with and without it, and until it is there.

    python -m benchmarks.evidence                       # 8,192 and 16,384 tokens, 30 layers, as in RESULTS.md
    python -m benchmarks.evidence --lengths 4096 --layers 4

Both ways take turns, round by round, over one text that was read once; figures are medians. Every layer and head is
recorded, in bins of 64 tokens, as the page does.
"""

from __future__ import annotations

import argparse
import statistics
import time

from transformers import AutoTokenizer

from benchmarks import shapes
from benchmarks.serving import ROOT
from selfextend.generation import GenerationSettings, NewToken, ReadingSettings, ReadyModel, answer_steps
from selfextend.methods import SelfExtend
from selfextend.profile import Profile
from selfextend.reading import PrefixCache
from selfextend.recording import RecordingRequest
from selfextend.steps import Running

BIN_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 16384])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default=shapes.default_device())
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "model")
    model = shapes.build_model("float32", options.device, options.layers, vocabulary=len(tokenizer))
    ready = ReadyModel(model, tokenizer, Profile(shapes.TRAINED_WINDOW, None, "none"))
    print(
        f"Evidence, SmolLM2-135M's shape with {options.layers} layers, random weights, {options.new_tokens} tokens "
        f"written, medians of {options.rounds} rounds\n{shapes.machine(options.device)}\n"
    )
    print("| tokens read | ms a token without | with | ratio | evidence after the last token |\n|---|---|---|---|---|")
    for length in options.lengths:
        print(_row(ready, length, options), flush=True)


def _row(ready: ReadyModel, length: int, options: argparse.Namespace) -> str:
    prompt = [token % len(ready.tokenizer) for token in shapes.random_tokens(length, "cpu")[0].tolist()]
    prefix, tokens = PrefixCache(), {False: list[float](), True: list[float]()}
    afterwards = []
    _answer(ready, prompt, prefix, options, record=False)
    for _ in range(options.rounds):
        for record in (False, True):
            seconds, after = _answer(ready, prompt, prefix, options, record)
            tokens[record].append(seconds)
            afterwards += [after] if record else []
    without, with_evidence = (1000 * statistics.median(tokens[record]) for record in (False, True))
    return (
        f"| {length:,} | {without:.1f} | {with_evidence:.1f} | {with_evidence / without:.3f} "
        f"| {statistics.median(afterwards):.2f} s |"
    )


def _answer(
    ready: ReadyModel, prompt: list[int], prefix: PrefixCache, options: argparse.Namespace, record: bool
) -> tuple[float, float]:
    """Seconds a token from the first one on, and seconds from the last one to the answer with its record."""
    request = RecordingRequest(
        query_rows=range(len(prompt) - 1, len(prompt) + options.new_tokens - 1),
        bin_starts=range(0, len(prompt), BIN_TOKENS),
        max_bytes=2**30,
    )
    steps = answer_steps(
        ready,
        prompt,
        GenerationSettings(max_new_tokens=options.new_tokens),
        ReadingSettings(SelfExtend.of(shapes.SETTINGS), observed=True),
        prefix=prefix,
        record=request if record else None,
    )
    with Running(steps) as run:
        times = [time.perf_counter() for step in run if isinstance(step, NewToken)]
    return (times[-1] - times[0]) / (len(times) - 1), time.perf_counter() - times[-1]


if __name__ == "__main__":
    main()
