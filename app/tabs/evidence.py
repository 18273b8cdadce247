"""The evidence tab: pages and passages that an answer's tokens looked at, the page itself, and the test of a passage.

Shows what `app.evidence` finds. Asks no question itself and loads no model: the page hands in how to test.
"""

from __future__ import annotations

import base64
import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Sequence
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from app.documents.document import DocumentError
from app.documents.reader import page_image, passage_boxes
from app.evidence import Citation, PageShare, PassageTest, page_shares
from app.figures.answers import page_bars
from app.session import Turn
from app.tabs.plot_pane import ONCE_DRAWN, packed, plot_pane
from app.tabs.shared import LIVE, Refresh

MOST_PAGES = 12
"""Bars that still carry their labels at 390 px."""
LONG_PASSAGE = 180
"""Characters of a passage that stand in the list; the page below has all of it."""
PICTURE_WIDTH = 900
SECONDS_BETWEEN = 0.2
"""From one update of a running test to the next."""

NOT_PROOF = (
    "<p class='hint'><b>Attention is not proof.</b> It shows where the model looked, not what it used. "
    "<i>Test this passage</i> blanks the chosen passage out, token by token, asks again and reports what that does to "
    "the answer.</p>"
)
NOTHING_YET = "<p class='hint'>Ask a question: the pages and passages that the answer looked at appear here.</p>"
NO_RECORD = "<p class='hint'>No attention was recorded for this answer: SelfExtend does not fit this model.</p>"

NOTHING_FOUND = "<p class='hint'>This answer had no documents to look at.</p>"

PassageTester = Callable[[Turn, Citation], Generator[Any, None, None]]
"""Yields `Waiting`, `PrefillProgress` and `NewToken` steps and a `PassageTest` last; closing it stops the work."""


class EvidenceTab(NamedTuple):
    """What the page around the tab may use.

    Attributes:
        wanted: gr.State with the rank of the passage to show, from 1. Set it together with the turn.
        passage: the radio of passages; its value is a rank.
        refresh: the redraw for the turn and the wanted passage: `event.then(*tab.refresh)`. It also runs by itself
            when the turn changes.
    """

    wanted: gr.State
    passage: gr.Radio
    refresh: Refresh


def build_evidence_tab(turn: gr.State, test: PassageTester, *, concurrency_id: str = "model") -> EvidenceTab:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab.

    Args:
        turn: holds the `app.session.Turn` to look into, or None.
        test: how to test one of its passages, with the model that answered.
        concurrency_id: of everything that uses the model.
    """
    wanted = gr.State(1)
    summary = gr.HTML(NOTHING_YET, elem_id="evidence-summary", elem_classes=["status-line"])
    with gr.Column(elem_id="evidence-found", elem_classes=[ONCE_DRAWN], min_width=0):
        bars = plot_pane(label="Pages by the answer's attention", height=280, elem_id="evidence-pages")
        passage = gr.Radio([], label="Passages behind the answer", elem_id="evidence-passages")
        gr.HTML(NOT_PROOF)
        with gr.Row():
            start = gr.Button("Test this passage", variant="primary", elem_id="evidence-test-start", min_width=150)
            stop = gr.Button("Stop the test", elem_id="evidence-test-stop", min_width=120, interactive=False)
        result = gr.HTML(elem_id="evidence-result", elem_classes=["readout", "evidence-result"])
        picture = gr.HTML(elem_id="evidence-picture")

    refresh = Refresh(_draw, [turn, wanted], [summary, bars, passage, result, picture])
    turn.change(*refresh, **LIVE)
    passage.input(_open_passage, [turn, passage], [result, picture], **LIVE)
    bars.pick(_open_page, [turn], [passage, result, picture], **LIVE)

    # A flag and no `cancels`, after which a step that is still under way to the browser overwrites what is said there.
    stopping: dict[str | None, threading.Event] = {}

    def run(request: gr.Request, turn: Turn | None, rank: int | None) -> Generator[tuple[Any, Any, Any], None, None]:
        stopped = stopping[request.session_hash] = threading.Event()
        try:
            yield from _test(test, turn, rank, stopped)
        finally:
            stopping.pop(request.session_hash, None)

    def halt(request: gr.Request) -> None:
        if request.session_hash in stopping:
            stopping[request.session_hash].set()

    start.click(
        run, [turn, passage], [result, start, stop],
        concurrency_id=concurrency_id, concurrency_limit=1, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    stop.click(halt, None, None, **LIVE)
    return EvidenceTab(wanted, passage, refresh)


def _pages_of(turn: Turn) -> list[PageShare]:
    assert turn.answer.attention is not None
    return page_shares(turn.answer.attention, turn.prompt.index, len(turn.answer.token_ids))


def _draw(turn: Turn | None, wanted: int) -> tuple[Any, ...]:
    """The whole tab for `turn`, open at the passage of rank `wanted`."""
    cited = turn.citations if turn is not None else ()
    if turn is None or not cited:
        words = NOTHING_YET if turn is None else NO_RECORD if turn.answer.attention is None else NOTHING_FOUND
        return words, None, gr.update(choices=[], value=None), "", ""
    rank = wanted if any(citation.rank == wanted for citation in cited) else 1
    choices = [(_choice(citation, turn), citation.rank) for citation in cited]
    return (
        _summary(turn),
        packed(_bars(turn, cited)),
        gr.update(choices=choices, value=rank),
        "",
        page_html(turn, cited[rank - 1]),
    )


def _summary(turn: Turn) -> str:
    method = {"vanilla": "Vanilla", "selfextend": "SelfExtend"}[turn.method]
    return (
        f"<p><b>{escape(turn.question)}</b><br>{escape(turn.answer.text.strip()) or '(no words)'} "
        f"<span class='hint'>({method})</span></p>"
    )


def _choice(citation: Citation, turn: Turn) -> str:
    text = " ".join(citation.text.split())
    if len(text) > LONG_PASSAGE:
        text = text[: LONG_PASSAGE - 1] + "…"
    return (
        f"{_place(citation, turn)} · {citation.share:.0%} of the attention\n{citation.level_words} · "
        f"relative position {citation.relative_position:,}\n“{text}”"
    )


def _place(where: Citation | PageShare, turn: Turn) -> str:
    name = f"{where.name}, " if len(turn.documents) > 1 else ""
    return f"{name}{where.page_word} {where.page}"


def _bar_label(page: PageShare, turn: Turn) -> str:
    short = f"{page.page}" if page.page_word == "page" else f"part {page.page}"
    # Files of one name must not fall together, and a name must not fill the axis.
    return short if len(turn.documents) == 1 else f"{page.document + 1}: {page.name[:10]} {short}"


def _bars(turn: Turn, cited: Sequence[Citation]) -> Any:
    pages = [page for page in _pages_of(turn)[:MOST_PAGES] if page.share > 0]
    places = {(citation.document, citation.page) for citation in cited}
    return page_bars(
        [_bar_label(page, turn) for page in pages],
        [page.share for page in pages],
        cited=[number for number, page in enumerate(pages) if (page.document, page.page) in places],
        title="Pages by the answer's attention, most first",
    )


def _open_passage(turn: Turn | None, rank: int | None) -> tuple[str, Any]:
    cited = turn.citations if turn is not None else ()
    chosen = next((citation for citation in cited if citation.rank == rank), None)
    return "", "" if turn is None or chosen is None else page_html(turn, chosen)


def _open_page(event: gr.EventData, turn: Turn | None) -> tuple[Any, Any, Any]:
    """A bar was clicked: its most-looked-at passage, or the page without a box where none is among the first."""
    label = event._data.get("x") if isinstance(event._data, dict) else None
    if turn is None or not turn.citations:
        return gr.skip(), gr.skip(), gr.skip()
    for page in _pages_of(turn)[:MOST_PAGES]:
        if _bar_label(page, turn) == str(label):
            here = [one for one in turn.citations if (one.document, one.page) == (page.document, page.page)]
            return (here[0].rank, "", page_html(turn, here[0])) if here else (None, "", page_html(turn, page))
    return gr.skip(), gr.skip(), gr.skip()


def page_html(turn: Turn, where: Citation | PageShare) -> str:
    """The page as a picture with the passage boxed, or as text with it marked where the file has no pages to draw."""
    stored = turn.documents[where.document]
    start, end = (where.char_start, where.char_end) if isinstance(where, Citation) else (0, 0)
    caption = f"{escape(where.name)}, {where.page_word} {where.page}"
    complaint = ""
    if stored.document.kind == "pdf":
        try:
            boxes = passage_boxes(stored.path, where.page, start, end) if end > start else []
            png = base64.b64encode(page_image(stored.path, where.page, boxes, PICTURE_WIDTH)).decode()
            described = escape(
                f"Page {where.page} of {where.name}" + (", the passage boxed" if boxes else ""), quote=True
            )
            return (
                f"<figure class='evidence-page'><figcaption>{caption}</figcaption>"
                f"<img src='data:image/png;base64,{png}' alt='{described}'></figure>"
            )
        except DocumentError as error:
            complaint = f"<p role='alert' class='complaint'>{escape(str(error))} Its text:</p>"
    text = next((page.text for page in stored.document.pages if page.number == where.page), "")
    marked = f"{escape(text[:start])}<mark>{escape(text[start:end])}</mark>{escape(text[end:])}"
    return (
        f"<figure class='evidence-page'><figcaption>{caption}</figcaption>{complaint}"
        f"<div class='evidence-text' tabindex='0'>{marked if end > start else escape(text)}</div></figure>"
    )


def _test(
    test: PassageTester, turn: Turn | None, rank: int | None, stopped: threading.Event
) -> Generator[tuple[Any, Any, Any], None, None]:
    idle = (gr.update(interactive=True), gr.update(interactive=False))
    busy = (gr.update(interactive=False), gr.update(interactive=True))
    cited = turn.citations if turn is not None else ()
    chosen = next((citation for citation in cited if citation.rank == rank), None)
    if turn is None or chosen is None:
        yield "<p>Choose a passage first.</p>", *idle
        return
    yield "<p>Starting …</p>", *busy
    words, shown = "<p>The test was stopped.</p>", 0.0
    try:
        with contextlib.closing(test(turn, chosen)) as steps:
            for step in steps:
                if isinstance(step, PassageTest):
                    words = _verdict(step, turn)
                elif stopped.is_set():
                    break
                elif time.monotonic() - shown > SECONDS_BETWEEN:
                    shown = time.monotonic()
                    yield _progress(step), *busy
    except (ValueError, RuntimeError, MemoryError) as error:
        words = f"<p role='alert' class='complaint'>{escape(str(error))}</p>"
    yield words, *idle


def _progress(step: Any) -> str:
    if hasattr(step, "total"):
        left = f", about {step.seconds_left:.0f} s left" if step.seconds_left == step.seconds_left else ""
        return (
            f"<p>Reading without the passage: {step.done:,} of {step.total:,} tokens{left}</p>"
            f"<progress max='{step.total}' value='{step.done}' aria-label='Reading without the passage'></progress>"
        )
    if hasattr(step, "text"):
        return f"<p>Without the passage: {escape(step.text)}</p>"
    return "<p>The model is busy with another answer; this test is next.</p>"


def _verdict(done: PassageTest, turn: Turn) -> str:
    change = done.change
    times = f"{_factor(change)} as likely" if abs(change) >= 0.005 else "as likely as before"
    same = done.answer.strip() == turn.answer.text.strip()
    now = "The answer stays the same" if same else f"Without it the model says: <b>{escape(done.answer.strip())}</b>"
    with_it, without_it = float(done.before.sum()), float(done.after.sum())
    tokens = done.citation.token_stop - done.citation.token_start
    return (
        f"<p><b>{_place(done.citation, turn)}, passage {done.citation.rank}: {_importance(change, same)}</b></p><dl>"
        f"<dt>Log-probability of the answer</dt><dd>{with_it:.2f} with the passage, {without_it:.2f} without: "
        f"<b>{change:+.2f}</b> ({times})</dd>"
        f"<dt>Asked again</dt><dd>{now}</dd>"
        f"<dt>Blanked out with</dt><dd><code>{escape(repr(done.neutral))}</code> for each of its {tokens:,} tokens, so "
        "that nothing else moves</dd></dl>"
    )


def _factor(change: float) -> str:
    """e to the change, as a person reads it."""
    if change > 20 or change < -20:
        return f"10<sup>{change / math.log(10):+.0f}</sup> times"
    factor = math.exp(change)
    return f"{factor:,.2f} times" if factor >= 0.01 else f"1/{1 / factor:,.0f}"


def _importance(change: float, same: bool) -> str:
    if not same:
        return "the answer changes without it."
    if change < -1:
        return "the answer gets less likely without it."
    return "the answer does not depend on it." if change < 1 else "the answer gets likelier without it."
