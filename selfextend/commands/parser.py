"""The arguments of every command. Imports no torch and no numpy, so that `--help` is there at once.

Each command but `app` has a `run`, "module.function" in `selfextend.commands`, which takes the arguments and returns
the result, and a `show`, which prints it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from selfextend.methods import METHOD_NAMES, POSITION_METHODS, RECOMMENDED, Vanilla

_METHODS_HELP = (
    f"comma-separated: {', '.join(METHOD_NAMES)}, recommended (SelfExtend as recommended for the model), all "
    "(default: vanilla,recommended)"
)
APP = "app"
"""The command whose arguments the app reads itself, and not this parser: see `selfextend.cli`."""

_MAPS = (*(method.kind for method in POSITION_METHODS), "difference")
_MODEL_HELP = "bundled, a folder, a GGUF file, or a hub id: owner/name or owner/name:Q4_K_M (default: bundled)"
_LENGTH_HELP = "tokens, or multiples of the trained window such as 8x"
_DEPTHS_HELP = "how many from 0 to 1, or a comma-separated list"


def make_parser() -> argparse.ArgumentParser:
    """The parser of `python -m selfextend`."""
    top = argparse.ArgumentParser(
        prog="selfextend", description="SelfExtend (arXiv 2401.01325) on any RoPE model of transformers."
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_settings(commands)
    _add_questions(commands)
    _add_probes(commands)
    _add_sweep(commands)
    _add_benchmarks(commands)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    commands.add_parser(APP, help=f"the app in the browser; `selfextend {APP} --help` lists what can be set")
    return top


def _add(commands: Any, name: str, module: str, told: str) -> argparse.ArgumentParser:
    """A command, whose functions are in `selfextend.commands.<module>`. `told` says what it does.

    Commands without options for records, a picture or a cluster have none of them.
    """
    command: argparse.ArgumentParser = commands.add_parser(name, help=told)
    function = name.replace("-", "_")
    show = "report.show_report" if module == "measure" else f"{module}.show_{function}"
    command.set_defaults(run=f"{module}.run_{function}", show=show, out=None, resume=False, figure=None, ray=None)
    return command


def _add_settings(commands: Any) -> None:
    suggest = _add(commands, "suggest", "positions", "group size and neighbor window for a length")
    suggest.add_argument("numbers", type=int, nargs="*", metavar="N", help="trained window and length: 4096 16000")
    suggest.add_argument("--trained-window", "-L", type=int, help="tokens the model was trained on")
    suggest.add_argument("--model", help="take the trained window and what is recommended from this model")
    suggest.add_argument("--length", "-N", type=int, help="tokens of prompt and answer together")
    suggest.add_argument("--neighbor-window", "-w", type=int, help="as recommended, or a quarter of the window")

    position_map = _add(commands, "map", "positions", "the relative positions that SelfExtend gives")
    position_map.add_argument("--trained-window", "-L", type=int, help="default: the paper's example, 7")
    position_map.add_argument("--length", "-N", type=int, help="tokens in the text (default: twice the window)")
    position_map.add_argument("--group-size", "-G", type=int, help="what `suggest` gives unless given")
    position_map.add_argument("--neighbor-window", "-w", type=int, help="a quarter of the trained window unless given")
    position_map.add_argument("--query-from", type=int, default=0)
    position_map.add_argument("--query-to", type=int, help="one past the last; the length unless given")
    position_map.add_argument("--key-from", type=int, default=0)
    position_map.add_argument("--key-to", type=int)
    position_map.add_argument("--method", default="selfextend", choices=_MAPS)
    position_map.add_argument("--cells", type=int, default=16, help="most rows and columns (at most 512)")

    models = _add(commands, "models", "models", "the models that are on this machine already")
    models.add_argument("--device", default="auto", help="whose memory they should fit: auto, cpu, cuda, mps")
    models.add_argument(
        "--models-folder", type=Path, action="append", default=[], help="look in this folder too; may be repeated"
    )

    _add(commands, "doctor", "doctor", "what this machine and installation can do")


def _add_questions(commands: Any) -> None:
    ask = _add(commands, "ask", "questions", "ask a question about a text")
    _add_question_arguments(ask)
    ask.add_argument("--max-new-tokens", type=int, help="the longest answer (default: what suits the model)")
    how = ask.add_mutually_exclusive_group()
    how.add_argument(
        "--method",
        default=RECOMMENDED,
        choices=(*METHOD_NAMES, RECOMMENDED),
        metavar="METHOD",
        help=f"{', '.join(METHOD_NAMES)}, or recommended: SelfExtend as recommended for the model (default)",
    )
    how.add_argument(
        "--vanilla", dest="method", action="store_const", const=Vanilla.kind, help="the same as --method vanilla"
    )
    ask.add_argument(
        "--extend",
        choices=("always", "when_needed"),
        default="when_needed",
        help="when_needed: a prompt whose answer fits the trained window gets the untouched model (default)",
    )
    ask.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token each time (default)")
    ask.add_argument("--top-p", type=float, default=1.0)
    ask.add_argument("--seed", type=int, default=0)
    _add_selfextend_arguments(ask)

    compare = _add(commands, "compare", "questions", "one question under several methods, side by side")
    _add_question_arguments(compare)
    compare.add_argument("--max-new-tokens", type=int, default=64, help="the longest answer (default: 64)")
    _add_methods(compare)
    compare.add_argument("--expect", help="the right answer, to see how likely each method finds it")


def _add_probes(commands: Any) -> None:
    passkey = _add(commands, "passkey", "measure", "a number hidden in a long text, asked for at its end")
    _add_grid_arguments(passkey)
    passkey.add_argument("--digits", type=int, default=5, help="of each key (default: 5)")
    passkey.add_argument("--text", type=Path, help="hide the keys in this TXT, Markdown or PDF")
    passkey.add_argument("--file", type=Path, help="instead, a test set in LongLM's form: lines of JSON")

    needle = _add(commands, "needle", "measure", "facts planted in a long text, after RULER")
    _add_grid_arguments(needle)
    needle.add_argument(
        "--variant", default="single", help="single, multi-key, multi-value, multi-query, tracking (default: single)"
    )
    needle.add_argument("--needles", type=int, default=4, help="how many, except for single (default: 4)")
    needle.add_argument("--text", type=Path, help="plant them in this TXT, Markdown or PDF, not in generated prose")
    needle.add_argument("--sentence", help="plant this sentence instead; with --question and --answer")
    needle.add_argument("--question", help="asked at the end")
    needle.add_argument("--answer", help="what the model's answer has to hold")

    key_value = _add(commands, "key-value", "measure", "one of many random identifiers in a JSON object")
    _add_grid_arguments(key_value)

    perplexity = _add(commands, "perplexity", "measure", "perplexity by position in a long text")
    _add_run_arguments(perplexity, figure=True)
    _add_methods(perplexity)
    perplexity.add_argument("--text", type=Path, help="the TXT, Markdown or PDF to read; generated prose unless given")
    perplexity.add_argument("--length", "-N", dest="lengths", default="16x", help=f"{_LENGTH_HELP} (default: 16x)")
    perplexity.add_argument("--bin-tokens", type=int, help="width of a bin (default: the trained window)")


def _add_sweep(commands: Any) -> None:
    sweep = _add(commands, "sweep", "measure", "group sizes and neighbor windows for one probe, and which to take")
    _add_run_arguments(sweep, figure=True)
    sweep.add_argument(
        "--probe",
        default="passkey",
        help="passkey, key-value, perplexity, or needle-single, needle-multi-key, ... (default: passkey)",
    )
    sweep.add_argument("--length", "-N", dest="lengths", default="8x", help=f"{_LENGTH_HELP} (default: 8x)")
    sweep.add_argument("--group-sizes", "-G", default="", help="comma-separated (default: around what `suggest` gives)")
    sweep.add_argument(
        "--neighbor-windows", "-w", default="", help="comma-separated (default: 1/8, 1/4 and 3/8 of the window)"
    )
    sweep.add_argument(
        "--scaling", default="recommended", help="none, logn, both, or recommended for the model (default)"
    )
    sweep.add_argument("--depths", default="5", help=f"{_DEPTHS_HELP} (default: 5)")
    sweep.add_argument("--trials", "-n", type=int, default=1, help="cases at each depth (default: 1)")
    sweep.add_argument("--text", type=Path, help="hide things in, or for perplexity read, this TXT, Markdown or PDF")


def _add_benchmarks(commands: Any) -> None:
    short = _add(commands, "short-context", "measure", "what SelfExtend costs inside the trained window")
    _add_run_arguments(short, ray=False)
    short.add_argument(
        "--for-length", dest="lengths", default="8x", help="what SelfExtend's settings are meant for (default: 8x)"
    )
    short.add_argument("--depths", default="5", help=f"{_DEPTHS_HELP} (default: 5)")
    short.add_argument("--trials", "-n", type=int, default=4, help="cases at each depth (default: 4)")

    harness = _add(commands, "eval", "measure", "EleutherAI's lm-evaluation-harness: LongBench, RULER and others")
    _add_run_arguments(harness, ray=False)
    _add_methods(harness)
    harness.add_argument(
        "--tasks", type=_names, required=True, help="comma-separated names or patterns of the harness's tasks"
    )
    harness.add_argument("--include-path", type=Path, help="a folder with task files of your own")
    harness.add_argument("--length", "-N", dest="lengths", default="8x", help=f"{_LENGTH_HELP} (default: 8x)")
    harness.add_argument("--limit", type=int, help="cases of each task")
    harness.add_argument("--num-fewshot", type=int)

    runs = _add(commands, "runs", "saved", "show saved runs again: one, or two side by side")
    runs.add_argument("files", type=Path, nargs="+")
    runs.add_argument("--csv", type=Path, help="write all rows to this file")
    runs.add_argument("--figure", type=Path, help="draw the run, if it is one, into this file (SVG)")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _add_model_arguments(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("model")
    group.add_argument("--model", "-m", default="bundled", help=_MODEL_HELP)
    group.add_argument("--quantization", choices=("none", "int8", "nf4", "auto"), default="none")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, mps")
    group.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    group.add_argument("--trained-window", "-L", type=int, help="as the model states it unless given")


def _add_selfextend_arguments(command: argparse.ArgumentParser) -> None:
    """SelfExtend's settings, where they are not to be suggested."""
    group = command.add_argument_group("SelfExtend")
    group.add_argument("--group-size", "-G", type=int, help="what `suggest` gives for the length unless given")
    group.add_argument("--neighbor-window", "-w", type=int, help="as recommended for the model unless given")


def _add_methods(command: argparse.ArgumentParser) -> None:
    command.add_argument("--methods", type=_names, default="vanilla,recommended", help=_METHODS_HELP)
    _add_selfextend_arguments(command)


def _add_question_arguments(command: argparse.ArgumentParser) -> None:
    _add_model_arguments(command)
    command.add_argument("question")
    command.add_argument("--text", type=Path, action="append", default=[], help="TXT, Markdown or PDF to read first")


def _add_grid_arguments(command: argparse.ArgumentParser) -> None:
    _add_run_arguments(command, figure=True)
    _add_methods(command)
    group = command.add_argument_group("grid")
    group.add_argument(
        "--lengths",
        default="1x,2x,4x,8x,16x",
        help=f"comma-separated {_LENGTH_HELP} (default: 1x,2x,4x,8x,16x)",
    )
    group.add_argument("--depths", default="11", help=f"{_DEPTHS_HELP} (default: 11)")
    group.add_argument("--trials", "-n", type=int, default=1, help="cases in each cell (default: 1)")


def _add_run_arguments(command: argparse.ArgumentParser, *, ray: bool = True, figure: bool = False) -> None:
    _add_model_arguments(command)
    group = command.add_argument_group("records")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--out", type=Path, help="keep the rows in this file (JSON lines)")
    group.add_argument("--resume", action="store_true", help="go on with the file of an interrupted run")
    if figure:
        group.add_argument("--figure", type=Path, help="draw the run into this file (SVG)")
    if ray:
        group.add_argument("--ray", metavar="ADDRESS", help="on a Ray cluster: host:port, auto, or local")
