"""Cuts a page's text into passages: the sentences that an answer can be traced to."""

from __future__ import annotations

import re

MIN_PASSAGE = 40
MAX_PASSAGE = 400

_SENTENCE_END = re.compile(r"""[.!?…]["'’”)\]»]*(?=\s)|[。！？][”」』）]*|\n""")
_INITIAL = re.compile(r"(?:^|[\s(])(?:\w|[Ee]\.g|[Ii]\.e|cf|Dr|Eq|Fig|Mr|Mrs|No|St|al|p|pp|vs)\.$")


def split_passages(text: str) -> list[tuple[int, int]]:
    """Cuts a page's text into passages that follow each other without a gap.

    A passage ends at the first sentence end or line end at least `MIN_PASSAGE` characters in, at a space
    where none comes within `MAX_PASSAGE`, and anywhere where there is no space either. Each has between
    `MIN_PASSAGE` and `MAX_PASSAGE` characters; only a page with fewer is a shorter one.
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if _is_end(text, match)]
    spans = []
    start = 0
    following = 0
    while len(text) - start >= 2 * MIN_PASSAGE:
        earliest = start + MIN_PASSAGE
        latest = min(start + MAX_PASSAGE, len(text) - MIN_PASSAGE)
        while following < len(ends) and ends[following] < earliest:
            following += 1
        if following < len(ends) and ends[following] <= latest:
            end = ends[following]
        elif len(text) - start <= MAX_PASSAGE:
            break
        else:
            end = text.rfind(" ", earliest - 1, latest) + 1 or latest
        spans.append((start, end))
        start = end
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def _is_end(text: str, match: re.Match[str]) -> bool:
    """Whether a full stop ends a sentence: not after an initial, nor before a small letter."""
    if match[0][0] != ".":
        return True
    following = text[match.end() : match.end() + 3].lstrip()
    if following and following[0].islower():
        return False
    return _INITIAL.search(text[max(match.start() - 8, 0) : match.start() + 1]) is None
