"""What the page calls the library's parameters.

The library's own errors name parameters as its callers write them, `neighbor_window`; who reads the page knows them by
what stands on its controls.
"""

from __future__ import annotations

import re

_NAMES = {
    "query_scaling": "log-n query scaling",
    "four": "the columns that are compared",
    "extend": "when SelfExtend is used",
    "max_new_tokens": "longest answer",
    "remember": "whether earlier questions are in the prompt",
    "system": "system prompt",
}
"""Those whose own words would not do."""
_IN_ERRORS = (
    "group_size",
    "neighbor_window",
    "query_scaling",
    "max_new_tokens",
    "top_p",
    "top_k",
    "repetition_penalty",
)
# Whole words only, and none that are a file's name. A value in brackets belongs to it.
_PARAMETER = re.compile(rf"(?<![\w.-])({'|'.join(_IN_ERRORS)})(?: \(([\d,]+)\))?(?!\w|\.\w)")


def called(parameter: str) -> str:
    """A parameter's or a control's name inside a sentence."""
    return _NAMES.get(parameter, parameter.replace("_", " "))


def in_page_words(sentence: str) -> str:
    """A sentence of the library with the page's names for its parameters."""

    def named(found: re.Match[str]) -> str:
        words = called(found[1]) + (f" {found[2]}" if found[2] else "")
        begins = not found.start() or sentence[: found.start()].endswith(". ")
        return words[0].upper() + words[1:] if begins else words

    return _PARAMETER.sub(named, sentence)
