"""Training rows: token ids of one exact length, with the tokens to learn marked.

Every row teaches looking up: a passage, then several questions about it, densely packed so that many answers are
supervised per token spent. Positions never reach past the row.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tokenizers import Tokenizer

from training import vocabulary as v
from training.facts import Fact, Facts, capitalised
from training.filler import PASSKEY_FILLER, PASSKEY_HEADER, PASSKEY_QUESTION, Filler
from training.names import Names
from training.split import Split
from training.tokenizer import BOS, EOS, PAD

# What a token teaches: nothing beyond language, the words of the answer's sentence, the value itself.
NEWLINE = "\n"
LANGUAGE, RESTATEMENT, VALUE, PADDING = 0, 1, 2, 3


@dataclass
class Row:
    """``ids`` and ``roles`` (one of the four constants above per token), both as long as the row."""

    ids: list[int]
    roles: list[int]
    kind: Literal["recall", "text"]


@dataclass
class _Text:
    """Tokens being put together; ``cost`` is their number."""

    encode: Tokenizer
    ids: list[int] = field(default_factory=list)
    roles: list[int] = field(default_factory=list)

    def add(self, text: str, role: int = LANGUAGE) -> _Text:
        return self.add_ids(self.encode.encode(text, add_special_tokens=False).ids, role)

    def add_ids(self, ids: list[int], role: int = LANGUAGE) -> _Text:
        self.ids += ids
        self.roles += [role] * len(ids)
        return self

    def extend(self, other: _Text) -> _Text:
        self.ids += other.ids
        self.roles += other.roles
        return self

    @property
    def cost(self) -> int:
        return len(self.ids)


class RowMaker:
    """Makes rows of ``length`` tokens. ``recall_share`` of them are made of random tokens alone."""

    def __init__(
        self, tokenizer: Tokenizer, seed: int, length: int, recall_share: float, split: Split = "train"
    ) -> None:
        self.tokenizer = tokenizer
        self.length = length
        self.recall_share = recall_share
        self.rng = random.Random(seed)
        self.names = Names(self.rng, split)
        self.facts = Facts(self.names)
        self.filler = Filler(self.names)
        self.bos, self.eos, self.pad = (self._id(token) for token in (BOS, EOS, PAD))
        self.plain_ids = list(range(3, tokenizer.get_vocab_size()))
        self.digit_ids = [self._id(digit) for digit in "0123456789"]

    def _id(self, token: str) -> int:
        number: int | None = self.tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"the tokenizer lacks {token!r}; train it with `python -m training tokenizer`")
        return number

    def _text(self) -> _Text:
        return _Text(self.tokenizer)

    def row(self, kind: Literal["facts"] | None = None) -> Row:
        """A row, of facts in prose if ``kind`` says so, else of any kind."""
        rng = self.rng
        recall = kind is None and rng.random() < self.recall_share
        if kind == "facts":
            text = self._facts()
        elif recall:
            text = self._recall()
        else:
            makers = (self._facts, self._passkey, self._records, self._special_magic)
            # The standard prompts alone take about a hundred tokens.
            shares = (82, 9, 5, 4) if self.length >= 128 else (90, 0, 10, 0)
            text = rng.choices(makers, shares)[0]()
        missing = self.length - text.cost
        assert missing >= 0, "a row outgrew its length: its facts might have been cut"
        return Row(text.ids + [self.pad] * missing, text.roles + [PADDING] * missing, "recall" if recall else "text")

    # Random tokens: looking up by the tokens just before, for every token there is.

    def _recall(self) -> _Text:
        rng = self.rng
        text = self._text().add_ids([self.bos])
        if rng.random() < (0.75 if self.length <= 64 else 0.15):
            return self._repeat(text)
        passage_length = int(self.length * rng.uniform(0.35, 0.6))
        kind = rng.random()
        if kind < 0.3:
            pool = self.plain_ids
        elif kind < 0.8:
            pool = rng.sample(self.plain_ids, rng.randint(8, 60))
        else:
            pool = self.digit_ids + rng.sample(self.plain_ids, rng.randint(2, 12))
        passage = rng.choices(pool, k=passage_length)
        text.add_ids(passage)
        as_text = "".join(map(chr, passage))
        while (room := self.length - text.cost) > 8:
            span = min(rng.randint(4, 24), room - 1, passage_length - 1)
            start = rng.randrange(passage_length - span)
            # The cue is as short as the passage allows: what follows it must be certain.
            cue = 1
            while cue < span and as_text.find(as_text[start : start + cue]) != as_text.rfind(
                as_text[start : start + cue]
            ):
                cue += 1
            cue = min(cue + rng.choice((0, 0, 1, 2)), span)
            text.add_ids([rng.choice(self.plain_ids)])
            text.add_ids(passage[start : start + cue]).add_ids(passage[start + cue : start + span], VALUE)
        return text

    def _repeat(self, text: _Text) -> _Text:
        """One random segment over and over: the plainest case, and the one from which matching is learnt first."""
        segment = self.rng.choices(self.plain_ids, k=self.rng.randint(4, self.length // 2))
        text.add_ids(segment).add_ids(segment[:1])
        again = (segment * (self.length // len(segment) + 1))[1:]
        return text.add_ids(again[: self.length - text.cost], VALUE)

    # Facts in prose.

    def _question(self, fact: Fact, bare: float = 0.1) -> _Text:
        """A question with its answer, or, for the share ``bare`` of them, the answer alone."""
        rng = self.rng
        text = self._text()
        asked = rng.random() >= bare
        if not asked:
            text.add(rng.choice(("\n", " ", "\n\n")) + fact.answer_stem)
        else:
            style = rng.random()
            text.add(rng.choice(("\n", "\n", "\n\n", "\nQuestion: ", "\nQ: ", " ")) + rng.choice(fact.questions))
            if style < 0.7:
                text.add(rng.choice((" Answer:", " Answer:", " Answer:", "\nAnswer:", "\nA:")))
                text.add(f" {fact.answer_stem}", RESTATEMENT)
            elif style < 0.85:
                text.add(f" {fact.answer_stem}")
            else:
                text.add(f" Answer: {fact.answer_stem}")
        text.add(f" {fact.value}", VALUE)
        if fact.tail:
            text.add(fact.tail, VALUE)
        text.add(".", RESTATEMENT)
        if asked:
            text.add_ids([self.eos], RESTATEMENT)
        return text

    def _scraps(self, budget: int, passage: list[_Text], facts: Sequence[Fact] = ()) -> None:
        """Adds filler to ``passage`` until ``budget`` tokens are used; some names what ``facts`` are about."""
        kind = self.rng.random()
        mentions = 0.35 if facts and self.rng.random() < 0.7 else 0.0
        while budget > 0:
            text = self._text()
            if kind < 0.12:
                text.add(f" {PASSKEY_FILLER}" if budget > 40 else " Here we go.")
            elif kind < 0.3 or self.rng.random() < 0.06:
                text.add_ids(self.rng.choices(self.plain_ids, k=self.rng.randint(3, 25)))
            elif self.rng.random() < mentions:
                text.add(" " + self.filler.mention(self.rng.choice(facts).entity))
            else:
                text.add(self.rng.choice((" ", " ", " ", "\n")) + self.filler.any())
            budget -= text.cost
            if budget >= 0:
                passage.append(text)

    def _facts(self) -> _Text:
        rng = self.rng
        head = self._text()
        # Text taken from a PDF may keep the ends of its lines.
        breaks = 0.1 if rng.random() < 0.12 else 0.0

        def wrapped(text: str) -> str:
            return "".join("\n" if char == " " and rng.random() < breaks else char for char in text) if breaks else text

        if rng.random() < 0.92:
            head.add_ids([self.bos])
        room = self.length - head.cost - 1
        # Half of the rows are packed: as many facts as fit, each asked for in few words.
        packed = rng.random() < 0.5
        wanted = self.length // 16 if packed else max(3, int(rng.uniform(0.2, 1.0) * self.length / 22))
        facts = self.facts.group(wanted)
        passage: list[_Text] = []
        stated: list[Fact] = []
        questions: list[_Text] = []
        # A fact is taken together with its question, so that what is asked always stands in the passage.
        asked_share = 1.0 if packed else rng.choice((0.3, 0.6, 0.9))
        bare = 0.8 if packed else 0.1
        for fact in facts:
            before, value, after = self.facts.statement(fact)
            statement = self._text().add(wrapped(f"{rng.choice((' ', ' ', ' ', NEWLINE))}{before}{value}{after}"))
            question = self._question(fact, bare) if not stated or rng.random() < asked_share else self._text()
            if statement.cost + question.cost > room:
                continue
            room -= statement.cost + question.cost
            passage.append(statement)
            questions.append(question)
            stated.append(fact)
        for fact in rng.sample(stated, len(stated)):
            question = self._question(fact)
            if question.cost <= room * rng.random():
                room -= question.cost
                questions.append(question)
        self._scraps(room, passage, stated)
        rng.shuffle(passage)
        rng.shuffle(questions)
        for part in (*passage, *questions):
            head.extend(part)
        return head

    # The standard passkey prompt, word for word, with several kinds of filler.

    def _passkey(self) -> _Text:
        rng = self.rng
        key = self.names.number(None if rng.random() < 0.4 else 5)
        text = self._text().add_ids([self.bos])
        if self.length >= 192 and rng.random() < 0.8:
            text.add(PASSKEY_HEADER)
        ending = self._text()
        if rng.random() < 0.3:
            ending.add(rng.choice(("\n", " ")) + PASSKEY_QUESTION + " Answer:").add(" The pass key is", RESTATEMENT)
        else:
            ending.add(rng.choice(("\n", "\n", " ", "\n\n")) + f"{PASSKEY_QUESTION} The pass key is")
        ending.add(f" {key}", VALUE).add(".", RESTATEMENT)
        needle = self._text().add(
            rng.choice(("\n", " ")) + f"The pass key is {key}. Remember it. {key} is the pass key."
        )
        # Other facts among the filler, asked as well, keep the row from teaching five digits only.
        extras: list[_Text] = [needle]
        room = self.length - text.cost - ending.cost - needle.cost
        questions: list[_Text] = []
        for fact in self.facts.group(rng.choice((0, 0, 1, 3, 5)) * self.length // 256):
            statement = self._text().add(" " + "".join(self.facts.statement(fact)))
            question = self._question(fact)
            if statement.cost + question.cost > room:
                break
            room -= statement.cost + question.cost
            extras.append(statement)
            questions.append(question)
        filler: list[_Text] = []
        if rng.random() < 0.5:
            line = self._text().add(rng.choice(("\n", " ")) + PASSKEY_FILLER)
            while line.cost <= room:
                filler.append(line)
                room -= line.cost
        else:
            self._scraps(room, filler)
        passage = filler + extras
        rng.shuffle(passage)
        for part in (*passage, *questions):
            text.extend(part)
        return text.extend(ending)

    # Records: JSON objects and plain key-value lines.

    def _records(self) -> _Text:
        rng = self.rng
        text = self._text().add_ids([self.bos])
        style = rng.choice(("json", "lines", "csv"))
        long_keys = self.length >= 384 and rng.random() < 0.25
        text.add(
            rng.choice(
                (
                    "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n",
                    "Records\n",
                    "Data:\n",
                )
            )
        )

        def key() -> str:
            if long_keys:
                return self.names.uuid()
            return rng.choice((self.names.word, self.names.name, self.names.code, lambda: rng.choice(v.NOUNS)))()

        def value() -> str:
            if long_keys and rng.random() < 0.7:
                return self.names.uuid()
            return rng.choice((self.names.digits, self.names.word, self.names.person, self.names.code))()

        def ask(k: str, val: str) -> _Text:
            if style == "json":
                shown = json.dumps(k)
                question = self._text().add(
                    f"\n\nKey: {shown}\nCorresponding value:" if rng.random() < 0.5 else f"\n{shown}:"
                )
                return question.add(f" {json.dumps(val)}", VALUE)
            joint = ":" if style == "lines" else " ="
            return self._text().add(f"\n{k}{joint}").add(f" {val}", VALUE)

        pairs: dict[str, str] = {}
        lines: list[_Text] = []
        questions: list[_Text] = []
        room = self.length - text.cost - 4
        while True:
            k, val = key(), value()
            if k in pairs:
                continue
            if style == "json":
                line = self._text().add(f" {json.dumps(k)}: {json.dumps(val)},\n")
            else:
                line = self._text().add(f"{k}{':' if style == 'lines' else ' ='} {val}\n")
            question = ask(k, val) if not questions or rng.random() < 0.7 else self._text()
            if line.cost + question.cost > room:
                break
            room -= line.cost + question.cost
            pairs[k] = val
            lines.append(line)
            questions.append(question)
        rng.shuffle(questions)
        for part in (*lines, *questions):
            text.extend(part)
        return text

    # RULER's needle: special magic numbers and words for keys.

    def _special_magic(self) -> _Text:
        rng = self.rng
        what = rng.choice(("numbers", "words"))
        text = self._text().add_ids([self.bos])
        text.add(
            f"Some special magic {what} are hidden within the following text. Make sure to memorize it. "
            f"I will quiz you about the {what} afterwards."
        )
        room = self.length - text.cost
        passage: list[_Text] = []
        questions: list[_Text] = []
        taken: set[str] = set()
        for _ in range(rng.randint(1, max(1, self.length // 60))):
            key = rng.choice(
                (self.names.word, self.names.name, lambda: f"{rng.choice(v.ADJECTIVES)}-{rng.choice(v.NOUNS)}")
            )()
            if key in taken:
                continue
            taken.add(key)
            value = self.names.digits(rng.choice((5, 6, 7))) if what == "numbers" else self.names.word()
            needle = self._text().add(f" One of the special magic {what} for {key} is: {value}.")
            stem = f"The special magic {what[:-1]} for {key} mentioned in the provided text is"
            question = self._text().add(
                f"\nWhat {'is' if rng.random() < 0.7 else 'are all'} the special magic {what[:-1]} for {key} "
                f"mentioned in the provided text? {stem}"
            )
            question.add(f" {value}", VALUE).add(".", RESTATEMENT)
            if needle.cost + question.cost > room:
                break
            room -= needle.cost + question.cost
            passage.append(needle)
            questions.append(question)
        self._scraps(room, passage)
        rng.shuffle(passage)
        rng.shuffle(questions)
        for part in (*passage, *questions):
            text.extend(part)
        return text


__all__ = ["LANGUAGE", "PADDING", "RESTATEMENT", "VALUE", "Row", "RowMaker", "capitalised"]
