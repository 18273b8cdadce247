"""From choices to a plan, for the command line and the app alike."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from selfextend.lab.choices import (
    MOST_TRIALS,
    Choices,
    parse_depths,
    parse_length,
    parse_lengths,
    parse_numbers,
    probe_named,
    prose_tokens,
)
from selfextend.lab.errors import LabError
from selfextend.lab.grid import GridPlan
from selfextend.lab.perplexity import PerplexityPlan
from selfextend.lab.plans import Plan, check_methods
from selfextend.lab.probes.cases import Probe
from selfextend.lab.probes.haystack import encode, own_text
from selfextend.lab.short_context import settled_for, short_context_plan
from selfextend.lab.sweep import default_grid, sweep_methods
from selfextend.methods import Method, SelfExtend, parse_methods, recommended
from selfextend.positions import QueryScaling
from selfextend.profile import Profile


def plan_of(choices: Choices, profile: Profile, tokenizer: PreTrainedTokenizerBase, probe: Probe | None = None) -> Plan:
    """The plan for what was chosen, refusing what cannot be run.

    Args:
        probe: to be used in place of the one that `choices` names.

    Raises:
        LabError, ValueError: with a sentence that says what to change.
    """
    window = profile.trained_window
    if choices.trials > MOST_TRIALS:
        raise LabError(f"There may be at most {MOST_TRIALS:,} trials, not {choices.trials:,}.")
    if choices.probe == "short-context":
        method = settled_for(max(parse_lengths(choices.lengths, window)), recommended(profile), profile)
        depths = parse_depths(choices.depths)
        return short_context_plan(tokenizer, profile, method, depths, choices.trials, choices.seed)
    methods = tuple(methods_of(choices, profile))
    plan: Plan
    if choices.probe == "perplexity":
        plan = _perplexity(choices, tokenizer, profile, methods)
    else:
        filler = own_text(choices.text.content, choices.text.source) if choices.text else None
        plan = GridPlan(
            probe or probe_named(choices.probe, filler),
            methods,
            parse_lengths(choices.lengths, window),
            parse_depths(choices.depths),
            choices.trials,
            choices.seed,
            choices.sweep,
        )
    plan.check(profile, tokenizer)
    return plan


def _perplexity(
    choices: Choices, tokenizer: PreTrainedTokenizerBase, profile: Profile, methods: tuple[Method, ...]
) -> PerplexityPlan:
    window = profile.trained_window
    length = parse_length(choices.lengths, window)
    check_methods(methods, profile, [length])  # before a text of that length is written
    text = choices.text
    tokens = encode(tokenizer, text.content) if text else prose_tokens(tokenizer, length, choices.seed)
    return PerplexityPlan(
        methods,
        tuple(tokens),
        length,
        window if choices.bin_tokens is None else choices.bin_tokens,
        text.source if text else "generated prose",
        choices.seed,
        choices.sweep,
    )


def methods_of(choices: Choices, profile: Profile) -> Sequence[Method]:
    """The methods that were chosen; of a sweep SelfExtend with each pair of settings that reaches."""
    if choices.sweep:
        return swept(choices, profile)[0]
    return parse_methods(
        choices.methods, profile, group_size=choices.group_size, neighbor_window=choices.neighbor_window
    )


def swept(choices: Choices, profile: Profile) -> tuple[list[SelfExtend], list[SelfExtend]]:
    """The methods of a sweep, and those left out since they do not reach its length.

    Raises:
        LabError: an unknown query scaling, or see `sweep_methods`.
    """
    scalings: dict[str, list[QueryScaling]] = {
        "none": ["none"],
        "logn": ["logn"],
        "both": ["none", "logn"],
        "recommended": [profile.query_scaling],
    }
    if choices.scaling not in scalings:
        raise LabError(
            f"The query scaling (--scaling) must be none, logn, both or recommended, not {choices.scaling!r}."
        )
    window = profile.trained_window
    length = parse_length(choices.lengths, window)
    groups, windows = default_grid(window, length)
    return sweep_methods(
        parse_numbers(choices.group_sizes) if choices.group_sizes.strip() else groups,
        parse_numbers(choices.neighbor_windows) if choices.neighbor_windows.strip() else windows,
        window,
        length,
        scalings[choices.scaling],
    )
