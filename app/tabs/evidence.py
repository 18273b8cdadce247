"""The Evidence tab: what an answer's tokens looked at, the page itself, and the test of a passage."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from html import escape
from typing import Any

import gradio as gr

from selfextend.steps import Progress, Running

from ..evidence import Citation, PageShare, PassageTest, page_shares
from ..figures.answers import page_bars
from ..jobs import Job, JobStopped, Pace
from ..session import Turn
from .plot_pane import ONCE_DRAWN, packed, plot_pane
from .widgets import (
    IN_ORDER,
    NO_RECORD,
    ON_MODEL,
    answer_html,
    complaint_html,
    hint_html,
    on,
    skipped,
    status_html,
    told,
)

MOST_PAGES = 12
"""Bars that still carry their labels at 390 px."""
LONG_PASSAGE = 180
"""Characters of a passage that stand in the list; the page below has all of it."""

NOT_PROOF = hint_html(
    "<b>Attention is not proof.</b> It shows where the model looked, not what it used. <i>Test this passage</i> blanks "
    "the chosen passage out, token by token, asks again and reports what that does to the answer."
)
NOTHING_YET = hint_html("Ask a question: the pages and passages that the answer looked at appear here.")
NOTHING_FOUND = hint_html("This answer had no documents to look at.")

PassageTester = Callable[[Turn, Citation], Generator[Any, None, PassageTest]]
"""Yields the steps of reading and answering and returns what became of the answer; closing it stops the work."""


def build_evidence_tab(turn: gr.State, visitor: gr.State, test: PassageTester, job_of: Callable[[str], Job]) -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab. Redraws when the turn changes.

    Args:
        turn: holds the `app.session.Turn` to look into, or None.
        visitor: holds who this is.
        test: how to test one of the turn's passages, with the model that answered.
        job_of: a visitor's job for that.
    """
    summary = gr.HTML(NOTHING_YET, elem_id="evidence-summary", elem_classes=["status-line"])
    with gr.Column(elem_id="evidence-found", elem_classes=[ONCE_DRAWN], min_width=0):
        bars = plot_pane(label="Pages by the answer's attention", height=280, elem_id="evidence-pages")
        passage = gr.Radio([], label="Passages behind the answer", elem_id="evidence-passages")
        gr.HTML(NOT_PROOF)
        with gr.Row():
            start = gr.Button("Test this passage", variant="primary", elem_id="evidence-test-start", min_width=150)
            stop = gr.Button("Stop the test", elem_id="evidence-test-stop", min_width=120, interactive=False)
        result = gr.HTML(elem_id="evidence-result", elem_classes=["readout", "evidence-result"])

    def run(visitor: str, turn: Turn | None, rank: int | None) -> Iterator[tuple[Any, Any, Any]]:
        idle = (gr.update(interactive=True), gr.update(interactive=False))
        busy = (gr.update(interactive=False), gr.update(interactive=True))
        job, chosen = job_of(visitor), _passage(turn, rank)
        job.begin()
        if turn is None or chosen is None:
            yield "<p>Choose a passage first.</p>", *idle
            return
        yield "<p>Starting …</p>", *busy
        pace = Pace()
        try:
            with Running(job.follow(test(turn, chosen))) as running:
                for step in running:
                    if pace.due():
                        shown = step if isinstance(step, Progress) else f"without the passage: {step.text}"
                        yield status_html(shown), *busy
            words = _verdict(running.result, turn)
        except JobStopped:
            words = "<p>The test was stopped.</p>"
        except (ValueError, RuntimeError, MemoryError) as error:
            words = complaint_html(error)
        yield words, *idle

    showing = IN_ORDER | {"concurrency_id": "evidence"}
    turn.change(_draw, [turn], [summary, bars, passage, result], **showing)
    passage.input(lambda: "", None, [result], **showing)
    bars.pick(_open_page, [turn], [passage, result], **showing)
    start.click(run, [visitor, turn, passage], [result, start, stop], **ON_MODEL)
    on(stop.click, lambda visitor: job_of(visitor).stop(), [visitor])


def _pages_of(turn: Turn) -> list[PageShare]:
    """The pages in the picture."""
    assert turn.answer.attention is not None
    return page_shares(turn.answer.attention, turn.prompt.index, len(turn.answer.token_ids))[:MOST_PAGES]


def _draw(turn: Turn | None) -> tuple[Any, ...]:
    """The tab for `turn`, open at the passage that it names."""
    if turn is None or not turn.citations:
        words = NOTHING_YET if turn is None else NO_RECORD if turn.answer.attention is None else NOTHING_FOUND
        return words, None, gr.update(choices=[], value=None), ""
    rank = turn.opens_at if _passage(turn, turn.opens_at) else 1
    choices = [(_choice(citation, turn), citation.rank) for citation in turn.citations]
    return answer_html(turn), packed(_bars(turn)), gr.update(choices=choices, value=rank), ""


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


def _bars(turn: Turn) -> Any:
    pages = [page for page in _pages_of(turn) if page.share > 0]
    cited = {(citation.document, citation.page) for citation in turn.citations}
    marked = [number for number, page in enumerate(pages) if (page.document, page.page) in cited]
    return page_bars([_bar_label(page, turn) for page in pages], [page.share for page in pages], cited=marked)


def _passage(turn: Turn | None, rank: int | None) -> Citation | None:
    return next((citation for citation in turn.citations if citation.rank == rank), None) if turn else None


def _open_page(event: gr.EventData, turn: Turn | None) -> tuple[Any, ...]:
    """A bar was clicked: its most-looked-at passage, or none where none is among the first."""
    if turn is None or not turn.citations:
        return skipped(2)
    for page in _pages_of(turn):
        if _bar_label(page, turn) == str(told(event, "x")):
            here = [c for c in turn.citations if (c.document, c.page) == (page.document, page.page)]
            return here[0].rank if here else None, ""
    return skipped(2)


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
