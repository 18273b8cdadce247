"""Facts that can be asked for: a statement as it stands in a passage, a question, and the sentence that answers it.

The answer repeats the question's words and ends in the value ("The access code of the Meridian dome is 48213."),
so that the words just before the value are the ones that stand before it in the passage.
"""

from __future__ import annotations

from dataclasses import dataclass

from training import vocabulary as v
from training.names import Names

LEAD_INS = (
    "Visitors should know that", "Please note that", "As everyone here knows,", "Since last {month}",
    "The log of {weekday} says that", "According to {person},", "It is written that", "For the record,",
    "Remember that", "On {weekday} it was confirmed that", "In the end", "By order of {person},",
    "The {adjective} {noun} says that", "After the {noun}", "We found that", "A note adds that", "Also,", "Today",
    "There is no doubt that", "As {name} wrote,", "In this {noun}", "Staff are told that",
)  # fmt: skip
CLOSERS = (
    ", as {person} noted", ", and nobody has changed it since", ", which is known to the {noun}",
    ", and the {noun} {verb} it", " for now", ", so the {adjective} {noun} {verb}", ", as before", " in every {noun}",
    ", says {name}", " (see the {noun})", ", until {month}", "; the {noun} is {adjective}",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One fact. ``stem`` reads as it does inside a sentence; the value follows it after one space.

    ``key`` names what is asked, so that a passage can keep it to one value.
    """

    key: str
    stem: str
    value: str
    tail: str
    questions: tuple[str, ...]
    passage_stems: tuple[str, ...] = ()

    @property
    def entity(self) -> str:
        return self.key.split("|")[1]

    @property
    def answer_stem(self) -> str:
        return capitalised(self.stem)

    @property
    def answer(self) -> str:
        return f"{self.answer_stem} {self.value}{self.tail}."


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


class Facts:
    """Draws facts and words them, from one source of names."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.rng = names.rng

    def _fill(self, pattern: str) -> str:
        names = self.names
        return pattern.format(
            month=self.rng.choice(v.MONTHS) if "{month}" in pattern else "",
            weekday=self.rng.choice(v.WEEKDAYS) if "{weekday}" in pattern else "",
            person=names.person() if "{person}" in pattern else "",
            name=names.name() if "{name}" in pattern else "",
            noun=self.rng.choice(v.NOUNS),
            adjective=self.rng.choice(v.ADJECTIVES),
            verb=self.rng.choice(v.VERBS),
        )

    def attribute(self, kind: str, entity: str, attribute: str, value: str) -> Fact:
        """A fact of the form 'the access code of the Meridian dome is 48213'."""
        possessive = f"{entity}'s {attribute}"
        asks = "Who" if kind == "role" else "What"
        questions = [f"{asks} is the {attribute} of {entity}?"] * 6 + [
            f"{asks}'s the {attribute} of {entity}?",
            f"{asks} is {possessive}?",
            f"Tell me the {attribute} of {entity}.",
            f"{asks} is the {attribute} of {entity}",
            f"Which {attribute} does {entity} have?" if kind != "role" else f"{asks} was the {attribute} of {entity}?",
        ]
        stem = f"the {attribute} of {entity} is"
        others = (
            f"the {attribute} of {entity} was",
            f"the {attribute} of {entity} remains",
            f"the {attribute} of {entity}:",
            f"{possessive} is",
            f"{entity} has the {attribute}",
        )
        return Fact(f"{attribute}|{entity}", stem, value, "", tuple(questions), others)

    def measure(self, entity: str, verb: str, question: str, units: tuple[str, ...]) -> Fact:
        """A fact of the form 'the Meridian dome weighs 417 tons'."""
        unit = self.rng.choice(units)
        asked = (question.format(ent=entity),)
        return Fact(f"{verb}|{entity}", f"{entity} {verb}", self.names.amount(), f" {unit}", asked)

    def draw(self, entity: str, kind: str | None = None) -> Fact:
        """A fact about ``entity``; ``kind`` one of number, code, role, word, date, place, event, measure, time, did."""
        names, rng = self.names, self.rng
        kind = (
            kind
            or rng.choices(
                ("number", "code", "role", "word", "date", "place", "event", "measure", "time", "did"),
                (30, 9, 12, 7, 8, 5, 12, 10, 3, 4),
            )[0]
        )
        if kind == "number":
            return self.attribute(kind, entity, rng.choice(v.NUMBER_ATTRIBUTES), names.number())
        if kind == "code":
            return self.attribute(kind, entity, rng.choice(v.CODE_ATTRIBUTES), names.code())
        if kind == "role":
            return self.attribute(kind, entity, rng.choice(v.ROLES), names.person())
        if kind == "date":
            return self.attribute(kind, entity, rng.choice(v.DATE_ATTRIBUTES), names.date())
        if kind == "word":
            attribute = rng.choice(v.WORD_ATTRIBUTES)
            if attribute in ("colour", "paint"):
                value = rng.choice(v.COLOURS)
            else:
                value = rng.choice((names.word, names.name, lambda: rng.choice(v.NOUNS)))()
            return self.attribute(kind, entity, attribute, value)
        if kind == "event" and rng.random() < 0.5:
            return self.attribute(kind, entity, rng.choice(v.YEAR_ATTRIBUTES), names.year())
        if kind == "event":
            verb = rng.choice(v.EVENT_VERBS)
            value = names.year() if rng.random() < 0.7 else f"{rng.choice(v.MONTHS)} {names.year()}"
            return Fact(
                f"{verb}|{entity}", f"{entity} was {verb} in", value, "",
                (f"When was {entity} {verb}?", f"In which year was {entity} {verb}?"),
            )  # fmt: skip
        if kind == "place":
            verb = rng.choice(("stands", "lies", "is kept", "was found"))
            auxiliary, _, participle = verb.partition(" ")
            question = (
                f"Where {auxiliary} {entity} {participle}?"
                if participle
                else f"Where does {entity} {verb.rstrip('s')}?"
            )
            if verb == "lies":
                question = f"Where does {entity} lie?"
            preposition = rng.choice(("in", "at", "near", "behind"))
            return Fact(f"{verb}|{entity}", f"{entity} {verb} {preposition}", names.place(), "", (question,))
        if kind == "measure":
            return self.measure(entity, *rng.choice(v.MEASURES))
        if kind == "time":
            verb, question = rng.choice(v.TIME_VERBS)
            return Fact(f"{verb}|{entity}", f"{entity} {verb}", names.time(), "", (question.format(ent=entity),))
        verb = rng.choice(("drew", "founded", "repaired", "paid for", "designed", "painted", "sold", "guarded"))
        return Fact(
            f"{verb}|{entity}", f"{entity} was once {verb.replace('drew', 'drawn')} by", names.person(), "",
            (f"Who once {verb} {entity}?", f"By whom was {entity} once {verb.replace('drew', 'drawn')}?"),
        )  # fmt: skip

    def group(self, count: int) -> list[Fact]:
        """``count`` facts that are easy to mistake for one another: shared attributes, entities that share words."""
        entities = [self.names.entity()]
        facts: list[Fact] = []
        taken: set[str] = set()
        while len(facts) < count:
            if facts and self.rng.random() < 0.55:
                if self.rng.random() < 0.75:
                    entities.append(self.names.sibling(self.rng.choice(entities)))
                fact = self.like(self.rng.choice(facts), self.rng.choice(entities))
            else:
                entities.append(self.names.entity())
                fact = self.draw(self.rng.choice(entities))
            if fact.key not in taken:
                taken.add(fact.key)
                facts.append(fact)
        return facts

    def like(self, fact: Fact, entity: str) -> Fact:
        """A fact about ``entity`` with the attribute of ``fact`` where that is possible, else any fact."""
        attribute = fact.key.split("|")[0]
        for kind, attributes, value in (
            ("number", v.NUMBER_ATTRIBUTES, self.names.number),
            ("code", v.CODE_ATTRIBUTES, self.names.code),
            ("role", v.ROLES, self.names.person),
            ("date", v.DATE_ATTRIBUTES, self.names.date),
            ("event", v.YEAR_ATTRIBUTES, self.names.year),
        ):
            if attribute in attributes:
                near = self.rng.random() < 0.5
                return self.attribute(kind, entity, attribute, self.names.near(fact.value) if near else value())
        for verb, question, units in v.MEASURES:
            if attribute == verb:
                return self.measure(entity, verb, question, units)
        return self.draw(entity)

    def statement(self, fact: Fact, plain: float = 0.92) -> tuple[str, str, str]:
        """The fact as a sentence of a passage, in three parts: before the value, the value, what follows.

        ``plain`` is the share of statements that use the very words of the answer.
        """
        stem = fact.stem
        if fact.passage_stems and self.rng.random() > plain:
            stem = self.rng.choice(fact.passage_stems)
        if self.rng.random() < 0.5:
            before = f"{self._fill(self.rng.choice(LEAD_INS))} {stem}"
        else:
            before = capitalised(stem)
        closer = self._fill(self.rng.choice(CLOSERS)) if self.rng.random() < 0.35 else ""
        return f"{before} ", fact.value, f"{fact.tail}{closer}."
