"""Tables made from rows: accuracies with their intervals, and perplexity curves. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass
from math import exp
from typing import Any, TypeVar

from selfextend.lab.records import Row, cell_key
from selfextend.lab.statistics import wilson_interval
from selfextend.methods import METHODS
from selfextend.methods.base import words_of

Key = TypeVar("Key", bound=Hashable)


def grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Rows by what `key` says of each, in the order in which it first says it."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


@dataclass(frozen=True)
class Accuracy:
    """How often some cases were answered right.

    Attributes:
        correct: cases whose answers hold everything expected.
        trials: cases.
        score: the mean share of what was expected, 0 to 1; equal to correct / trials where one thing was expected.
        low, high: Wilson's 95% interval of correct / trials.
        seconds: of all cells together. peak_bytes: the most of any case.
    """

    correct: int
    trials: int
    score: float
    low: float
    high: float
    seconds: float
    peak_bytes: int

    @property
    def share(self) -> float:
        return self.correct / self.trials

    def describe(self) -> str:
        """For tables: "98% (95–99), n=220"."""
        return f"{self.share:.0%} ({self.low:.0%}–{self.high:.0%}), n={self.trials}"


def seconds_of(rows: Iterable[Row]) -> float:
    """What the cells of these rows took, each cell counted once."""
    return float(round(sum({cell_key(row): row["seconds"] for row in rows}.values()), 4))


def accuracy(rows: Iterable[Row]) -> Accuracy:
    """Of all these rows together.

    Raises:
        ValueError: there are none.
    """
    rows = list(rows)
    correct = sum(row["score"] == 1 for row in rows)
    low, high = wilson_interval(correct, len(rows))
    return Accuracy(
        correct=correct,
        trials=len(rows),
        score=sum(row["score"] for row in rows) / len(rows),
        low=low,
        high=high,
        seconds=seconds_of(rows),
        peak_bytes=max(row.get("peak_bytes", 0) for row in rows),
    )


def settings_words(settings: dict[str, Any]) -> str:
    """A row's settings for legends and tables, in few signs: "G 12, w 64, log-n"; "–" where there are none."""
    symbols = dict(pair for kind in METHODS for pair in kind.symbols) | {"rope_type": "RoPE"}
    return words_of({symbols.get(name, name): value for name, value in settings.items()}, equals=" ") or "–"


def labels(rows: Iterable[Row]) -> list[str]:
    """The methods' labels, each once, in order."""
    return list(dict.fromkeys(row["label"] for row in rows))


def by_length(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Accuracy of each method at each length, over all depths."""
    return _accuracies(rows, "length")


def by_cell(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Accuracy of each method at each length and depth."""
    return _accuracies(rows, "length", "depth")


def _accuracies(rows: Iterable[Row], *fields: str) -> list[dict[str, Any]]:
    """One entry for each method and each value of `fields`."""
    entries = []
    for found in grouped(rows, lambda row: tuple(row[field] for field in ("label", *fields))).values():
        total = accuracy(found)
        kept = {field: found[0][field] for field in ("label", "method", "settings", *fields)}
        entries.append({**kept, "accuracy": total.share, **asdict(total)})
    return entries


def ends_of_curves(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """For each method's label the perplexity of its `first_bin` and its `last_quarter`, their `ratio`, its `settings`
    and what it took."""
    ends = {}
    for label, curve in grouped(rows, lambda row: row["label"]).items():
        first = exp(min(curve, key=lambda row: row["start"])["loss"])
        last = last_quarter(curve)
        cost = {key: curve[-1].get(key) for key in ("seconds", "peak_bytes", "settings")}
        ends[label] = {"first_bin": first, "last_quarter": last, "ratio": last / first, **cost}
    return ends


def last_quarter(rows: Iterable[Row]) -> float:
    """Perplexity over the bins that begin in the last quarter of the text, or over the last bin where none does."""
    rows = list(rows)
    start = rows[0]["length"] * 3 / 4
    late = [row for row in rows if row["start"] >= start] or [max(rows, key=lambda row: row["start"])]
    tokens = sum(row["tokens"] for row in late)
    return exp(sum(row["loss"] * row["tokens"] for row in late) / tokens)


def curves(rows: Iterable[Row]) -> dict[str, dict[str, list[float]]]:
    """Perplexity curves: for each method's label, `start` and `end` of the bins in tokens, and `perplexity`."""
    return {
        label: {
            "start": [row["start"] for row in found],
            "end": [row["end"] for row in found],
            "perplexity": [exp(row["loss"]) for row in found],
        }
        for label, found in grouped(rows, lambda row: row["label"]).items()
    }
