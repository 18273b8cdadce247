"""Remembers what was found about prompts and documents, which are asked about again and again while a page is used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

from .document import Document
from .encoding import count_tokens
from .index import TokenIndex

MOST_TOKENS = 2_000_000
"""Tokens of the prompts that are remembered for one tokenizer, which take 20 bytes each; the newest one always is."""
MOST_COUNTS = 1000
"""Documents whose number of tokens is remembered for one tokenizer."""


class _OfTokenizer:
    """What is remembered for one tokenizer; the least recently used goes first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.indexes: OrderedDict[tuple[Any, ...], TokenIndex] = OrderedDict()
        self.counts: OrderedDict[int, tuple[ref[Document], int]] = OrderedDict()


_remembered: WeakKeyDictionary[Any, _OfTokenizer] = WeakKeyDictionary()
_lock = threading.Lock()


def token_index(
    tokenizer: Any, prompt: str, documents: Sequence[Document], *, add_special_tokens: bool = True
) -> TokenIndex:
    """The index of a prompt, as `TokenIndex` makes it; a remembered one where these very documents stand in it.

    Raises:
        ValueError: as `TokenIndex` does.
    """
    memo = _of(tokenizer)
    # By identity, so that nobody can tell by the time it takes what somebody else has asked about. The index holds on
    # to its documents: their ids are not given to others as long as it is kept.
    key = (prompt, add_special_tokens, *map(id, documents))
    with memo.lock:
        if key in memo.indexes:
            memo.indexes.move_to_end(key)
            return memo.indexes[key]
    index = TokenIndex(tokenizer, prompt, documents, add_special_tokens=add_special_tokens)
    with memo.lock:
        memo.indexes[key] = index
        while len(memo.indexes) > 1 and sum(map(len, memo.indexes.values())) > MOST_TOKENS:
            memo.indexes.popitem(last=False)
    return index


def document_tokens(tokenizer: Any, document: Document) -> int:
    """How many tokens a document's text has."""
    memo = _of(tokenizer)
    key = id(document)  # for the reason given above
    with memo.lock:
        counted, tokens = memo.counts.get(key, (None, 0))
        if counted is not None and counted() is document:
            memo.counts.move_to_end(key)
            return tokens
    tokens = count_tokens(tokenizer, document.text)
    with memo.lock:
        memo.counts[key] = ref(document), tokens
        memo.counts.move_to_end(key)
        if len(memo.counts) > MOST_COUNTS:
            memo.counts.popitem(last=False)
    return tokens


def forget(sha256: str) -> None:
    """Remember no prompt with a document: its file was deleted."""
    with _lock:
        memos = list(_remembered.values())
    for memo in memos:
        with memo.lock:
            for key, index in list(memo.indexes.items()):
                if any(document.sha256 == sha256 for document in index.documents):
                    del memo.indexes[key]


def _of(tokenizer: Any) -> _OfTokenizer:
    with _lock:
        return _remembered.setdefault(tokenizer, _OfTokenizer())
