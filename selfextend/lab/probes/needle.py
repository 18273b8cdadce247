"""A needle in a haystack, and RULER's harder variants: several keys, several values, several questions, a chain.

After gkamradt's needle test and RULER (NVIDIA, arXiv 2404.06654), with other prompts: do not compare scores with
published RULER results. `python -m selfextend eval` runs RULER itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from selfextend.config import checked_integer
from selfextend.lab.errors import LabError
from selfextend.lab.probes import filler as generated
from selfextend.lab.probes.cases import Case, Tokenizer
from selfextend.lab.probes.haystack import Filler, Planted, encode, plant

VARIANTS = ("single", "multi-key", "multi-value", "multi-query", "tracking")

GENERATED = Filler(tuple(generated.sentences(seed=0, count=4000)), repeats=True, joint=" ", source="generated")
"""Some 60,000 words of generated prose, from the start again where that is not enough."""

_PLACES = (
    "Alder Wharf", "Birchwood Hall", "Copper Lane", "Dunmore Gate", "Eastfold House", "Fenwick Tower", "Gable Court",
    "Harrow Mill", "Ivy Terrace", "Juniper Lodge", "Kestrel Point", "Larch Hill", "Marlow Bridge", "Northbank Studio",
    "Orchard Row", "Pinecrest Dock", "Quarry Road", "Rowan Square", "Sandhill Barn", "Thornbury Arch",
)  # fmt: skip
_VARIABLES = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_PLANTED = "The access code of {place} is {value}."
_HEADER = "Read the text below. Afterwards you will be asked about {what} in it."


@dataclass(frozen=True)
class Needle:
    """The generated needles.

    Attributes:
        variant: "single"; "multi-key", where facts about other keys lie in the text too; "multi-value", where one key
            has several values and all are asked for; "multi-query", where several keys are asked for; "tracking",
            where variables pass a value on and all that hold it are asked for.
        count: how many needles there are, except for "single".
        filler: what to hide them in.
    """

    variant: str = "single"
    count: int = 4
    filler: Filler = GENERATED

    varies = True

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise LabError(f"There is no needle variant {self.variant!r}. Variants: {', '.join(VARIANTS)}.")
        checked_integer("The number of needles", self.count, 2)
        if self.count > len(_PLACES):
            raise LabError(f"There can be at most {len(_PLACES)} needles, not {self.count}.")

    @property
    def name(self) -> str:
        return f"needle-{self.variant}"

    def settings(self) -> dict[str, Any]:
        count = {} if self.variant == "single" else {"needles": self.count}
        return {"variant": self.variant, **count, "filler": self.filler.source}

    def case(self, tokenizer: Tokenizer, length: int, depth: float, rng: random.Random) -> Case:
        """One prompt of at most `length` tokens, answer included. The first needle is at `depth`, the others anywhere.

        Raises:
            LabError: see `plant`.
        """
        what, planted, question, expected = self._make(depth, rng)
        answer = len(encode(tokenizer, ", ".join(expected))) + 4
        header = _HEADER.format(what=what)
        tokens = plant(tokenizer, self.filler, length - answer, header=header, planted=planted, question=question)
        return Case(tokens=tokens, expected=tuple(expected), max_new_tokens=answer, match="contains")

    def _make(self, depth: float, rng: random.Random) -> tuple[str, list[Planted], str, list[str]]:
        """What is asked about, what is planted, the question with the answer's first words, and what is expected."""
        count = 1 if self.variant == "single" else self.count
        depths = [depth, *(round(rng.random(), 4) for _ in range(count - 1))]
        values = [str(value) for value in rng.sample(range(10_000, 100_000), count)]
        if self.variant == "tracking":
            return self._chain(sorted(depths), values[0], rng)
        places = rng.sample(_PLACES, count)
        if self.variant == "multi-value":
            places = [places[0]] * count
        planted = [
            Planted(at, _PLANTED.format(place=place, value=value))
            for at, place, value in zip(depths, places, values, strict=True)
        ]
        place = places[0]
        if self.variant == "multi-value":
            question = f"Which access codes does {place} have? The access codes of {place} are"
        elif self.variant == "multi-query":
            named = f"{', '.join(places[:-1])} and {places[-1]}"
            question = f"What are the access codes of {named}? The access codes of {named}, in this order, are"
        else:
            question, values = f"What is the access code of {place}? The access code of {place} is", values[:1]
        return "access codes", planted, question, values

    def _chain(self, depths: list[float], value: str, rng: random.Random) -> tuple[str, list[Planted], str, list[str]]:
        names = [f"{letter}{rng.randrange(10, 100)}" for letter in rng.sample(_VARIABLES, len(depths))]
        planted = [Planted(depths[0], f"Variable {names[0]} holds {value}.")]
        planted += [
            Planted(at, f"Variable {later} holds whatever variable {earlier} holds.")
            for at, earlier, later in zip(depths[1:], names, names[1:], strict=False)
        ]
        question = f"Which variables hold {value}? The variables that hold {value} are"
        return "variables", planted, question, names


@dataclass(frozen=True)
class OwnNeedle:
    """A sentence written by the user, with its question and what the answer should hold.

    Attributes:
        sentence: what is planted, with its full stop.
        question: what is asked at the end.
        answer: what the model's answer has to hold.
        filler: what it is planted in.
    """

    sentence: str
    question: str
    answer: str
    filler: Filler = GENERATED

    name = "needle-own"

    def __post_init__(self) -> None:
        for attribute in ("sentence", "question", "answer"):
            if not getattr(self, attribute).strip():
                raise LabError(f"The needle's {attribute} is empty.")
        if not self.filler.repeats and len(self.sentence) > sum(map(len, self.filler.pieces)):
            raise LabError(
                f"The needle ({len(self.sentence):,} characters) is longer than the text it is to be hidden in. "
                "Shorten it, or give a longer text."
            )

    @property
    def varies(self) -> bool:
        return self.filler.repeats

    def settings(self) -> dict[str, Any]:
        own = {"sentence": self.sentence, "question": self.question, "answer": self.answer}
        return {**own, "filler": self.filler.source}

    def case(self, tokenizer: Tokenizer, length: int, depth: float, rng: random.Random) -> Case:
        """One prompt with the sentence at `depth`. Trials start the generated filler at different places."""
        answer = len(encode(tokenizer, self.answer)) + 4
        filler = self.filler
        if filler.repeats:
            start = rng.randrange(len(filler.pieces))
            filler = replace(filler, pieces=(*filler.pieces[start:], *filler.pieces[:start]))
        planted = [Planted(depth, self.sentence.strip())]
        tokens = plant(tokenizer, filler, length - answer, planted=planted, question=self.question.strip())
        return Case(tokens=tokens, expected=(self.answer,), max_new_tokens=answer, match="contains")
