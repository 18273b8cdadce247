"""What SelfExtend costs where it is not needed: probes inside the trained window, with it on and off."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfextend.lab.choices import prose_tokens
from selfextend.lab.errors import LabError
from selfextend.lab.grid import GridPlan
from selfextend.lab.perplexity import PerplexityPlan
from selfextend.lab.plans import Cell, Plan
from selfextend.lab.probes.key_values import KeyValues
from selfextend.lab.probes.needle import Needle
from selfextend.lab.probes.passkey import Passkey
from selfextend.lab.records import CellKey
from selfextend.lab.views import SHORT_CONTEXT_PROBES
from selfextend.methods import Method, SelfExtend, Vanilla
from selfextend.profile import Profile


@dataclass(frozen=True)
class ShortContextPlan(Plan):
    """The check. Made by `short_context_plan`.

    Attributes:
        methods: vanilla, and SelfExtend with the settings it would have for long texts.
        length: of every text: the trained window.
        plans: those whose cases fit into it.
    """

    methods: tuple[Method, ...]
    length: int
    depths: tuple[float, ...]
    trials: int
    seed: int
    plans: tuple[Plan, ...]

    name = "short-context"

    @property
    def weight(self) -> int:
        return sum(plan.weight for plan in self.plans)

    def settings(self) -> dict[str, Any]:
        probes = [*SHORT_CONTEXT_PROBES, "perplexity"]
        return {"lengths": [self.length], "depths": list(self.depths), "trials": self.trials, "probes": probes}

    def check(self, profile: Profile, tokenizer: PreTrainedTokenizerBase) -> None:
        for plan in self.plans:
            plan.check(profile, tokenizer)

    def cells(self, tokenizer: PreTrainedTokenizerBase, profile: Profile, done: AbstractSet[CellKey]) -> Iterator[Cell]:
        for plan in self.plans:
            yield from plan.cells(tokenizer, profile, done)


def short_context_plan(
    tokenizer: PreTrainedTokenizerBase,
    profile: Profile,
    method: Method,
    depths: tuple[float, ...],
    trials: int,
    seed: int = 0,
) -> ShortContextPlan:
    """Passkeys, needles, key-value pairs and perplexity inside the trained window. What does not fit is left out.

    Args:
        method: SelfExtend, see `settled_for`.

    Raises:
        LabError: a number out of range.
    """
    methods, window = (Vanilla(), method), profile.trained_window
    plans: list[Plan] = []
    for probe in (Passkey(), Needle("single"), KeyValues()):
        grid = GridPlan(probe, methods, (window,), depths, trials, seed)
        try:
            grid.check(profile, tokenizer)
        except LabError:
            continue
        plans.append(grid)
    tokens = prose_tokens(tokenizer, window, seed)
    plans.append(PerplexityPlan(methods, tuple(tokens), window, max(1, window // 4), "generated", seed))
    return ShortContextPlan(methods, window, depths, trials, seed, tuple(plans))


def settled_for(length: int, method: SelfExtend, profile: Profile) -> SelfExtend:
    """SelfExtend with the numbers it would have for long texts, so that it is really on inside the window.

    Raises:
        LabError: `length` is inside the trained window, where nothing would be grouped.
    """
    settled = method.at(profile, length)
    if settled.group_size == 1:
        raise LabError(
            f"{length:,} tokens fit the trained window of {profile.trained_window:,}: nothing would be grouped. Name "
            "the length that SelfExtend is meant for."
        )
    return settled
