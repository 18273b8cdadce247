"""`ask` and `compare`: a question about a text, and what commands that load a model have in common."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from selfextend.lab.grid import Progress
    from selfextend.lab.methods import Method
    from selfextend.lab.target import Target

METHODS_HELP = (
    "comma-separated: vanilla, vanilla+logn, selfextend, selfextend+logn, window, linear, dynamic, yarn, recommended "
    "(SelfExtend as recommended for the model), all"
)


def add_commands(commands: Any) -> None:
    one = commands.add_parser("ask", help="ask a question about a text")
    _add_question_arguments(one)
    one.add_argument("--vanilla", action="store_true", help="without SelfExtend")
    one.add_argument(
        "--extend",
        choices=("always", "when_needed"),
        default="when_needed",
        help="when_needed: a prompt whose answer fits the trained window gets the untouched model (default)",
    )
    one.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token each time (default)")
    one.add_argument("--top-p", type=float, default=1.0)
    one.add_argument("--seed", type=int, default=0)
    add_selfextend_arguments(one)
    one.set_defaults(run=run_ask, show=show_ask)

    one = commands.add_parser("compare", help="one question under several methods, side by side")
    _add_question_arguments(one)
    one.add_argument("--methods", default="vanilla,recommended", help=METHODS_HELP)
    one.add_argument("--expect", help="the right answer: how likely each method finds it is told too")
    add_selfextend_arguments(one)
    one.set_defaults(run=run_compare_command, show=show_compare)


def add_model_arguments(one: argparse.ArgumentParser) -> None:
    """Which model, and how to load it."""
    group = one.add_argument_group("model")
    group.add_argument("--model", "-m", default="bundled", help="bundled, a folder, or a hub id (default: bundled)")
    group.add_argument("--quantization", choices=("none", "int8", "nf4"), default="none")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, mps")
    group.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    group.add_argument("--trained-window", "-L", type=int, help="from the model's configuration unless given")


def add_selfextend_arguments(one: argparse.ArgumentParser) -> None:
    """SelfExtend's settings, where they are not to be suggested."""
    group = one.add_argument_group("SelfExtend")
    group.add_argument("--group-size", "-G", type=int, help="what `suggest` gives for the length unless given")
    group.add_argument("--neighbor-window", "-w", type=int, help="a quarter of the trained window unless given")


def _add_question_arguments(one: argparse.ArgumentParser) -> None:
    add_model_arguments(one)
    one.add_argument("question")
    one.add_argument("--text", type=Path, action="append", default=[], help="TXT, Markdown or PDF to read first")
    one.add_argument("--max-new-tokens", type=int, default=64, help="the answer's budget (default: 64)")


def target_of(arguments: argparse.Namespace) -> Target:
    """The model that the arguments name, looked up but not loaded."""
    from selfextend.lab.target import find_target

    return find_target(
        arguments.model,
        trained_window=arguments.trained_window,
        quantization=arguments.quantization,
        device=arguments.device,
        dtype=arguments.dtype,
    )


def methods_of(arguments: argparse.Namespace, target: Target) -> tuple[Method, ...]:
    """The methods that the arguments name."""
    from selfextend.lab.methods import parse_methods

    return tuple(
        parse_methods(
            [name.strip() for name in arguments.methods.split(",") if name.strip()],
            recommended_scaling=target.recommended_scaling,
            group_size=arguments.group_size,
            neighbor_window=arguments.neighbor_window,
        )
    )


def show_progress(step: Progress) -> None:
    """On standard error, where somebody is looking."""
    if sys.stderr.isatty():
        left = "" if step.seconds_left is None else f", {step.seconds_left:,.0f} s left"
        print(f"\r\x1b[K{step.fraction:4.0%}  {step.message}{left}", end="", file=sys.stderr, flush=True)


def end_progress() -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)


def _prompt(tokenizer: PreTrainedTokenizerBase, texts: list[str], question: str) -> list[int]:
    """Texts and question as the model's chat template has them; plainly, where it has none."""
    content = "\n\n".join([*texts, question])
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = tokenizer(rendered, add_special_tokens=False, verbose=False).input_ids
        return ids
    from selfextend.lab.probes.haystack import encode

    return encode(tokenizer, f"{content}\nAnswer:")


def _texts(arguments: argparse.Namespace) -> list[str]:
    from selfextend.lab.probes.texts import read_text

    if arguments.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens must be at least 1, not {arguments.max_new_tokens}.")
    if not arguments.question.strip():
        raise ValueError("The question is empty.")
    return [read_text(path) for path in arguments.text]


def run_ask(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.generation import Answer, GenerationSettings, NewToken, PrefillProgress, answer_steps
    from selfextend.lab.grid import Progress
    from selfextend.lab.methods import Method

    texts = _texts(arguments)
    target = target_of(arguments)
    settings = GenerationSettings(
        arguments.max_new_tokens, arguments.temperature, top_p=arguments.top_p, seed=arguments.seed
    )
    method = Method("vanilla")
    if not arguments.vanilla:
        name = "selfextend+logn" if target.recommended_scaling == "logn" else "selfextend"
        method = Method(name, arguments.group_size, arguments.neighbor_window)
    prompt = _prompt(target.tokenizer(), texts, arguments.question)
    method.check(target.trained_window, len(prompt) + arguments.max_new_tokens)
    model, tokenizer = target.load()
    config = method.config(target.trained_window, len(prompt) + arguments.max_new_tokens)
    steps = answer_steps(
        model,
        tokenizer,
        prompt,
        settings,
        config=config,
        extend=arguments.extend,
        trained_window=target.trained_window,
    )
    shown = ""
    answer = None
    for step in steps:
        if isinstance(step, PrefillProgress):
            left = step.seconds_left if step.seconds_left == step.seconds_left else None
            show_progress(Progress(step.done / step.total, f"reading {step.total:,} tokens", step.seconds, left))
        elif isinstance(step, NewToken) and not arguments.json:
            if not shown:
                end_progress()
            print(step.text[len(shown) :], end="", flush=True)
            shown = step.text
        elif isinstance(step, Answer):
            answer = step
    assert answer is not None
    if not arguments.json:
        print(answer.text[len(shown) :])
    used = answer.config
    return {
        "answer": answer.text,
        "model": target.name,
        "trained_window": target.trained_window,
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": len(answer.token_ids),
        "stopped_by": answer.stopped_by,
        "group_size": used.group_size if used else None,
        "neighbor_window": used.neighbor_window if used else None,
        "query_scaling": used.query_scaling if used else None,
        "prefill_seconds": round(answer.prefill_seconds, 3),
        "decode_seconds": round(answer.decode_seconds, 3),
    }


def show_ask(result: dict[str, Any]) -> None:
    """The answer itself was shown while it came."""
    how = "the untouched model"
    if result["group_size"] is not None:
        how = f"SelfExtend with group size {result['group_size']}, neighbor window {result['neighbor_window']}"
    print(
        f"[{result['prompt_tokens']:,} tokens read in {result['prefill_seconds']:.1f} s with {how}; "
        f"{result['new_tokens']} tokens in {result['decode_seconds']:.1f} s]",
        file=sys.stderr,
    )


def run_compare_command(arguments: argparse.Namespace) -> dict[str, Any]:
    from selfextend.lab.compare import Question, run_compare
    from selfextend.lab.grid import CellDone
    from selfextend.lab.target import describe_model, versions

    texts = _texts(arguments)
    target = target_of(arguments)
    methods = methods_of(arguments, target)
    tokenizer = target.tokenizer()
    expected = []
    if arguments.expect:
        expected = tokenizer(f" {arguments.expect.strip()}", add_special_tokens=False).input_ids
    question = Question(_prompt(tokenizer, texts, arguments.question), arguments.max_new_tokens, expected)
    for method in methods:
        method.check(target.trained_window, question.length)
    model, tokenizer = target.load()
    rows = []
    for step in run_compare(model, tokenizer, question, methods, target.trained_window):
        if isinstance(step, CellDone):
            rows += step.rows
        else:
            show_progress(step)
    end_progress()
    return {
        "question": arguments.question,
        "expected": arguments.expect,
        "model": describe_model(target.name, model, target.trained_window, target.quantization),
        "versions": versions(),
        "rows": rows,
    }


def show_compare(result: dict[str, Any]) -> None:
    model = result["model"]
    print(f"{model['name']}, trained window {model['trained_window']:,}: {result['question']}")
    for row in result["rows"]:
        likely = "" if row["log_probability"] is None else f"  ln p(expected) = {row['log_probability']:.2f}"
        print(
            f"{row['label']:<24} {row['answer'].strip()!r}{likely}  "
            f"({row['prompt_tokens']:,} tokens, {row['seconds']:.1f} s)"
        )
