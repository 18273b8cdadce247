"""An answer's attention, laid out by `app.columns`, as a figure and in words."""

from __future__ import annotations

from html import escape

import numpy as np
import plotly.graph_objects as go

from ..columns import Picture
from ..figures.answers import CellFacts, Scale, attention_heatmap
from ..places import text_of, whereabouts
from ..pooling import POOLS, Looked, edges_of
from ..session import Turn
from ..traces import ALL

SCALE_CHOICES = [("one scale", "shared"), ("row by row", "row"), ("logarithmic", "log")]
"""The choices of a `Scale`, for people."""


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
        facts=CellFacts(row_words(turn, rows), picture.keys, record.query_rows.start if selectable else None, marked),
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
        edges = edges_of(turn)
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
