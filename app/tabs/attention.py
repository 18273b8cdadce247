"""The Attention tab: what was recorded while the answer was made, pooled for the chosen layers and heads."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr
import numpy as np
import numpy.typing as npt

from ..evidence import answer_rows
from ..figures.answers import attention_heatmap
from ..session import Turn
from .plot_pane import packed, plot_pane
from .widgets import (
    NO_RECORD,
    Latest,
    answer_html,
    cell_of,
    complaint_html,
    hint_html,
    skipped,
    tokens_in,
    told,
    wanted,
)

if TYPE_CHECKING:
    from selfextend.recording import AttentionRecord

COLUMNS = 480
"""Most bins in the picture; more are pooled, and zooming in shows them apart."""
LOOKING = "attention-map"
ALL = "all"
SUM, MAX = "sum", "max"
SMALLEST_VIEW = 4
LONG_TEXT = 600
NOTHING_YET = hint_html("Ask a question: where each of the answer's tokens looked appears here.")


class View(NamedTuple):
    """What of a record is in the picture.

    Attributes:
        shares: (rows, columns) attention of each answer token on each column.
        edges: (columns + 1,) token positions; column c covers edges[c] ... edges[c + 1] - 1.
    """

    shares: npt.NDArray[np.float64]
    edges: npt.NDArray[np.int64]


def build_attention_tab(turn: gr.State) -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab. Redraws when the turn changes.

    Args:
        turn: holds the `app.session.Turn` to look into, or None.
    """
    span = gr.State(None)
    summary = gr.HTML(NOTHING_YET, elem_id="attention-summary", elem_classes=["status-line"])
    with gr.Row():
        layer = gr.Dropdown([ALL], value=ALL, label="Layer", elem_id="attention-layer", min_width=90)
        head = gr.Dropdown([ALL], value=ALL, label="Head", elem_id="attention-head", min_width=90)
        pooled = gr.Radio([SUM, MAX], value=MAX, label="Pool each stretch by", elem_id="attention-pool", min_width=150)
    sink = gr.Checkbox(
        False, label="Show the attention sink, the question and the answer", elem_id="attention-sink",
        info="What stands before the first document takes most of the attention and means little.",
    )  # fmt: skip
    logarithmic = gr.Checkbox(
        False, label="Logarithmic colours", elem_id="attention-log",
        info="Shows small shares too, down to a millionth.",
    )  # fmt: skip
    pane = plot_pane(label="Answer tokens by document", height=460, elem_id="attention-map", latest=LOOKING)
    readout = gr.HTML(elem_id="attention-readout", elem_classes=["readout"])
    number: dict[str, Any] = {"value": 0, "precision": 0, "minimum": 0, "min_width": 90}
    with gr.Accordion("Cell and view, as numbers", open=False), gr.Row():
        token = gr.Number(label="Answer token", elem_id="attention-token", **number)
        position = gr.Number(label="Prompt token", elem_id="attention-position", **number)
        whole = gr.Button("Show all", elem_id="attention-whole", min_width=90)

    choices: list[Any] = [layer, head, pooled, sink]
    cell = [token, position]
    looking = Latest(
        LOOKING,
        _answer,
        [turn, *choices, span, logarithmic, *cell],
        [summary, *choices, span, pane, readout, *cell],
    )
    looking.on([turn.change], open=True)
    looking.on([choice.input for choice in (*choices, logarithmic)], draw=True, describe=True)
    looking.on([whole.click], zoom={})
    looking.on([event for box in cell for event in (box.submit, box.blur)], describe=True)


def _answer(event: gr.EventData, turn: Turn | None, *values: Any) -> tuple[Any, ...]:
    """What the newest values show, in the order of the outputs.

    What is wanted: `zoom`, a view; `pick`, a cell; `draw`, the picture; `describe`, the cell in words. Otherwise the
    turn is opened.
    """
    *choices, span, log, row, column = values
    zoom, pick = wanted(event, "zoom"), wanted(event, "pick")
    draws, describes = zoom or told(event, "draw"), pick or told(event, "describe")
    if turn is None or told(event, "open") or not (draws or describes):
        return _open(turn, log)
    shown, figure, described = skipped(3)  # what is not asked for stays as it is
    cell = skipped(2)
    try:
        if zoom:
            length = len(turn.prompt.index) + len(turn.answer.token_ids)
            shown = span = tokens_in(zoom, "x", length, SMALLEST_VIEW)
        if pick:
            cell = row, column = cell_of(pick)
    except ValueError:
        return skipped(10)
    if draws:
        figure = _draw(turn, *choices, span, log)
    if describes:
        described = _describe(turn, *choices, span, row, column)
    return *skipped(5), shown, figure, described, *cell


def _open(turn: Turn | None, log: bool) -> tuple[Any, ...]:
    """A new answer: its question, all of it, every layer and head, and what its strongest cell is."""
    record = None if turn is None else turn.answer.attention
    if turn is None or record is None:
        summary, words = (NOTHING_YET, "") if turn is None else (answer_html(turn), NO_RECORD)
        return summary, *skipped(4), None, None, words, 0, 0
    layers, heads = (gr.update(choices=[ALL, *map(str, kept)], value=ALL) for kept in (record.layers, record.heads))
    chosen = (ALL, ALL, MAX, False)
    shown = view_of(turn, *chosen)
    row, column = map(int, np.unravel_index(shown.shares.argmax(), shown.shares.shape))
    cell = row, int(shown.edges[column])
    figure, described = _draw(turn, *chosen, None, log), _describe(turn, *chosen, None, *cell)
    return answer_html(turn), layers, heads, MAX, False, None, figure, described, *cell


def view_of(turn: Turn, layer: str, head: str, pooled: str, sink: bool, span: tuple[int, int] | None = None) -> View:
    """What was recorded, pooled for the picture.

    "sum" adds up a stretch's weights and takes the mean over the chosen layers and heads, so that a row adds up to
    1 over the whole prompt. "max" takes the largest single weight in the stretch under any chosen layer and head:
    a mean over many heads hides the one that found the needle.

    Args:
        layer, head: an index that was recorded, as text, or "all".
        sink: also what belongs to no document. Without it a row shows the documents' columns only.
        span: prompt tokens [from, to) to show; all where None.

    Raises:
        ValueError: a layer or head that was not recorded.
    """
    record = turn.answer.attention
    assert record is not None
    rows = answer_rows(record, len(turn.answer.token_ids))
    layers, heads = _chosen(layer, record.layers, "layer"), _chosen(head, record.heads, "head")
    kept = record.maxima if pooled == MAX else record.sums
    views = kept[np.ix_(layers, heads, range(rows), range(kept.shape[-1]))].astype(np.float64)
    cells = views.max(axis=(0, 1)) if pooled == MAX else views.mean(axis=(0, 1))
    edges = np.append(record.bin_starts, len(turn.prompt.index) + rows).astype(np.int64)
    if not sink:
        cells[:, ~_in_documents(record, turn)] = 0.0
    first, stop = _bins_in(edges, span if span is not None else _default_span(turn, sink))
    return _pooled(cells[:, first:stop], edges[first : stop + 1], pooled)


def _chosen(choice: str, recorded: tuple[int, ...], what: str) -> list[int]:
    if choice == ALL:
        return list(range(len(recorded)))
    if choice not in map(str, recorded):
        raise ValueError(f"There is no recorded {what} {choice}. Recorded: {', '.join(map(str, recorded))}.")
    return [recorded.index(int(choice))]


def _in_documents(record: AttentionRecord, turn: Turn) -> npt.NDArray[np.bool_]:
    """(bins,): whether a bin begins with a token of a passage."""
    passage = np.append(turn.prompt.index.passage, -1)
    return np.asarray(passage[np.minimum(record.bin_starts, len(passage) - 1)] >= 0)


def _default_span(turn: Turn, sink: bool) -> tuple[int, int]:
    """The documents, or with the sink everything."""
    inside = np.flatnonzero(turn.prompt.index.passage >= 0)
    if sink or not len(inside):
        return 0, len(turn.prompt.index) + len(turn.answer.token_ids)
    return int(inside[0]), int(inside[-1]) + 1


def _bins_in(edges: npt.NDArray[np.int64], span: tuple[int, int]) -> tuple[int, int]:
    """The bins that hold any of the span's tokens: first, and after the last."""
    first = int(np.searchsorted(edges, span[0], side="right")) - 1
    stop = int(np.searchsorted(edges, span[1], side="left"))
    first = min(max(0, first), len(edges) - 2)
    return first, min(max(first + 1, stop), len(edges) - 1)


def _pooled(cells: npt.NDArray[np.float64], edges: npt.NDArray[np.int64], pooled: str) -> View:
    """As it is, or with neighboring bins put together so that COLUMNS are enough."""
    count = cells.shape[1]
    if count <= COLUMNS:
        return View(cells, edges)
    starts = np.unique(np.arange(COLUMNS) * count // COLUMNS)
    put_together = np.maximum if pooled == MAX else np.add
    return View(put_together.reduceat(cells, starts, axis=1), np.append(edges[starts], edges[-1]))


def _draw(turn: Turn | None, *chosen: Any) -> Any:
    if turn is None or turn.answer.attention is None:
        return None
    *looked_at, log = chosen
    layer, head, pooled, _, _ = looked_at
    try:
        shown = view_of(turn, *looked_at)
    except ValueError:  # a choice of the answer before this one
        return gr.skip()
    how = "the largest over" if pooled == MAX else "mean of"
    layers = "all layers" if layer == ALL else f"layer {layer}"
    heads = "all heads" if head == ALL else f"head {head}"
    figure = attention_heatmap(
        shown.shares,
        _labels(turn, len(shown.shares)),
        shown.edges,
        page_borders=_page_borders(turn),
        scale="log" if log else "linear",
        pooled=pooled,
        what=f"{how} {layers}, {heads}",
    )
    return packed(figure)


def _labels(turn: Turn, rows: int) -> list[str]:
    return [text.strip() or "␣" for text in turn.token_texts[:rows]]


def _page_borders(turn: Turn) -> dict[str, int]:
    """First token of each page, where they are few enough to be told apart."""
    index = turn.prompt.index
    pages = [(place, page.number) for place, document in enumerate(index.documents) for page in document.pages]
    if len(pages) > 60:
        return {}
    return {f"{place + 1}: {number}": index.page_tokens(place, number)[0] for place, number in pages}


def _describe(turn: Turn | None, *given: Any) -> str:
    """A cell in words: the answer token, the text it looked at, how much, and at which relative position."""
    if turn is None or turn.answer.attention is None:
        return "" if turn is None else NO_RECORD
    *chosen, row, position = given
    try:
        layer, head, pooled, sink, span = chosen
        # The same stretches as in the picture, with what it may leave out.
        shown = view_of(turn, layer, head, pooled, True, span or _default_span(turn, sink))
        row, position = int(row), int(position)
        if not (0 <= row < len(shown.shares) and shown.edges[0] <= position < shown.edges[-1]):
            raise ValueError(
                f"The answer has tokens 0 … {len(shown.shares) - 1}, and the view prompt tokens {shown.edges[0]:,} … "
                f"{shown.edges[-1] - 1:,}."
            )
    except (ValueError, TypeError) as error:
        return complaint_html(error)
    record = turn.answer.attention
    column = int(np.searchsorted(shown.edges, position, side="right")) - 1
    start, stop = int(shown.edges[column]), int(shown.edges[column + 1])
    query, middle = record.query_rows[row], (start + stop - 1) // 2
    word = "largest weight" if pooled == MAX else "attention"
    seen = ""
    if (positions := turn.answer.method.positions) is not None:
        seen = f"<dt>Relative position</dt><dd><code>{escape(positions.explain(query, middle))}</code></dd>"
    return (
        f"<p><b>Answer token {row}</b> “{escape(_labels(turn, row + 1)[row])}” looked at "
        f"{escape(_whereabouts(turn, start, stop))} (tokens {start:,} … {stop - 1:,})</p><dl>"
        f"<dt>{word.capitalize()}</dt><dd>{shown.shares[row, column]:.3%}</dd>{seen}"
        f"<dt>Text</dt><dd>{escape(_text(turn, start, stop))}</dd></dl>"
    )


def _whereabouts(turn: Turn, start: int, stop: int) -> str:
    index = turn.prompt.index
    passages = [index.passages[number] for number in set(index.passage[start:stop]) if number >= 0]
    places = sorted({(passage.document, passage.page) for passage in passages})
    if not places:
        if start >= len(index):
            return "the answer itself"
        inside = np.flatnonzero(index.document >= 0)
        before = not len(inside) or start < inside[0]
        return (
            "what stands before the documents" if before else "no document: the question, a file name or a page break"
        )
    document, page = places[0]
    last = f" to {places[-1][1]}" if len(places) > 1 and places[-1][0] == document else ""
    return f"{index.documents[document].name}, {index.documents[document].page_word} {page}{last}"


def _text(turn: Turn, start: int, stop: int) -> str:
    index = turn.prompt.index
    if start >= len(index):
        return turn.answer.text.strip()
    text = index.prompt[index.chars[start, 0] : index.chars[min(stop, len(index)) - 1, 1]].strip()
    return text if len(text) <= LONG_TEXT else f"{text[: LONG_TEXT - 1]}…"
