"""What SelfExtend does with every causal language model type of the installed transformers, tried on tiny models.

    python -m benchmarks.coverage                     # all types: progress, then the tables
    python -m benchmarks.coverage llama gemma2        # some
    python -m benchmarks.coverage --write             # and put the tables into RESULTS.md, between its two markers

Each type gets a process of its own with a time limit and a memory limit, so that none can stop the others. A supported
type has to show the properties below in fp32 on the CPU. What the vanilla model itself does not show is "n/a" for it:
an error is the largest difference of two logits over their standard deviation, and the vanilla model's error at the
same operation says how large it may be.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import inspect
import multiprocessing
import re
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from benchmarks import shapes
from benchmarks.tiny_models import TRAINED_WINDOW, TYPES, UNBUILDABLE, VOCABULARY, tiny_model
from selfextend import SelfExtendConfig, Support, enable, self_extend, support
from selfextend.errors import UnsupportedArchitectureError

RESULTS = Path(__file__).with_name("RESULTS.md")
MARKERS = ("<!-- coverage: begin -->", "<!-- coverage: end -->")
MEMORY_LIMIT = 8 * 2**30

SETTINGS = SelfExtendConfig(group_size=3, neighbor_window=16)  # G does not divide w
UNGROUPED = SelfExtendConfig(group_size=1, neighbor_window=16)
LENGTH = 73
CHUNKS = (1, 30, 2, 23, 17)
STEPS = (40, *[1] * (LENGTH - 40))
PROMPT, NEW_TOKENS = 50, 12
PADDING = (0, 11, 40)

ALLOWED = 2e-4
"""The error that is rounding in any case; ten times the vanilla model's error is, too."""
NOT_SHOWN = 1e-3
"""The error from which the vanilla model does not show a property itself."""
CLEAR = 2e-2
"""The least error at the median token that counts as a clear difference."""

PROPERTIES = {
    "G=1": "with group size 1, the vanilla model",
    "w≥N": "with a neighbor window as long as the text, the vanilla model",
    "differs": "beyond the neighbor window, clearly not the vanilla model",
    "oracle": "what `tests/reference.py` computes pair by pair in float64, where that fits the type",
    "cached": "token by token after a prefill, as in one pass",
    "generate": "greedy `generate`, step by step as in one pass over the answer",
    "chunks": "uneven chunks, as in one pass",
    "padded": "a left-padded row, as that row alone",
    "no ids": "the same without position_ids",
    "restored": "bit-identical to before after `disable`",
}

Difference = Callable[[], float]
Operation = Callable[[PreTrainedModel], tuple[torch.Tensor, torch.Tensor]]
"""What a model gives one way and another, which have to be the same."""


@dataclass
class Outcome:
    """What became of one type.

    Attributes:
        verdict: "right", "refused", "wrong", "crashed" or "not built".
        reason: the refusal, or the first property that failed with its numbers, or why there is no model.
        layers: how many attention layers are treated how.
        rope: whether the source of any of its modules speaks of rotary embeddings.
        marks: by property, "yes", "n/a", "no fit" or what is wrong.
    """

    model_type: str
    verdict: str
    reason: str = ""
    layers: str = ""
    rope: bool = False
    marks: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def cryptic(self) -> bool:
        """A refusal that is another program's error rather than a reason."""
        return self.verdict == "refused" and re.search(r"\w(Error|Iteration)\b", self.reason) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="model types; all of them unless given")
    parser.add_argument("--write", action="store_true", help="replace the tables in RESULTS.md")
    parser.add_argument("--jobs", type=int, default=2, help="types at the same time")
    parser.add_argument("--seconds", type=float, default=240.0, help="time limit for a type")
    options = parser.parse_args()
    unknown = set(options.types) - set(TYPES)
    if unknown:
        parser.error(f"unknown types: {', '.join(sorted(unknown))}")
    began = time.perf_counter()
    outcomes = {}
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["benchmarks.tiny_models", "selfextend.plugin"])  # imports once
    with ThreadPoolExecutor(options.jobs) as threads:
        tasks = [threads.submit(in_own_process, processes, name, options.seconds) for name in options.types or TYPES]
        for count, task in enumerate(as_completed(tasks), 1):
            outcome = outcomes[task.result().model_type] = task.result()
            progress = f"[{count}/{len(tasks)}] {outcome.model_type}: {outcome.verdict} ({outcome.seconds:.0f} s)"
            print(f"{progress} {outcome.reason}", file=sys.stderr, flush=True)
    ordered = [outcomes[name] for name in TYPES if name in outcomes]
    text = tables(ordered, time.perf_counter() - began)
    print(text)
    if options.write:
        write(text)


def in_own_process(processes: multiprocessing.context.ForkServerContext, model_type: str, seconds: float) -> Outcome:
    """`check` in a process that is killed when its time is over."""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_child, args=(model_type, sender))
    began = time.perf_counter()
    process.start()
    sender.close()
    try:
        if receiver.poll(seconds):
            outcome: Outcome = receiver.recv()
        else:
            outcome = Outcome(model_type, "crashed", f"it took longer than {seconds:.0f} s")
    except EOFError:
        process.join()
        outcome = Outcome(model_type, "crashed", f"its process died, exit code {process.exitcode}")
    process.kill()
    process.join()
    outcome.seconds = time.perf_counter() - began
    return outcome


def _child(model_type: str, sender: Connection) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT if most < 0 else min(MEMORY_LIMIT, most), most))
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    try:
        outcome = check(model_type)
    except Exception as error:
        outcome = Outcome(model_type, "crashed", f"outside all properties: {_sentence(error)}")
    sender.send(outcome)


def check(model_type: str) -> Outcome:
    """Build the type's model, ask whether SelfExtend fits, and see whether it then does what it says."""
    try:
        model = tiny_model(model_type)
    except Exception as error:
        return Outcome(model_type, "not built", f"{UNBUILDABLE.get(model_type, '')} {_sentence(error)}".strip())
    try:
        logits(model, token_ids(17))
    except Exception as error:
        return Outcome(model_type, "not built", f"does not run on tokens alone: {_sentence(error)}")
    rope = speaks_of_rope(model)
    try:
        report = support(model)
    except Exception as error:
        return Outcome(model_type, "crashed", f"support(): {_sentence(error)}", rope=rope)
    if not report.supported:
        verdict, reason = _refusal(model, report)
        return Outcome(model_type, verdict, " ".join(reason.split()), rope=rope)
    counts = Counter(layer.kind for layer in report.layers)
    outcome = Outcome(model_type, "right", layers=", ".join(f"{n} {kind}" for kind, n in counts.items()), rope=rope)
    for name, measure in Properties(model).all().items():
        mark, verdict = measure()
        outcome.marks[name] = mark
        if verdict != "right" and outcome.verdict == "right":
            outcome.verdict, outcome.reason = verdict, f"{name}: {mark}"
    return outcome


def _refusal(model: PreTrainedModel, report: Support) -> tuple[str, str]:
    """Verdict and reason: `enable` has to refuse with the same sentence."""
    try:
        enable(model, SETTINGS, trained_window=TRAINED_WINDOW)
    except UnsupportedArchitectureError as error:
        same = str(error) == report.reason
        return ("refused", report.reason) if same else ("wrong", f"support() says {report.reason!r}, enable() {error}")
    except Exception as error:
        return "crashed", f"support() says {report.reason!r}, enable() {_sentence(error)}"
    return "wrong", f"enable() succeeds, and support() says {report.reason!r}"


class Properties:
    """All properties of one supported model, each a function that gives its mark and "right", "wrong" or "crashed"."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        assert model.generation_config is not None
        model.generation_config.eos_token_id = None
        self.vanilla = logits(model, token_ids(LENGTH))

    def all(self) -> dict[str, Callable[[], tuple[str, str]]]:
        marks: dict[str, Callable[[], tuple[str, str]]] = {
            "G=1": partial(_mark, partial(self._is_vanilla, UNGROUPED, TRAINED_WINDOW), self._eager_error),
            "w≥N": partial(_mark, partial(self._is_vanilla, SelfExtendConfig(4, PROMPT), PROMPT), self._eager_error),
            "differs": self._differs,
            "oracle": partial(
                _mark, partial(self._oracle_error, SETTINGS), partial(self._oracle_error, UNGROUPED), "no fit"
            ),
            "restored": self._restored,
        }
        for name, operation in OPERATIONS.items():
            marks[name] = partial(
                _mark, partial(self._extended_error, operation), partial(self._vanilla_error, operation)
            )
        return {name: marks[name] for name in PROPERTIES}

    def _extended(self, ids: torch.Tensor, config: SelfExtendConfig = SETTINGS) -> torch.Tensor:
        with self_extend(self.model, config, trained_window=TRAINED_WINDOW, on_overflow="ignore"):
            return logits(self.model, ids)

    def _is_vanilla(self, config: SelfExtendConfig, length: int) -> float:
        ids = token_ids(length)
        return error(self._extended(ids, config), logits(self.model, ids))

    def _eager_error(self) -> float:
        """Rounding alone: the vanilla model beside itself with attention computed in another order."""
        other = copy.deepcopy(self.model)
        other.set_attn_implementation("eager")
        return error(logits(other, token_ids(LENGTH)), self.vanilla)

    def _oracle_error(self, config: SelfExtendConfig) -> float:
        """Against the oracle; with group size 1 it is the oracle itself that is held to the vanilla model."""
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        reference = importlib.import_module("reference")
        types = getattr(self.model.config.get_text_config(), "layer_types", None) or []
        local = tuple(n for n, kind in enumerate(types) if kind in ("sliding_attention", "chunked_attention"))
        if len(reference.attention_modules(self.model)) == 0:
            raise ValueError("no attention module takes position_embeddings")
        ids = token_ids(LENGTH)
        naive = reference.NaiveModel(self.model, config.group_size, config.neighbor_window, local_layers=local)
        expected = naive.logits(ids)
        return error(self.vanilla if config == UNGROUPED else self._extended(ids, config), expected)

    def _vanilla_error(self, operation: Operation) -> float:
        return error(*operation(self.model))

    def _extended_error(self, operation: Operation) -> float:
        with self_extend(self.model, SETTINGS, trained_window=TRAINED_WINDOW, on_overflow="ignore"):
            return error(*operation(self.model))

    def _differs(self) -> tuple[str, str]:
        try:
            difference = (self._extended(token_ids(LENGTH)) - self.vanilla).abs()[:, SETTINGS.neighbor_window + 3 :]
        except Exception as error:
            return _raised(error)
        typical = float(difference.amax(-1).median() / self.vanilla.std())
        return ("yes", "right") if typical > CLEAR else (f"by {typical:.0e} only", "wrong")

    def _restored(self) -> tuple[str, str]:
        same = torch.equal(logits(self.model, token_ids(LENGTH)), self.vanilla)
        return ("yes", "right") if same else ("not what it was", "wrong")


def _mark(extended: Difference, vanilla: Difference, not_shown: str = "n/a") -> tuple[str, str]:
    """Whether the extended model's error is no more than the vanilla model's allows."""
    try:
        yardstick = vanilla()
    except Exception:
        return not_shown, "right"
    if not yardstick <= NOT_SHOWN:
        return not_shown, "right"
    try:
        measured = extended()
    except Exception as error:
        return _raised(error)
    if measured <= max(ALLOWED, 10 * yardstick):
        return "yes", "right"
    return f"off by {measured:.0e}, vanilla by {yardstick:.0e}", "wrong"


def _raised(error: Exception) -> tuple[str, str]:
    """A sentence of the library's own says what does not go; anything else is a crash."""
    place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    own = isinstance(error, ValueError) and place.parent.name == "selfextend"
    return _sentence(error), "wrong" if own else "crashed"


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the standard deviation; not a number where a logit is none."""
    return float((actual.double() - expected.double()).abs().max() / expected.double().std())


def token_ids(length: int, batch: int = 1) -> torch.Tensor:
    """(batch, length) random tokens, none of them a special one."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: PreTrainedModel, ids: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, **kwargs).logits


@torch.no_grad()
def _in_pieces(model: PreTrainedModel, sizes: Iterable[int]) -> tuple[torch.Tensor, torch.Tensor]:
    ids, cache, pieces = token_ids(LENGTH), None, []
    for piece in ids.split(list(sizes), dim=1):
        output = model(input_ids=piece, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        pieces.append(output.logits)
    return torch.cat(pieces, dim=1), logits(model, ids)


def chunked(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    return _in_pieces(model, CHUNKS)


def cached(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    return _in_pieces(model, STEPS)


def generated(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    prompt = token_ids(PROMPT)
    options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    output = model.generate(  # type: ignore[operator]
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, **options
    )
    if output.sequences.shape[1] != PROMPT + NEW_TOKENS:
        raise ValueError("generate() gave fewer tokens than asked for")
    return torch.stack(output.logits, dim=1), logits(model, output.sequences)[:, PROMPT - 1 : -1]


def padded(model: PreTrainedModel, give_positions: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    ids = token_ids(60, batch=len(PADDING))
    rows, mask = ids.clone(), torch.ones_like(ids)
    for row, count in enumerate(PADDING):
        rows[row] = torch.cat([torch.zeros(count, dtype=torch.long), ids[row, : 60 - count]])
        mask[row, :count] = 0
    positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if give_positions else {}
    together = logits(model, rows, attention_mask=mask, **positions)
    alone = [logits(model, ids[row : row + 1, : 60 - count])[0] for row, count in enumerate(PADDING)]
    return torch.cat([together[row, count:] for row, count in enumerate(PADDING)]), torch.cat(alone)


def without_ids(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    return padded(model, give_positions=False)


OPERATIONS: dict[str, Operation] = {
    "cached": cached,
    "generate": generated,
    "chunks": chunked,
    "padded": padded,
    "no ids": without_ids,
}


def speaks_of_rope(model: PreTrainedModel) -> bool:
    """Judged by the source of its modules alone, so that a false refusal stands out."""
    classes = {type(module) for module in model.modules()}
    sources = "".join(inspect.getsource(kind) for kind in classes if kind.__module__.startswith("transformers"))
    return re.search(r"^(?!\s*[@#]).*(rotary|apply_rope)", sources, re.IGNORECASE | re.MULTILINE) is not None


def tables(outcomes: list[Outcome], seconds: float) -> str:
    """The Markdown of RESULTS.md: a summary, supported types with their properties, and the others with the reason."""
    groups = {name: [o for o in outcomes if o.verdict == name] for name in ("right", "refused", "wrong", "crashed")}
    missing = [outcome for outcome in outcomes if outcome.verdict == "not built"]
    cryptic = sum(outcome.cryptic for outcome in outcomes)
    summary = (
        f"{len(outcomes)} types: {len(groups['right'])} supported and right, {len(groups['refused'])} refused "
        f"({cryptic} of them with a cryptic reason), {len(groups['wrong'])} wrong, {len(groups['crashed'])} crashed, "
        f"{len(missing)} cannot be built."
    )
    lines = [
        summary,
        "",
        f"Tiny models with random weights, fp32, {seconds / 60:.0f} minutes. {shapes.machine('cpu')}",
        "",
        *(f"- {name}: {meaning}." for name, meaning in PROPERTIES.items()),
        "- n/a: the vanilla model does not show it itself.",
        "- no fit: the reference cannot run the type, or is not the vanilla model with group size 1.",
        "",
        f"| type | layers | {' | '.join(PROPERTIES)} |",
        f"|---|---|{'---|' * len(PROPERTIES)}",
    ]
    for outcome in outcomes:
        if outcome.marks:
            marks = [mark if mark in ("yes", "n/a", "no fit") else "**no**" for mark in outcome.marks.values()]
            lines.append(f"| {outcome.model_type} | {outcome.layers} | {' | '.join(marks)} |")
    headings = {
        "Wrong or crashed, by the first property that failed": [*groups["wrong"], *groups["crashed"]],
        "Refused": groups["refused"],
        "Cannot be built here": missing,
    }
    for heading, members in headings.items():
        if members:
            lines += ["", f"### {heading}", "", "| type | | RoPE in its source | reason |", "|---|---|---|---|"]
        for outcome in members:
            rope, reason = "yes" if outcome.rope else "no", outcome.reason.replace("|", "\\|")
            verdict = "cryptic" if outcome.cryptic else outcome.verdict
            lines.append(f"| {outcome.model_type} | {verdict} | {rope} | {reason} |")
    return "\n".join(lines)


def write(text: str) -> None:
    """Put the tables between the markers in RESULTS.md, or at its end with a heading where there are none."""
    old = RESULTS.read_text()
    begin, end = MARKERS
    if begin not in old:
        old = f"{old.rstrip()}\n\n## Model types\n\n    python -m benchmarks.coverage --write\n\n{begin}\n{end}\n"
    before, after = old.split(begin)[0], old.split(end)[1]
    RESULTS.write_text(f"{before}{begin}\n{text}\n{end}{after}")


if __name__ == "__main__":
    main()
