"""The generated books: chapters, sections, paragraphs, and facts planted among their sentences.

The text is held out from training: its names and values are on the held-out side of the split, its prose is never
trained on.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from training import vocabulary as v
from training.facts import Fact, capitalised
from training.names import Names
from training.prose import COMMON, SENTENCES, Setting

# Ways to lead into a fact; none of them stands in facts.py.
OPENINGS = (
    "", "", "", "", "", "It is worth knowing that ", "The register states that ", "Ask anyone here, and you hear that ",
    "To this day ", "On paper and in practice ", "The plaque by the door says that ", "Write down that ",
    "For all who come after us: ", "New staff learn on their first day that ", "The index confirms that ",
)  # fmt: skip
ENDINGS = (
    "", "", "", "", "", "", ", and it is not likely to change", ", which surprises some people",
    ", as the plaque by the door confirms", ", and everybody is glad of it",
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    title: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Chapter:
    title: str
    sections: tuple[Section, ...]


@dataclass
class Book:
    """A book and the facts in it; ``statements`` holds each fact's sentence as it stands in the text."""

    title: str
    subtitle: str
    preface: tuple[str, ...]
    chapters: tuple[Chapter, ...]
    facts: list[Fact] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        parts = [self.title, self.subtitle, *self.preface]
        for chapter in self.chapters:
            parts.append(chapter.title)
            for section in chapter.sections:
                parts += [section.title, *section.paragraphs]
        return "\n".join(parts)


class Author:
    """Writes one book of a setting; the same seed writes the same book."""

    def __init__(self, setting: Setting, seed: int, names: tuple[str, ...] = ()) -> None:
        self.setting = setting
        self.rng = random.Random(seed)
        self.names = Names(self.rng, "held_out", invented_share=0.0)
        self.own_names = list(names)
        self.rng.shuffle(self.own_names)
        self.used: set[str] = set()
        # Bags of sentences dealt like cards, so that no sentence returns before all have been used.
        self.deck: list[str] = []

    def _name(self) -> str:
        if self.own_names:
            return self.own_names.pop()
        while (name := self.names.name()) in self.used:
            pass
        self.used.add(name)
        return name

    def _value(self, fact_kind: str) -> str:
        make = {
            "number": lambda: self.names.digits(5), "role": self.names.person, "date": self.names.date,
            "year": self.names.year, "amount": self.names.amount, "code": self.names.code,
        }[fact_kind]  # fmt: skip
        while (value := make()) in self.used:
            pass
        self.used.add(value)
        return value

    def _fact(self, entity: str, kind: str, taken: set[str]) -> Fact:
        rng = self.rng
        lists = {
            "number": v.NUMBER_ATTRIBUTES,
            "role": v.ROLES,
            "date": v.DATE_ATTRIBUTES,
            "code": v.CODE_ATTRIBUTES,
            "year": v.YEAR_ATTRIBUTES,
        }
        if kind in lists:
            attribute = draw_other(rng, lists[kind], taken)
            asks = "Who" if kind == "role" else "What"
            return Fact(
                f"{attribute}|{entity}", f"the {attribute} of {entity} is", self._value(kind), "",
                (f"{asks} is the {attribute} of {entity}?",),
            )  # fmt: skip
        if taken & {"weighs", "costs"}:
            return self._fact(entity, "number", taken)
        weighs, costs = v.MEASURES[:2]
        verb, question, units = costs if entity.split()[-1] in v.WEIGHTLESS else rng.choice((weighs, costs))
        return Fact(
            f"{verb}|{entity}", f"{entity} {verb}", self._value("amount"), f" {rng.choice(units)}",
            (question.format(ent=entity),),
        )  # fmt: skip

    def _sentence(self, entity: str) -> str:
        if not self.deck:
            self.deck = list(SENTENCES)
            self.rng.shuffle(self.deck)
        words = {**COMMON, **self.setting.words}
        text = self.deck.pop()
        slots = {name: self.rng.choice(options) for name, options in words.items()}
        return capitalised(text.format(ent=entity, Ent=capitalised(entity), **slots))

    def _statement(self, fact: Fact) -> str:
        opening = self.rng.choice(OPENINGS)
        stem = f"{opening}{fact.stem}" if opening else fact.answer_stem
        return f"{stem} {fact.value}{fact.tail}{self.rng.choice(ENDINGS)}."

    def _section(self, thing: str, facts: int, sentences: int, book: Book) -> Section:
        name = self._name()
        entity = f"the {name} {thing}"
        kinds = self.rng.choices(("number", "role", "date", "year", "amount", "code"), (40, 18, 10, 14, 10, 8), k=facts)
        taken: set[str] = set()
        lines = [self._sentence(entity) for _ in range(sentences)]
        for kind in kinds:
            fact = self._fact(entity, kind, taken)
            taken.add(fact.key.split("|")[0])
            statement = self._statement(fact)
            lines.insert(self.rng.randrange(1, len(lines)), statement)
            book.facts.append(fact)
            book.statements.append(statement)
        paragraphs: list[str] = []
        while lines:
            size = min(len(lines), self.rng.randint(4, 6))
            if len(lines) - size < 3:
                size = len(lines)
            paragraphs.append(" ".join(lines[:size]))
            lines = lines[size:]
        return Section(capitalised(entity), tuple(paragraphs))

    def write(self, facts: int = 100, sentences: int = 18, sections_per_kind: int = 1) -> Book:
        """Writes the book: ``facts`` facts spread evenly, ``sentences`` other sentences in each section."""
        setting = self.setting
        book = Book(setting.title, setting.subtitle, setting.preface, ())
        things = [
            (title, thing) for title, kinds in setting.chapters for thing in kinds for _ in range(sections_per_kind)
        ]
        chapters: dict[str, list[Section]] = {}
        for index, (title, thing) in enumerate(things):
            share = facts * (index + 1) // len(things) - facts * index // len(things)
            chapters.setdefault(title, []).append(self._section(thing, share, sentences, book))
        book.chapters = tuple(Chapter(title, tuple(sections)) for title, sections in chapters.items())
        repeated = [key for key, count in Counter(fact.key for fact in book.facts).items() if count > 1]
        assert not repeated, f"asked twice with different answers: {repeated}"
        return book


def draw_other(rng: random.Random, options: tuple[str, ...], taken: set[str]) -> str:
    """One of ``options`` that is not in ``taken``."""
    return rng.choice([option for option in options if option not in taken])
