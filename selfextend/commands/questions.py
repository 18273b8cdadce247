"""`ask` and `compare`: a question about a text."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfextend.commands.measure import recorded
from selfextend.commands.progress import end_progress, show_progress
from selfextend.commands.targets import method_of, methods_of, target_of
from selfextend.generation import GenerationSettings, NewToken, ReadingSettings, ReadyModel, answer_steps
from selfextend.lab.comparison import ComparisonPlan
from selfextend.lab.probes.haystack import encode
from selfextend.lab.probes.texts import read_text
from selfextend.methods import Vanilla, method_from
from selfextend.profile import longest_answer
from selfextend.steps import Progress, Running


def _texts(arguments: argparse.Namespace) -> list[str]:
    if arguments.max_new_tokens is not None and arguments.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens must be at least 1, not {arguments.max_new_tokens}.")
    if not arguments.question.strip():
        raise ValueError("The question is empty.")
    return [read_text(path) for path in arguments.text]


def _prompt(tokenizer: PreTrainedTokenizerBase, texts: list[str], question: str) -> list[int]:
    """Texts and question in the model's chat template, or as they are where it has none."""
    content = "\n\n".join([*texts, question])
    if not tokenizer.chat_template:
        return encode(tokenizer, f"{content}\nAnswer:")
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    ids: list[int] = tokenizer(rendered, add_special_tokens=False, verbose=False).input_ids
    return ids


def run_ask(arguments: argparse.Namespace) -> dict[str, Any]:
    texts = _texts(arguments)
    target = target_of(arguments)
    tokenizer, window = target.tokenizer(), target.profile.trained_window
    longest = arguments.max_new_tokens or longest_answer(target.name, window, chats=bool(tokenizer.chat_template))
    settings = GenerationSettings(longest, arguments.temperature, top_p=arguments.top_p, seed=arguments.seed)
    method = method_of(arguments, target)
    prompt = _prompt(tokenizer, texts, arguments.question)
    method.check(target.profile, len(prompt) + longest)
    model, tokenizer = target.load()
    shown = ""
    ready = ReadyModel(model, tokenizer, target.profile)
    steps = answer_steps(ready, prompt, settings, ReadingSettings(method, arguments.extend))
    with Running(steps) as run:
        for step in run:
            if isinstance(step, Progress):
                show_progress(step)
            elif isinstance(step, NewToken) and not arguments.json:
                if not shown:
                    end_progress()
                print(step.text[len(shown) :], end="", flush=True)
                shown = step.text
        answer = run.result
    if not arguments.json:
        print(answer.text[len(shown) :])
    used = answer.method.settings()
    return {
        "answer": answer.text,
        "model": target.name,
        "trained_window": window,
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": len(answer.token_ids),
        "stopped_by": answer.stopped_by,
        "method": answer.method.name,
        "settings": used,
        **{key: used.get(key) for key in ("group_size", "neighbor_window", "query_scaling")},
        "prefill_seconds": round(answer.prefill_seconds, 3),
        "decode_seconds": round(answer.decode_seconds, 3),
    }


def show_ask(result: dict[str, Any]) -> None:
    """The answer itself was shown while it came."""
    method = method_from(result["method"], result["settings"])
    setting = f" ({method.setting})" if method.setting else ""
    how = "the untouched model" if method == Vanilla() else f"{method.heading}{setting}"
    print(
        f"[{result['prompt_tokens']:,} tokens read in {result['prefill_seconds']:.1f} s with {how}; "
        f"{result['new_tokens']} tokens in {result['decode_seconds']:.1f} s]",
        file=sys.stderr,
    )


def run_compare(arguments: argparse.Namespace) -> dict[str, Any]:
    texts = _texts(arguments)
    target = target_of(arguments)
    tokenizer = target.tokenizer()
    expected: list[int] = []
    if arguments.expect:
        expected = tokenizer(f" {arguments.expect.strip()}", add_special_tokens=False).input_ids
    prompt = _prompt(tokenizer, texts, arguments.question)
    methods = methods_of(arguments, target)
    plan = ComparisonPlan(tuple(prompt), arguments.max_new_tokens, tuple(expected), methods)
    plan.check(target.profile, tokenizer)
    run = recorded(arguments, target, plan)
    told = {"question": arguments.question, "expected": arguments.expect}
    return {**told, "model": run.header["model"], "versions": run.header["versions"], "rows": run.rows}


def show_compare(result: dict[str, Any]) -> None:
    model = result["model"]
    print(f"{model['name']}, trained window {model['trained_window']:,}: {result['question']}")
    for row in result["rows"]:
        likely = "" if row["log_probability"] is None else f"  ln p(expected) = {row['log_probability']:.2f}"
        print(
            f"{row['label']:<24} {row['answer'].strip()!r}{likely}  "
            f"({row['prompt_tokens']:,} tokens, {row['seconds']:.1f} s)"
        )
