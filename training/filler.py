"""Filler between the facts: prose of a wide vocabulary, headings, lists, code-like lines. Not random tokens (rows.py).

Every sentence is on one side of the split.
"""

from __future__ import annotations

from training import vocabulary as v
from training.names import Names
from training.split import draw

PASSKEY_HEADER = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there."
)
PASSKEY_FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
PASSKEY_QUESTION = "What is the pass key?"


class Filler:
    """Draws filler text from one source of names."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.rng = names.rng

    def _noun(self) -> str:
        kind = self.rng.random()
        if kind < 0.12:
            return self.names.word()
        if kind < 0.18:
            return self.names.name()
        return self.rng.choice(v.NOUNS)

    def _noun_phrase(self) -> str:
        rng = self.rng
        kind = rng.random()
        noun = self._noun()
        if kind < 0.35:
            return f"the {noun}"
        if kind < 0.6:
            determiner = rng.choice(("the", "a", "this", "every", "no", "our", "its", "their"))
            return f"{determiner} {rng.choice(v.ADJECTIVES)} {noun}"
        if kind < 0.7:
            return f"{rng.choice(('the', 'a', 'any'))} {noun} of the {rng.choice(v.NOUNS)}"
        if kind < 0.8:
            return rng.choice(v.PRONOUNS)
        if kind < 0.86:
            return self.names.person() if rng.random() < 0.5 else self.names.entity()
        return f"{noun} {rng.choice(v.ADVERBS)}"

    def _clause(self) -> str:
        rng = self.rng
        verb = rng.choice(v.VERBS)
        kind = rng.random()
        if kind < 0.4:
            text = f"{self._noun_phrase()} {verb} {self._noun_phrase()}"
        elif kind < 0.6:
            text = f"{self._noun_phrase()} {verb} {rng.choice(v.ADVERBS)}"
        elif kind < 0.8:
            text = f"{self._noun_phrase()} {rng.choice(v.AUXILIARIES)} {rng.choice(v.ADJECTIVES)}"
        else:
            text = f"{self._noun_phrase()} {verb}"
        if rng.random() < 0.45:
            text += f" {rng.choice(v.PREPOSITIONS)} {self._noun_phrase()}"
        if rng.random() < 0.05:
            text += rng.choice(
                (f" in {rng.randint(1500, 2090)}", f" {rng.randint(2, 999)} times", f" ({rng.randint(1, 99)})")
            )
        return text

    def _sentence(self) -> str:
        text = self._clause()
        while self.rng.random() < 0.35:
            text += f"{self.rng.choice((',', ',', '', ';'))} {self.rng.choice(v.CONNECTIVES)} {self._clause()}"
        return text[:1].upper() + text[1:] + self.rng.choice(("." * 1, ".", ".", ".", "!", "?"))

    def sentence(self) -> str:
        """A sentence of nonsense in plain English grammar."""
        return draw(self._sentence, self.names.split)

    def mention(self, entity: str) -> str:
        """A sentence or heading that names ``entity`` and says nothing one could ask for."""
        rng = self.rng
        if rng.random() < 0.3:
            heading = entity[:1].upper() + entity[1:]
            return rng.choice((f"\n{heading}\n", f"{heading} {rng.randint(1, 99)}", heading.title()))

        def make() -> str:
            if rng.random() < 0.5:
                text = f"{entity} {rng.choice(v.VERBS)} {self._noun_phrase()}"
            else:
                text = f"{self._clause()} {rng.choice(v.PREPOSITIONS)} {entity}"
            if rng.random() < 0.3:
                text += f" {rng.choice(v.PREPOSITIONS)} {self._noun_phrase()}"
            return text[:1].upper() + text[1:] + "."

        return draw(make, self.names.split)

    def _oddity(self) -> str:
        rng = self.rng
        words = [
            rng.choice((rng.choice(v.NOUNS), rng.choice(v.VERBS), self.names.word())) for _ in range(rng.randint(2, 6))
        ]
        return rng.choice(
            (
                lambda: f"## {' '.join(words).capitalize()}\n",
                lambda: "\n- " + "\n- ".join(words),
                lambda: f"`{'_'.join(words[:3])}({', '.join(words[3:])})`",
                lambda: f"https://{words[0]}.org/{'/'.join(words[1:])}",
                lambda: f"{' '.join(words).upper()}.",
                lambda: f"| {' | '.join(words)} |\n",
                lambda: f"({rng.choice('abcxyz')}) {' '.join(words)};",
                lambda: f'"{" ".join(words)}" = {rng.random():.3f},',
                lambda: "".join(
                    chr(rng.choice((rng.randint(33, 126), rng.randint(192, 591)))) for _ in range(rng.randint(3, 14))
                ),
            )
        )()

    def oddity(self) -> str:
        """A scrap such as a heading, a list, a line of code or an address."""
        return draw(self._oddity, self.names.split)

    def any(self) -> str:
        return self.oddity() if self.rng.random() < 0.12 else self.sentence()
