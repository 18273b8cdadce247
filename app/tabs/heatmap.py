"""What of an answer's recorded attention is in a heatmap: pooled, laid out by page, drawn and told in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from ..evidence import answer_rows, page_shares
from ..figures.answers import Columns, Group, Scale, attention_heatmap
from ..session import Turn
from ..traces import ALL, chosen, weights_by_key

if TYPE_CHECKING:
    from selfextend.recording import AttentionRecord

    from ..documents.index import TokenIndex

Floats = npt.NDArray[np.float64]

COLUMNS = 480
"""Most columns of a `View`; more are pooled."""
SHOWN = 200
"""Columns that can still be told apart in the picture; more are pooled, and zooming in shows them apart."""
MANY_PAGES = 8
"""Of more pages only those that matter are shown at first."""
KEPT_PAGES = 5
"""As many pages matter at most: what is on them is wide enough to be seen on a phone too."""
LEAST_SHARE = 0.02
"""Of the answer's attention to all pages, for a page to matter."""
CITED, MAX, SUM = "cited", "max", "sum"
LONG_TEXT = 600
SHORT_TEXT = 140

Page = tuple[int, int]
"""A document's place in the prompt, and a page's number in it."""
BEFORE, BETWEEN, QUESTION, ANSWER = (-1, 0), (-1, 1), (-1, 2), (-1, 3)
"""Stand for what belongs to no page."""


class Pool(NamedTuple):
    """A way to make one number of what several layers and heads paid to a stretch of the prompt.

    Attributes:
        unit: what the number is. sentence: says how it was made, given "{views}".
        of_views: (layers, heads, rows, bins) to (rows, bins).
        join: puts neighboring bins together. finish: makes the number of what was joined.
    """

    unit: str
    sentence: str
    of_views: Callable[[AttentionRecord, Any], Floats]
    join: np.ufunc
    finish: Callable[[Floats], Floats] = np.asarray


POOLS = {
    CITED: Pool(
        "share of attention",
        "A cell is the share of the token's attention that fell there, as the root mean square of {views}: what one "
        "head settles on shows, what many brush in passing does not. The citations are ranked by the same measure.",
        lambda record, views: np.square(record.sums[views].astype(np.float64)).mean(axis=(0, 1)),
        np.add,
        np.sqrt,
    ),
    MAX: Pool(
        "largest weight",
        "A cell is the largest weight that the token put on a single token there, the strongest of {views}.",
        lambda record, views: record.maxima[views].max(axis=(0, 1)).astype(np.float64),
        np.maximum,
    ),
    SUM: Pool(
        "share of attention",
        "A cell is the share of the token's attention that fell there, the mean of {views}: a row adds up to 100% over "
        "the whole prompt.",
        lambda record, views: record.sums[views].astype(np.float64).mean(axis=(0, 1)),
        np.add,
    ),
}


class Looked(NamedTuple):
    """What is looked at: a recorded layer and head as text, or "all"; how they are pooled, a key of `POOLS`; and
    whether what belongs to no document is looked at too."""

    layer: str = ALL
    head: str = ALL
    pooled: str = CITED
    sink: bool = False


EVERYTHING = Looked()


class View(NamedTuple):
    """Pooled attention.

    Attributes:
        shares: (rows, columns) attention of each answer token on each column.
        edges: (columns + 1,) token positions; column c covers edges[c] ... edges[c + 1] - 1.
    """

    shares: Floats
    edges: npt.NDArray[np.int64]


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
    keys: npt.NDArray[np.int64]

    @property
    def folded(self) -> bool:
        """Whether some of its columns stand for several pages."""
        return any(group.folded for group in self.columns.groups)


def view_of(turn: Turn, looked: Looked = EVERYTHING) -> View:
    """What was recorded, a column for each stretch of the prompt, pooled so that `COLUMNS` are enough.

    Without the sink it begins and ends with the documents, and what belongs to none of them is 0.

    Raises:
        ValueError: a layer, head or pool that there is none of.
    """
    bins, edges = _bins(turn, looked)
    first, stop = 0, bins.shape[1]
    if not looked.sink and len(inside := np.flatnonzero(_in_documents(edges[:-1], turn.prompt.index))):
        first, stop = int(inside[0]), int(inside[-1]) + 1
    starts = first + np.unique(np.arange(COLUMNS) * (stop - first) // COLUMNS)
    pool = POOLS[looked.pooled]
    shares = pool.join.reduceat(bins[:, :stop], starts, axis=1)
    return View(pool.finish(shares), np.append(edges[starts], edges[stop]))


def _bins(turn: Turn, looked: Looked) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(rows, bins) of the record, to be joined and finished as the pool says, and the bins' (bins + 1,) edges."""
    record = turn.answer.attention
    assert record is not None
    if looked.pooled not in POOLS:
        raise ValueError(f"Attention is pooled by one of {', '.join(POOLS)}.")
    rows = answer_rows(record, len(turn.answer.token_ids))
    layers, heads = chosen(looked.layer, record.layers, "layer"), chosen(looked.head, record.heads, "head")
    bins = POOLS[looked.pooled].of_views(record, np.ix_(layers, heads, range(rows), range(len(record.bin_starts))))
    edges = np.append(record.bin_starts, len(turn.prompt.index) + rows).astype(np.int64)
    if not looked.sink:
        bins[:, ~_in_documents(edges[:-1], turn.prompt.index)] = 0.0
    return bins, edges


def _in_documents(starts: npt.NDArray[np.int64], index: TokenIndex) -> npt.NDArray[np.bool_]:
    """(bins,): whether a bin begins with a token of a passage."""
    passage = np.append(index.passage, -1)
    return np.asarray(passage[np.minimum(starts, len(passage) - 1)] >= 0)


# Pages


def pages_of(turn: Turn) -> list[Page]:
    """All pages in the prompt, in order."""
    return [(place, page.number) for place, doc in enumerate(turn.prompt.index.documents) for page in doc.pages]


def page_starts(turn: Turn) -> tuple[tuple[str, int], ...]:
    """Each page's label and its first prompt token, without the pages that have none."""
    index = turn.prompt.index
    spans = [(page, *index.page_tokens(*page)) for page in pages_of(turn)]
    return tuple((_label(turn, [page]), start) for page, start, stop in spans if stop > start)


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
    bins, edges = _bins(turn, looked)
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


def _strongest_keys(turn: Turn, looked: Looked, edges: npt.NDArray[np.int64], rows: int) -> list[dict[int, int]]:
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
    turn: Turn, edges: npt.NDArray[np.int64], sink: bool, kept: set[Page] | None, span: tuple[int, int] | None
) -> list[_Stretch]:
    """Runs of bins with one owner, those of pages that are not kept put together."""
    runs: list[_Stretch] = []
    for number, owner in enumerate(_owners(turn, edges[:-1])):
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


def _owners(turn: Turn, starts: npt.NDArray[np.int64]) -> list[Page]:
    """Whom each bin belongs to: a page, or one of those that stand for none."""
    index = turn.prompt.index
    inside = np.flatnonzero(index.document >= 0)
    begin, end = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
    owners: list[Page] = []
    for start in starts.tolist():
        if start >= len(index):
            owners.append(ANSWER)
        elif (number := int(index.passage[start])) >= 0:
            passage = index.passages[number]
            owners.append((passage.document, passage.page))
        else:
            owners.append(BEFORE if start < begin else QUESTION if start >= end else BETWEEN)
    return owners


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
        label = _label(turn, [owner for owner in stretch.owners if owner != BETWEEN])
        if label:
            groups.append(
                Group(label, begin, len(cuts), stretch.folded, page=any(owner[0] >= 0 for owner in stretch.owners))
            )
        elif groups:  # between two pages: with the one before
            groups[-1] = groups[-1]._replace(stop=len(cuts))
        else:
            groups.append(Group("", begin, len(cuts), page=False))
    return cuts, groups


def _label(turn: Turn, owners: Sequence[Page]) -> str:
    """ "4", "5–10", with the document's number before it where there are several, or a word for what is no page."""
    named = {BEFORE: "start", QUESTION: "question", ANSWER: "answer"}
    if not owners or owners[0] in named:
        return named[owners[0]] if owners else ""
    many = len(turn.prompt.index.documents) > 1
    first, last = (f"{place + 1}:{number}" if many else str(number) for place, number in (owners[0], owners[-1]))
    return first if first == last else f"{first}–{last}"


def _axis_title(turn: Turn) -> str:
    documents = turn.prompt.index.documents
    if len(documents) == 1:
        return escape(f"{documents[0].page_word} of {shortened(documents[0].name, 30)}", quote=False)
    names = [f"{place} = {shortened(document.name, 12)}" for place, document in enumerate(documents[:3], start=1)]
    more = ["…"] if len(documents) > 3 else []
    return escape(", ".join(["document:page", *names, *more]), quote=False) if names else "part of the prompt"


# Words


def row_labels(turn: Turn, rows: int) -> list[tuple[str, str]]:
    """For each of the answer's first tokens what stands beside its row, and the word that it is a part of.

    A token that goes on a word has a dot before it: "Cold", "·stream".
    """
    text, place = turn.answer.text, 0
    labels = []
    for number, token in enumerate(turn.token_texts[:rows]):
        piece = token.strip()
        at = text.find(piece, place) if piece else -1
        if number == len(turn.answer.token_ids) - 1 and turn.answer.stopped_by == "end":
            labels.append(("(end)", ""))
        elif at < 0 or text[place:at].strip():  # special, of the model's thinking, or half a character
            labels.append((piece or ("⏎" if "\n" in token else "␣"), piece))
        else:
            place = at + len(piece)
            inside = at > 0 and text[at - 1].isalnum() and piece[0].isalnum()
            labels.append((f"·{piece}" if inside else piece, _word_at(text, at)))
    return labels


def _word_at(text: str, at: int) -> str:
    """The word that holds a character."""
    first = max(text.rfind(blank, 0, at + 1) for blank in " \n\t") + 1
    return text[first:].split(maxsplit=1)[0].strip('.,;:!?()[]“”"') if text[first:].strip() else ""


def row_words(turn: Turn, rows: int) -> list[str]:
    """Each row's token in words, for the pointer."""
    named = {"(end)": "the end of the answer", "⏎": "a line break", "␣": "a blank"}
    words = []
    for label, word in row_labels(turn, rows):
        part = f" in “{word}”" if label.startswith("·") else ""
        words.append(named.get(label, f"“{label.lstrip('·')}”{part}"))
    return words


def views_words(turn: Turn, looked: Looked) -> str:
    """Which layers and heads are looked at, in words."""
    record = turn.answer.attention
    assert record is not None
    heads = f"all {len(record.heads)} heads" if looked.head == ALL else f"head {looked.head}"
    if looked.layer != ALL:
        return f"{heads} of layer {looked.layer}"
    return f"{heads} of each of the {len(record.layers)} recorded layers"


def pooled_words(turn: Turn, looked: Looked, *, folded: bool) -> str:
    """How layers and heads were made one number, and what a column of folded pages shows."""
    words = POOLS[looked.pooled].sentence.format(views=views_words(turn, looked))
    return words + (
        " A narrow column stands for several pages and shows the strongest passage there." if folded else ""
    )


def _column_words(turn: Turn, start: int, stop: int, folded: bool) -> str:
    if folded:
        return f"{whereabouts(turn, start, stop)}, folded: click to see the strongest passage there"
    return f"{whereabouts(turn, start, stop)}: “{text_of(turn, start, stop, SHORT_TEXT)}”"


def whereabouts(turn: Turn, start: int, stop: int) -> str:
    """Where prompt tokens start ... stop - 1 stand: document and page, or what else."""
    index = turn.prompt.index
    passages = [index.passages[number] for number in np.unique(index.passage[start:stop]) if number >= 0]
    places = sorted({(passage.document, passage.page) for passage in passages})
    if not places:
        return {BEFORE: "what stands before the documents", QUESTION: "the question", ANSWER: "the answer itself"}.get(
            _owners(turn, np.asarray([start]))[0], "a file name or a page break"
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
    """The text in one line, cut to so many characters."""
    text = " ".join(text[: 2 * most].split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


# The picture


def heatmap_of(
    turn: Turn,
    picture: Picture,
    looked: Looked,
    scale: Scale,
    *,
    title: str = "Where each word of the answer looked",
    largest: float | None = None,
    selectable: bool = True,
    marked: tuple[int, int] | None = None,
) -> go.Figure:
    """The picture as a figure.

    Args:
        largest: what the strongest colour stands for where rows share a scale.
        selectable: these rows are the ones that the page's other panels mean.
        marked: row and key token of the cell to mark at first.
    """
    rows = len(picture.shares)
    record = turn.answer.attention
    assert record is not None
    return attention_heatmap(
        picture.shares,
        [label for label, _ in row_labels(turn, rows)],
        picture.columns,
        title=title,
        unit=POOLS[looked.pooled].unit,
        scale=scale,
        largest=largest,
        keys=picture.keys,
        rows=row_words(turn, rows),
        first_query=record.query_rows.start if selectable else None,
        chosen=marked,
    )


def cell_html(turn: Turn, picture: Picture, looked: Looked, row: int, position: int) -> str:
    """A cell in words: the answer token, where it looked, how much, at which distance, and the text there.

    Raises:
        ValueError: the cell is not in the picture; the message says what is.
    """
    starts, stops = picture.columns.starts, picture.columns.stops
    rows = len(picture.shares)
    if not 0 <= row < rows:
        raise ValueError(f"The answer has tokens 0 to {rows - 1:,} in the picture.")
    found = np.flatnonzero((starts <= position) & (position < stops))
    if not len(found):
        raise ValueError(
            f"Token {position:,} of the prompt is not in the picture: show all, or show what belongs to no page too."
        )
    column = int(found[0])
    start, stop = int(starts[column]), int(stops[column])
    record = turn.answer.attention
    assert record is not None
    query, key = record.query_rows[row], int(picture.keys[row, column])
    strongest = ""
    if any(group.folded and group.first == column for group in picture.columns.groups):
        strongest = f", the strongest of {whereabouts(turn, start, stop)}"
        edges = np.append(record.bin_starts, len(turn.prompt.index) + rows)
        stretch = int(np.searchsorted(edges, key, side="right")) - 1
        start, stop = int(edges[stretch]), int(edges[stretch + 1])
    seen = ""
    if (positions := turn.answer.method.positions) is not None and key <= query:
        off = positions.uncertainty(query - key)
        known = f"place known to ±{off:,} tokens" if off else "at its exact place"
        seen = f"<dt>Seen</dt><dd>{known}<br><code>{escape(positions.explain(query, key))}</code></dd>"
    return (
        f"<p><b>{escape(row_words(turn, rows)[row])}</b> (token {row} of the answer) looked at "
        f"{escape(whereabouts(turn, start, stop) + strongest)} (tokens {start:,} to {stop - 1:,})</p><dl>"
        f"<dt>{POOLS[looked.pooled].unit.capitalize()}</dt><dd>{picture.shares[row, column]:.2%}</dd>{seen}"
        f"<dt>Text</dt><dd>{escape(text_of(turn, start, stop))}</dd></dl>"
    )
