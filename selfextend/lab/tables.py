"""Tables made from rows: accuracies with their intervals, and perplexity curves. Plain numbers, for any figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import exp
from typing import Any

from selfextend.lab.records import Row, cell_key
from selfextend.lab.statistics import wilson_interval


@dataclass(frozen=True)
class Accuracy:
    """How often some cases were answered.

    Attributes:
        correct: cases with everything expected in the answer.
        trials: cases.
        score: the mean share of what was expected, 0 … 1; the same as correct / trials where one thing was.
        low, high: Wilson's 95% interval of correct / trials.
        seconds: in all. peak_bytes: the most of any case.
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
    """What the cells of these rows took, each counted once."""
    return round(sum({cell_key(row): row["seconds"] for row in rows}.values()), 3)


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
    """A row's settings for legends and tables: "G 12, w 64, log-n"; "–" where the method takes none."""
    names = {"group_size": "G", "neighbor_window": "w", "rope_type": "RoPE"}
    shown = [(names.get(key, key), value) for key, value in settings.items() if key != "query_scaling"]
    words = [f"{name} {value:,g}" if isinstance(value, (int, float)) else f"{name} {value}" for name, value in shown]
    words += ["log-n"] if settings.get("query_scaling") == "logn" else []
    return ", ".join(words) or "–"


def labels(rows: Iterable[Row]) -> list[str]:
    """The methods' labels, each once, in order."""
    return list(dict.fromkeys(row["label"] for row in rows))


def by_length(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Accuracy of each method at each length, over all depths."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["label"], row["length"]), []).append(row)
    return [
        {
            "label": label,
            "method": found[0]["method"],
            "settings": found[0]["settings"],
            "length": length,
            "accuracy": found_accuracy.share,
            **asdict(found_accuracy),
        }
        for (label, length), found in groups.items()
        for found_accuracy in [accuracy(found)]
    ]


def by_cell(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Accuracy of each method at each length and depth."""
    groups: dict[tuple[str, int, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["label"], row["length"], row["depth"]), []).append(row)
    return [
        {
            "label": label,
            "method": found[0]["method"],
            "settings": found[0]["settings"],
            "length": length,
            "depth": depth,
            "accuracy": found_accuracy.share,
            **asdict(found_accuracy),
        }
        for (label, length, depth), found in groups.items()
        for found_accuracy in [accuracy(found)]
    ]


def ends_of_curves(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """For each method's label the perplexity of its `first_bin` and its `last_quarter`, and their `ratio`."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["label"], []).append(row)
    ends = {}
    for label, curve in found.items():
        first = exp(min(curve, key=lambda row: row["start"])["loss"])
        last = last_quarter(curve)
        ends[label] = {"first_bin": first, "last_quarter": last, "ratio": last / first}
    return ends


def last_quarter(rows: Iterable[Row]) -> float:
    """Perplexity over the bins that begin in the last quarter of the text (the last bin, where none does)."""
    rows = list(rows)
    start = rows[0]["length"] * 3 / 4
    late = [row for row in rows if row["start"] >= start] or [max(rows, key=lambda row: row["start"])]
    tokens = sum(row["tokens"] for row in late)
    return exp(sum(row["loss"] * row["tokens"] for row in late) / tokens)


def curves(rows: Iterable[Row]) -> dict[str, dict[str, list[float]]]:
    """Perplexity curves: for each method's label, `start` and `end` of the bins in tokens, and `perplexity`."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        curve = found.setdefault(row["label"], {"start": [], "end": [], "perplexity": []})
        curve["start"].append(row["start"])
        curve["end"].append(row["end"])
        curve["perplexity"].append(exp(row["loss"]))
    return found
