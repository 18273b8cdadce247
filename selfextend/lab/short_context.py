"""What SelfExtend costs where it is not needed: the lab's probes inside the trained window, with it on and off.

Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfextend.config import suggest
from selfextend.lab.choices import prose_tokens
from selfextend.lab.errors import LabError
from selfextend.lab.grid import CellDone, GridPlan, Progress, run_grid
from selfextend.lab.methods import Method
from selfextend.lab.perplexity import PerplexityPlan, run_perplexity
from selfextend.lab.probes.key_values import KeyValues
from selfextend.lab.probes.needle import Needle
from selfextend.lab.probes.passkey import Passkey
from selfextend.lab.records import CellKey


@dataclass(frozen=True)
class ShortContextPlan:
    """The check.

    Attributes:
        trained_window: the paper's L; the length of every case.
        method: SelfExtend with the settings it would have for long texts.
        depths, trials, seed: as in `GridPlan`.
    """

    trained_window: int
    method: Method
    depths: tuple[float, ...]
    trials: int
    seed: int = 0

    name = "short-context"

    @property
    def methods(self) -> tuple[Method, Method]:
        """Off and on."""
        return Method("vanilla"), self.method

    def grids(self) -> list[GridPlan]:
        """Passkey, a needle, and key-value retrieval where the window has room for it."""
        probes = (Passkey(), Needle("single"), KeyValues())
        return [
            GridPlan(probe, self.methods, (self.trained_window,), self.depths, self.trials, self.seed)
            for probe in probes
        ]

    def settings(self) -> dict[str, Any]:
        """For the record's header."""
        return {
            "methods": [method.label for method in self.methods],
            "lengths": [self.trained_window],
            "depths": list(self.depths),
            "trials": self.trials,
            "probes": [*(grid.probe.name for grid in self.grids()), "perplexity"],
        }


def settings_for(target_length: int, trained_window: int, name: str = "selfextend") -> Method:
    """SelfExtend with what `suggest` gives for long texts, fixed, so that it is really on inside the window.

    Raises:
        LabError: the long length is inside the trained window, where nothing would be grouped.
    """
    config = suggest(trained_window, target_length)
    if config.group_size == 1:
        raise LabError(
            f"{target_length:,} tokens fit the trained window of {trained_window:,}: nothing would be grouped. Name "
            "the length that SelfExtend is meant for."
        )
    return Method(name, config.group_size, config.neighbor_window)


def run_short_context(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: ShortContextPlan,
    done: frozenset[CellKey] | set[CellKey] = frozenset(),
) -> Generator[Progress | CellDone, None, None]:
    """All probes, one after the other; close the generator to stop. What does not fit the window is left out."""
    window = plan.trained_window
    for grid in plan.grids():
        try:
            grid.check(window, tokenizer)
        except LabError:
            continue
        yield from run_grid(model, tokenizer, grid, window, done)
    tokens = prose_tokens(tokenizer, window, plan.seed)
    curve = PerplexityPlan(plan.methods, window, max(1, window // 4), "generated", plan.seed)
    yield from run_perplexity(model, tokens, curve, window, done)
