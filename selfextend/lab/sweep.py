"""Which group size and neighbor window: a grid of them for one probe, and which to take, with the reason.

A sweep is a run with one method for each pair of settings, so it is stopped, resumed and recorded like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from selfextend.config import SelfExtendConfig, max_length, rule_share, suggest
from selfextend.lab.errors import LabError
from selfextend.lab.records import Row
from selfextend.lab.tables import accuracy, grouped, last_quarter
from selfextend.methods import SelfExtend
from selfextend.positions import QueryScaling

# Differences of perplexity below this share are no reason to prefer one pair of settings.
_SAME_PERPLEXITY = 0.01


def default_grid(trained_window: int, length: int) -> tuple[list[int], list[int]]:
    """Group sizes and neighbor windows worth trying: what `suggest` gives, and some below and above."""
    usual = suggest(trained_window, length).group_size
    groups = sorted({max(2, round(usual * factor)) for factor in (0.75, 1.0, 1.5, 2.0)})
    windows = sorted({max(1, round(trained_window * share)) for share in (0.125, 0.25, 0.375)})
    return groups, windows


def sweep_methods(
    group_sizes: Sequence[int],
    neighbor_windows: Sequence[int],
    trained_window: int,
    length: int,
    scalings: Sequence[QueryScaling] = ("none",),
) -> tuple[list[SelfExtend], list[SelfExtend]]:
    """SelfExtend with each pair of settings, and the pairs left out since they do not reach `length`.

    Raises:
        LabError: no pair reaches.
        ValueError: a number out of range.
    """
    methods: list[SelfExtend] = []
    left_out: list[SelfExtend] = []
    for scaling, group_size, window in dict.fromkeys(product(scalings, group_sizes, neighbor_windows)):
        method = SelfExtend(scaling, group_size, window)
        fits = window < trained_window and max_length(trained_window, method.positions) >= length
        (methods if fits else left_out).append(method)
    if not methods:
        raise LabError(
            f"None of these settings reaches {length:,} tokens from a trained window of {trained_window:,}. Try "
            "greater group sizes or smaller neighbor windows."
        )
    return methods, left_out


@dataclass(frozen=True)
class Recommendation:
    """Which settings to take.

    Attributes:
        label: of the method.
        settings: its numbers.
        reason: for people.
    """

    label: str
    settings: dict[str, Any]
    reason: str


def recommend(rows: Iterable[Row], trained_window: int, length: int) -> Recommendation:
    """Of the settings that the measurements cannot tell from the best, those that blur positions least: the smallest
    group size, inside the paper's empirical rule if there is one, then the larger neighbor window.

    Raises:
        LabError: no rows.
    """
    by_label = grouped(rows, lambda row: row["label"])
    if not by_label:
        raise LabError("There are no results to recommend from yet.")
    has_losses = "loss" in next(iter(by_label.values()))[0]
    tied, best = _tied_by_perplexity(by_label) if has_losses else _tied_by_accuracy(by_label)

    def preference(label: str) -> tuple[bool, int, int]:
        settings = by_label[label][0]["settings"]
        config = SelfExtendConfig(settings["group_size"], settings["neighbor_window"])
        outside_rule = rule_share(trained_window, length, config) >= 2 / 3
        return outside_rule, config.group_size, -config.neighbor_window

    chosen = min(tied, key=preference)
    outside_rule, _, _ = preference(chosen)
    reason = f"Best: {best}. "
    if len(tied) == 1:
        reason += "No other pair of settings comes as close as chance would explain."
    else:
        inside = "" if outside_rule else " that keep the paper's rule, w + (N - w)/G below two thirds of the window"
        reason += (
            f"These measurements cannot tell {len(tied)} of the {len(by_label)} pairs of settings apart; of "
            f"those{inside}, this has the smallest group size and so blurs positions least."
        )
    if outside_rule:
        reason += " It is outside the paper's rule: it uses positions that the model was trained on least."
    return Recommendation(chosen, by_label[chosen][0]["settings"], reason)


def _tied_by_accuracy(by_label: dict[str, list[Row]]) -> tuple[list[str], str]:
    found = {label: accuracy(rows) for label, rows in by_label.items()}
    best = max(found, key=lambda label: (found[label].share, found[label].score))
    tied = [label for label, total in found.items() if total.share >= found[best].low]
    if not found[best].score:
        best = "none, since nothing was answered right; the probe is too hard for this model, or its text too long"
        return tied, best
    return tied, f"{best} with {found[best].describe()}"


def _tied_by_perplexity(by_label: dict[str, list[Row]]) -> tuple[list[str], str]:
    found = {label: last_quarter(rows) for label, rows in by_label.items()}
    best = min(found, key=lambda label: found[label])
    tied = [label for label, value in found.items() if value <= found[best] * (1 + _SAME_PERPLEXITY)]
    return tied, f"{best} with a perplexity of {found[best]:.3g} over the last quarter of the text"
