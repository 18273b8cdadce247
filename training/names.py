"""Names and values made from the word lists: people, places, codes, numbers, dates; each on one side of the split."""

from __future__ import annotations

import random
import uuid

from training import vocabulary as v
from training.split import Split, draw


class Names:
    """Draws names and values of one split with one random generator; equal seeds give equal draws.

    ``invented_share`` of the names are syllables of no meaning, so that names of any spelling can be looked up.
    """

    def __init__(self, rng: random.Random, split: Split = "train", invented_share: float = 0.3) -> None:
        self.rng = rng
        self.invented_share = invented_share
        self.split: Split = split

    def _pick(self, words: tuple[str, ...]) -> str:
        return words[int(self.rng.random() * len(words))]

    def _name(self) -> str:
        if self.rng.random() < self.invented_share:
            return self._syllables()
        return self._pick(v.NAME_STARTS) + self._pick(v.NAME_CLOSES)

    def _syllables(self) -> str:
        text = self._pick(v.ONSETS) + self._pick(v.VOWELS)
        if self.rng.random() < 0.55:
            text += self._pick(v.CODAS)
        if self.rng.random() < 0.45:
            text += self._pick(v.ONSETS) + self._pick(v.VOWELS)
        return text + self._pick(v.NAME_ENDINGS)

    def word(self) -> str:
        """An invented word in lower case."""
        return draw(self._syllables, self.split)

    def name(self) -> str:
        """An invented proper name."""
        return draw(self._name, self.split).capitalize()

    def person(self) -> str:
        return f"{self._pick(v.FIRST_NAMES)} {self.name()}"

    def digits(self, length: int | None = None) -> str:
        """A string of digits, five of them more often than not, the first never a zero."""
        count = length or self.rng.choices((3, 4, 5, 6, 7), (8, 20, 50, 15, 7))[0]
        return draw(lambda: str(self.rng.randrange(10 ** (count - 1), 10**count)), self.split)

    def number(self, length: int | None = None) -> str:
        """Digits as `digits()` draws them, a quarter of them of few kinds, such as 78785.

        What follows a digit is then not decided by the digit, nor by the two before it, so they are hard to copy.
        """
        text = self.digits(length)
        if self.rng.random() >= 0.25:
            return text

        def make() -> str:
            kinds = self.rng.sample("123456789", self.rng.randint(1, 3))
            return kinds[0] + "".join(self.rng.choices([*kinds, "0"], k=len(text) - 1))

        return draw(make, self.split)

    def code(self) -> str:
        """A code of capitals and digits such as KV-204."""

        def make() -> str:
            letters = "".join(self.rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=self.rng.randint(1, 3)))
            number = "".join(self.rng.choices("0123456789", k=self.rng.randint(2, 4)))
            shape = self.rng.random()
            if shape < 0.5:
                return f"{letters}-{number}"
            if shape < 0.75:
                return f"{letters}{number}"
            return f"{number}-{letters}"

        return draw(make, self.split)

    def near(self, value: str) -> str:
        """Another value that begins or ends as ``value`` does, so that copying it takes more than its last letters."""

        def make() -> str:
            words = value.split()
            if words[-1].isalpha():
                kept = self._pick(tuple(words))
                return " ".join(word if word == kept else self._other(word) for word in words)
            cut = self.rng.randrange(1, len(value))
            return value[:cut] + "".join(self._digit() if char.isdigit() else char for char in value[cut:])

        return draw(make, self.split)

    def _other(self, word: str) -> str:
        return self._pick(v.FIRST_NAMES) if word in v.FIRST_NAMES else self.name()

    def _digit(self) -> str:
        return str(self.rng.randrange(10))

    def year(self) -> str:
        return draw(lambda: str(self.rng.randint(1700, 2060)), self.split)

    def date(self) -> str:
        return draw(
            lambda: f"{self.rng.randint(1, 28)} {self._pick(v.MONTHS)} {self.rng.randint(1780, 2040)}", self.split
        )

    def time(self) -> str:
        return draw(lambda: f"{self.rng.randint(0, 23)}:{self.rng.randint(0, 59):02d}", self.split)

    def amount(self) -> str:
        return draw(lambda: str(self.rng.randrange(10, 10 ** self.rng.randint(2, 4))), self.split)

    def place(self) -> str:
        kind = self.rng.random()
        if kind < 0.5:
            return f"the {self._pick(v.PLACES)} {self._pick(v.PLACES)}"
        if kind < 0.8:
            return self.name()
        return f"{self.name()} {self._pick(v.PLACES).capitalize()}"

    def uuid(self) -> str:
        return draw(lambda: str(uuid.UUID(int=self.rng.getrandbits(128), version=4)), self.split)

    def thing(self) -> str:
        """What an entity is: a thing of the list, else any noun or name, so that every word gets copied whole."""
        kind = self.rng.random()
        if kind < 0.6:
            return self._pick(v.THINGS)
        return self._pick(v.NOUNS) if kind < 0.8 else self.name().lower()

    def entity(self) -> str:
        """Something that facts can be about, as it reads inside a sentence: 'the Meridian dome'."""
        kind = self.rng.random()
        thing = self.thing()
        if kind < 0.62:
            return f"the {self.name()} {thing}"
        if kind < 0.72:
            return self.name()
        if kind < 0.82:
            return f"the {thing} at {self.name()}"
        if kind < 0.92:
            return f"the {self._pick(v.ADJECTIVES)} {thing}"
        return f"the {self.name()} {self._pick(v.NOUNS)} {thing}"

    def sibling(self, entity: str) -> str:
        """Another entity that shares a word with ``entity``: the distractor that is easiest to mistake for it."""
        words = entity.split()
        if len(words) < 3 or self.rng.random() < 0.3:
            return self.entity()
        if words[2] == "at":
            return f"the {words[1]} at {self.name()}"
        if self.rng.random() < 0.5:
            return " ".join([*words[:-1], self.thing()])
        return " ".join([words[0], self._namesake(words[1]), *words[2:]])

    def _namesake(self, name: str) -> str:
        """A name that shares its beginning or its end with ``name`` where it can, Ashford with Ashmere; else any."""
        starts = [start for start in v.NAME_STARTS if name.startswith(start) and name[len(start) :] in v.NAME_CLOSES]
        if not starts or self.rng.random() < 0.4:
            return self.name()
        start = starts[0]
        if self.rng.random() < 0.5:
            return draw(lambda: start + self._pick(v.NAME_CLOSES), self.split)
        return draw(lambda: self._pick(v.NAME_STARTS) + name[len(start) :], self.split)
