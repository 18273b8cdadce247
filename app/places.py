"""Where the tokens of a prompt stand, on which page or what else, in labels and in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .evidence import tokens_of_documents

if TYPE_CHECKING:
    from .session import Turn

LONG_TEXT = 600
"""Characters of a text that is quoted in full length."""

Page = tuple[int, int]
"""A document's place in the prompt, and a page's number in it."""
BEFORE, BETWEEN, QUESTION, ANSWER = (-1, 0), (-1, 1), (-1, 2), (-1, 3)
"""Stand for what belongs to no page."""


def pages_of(turn: Turn) -> list[Page]:
    """All pages in the prompt, in order."""
    return [(place, page.number) for place, doc in enumerate(turn.prompt.index.documents) for page in doc.pages]


def page_starts(turn: Turn) -> tuple[tuple[str, int], ...]:
    """Each page's label and its first prompt token, without the pages that have none."""
    index = turn.prompt.index
    spans = [(page, *index.page_tokens(*page)) for page in pages_of(turn)]
    return tuple((label_of(turn, [page]), start) for page, start, stop in spans if stop > start)


def owners_of(turn: Turn, starts: npt.NDArray[np.int64]) -> list[Page]:
    """Whom the tokens at `starts` belong to: a page, or one of those that stand for none."""
    index = turn.prompt.index
    inside = tokens_of_documents(index)
    owners: list[Page] = []
    for start in starts.tolist():
        if start >= len(index):
            owners.append(ANSWER)
        elif (number := int(index.passage[start])) >= 0:
            passage = index.passages[number]
            owners.append((passage.document, passage.page))
        else:
            owners.append(BEFORE if start < inside.start else QUESTION if start >= inside.stop else BETWEEN)
    return owners


def label_of(turn: Turn, owners: Sequence[Page]) -> str:
    """ "4", "5–10", with the document's number before it where there are several, or a word for what is no page."""
    named = {BEFORE: "start", QUESTION: "question", ANSWER: "answer"}
    if not owners or owners[0] in named:
        return named[owners[0]] if owners else ""
    many = len(turn.prompt.index.documents) > 1
    first, last = (f"{place + 1}:{number}" if many else str(number) for place, number in (owners[0], owners[-1]))
    return first if first == last else f"{first}–{last}"


def whereabouts(turn: Turn, start: int, stop: int) -> str:
    """Where prompt tokens start ... stop - 1 stand: document and page, or what else."""
    index = turn.prompt.index
    passages = [index.passages[number] for number in np.unique(index.passage[start:stop]) if number >= 0]
    places = sorted({(passage.document, passage.page) for passage in passages})
    if not places:
        return {BEFORE: "what stands before the documents", QUESTION: "the question", ANSWER: "the answer itself"}.get(
            owners_of(turn, np.asarray([start]))[0], "a file name or a page break"
        )
    (document, page), (last_document, last) = places[0], places[-1]
    name, word = index.documents[document].name, index.documents[document].page_word
    if document != last_document:
        return f"{name}, {word} {page}, to {index.documents[last_document].name}, {word} {last}"
    return f"{name}, {word} {page}" if page == last else f"{name}, {word}s {page} to {last}"


def text_of(turn: Turn, start: int, stop: int, most: int = LONG_TEXT) -> str:
    """The text of prompt tokens start ... stop - 1, of so many characters at most."""
    index = turn.prompt.index
    if start >= len(index):
        return shortened(turn.answer.text.strip(), most)
    return shortened(index.prompt[index.chars[start, 0] : index.chars[min(stop, len(index)) - 1, 1]].strip(), most)


def shortened(text: str, most: int) -> str:
    """The text in one line, cut to so many characters, the last of them "…" where something is left out."""
    line = " ".join(text[: 2 * most].split())  # a long text is not read to its end
    return line if len(line) <= most and len(text) <= 2 * most else f"{line[: most - 1]}…"
