"""An answer's pooled attention laid out in columns by page, those of pages that matter little folded into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .evidence import page_shares
from .figures.answers import Columns, Group
from .places import BETWEEN, Page, label_of, owners_of, pages_of, shortened, text_of, whereabouts
from .pooling import EVERYTHING, POOLS, Floats, Integers, Looked, bins_of
from .traces import chosen, weights_by_key

if TYPE_CHECKING:
    from .session import Turn

SHOWN = 200
"""Columns that can still be told apart in the picture; more are pooled, and zooming in shows them apart."""
MANY_PAGES = 8
"""Of more pages only those that matter are shown at first."""
KEPT_PAGES = 5
"""As many pages matter at most: what is on them is wide enough to be seen on a phone too."""
LEAST_SHARE = 0.02
"""Of the answer's attention to all pages, for a page to matter."""
SHORT_TEXT = 140
"""Characters of a column's text that the pointer shows."""


class Picture(NamedTuple):
    """Pooled attention, laid out by page.

    Attributes:
        shares: (rows, columns).
        columns: what they stand for.
        keys: (rows, columns) the token that was looked at most within each cell: of its strongest stretch the strongest
            token, or the middle one where that is not among those kept one by one.
    """

    shares: Floats
    columns: Columns
    keys: Integers

    @property
    def folded(self) -> bool:
        """Whether some of its columns stand for several pages."""
        return any(group.folded for group in self.columns.groups)


def has_many_pages(turn: Turn) -> bool:
    """Whether there are pages to fold."""
    return len(pages_of(turn)) > MANY_PAGES


def pages_to_keep(turns: Sequence[Turn], fold: bool) -> set[Page] | None:
    """The pages to show of answers over the same documents, those that matter to any; None, all, where none fold."""
    return pages_that_matter(turns) if fold and turns and has_many_pages(turns[0]) else None


def pages_that_matter(turns: Sequence[Turn]) -> set[Page]:
    """The pages that the answers' attention fell on most, as the Evidence tab ranks them; at least one an answer."""
    kept: set[Page] = set()
    for turn in turns:
        assert turn.answer.attention is not None
        ranked = page_shares(turn.answer.attention, turn.prompt.index, len(turn.answer.token_ids))
        most = max(1, KEPT_PAGES // len(turns))
        kept |= {
            (page.document, page.page) for n, page in enumerate(ranked[:most]) if n == 0 or page.share >= LEAST_SHARE
        }
    return kept


class _Stretch(NamedTuple):
    """Bins first ... stop - 1: those of a page or of what belongs to none, or of the pages that are folded."""

    owners: tuple[Page, ...]
    first: int
    stop: int
    folded: bool


def picture_of(
    turn: Turn, looked: Looked = EVERYTHING, kept: set[Page] | None = None, span: tuple[int, int] | None = None
) -> Picture:
    """The answer's attention in columns by page: one for each recorded stretch, fewer where they are too many.

    Args:
        kept: pages to show; each run of others is folded into one column, which shows its strongest stretch. None
            shows all, as does a span within folded pages.
        span: prompt tokens [from, to) to show; all where None.

    Raises:
        ValueError: a layer, head or pool that there is none of.
    """
    if not len(turn.prompt.index.passages):  # a question without documents: there is nothing else to show
        looked = looked._replace(sink=True)
    bins, edges = bins_of(turn, looked)
    stretches = _stretches(turn, edges, looked.sink, kept, span)
    if kept is not None and all(stretch.folded for stretch in stretches):
        stretches = _stretches(turn, edges, looked.sink, None, span)
    cuts, groups = _cut(turn, stretches)
    pool = POOLS[looked.pooled]
    folded = {group.first for group in groups if group.folded}
    joins = [np.maximum if column in folded else pool.join for column in range(len(cuts))]
    joined = [join.reduce(bins[:, a:b], axis=1) for join, (a, b) in zip(joins, cuts, strict=True)]
    shares = pool.finish(np.stack(joined, axis=1))
    best = np.stack([a + bins[:, a:b].argmax(axis=1) for a, b in cuts], axis=1)
    middles = (edges[:-1] + edges[1:] - 1) // 2
    strongest = _strongest_keys(turn, looked, edges, len(bins))
    keys = [
        [found.get(stretch, middles[stretch]) for stretch in row] for found, row in zip(strongest, best, strict=True)
    ]
    columns = Columns(
        edges[[a for a, _ in cuts]],
        edges[[b for _, b in cuts]],
        tuple(groups),
        tuple(_column_words(turn, int(edges[a]), int(edges[b]), n in folded) for n, (a, b) in enumerate(cuts)),
        _axis_title(turn) + (", then the question and the answer" if looked.sink else ""),
    )
    return Picture(shares, columns, np.asarray(keys, dtype=np.int64).reshape(best.shape))


def _strongest_keys(turn: Turn, looked: Looked, edges: Integers, rows: int) -> list[dict[int, int]]:
    """For each row, by bin, the key token that was looked at most, where it is known one by one."""
    record = turn.answer.attention
    assert record is not None
    layers, heads = chosen(looked.layer, record.layers, "layer"), chosen(looked.head, record.heads, "head")
    found: list[dict[int, int]] = []
    for row in range(rows):
        keys = [key for key, _ in weights_by_key(record, layers, heads, row)]
        stretches = (np.searchsorted(edges, keys, side="right") - 1).tolist() if keys else []
        found.append(dict(zip(reversed(stretches), reversed(keys), strict=True)))  # the first of a bin stays
    return found


def _stretches(
    turn: Turn, edges: Integers, sink: bool, kept: set[Page] | None, span: tuple[int, int] | None
) -> list[_Stretch]:
    """Runs of bins with one owner, those of pages that are not kept put together."""
    runs: list[_Stretch] = []
    for number, owner in enumerate(owners_of(turn, edges[:-1])):
        if span is not None and not (edges[number] < span[1] and edges[number + 1] > span[0]):
            continue
        if owner[0] < 0 and not sink:
            continue
        # What stands between two pages, a page break or a file name, is folded with them, else it stays by itself.
        folds = kept is not None and (owner not in kept if owner[0] >= 0 else owner == BETWEEN)
        last = runs[-1] if runs else None
        if last is not None and folds and last.folded:
            owners = last.owners if owner == last.owners[-1] else (*last.owners, owner)
            runs[-1] = last._replace(owners=owners, stop=number + 1)
        elif last is not None and not folds and not last.folded and last.owners == (owner,):
            runs[-1] = last._replace(stop=number + 1)
        else:
            runs.append(_Stretch((owner,), number, number + 1, folds))
    # A page break beside a page that is kept would make a column of its own: it is not worth one.
    worth = [run for run in runs if not run.folded or any(owner != BETWEEN for owner in run.owners)]
    return worth or runs


def _cut(turn: Turn, stretches: Sequence[_Stretch]) -> tuple[list[tuple[int, int]], list[Group]]:
    """The columns, as bins [a, b), and the groups that they make."""
    total = sum(stretch.stop - stretch.first for stretch in stretches if not stretch.folded)
    together = max(1, -(-total // SHOWN))
    if len(stretches) > 2 * SHOWN:  # more pages than columns
        some = -(-len(stretches) // SHOWN)
        runs = [stretches[at : at + some] for at in range(0, len(stretches), some)]
        stretches = [
            _Stretch(tuple(owner for each in run for owner in each.owners), run[0].first, run[-1].stop, False)
            for run in runs
        ]
    cuts: list[tuple[int, int]] = []
    groups: list[Group] = []
    for stretch in stretches:
        step = stretch.stop - stretch.first if stretch.folded else together
        begin = len(cuts)
        cuts += [(a, min(a + step, stretch.stop)) for a in range(stretch.first, stretch.stop, step)]
        label = label_of(turn, [owner for owner in stretch.owners if owner != BETWEEN])
        if label:
            groups.append(
                Group(label, begin, len(cuts), stretch.folded, page=any(owner[0] >= 0 for owner in stretch.owners))
            )
        elif groups:  # between two pages: with the one before
            groups[-1] = groups[-1]._replace(stop=len(cuts))
        else:
            groups.append(Group("", begin, len(cuts), page=False))
    return cuts, groups


def _axis_title(turn: Turn) -> str:
    documents = turn.prompt.index.documents
    if len(documents) == 1:
        return f"{documents[0].page_word} of {shortened(documents[0].name, 30)}"
    names = [f"{place} = {shortened(document.name, 12)}" for place, document in enumerate(documents[:3], start=1)]
    more = ["…"] if len(documents) > 3 else []
    return ", ".join(["document:page", *names, *more]) if names else "part of the prompt"


def _column_words(turn: Turn, start: int, stop: int, folded: bool) -> str:
    if folded:
        return f"{whereabouts(turn, start, stop)}, folded: click to see the strongest passage there"
    return f"{whereabouts(turn, start, stop)}: “{text_of(turn, start, stop, SHORT_TEXT)}”"
