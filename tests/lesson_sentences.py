"""What has to be true for each sentence of the lesson, worked out anew: by tests/reference.py, by plain loops over the
recorded runs, by the definitions of RoPE and softmax. Imports nothing from selfextend.
"""

from __future__ import annotations

import cmath
import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import reference

MODEL = Path(__file__).resolve().parent.parent / "assets" / "model"
NEAR_SCORES, FAR_SCORES = (1, 2, 0.5, 1.5), (0.5, 1)


@dataclass
class Told:
    """The state that sentences are told of, and the recorded runs."""

    S: dict[str, Any]
    R: dict[str, Any]
    words: list[str]

    def __getattr__(self, name: str) -> Any:
        return self.S[name]

    @property
    def key(self) -> str:
        return str(self.R["prompt"]["key"])

    @property
    def n_run(self) -> int:
        return int(self.R["lengths"][self.S["at"]])

    @property
    def key_count(self) -> int:
        """The slider's thirty-one stops from 100 to 100,000, even on a logarithmic scale."""
        return round(10 ** (2 + self.S["keys"] / 10))

    @property
    def trained(self) -> int:
        return int(self.R["made"]["trained_window"])

    def said(self, kind: str, at: int, group: int, window: int) -> str:
        rows = self.R["answers"]
        if kind == "vanilla" or group == 1:
            row = rows["vanilla"]
        elif kind == "no_neighbors":
            row = rows[kind][str(group)]
        else:
            row = rows[kind][f"{group},{window}"]
        return str(self.R["texts"][row[at]])

    def right(self, kind: str, at: int, group: int, window: int) -> int:
        said = self.said(kind, at, group, window)
        return sum(got == wanted for got, wanted in zip(said.ljust(len(self.key)), self.key, strict=False))

    def position(self, i: int, j: int) -> int:
        return reference.relative_position(i, j, self.S["G"], self.S["w"])

    def hands_outside(self, position: int) -> int:
        return _hands_outside(tuple(self.frequencies()), self.trained, position)

    def frequencies(self) -> list[float]:
        rope = self.R["made"]["rope"]
        return [1 / rope["base"] ** (2 * pair / (2 * rope["pairs"])) for pair in range(rope["pairs"])]

    def softmaxes(self) -> list[list[float]]:
        """Weights of near keys alone, of far keys alone, of all of them together."""
        near, far = list(NEAR_SCORES), [*FAR_SCORES, self.S["far"] / 2]
        powers = [[math.exp(score) for score in scores] for scores in (near, far, near + far)]
        return [[power / sum(each) for power in each] for each in powers]

    def weight(self, count: int, factor: float = 1.0) -> float:
        score = math.exp(self.S["lead"] * factor)
        return score / (score + count - 1)

    def grid_reach(self) -> int:
        return reach(self.S["L"], self.S["G"], self.S["w"])

    def own_position(self, i: int, j: int) -> int:
        return reference.relative_position(i, j, self.S["DG"], self.S["DW"])


@cache
def _hands_outside(frequencies: tuple[float, ...], trained: int, position: int) -> int:
    """Hands at an angle that positions 0 ... L - 1 never passed: each swept from 0 to where it stands at the last."""
    outside = 0
    for frequency in frequencies:
        swept = (trained - 1) * frequency
        angle = cmath.phase(cmath.exp(1j * position * frequency)) % (2 * math.pi)
        outside += trained * frequency < 2 * math.pi and angle > swept + 1e-9
    return outside


def close(value: dict[str, float], wanted: float) -> bool:
    (number,) = value.values()
    return math.isclose(number, wanted, rel_tol=1e-9, abs_tol=1e-12)


def _largest(told: Told, tokens: int) -> int:
    return reference.largest_of_last(tokens, told.S["G"], told.S["w"])


def _wholly_right(told: Told, kind: str, group: int, window: int) -> int:
    return sum(told.said(kind, at, group, window) == told.key for at in range(len(told.R["lengths"])))


def _breaks_late(told: Told, v: dict[str, Any]) -> bool:
    """Right at some recorded lengths past L, wrong at the one named and at none before it."""
    lengths = told.R["lengths"]
    wrong = [n for at, n in enumerate(lengths) if told.said("vanilla", at, 1, 1) != told.key]
    right_past = [n for n in lengths if told.trained + 1 < n < wrong[0]]
    return v["L"] == told.trained and v["n"] == wrong[0] > told.trained + 1 and len(right_past) > 0


reach = cache(reference.reach)


def _recorded_reach(told: Told) -> int:
    return reach(told.trained, told.RG, told.RW)


def _grouped_position(told: Told) -> int:
    at = told.R["prompt"]["digits_at"]
    return reference.relative_position(at + told.d, at, told.RG, told.RW)


def _first_far(told: Told) -> tuple[int, int]:
    return told.N - 1, told.N - 1 - told.w


def _chain(kind: str) -> Callable[[Told, dict[str, Any]], bool]:
    def check(told: Told, v: dict[str, Any]) -> bool:
        row = told.R["chain"][kind][told.look]
        at, settings = told.R["chain"]["key_at"], told.R["chain"]
        query = told.R["lengths"][told.look] - 1
        pair = (1, 1) if kind == "vanilla" else (settings["group_size"], settings["neighbor_window"])
        softmax = 1 / (1 + math.exp(row["rest"] - row["score"]))
        return (
            v["p"] == row["position"] == reference.relative_position(query, at, *pair)
            and close(v["score"], row["score"])
            and close(v["weight"], row["weight"])
            and math.isclose(softmax, row["weight"], rel_tol=1e-3)
            and close(v["probability"], row["probability"])
        )

    return check


def _sharing(told: Told, position: int) -> list[int]:
    return [j for j in range(told.i + 1) if told.i - j >= told.w and told.position(told.i, j) == position]


def _far_key(told: Told, v: dict[str, Any]) -> bool:
    far, digits = told.R["far"], range(v["from"], v["to"] + 1)
    return (
        (v["n"], v["G"], v["key"]) == (far["length"], far["group_size"], far["key"])
        and v["text"] == far["text"] == far["key"]
        and v["from"] == far["digits_at"]
        and len(digits) == len(set(v["key"])) == len(v["key"])
        and {at // far["group_size"] for at in digits} == {v["group"]}
        and v["back"] == far["length"] - 1 - v["from"]
        and far["query_scaling"] == "logn"
    )


def _cell(told: Told, v: dict[str, Any], near: bool) -> bool:
    assert re.fullmatch(r"[\d+\-/= ]+", v["sum"])
    sides = [eval(side) for side in v["sum"].split(" = ")]  # noqa: S307 (digits and signs only, see above)
    return (
        v["d"] == told.i - told.j
        and v["w"] == told.w
        and (v["d"] < told.w) is near
        and set(sides) == {told.position(told.i, told.j)}
    )


def _seam(told: Told, v: dict[str, Any], skipped: bool) -> bool:
    i, j = _first_far(told)
    row = [told.position(i, key) for key in range(told.N)]
    # Where a row skips a number, one of the rows nearby does not.
    others = {told.position(query, query - told.w) for query in range(told.w, told.w + told.G)}
    return (
        (v["i"], v["j"], v["near"]) == (i, j, told.w - 1)
        and v["p"] == row[j] == told.w + skipped
        and max(row[j + 1 :]) == told.w - 1
        and (told.w not in row) is skipped
        and (not skipped or (v["w"] == told.w and told.w in others))
    )


def _seam_rule(told: Told, v: dict[str, Any]) -> bool:
    """Where the nearest grouped key stands in each row; what matters of a query is where in its group it is."""
    firsts = {told.position(query, query - told.w) for query in range(told.w, told.w + told.G)}
    return firsts == ({told.w} if told.w % told.G == 0 else {told.w, told.w + 1})


def _seam_settings(told: Told) -> tuple[int, int]:
    return told.SG, told.SW


def _right_at_least_as_often(told: Told, at: int) -> bool | None:
    """Whether the card's SelfExtend alone is right as often as with log-n; None where it was not measured."""
    alone, scaled = (told.R["log_n"]["rows"][row][at] for row in ("SelfExtend alone", "SelfExtend with log-n"))
    return None if alone == "–" else float(alone.split("%")[0]) >= float(scaled.split("%")[0])


def _no_need(told: Told, v: dict[str, Any]) -> bool:
    lengths = told.R["log_n"]["lengths"]
    return all(_right_at_least_as_often(told, at) is (True if n <= v["n"] else None) for at, n in enumerate(lengths))


@cache
def _bundled_hash() -> str:
    return hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()


def _heads(v: dict[str, Any]) -> bool:
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    return (v["layers"], v["heads"], v["all"]) == (layers, heads, layers * heads)


CHECKS: dict[str, Callable[[Told, dict[str, Any]], bool]] = {
    "s1.vanilla.right": lambda c, v: v["n"] == c.n_run and v["key"] == c.said("vanilla", c.at, 1, 1) == c.key,
    "s1.vanilla.wrong": lambda c, v: (
        v["n"] == c.n_run and v["right"] == c.right("vanilla", c.at, 1, 1) < v["of"] == len(c.key)
    ),
    "s1.extended.same": lambda c, v: c.RG == 1,
    "s1.extended.right": lambda c, v: (
        (v["G"], v["w"]) == (c.RG, c.RW) and v["key"] == c.key == c.said("selfextend", c.at, c.RG, c.RW)
    ),
    "s1.extended.wrong": lambda c, v: (
        (v["G"], v["w"]) == (c.RG, c.RW)
        and v["right"] == c.right("selfextend", c.at, c.RG, c.RW) < v["of"] == len(c.key)
    ),
    "s1.reach.in": lambda c, v: v["reach"] == _recorded_reach(c) >= c.n_run,
    "s1.reach.out": lambda c, v: v["reach"] == _recorded_reach(c) < c.n_run,
    "s1.lengths": lambda c, v: (
        v["v"] == _wholly_right(c, "vanilla", 1, 1)
        and v["s"] == _wholly_right(c, "selfextend", c.RG, c.RW)
        and v["all"] == len(c.R["lengths"])
    ),
    "s1.beyond": _breaks_late,
    # One model gave all answers, the one that ships; test_recorded_cells_come_out_again compares its weights.
    "s1.nothing": lambda c, v: c.R["made"]["model"]["sha256"] == _bundled_hash(),
    "s2.whole": lambda c, v: (
        v["pairs"] == len(c.frequencies())
        and v["L"] == c.trained
        and v["whole"] == sum(c.trained * f >= 2 * math.pi for f in c.frequencies())
    ),
    "s2.inside": lambda c, v: v["d"] == c.d < c.trained and c.hands_outside(c.d) == 0,
    "s2.outside": lambda c, v: v["d"] == c.d >= c.trained and v["outside"] == c.hands_outside(c.d),
    "s2.back": lambda c, v: any(c.hands_outside(d + 1) < c.hands_outside(d) for d in range(c.trained, 1500, 1)),
    "s2.grouped": lambda c, v: (
        v["G"] == c.RG and v["p"] == _grouped_position(c) and v["outside"] == c.hands_outside(v["p"])
    ),
    "s3.vanilla": _chain("vanilla"),
    "s3.extended": _chain("selfextend"),
    "s3.rest": lambda c, v: close(v["rest"], c.R["chain"]["vanilla"][c.look]["rest"]),
    "s3.one": lambda c, v: _heads(v),
    "s4.who": lambda c, v: (v["i"], v["j"], v["query"], v["key"]) == (c.i, c.j, c.words[c.i], c.words[c.j]),
    "s4.near": lambda c, v: _cell(c, v, True),
    "s4.far": lambda c, v: _cell(c, v, False),
    "s4.unseen": lambda c, v: v["p"] == c.position(c.i, c.j) > v["last"] == c.L - 1,
    "s4.vanilla": lambda c, v: v["d"] == c.i - c.j <= c.L - 1,
    "s4.vanilla.unseen": lambda c, v: v["d"] == c.i - c.j > v["last"] == c.L - 1,
    "s5.shift": lambda c, v: c.G > 1 and v["shift"] == c.w - c.w // c.G == v["w"] - v["wg"] and v["wg"] == c.w // c.G,
    "s5.shift.none": lambda c, v: c.G == 1 and v["w"] == c.w,
    "s5.follows": lambda c, v: _seam(c, v, False),
    "s5.skips": lambda c, v: _seam(c, v, True),
    "s5.rule": _seam_rule,
    "s5.overlap": lambda c, v: (
        v["j"] == _first_far(c)[1] and v["q"] == (c.N - 1) // c.G - v["j"] // c.G and 0 <= v["q"] < c.w
    ),
    "s5.no_far": lambda c, v: v["N"] == c.N <= v["w"] == c.w,
    "s5.measured": lambda c, v: (v["n"], v["SG"], v["SW"]) == (c.n_run, *_seam_settings(c)),
    "s5.said": lambda c, v: (
        v["text"].strip("“”").replace("⏎", "\n") == c.said(c.part, c.at, *_seam_settings(c))
        and v["right"] == c.right(c.part, c.at, *_seam_settings(c))
        and v["of"] == len(c.key)
    ),
    "s5.lengths": lambda c, v: (
        v["right"] == _wholly_right(c, c.part, *_seam_settings(c)) and v["all"] == len(c.R["lengths"])
    ),
    "s6.apart.text": lambda c, v: (
        close(v["near"], sum(c.softmaxes()[0])) and close(v["far"], sum(c.softmaxes()[1])) and close(v["far"], 1)
    ),
    "s6.together.text": lambda c, v: (
        close(v["near"], sum(c.softmaxes()[2][: len(NEAR_SCORES)]))
        and close(v["far"], sum(c.softmaxes()[2][len(NEAR_SCORES) :]))
    ),
    "s7.share": lambda c, v: (
        v["keys"] == ", ".join(map(str, _sharing(c, v["p"])))
        and c.j in _sharing(c, v["p"])
        and 1 < len(_sharing(c, v["p"])) <= c.G
    ),
    "s7.exact": lambda c, v: (
        (v["i"], v["j"], v["p"]) == (c.i, c.j, c.i - c.j)
        and [j for j in range(c.i + 1) if c.position(c.i, j) == v["p"]] == [c.j]
    ),
    "s7.alone": lambda c, v: _sharing(c, v["p"]) == [c.j] == [v["j"]],
    "s7.order": lambda c, v: len(_sharing(c, c.position(c.i, c.j))) > 1,
    "s7.content": _far_key,
    "s8.largest": lambda c, v: v["n"] == c.n and v["p"] == _largest(c, c.n),
    "s8.fits": lambda c, v: v["last"] == c.L - 1 >= _largest(c, c.n),
    "s8.new": lambda c, v: (
        v["p"] == c.position(v["i"], 0) == _largest(c, c.n) > v["last"] == c.L - 1 and v["i"] == c.n - 1
    ),
    # The largest position of a text that has grouped keys, at its corner, just past the reach.
    "s8.must": lambda c, v: (
        v["last"] == c.L - 1
        and all(
            _largest(c, n) == c.position(n - 1, 0) == (n - 1) // c.G + c.w - c.w // c.G
            for n in range(c.w + 1, c.grid_reach() + 2)
        )
    ),
    "s8.groups": lambda c, v: (
        v["most"] == c.L - 1 - c.w + c.w // c.G
        and all(
            ((n - 1) // c.G <= v["most"]) is (_largest(c, n) <= c.L - 1) for n in range(c.w + 1, c.grid_reach() + 2)
        )
    ),
    "s8.floor": lambda c, v: (
        v["reach"] == v["G"] * (v["most"] + 1) == c.grid_reach()
        and all(((n - 1) // c.G <= v["most"]) is (n - 1 < v["reach"]) for n in range(1, v["reach"] + 3))
    ),
    "s8.derive": lambda c, v: (
        v["wg"] == c.w // c.G
        and v["reach"] == v["G"] * (v["L"] - v["w"] + v["wg"]) == c.grid_reach()
        and _largest(c, v["reach"]) < c.L <= _largest(c, v["reach"] + 1)
    ),
    "s8.small": lambda c, v: v["n"] == c.n <= c.w and _largest(c, c.n) == c.n - 1,
    "s8.paper.same": lambda c, v: v["paper"] == (c.L - c.w) * c.G + c.w == c.grid_reach() and c.w % c.G == 0,
    "s8.paper.more": lambda c, v: (
        v["paper"] == (c.L - c.w) * c.G + c.w == c.grid_reach() + v["more"]
        and v["more"] > 0
        and v["back"] == v["G"] * (c.w // c.G) == c.w - v["more"]
    ),
    "s9.plain": lambda c, v: v["n"] == c.key_count and close(v["plain"], c.weight(v["n"])),
    "s9.scaled": lambda c, v: (
        c.key_count > c.trained
        and close(v["factor"], math.log(c.key_count) / math.log(c.trained))
        and close(v["scaled"], c.weight(c.key_count, math.log(c.key_count) / math.log(c.trained)))
    ),
    "s9.scaled.none": lambda c, v: c.key_count <= v["L"] == c.trained,
    "s9.apart": lambda c, v: _share_right(c, "vanilla, log-n alone") < 0.05 < 0.9 < _share_right(c, "SelfExtend alone"),
    "s9.need": _no_need,
    "s9.far": lambda c, v: (
        (v["n"], v["G"], v["key"]) == tuple(c.R["far"][name] for name in ("length", "group_size", "key"))
        and (v["unscaled"], v["text"]) == tuple(f"“{c.R['far'][name]}”" for name in ("unscaled", "text"))
    ),
    "s10.cell": lambda c, v: 0 <= v["j"] <= v["i"] < c.T and v["p"] == c.own_position(v["i"], v["j"]),
    "s10.fits": lambda c, v: v["reach"] == reach(c.DL, c.DG, c.DW) >= c.T,
    "s10.new": lambda c, v: (
        v["reach"] == reach(c.DL, c.DG, c.DW) < c.T
        and reach(c.DL, v["needed"], c.DW) >= c.T
        and not any(reach(c.DL, group, c.DW) >= c.T for group in range(1, v["needed"]))
    ),
}


def _share_right(told: Told, row: str) -> float:
    """Of the passkeys at the first length past the trained window, by the model's card."""
    at = next(n for n, length in enumerate(told.R["log_n"]["lengths"]) if length > told.trained)
    return float(told.R["log_n"]["rows"][row][at].split("%")[0]) / 100
