"""`passkey`, `needle`, `key-value`, `perplexity`, `sweep`, `short-context` and `eval`: a plan, a run, its tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from selfextend.commands.files import check_files
from selfextend.commands.progress import end_progress, show_progress
from selfextend.commands.report import report
from selfextend.commands.targets import methods_of, target_of
from selfextend.lab.choices import Choices, OwnText, parse_length
from selfextend.lab.cluster import check_address, cluster, run_on_ray
from selfextend.lab.errors import LabError
from selfextend.lab.given_cases import GivenCasesPlan
from selfextend.lab.harness import EvalPlan
from selfextend.lab.planning import plan_of, swept
from selfextend.lab.plans import Plan
from selfextend.lab.probes.cases import Probe
from selfextend.lab.probes.haystack import Filler, own_text
from selfextend.lab.probes.key_values import KeyValues
from selfextend.lab.probes.needle import GENERATED, Needle, OwnNeedle
from selfextend.lab.probes.passkey import FILLER, Passkey, case_of_row, read_test_set
from selfextend.lab.probes.texts import read_text
from selfextend.lab.records import Run, RunFile, complete_cells, read_run
from selfextend.lab.run import CellDone, run_plan
from selfextend.lab.svg import as_svg
from selfextend.lab.target import Target, header_of
from selfextend.steps import Progress


def run_passkey(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.file is not None:
        return _given_cases(arguments)
    return _probe(arguments, Passkey(arguments.digits, _filler(arguments.text, FILLER)))


def run_needle(arguments: argparse.Namespace) -> dict[str, Any]:
    filler = _filler(arguments.text, GENERATED)
    own = (arguments.sentence, arguments.question, arguments.answer)
    if not any(own):
        return _probe(arguments, Needle(arguments.variant, arguments.needles, filler))
    if not all(own):
        raise LabError("A needle of your own takes all three: --sentence, --question and --answer.")
    return _probe(arguments, OwnNeedle(*own, filler))


def run_key_value(arguments: argparse.Namespace) -> dict[str, Any]:
    return _probe(arguments, KeyValues())


def run_perplexity(arguments: argparse.Namespace) -> dict[str, Any]:
    return _chosen(arguments, _choices(arguments, probe="perplexity", text=_own_text(arguments.text)))


def run_sweep(arguments: argparse.Namespace) -> dict[str, Any]:
    target = target_of(arguments)
    choices = _choices(arguments, sweep=True, text=_own_text(arguments.text))
    _, left_out = swept(choices, target.profile)
    return {**_chosen(arguments, choices, target=target), "left_out": [method.label for method in left_out]}


def run_short_context(arguments: argparse.Namespace) -> dict[str, Any]:
    return _chosen(arguments, _choices(arguments, probe="short-context"))


def run_eval(arguments: argparse.Namespace) -> dict[str, Any]:
    target = target_of(arguments)
    plan = EvalPlan(
        arguments.tasks,
        methods_of(arguments, target),
        parse_length(arguments.lengths, target.profile.trained_window),
        arguments.include_path,
        arguments.limit,
        arguments.num_fewshot,
        arguments.seed,
    )
    check_files(arguments)
    plan.check(target.profile, target.tokenizer())
    return report(recorded(arguments, target, plan))


def _given_cases(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.ray is not None:
        raise LabError("A test set runs in this process: leave --ray out.")
    if arguments.figure is not None:
        raise LabError("A test set has no grid of lengths and depths to draw: leave --figure out.")
    rows = read_test_set(arguments.file)
    target = target_of(arguments)
    tokenizer = target.tokenizer()
    plan = GivenCasesPlan(
        tuple(case_of_row(tokenizer, row) for row in rows),
        tuple(row["passkey_position"] for row in rows),
        methods_of(arguments, target),
        arguments.file.name,
        arguments.seed,
    )
    check_files(arguments)
    plan.check(target.profile, tokenizer)
    return report(recorded(arguments, target, plan))


def _filler(path: Path | None, otherwise: Filler) -> Filler:
    return otherwise if path is None else own_text(read_text(path), path.name)


def _own_text(path: Path | None) -> OwnText | None:
    return None if path is None else OwnText(path.name, read_text(path))


def _choices(arguments: argparse.Namespace, **more: Any) -> Choices:
    fields = Choices.__dataclass_fields__.keys() - {"text"}
    return Choices(**{key: value for key, value in vars(arguments).items() if key in fields} | more)


def _probe(arguments: argparse.Namespace, probe: Probe) -> dict[str, Any]:
    return _chosen(arguments, _choices(arguments, probe=probe.name), probe)


def _chosen(
    arguments: argparse.Namespace, choices: Choices, probe: Probe | None = None, target: Target | None = None
) -> dict[str, Any]:
    target = target or target_of(arguments)
    check_files(arguments)
    if arguments.ray is not None:
        check_address(arguments.ray)
    plan = plan_of(choices, target.profile, target.tokenizer(), probe)
    return report(recorded(arguments, target, plan))


def recorded(arguments: argparse.Namespace, target: Target, plan: Plan) -> Run:
    """Load the model and run to the end, with progress on standard error and every cell kept in the record file.

    The picture, where one is wanted, is drawn at the end.
    """
    address = arguments.ray
    with nullcontext() if address is None else cluster(address):  # a cluster first: it may not be there
        model, tokenizer = target.load()
        first = header_of(plan, target.name, model, target.profile, target.quantization)
        file, done = None, set()
        if arguments.out is not None and target.writes:
            file = RunFile(arguments.out, first, resume=arguments.resume)
            done = file.complete_cells()
        elif arguments.out is not None and arguments.out.exists():
            # The other processes that run the same model have to leave out the same cells.
            done = complete_cells(read_run(arguments.out).rows)
        run = Run(first) if file is None else file.run
        steps: Iterator[Progress | CellDone]
        if address is None:
            steps = run_plan(model, tokenizer, plan, target.profile, done)
        else:
            del model, tokenizer  # the workers load their own
            steps = run_on_ray(address, target, plan, done)
        for step in steps:
            if not isinstance(step, CellDone):
                if target.writes:
                    show_progress(step)
            elif file is not None:
                file.add(step.rows)
            else:
                run.rows += step.rows
    end_progress()
    if arguments.figure is not None and target.writes:
        arguments.figure.write_text(as_svg(run), encoding="utf-8")
    return run
