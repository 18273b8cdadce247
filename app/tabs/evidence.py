"""The Evidence tab: what an answer's tokens looked at, and what the answer is without a passage."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from html import escape
from itertools import count
from typing import Any, NamedTuple

import gradio as gr

from selfextend.steps import Running

from ..evidence import FAINT, Citation, PageShare, page_shares, worth_a_look
from ..figures.answers import page_bars
from ..jobs import JobStopped, Pace
from ..places import shortened
from ..session import PROVES_NOTHING, Session, Turn
from ..theme import ASSETS
from ..whatif import PassageTest, UnderTest
from .passage_results import place_words, rankings_html, result_html
from .plot_pane import ONCE_DRAWN, packed, plot_pane
from .widgets import (
    IN_ORDER,
    NO_RECORD,
    ON_MODEL,
    answer_html,
    caption_of,
    complaint_html,
    hint_html,
    on,
    status_html,
    told,
)

MOST_PAGES = 12
"""Bars that still carry their labels at 390 px."""
LONG_PASSAGE = 220
"""Characters of a passage that stand in its card; the page has all of it."""

NOT_PROOF = hint_html(
    "<b>Attention is not proof.</b> It shows where the model looked, not what it used. "
    "<i>What if it weren't there?</i> blanks a passage out, asks again and says what that does to the answer."
)
NOTHING_YET = hint_html("Ask a question: the pages and passages that the answer looked at appear here.")
NOTHING_FOUND = hint_html("This answer had no documents to look at.")

PassageTester = Callable[[str, Turn, Sequence[Citation]], Generator[UnderTest | PassageTest, None, None]]
"""Is told who asks. Yields how far the testing is, and each passage's test as soon as there is one; closing it stops
the work."""


class Wanted(NamedTuple):
    """Passages of a turn that somebody wants tested."""

    turn: Turn
    citations: tuple[Citation, ...]

    @property
    def several(self) -> bool:
        return len(self.citations) > 1


class News(NamedTuple):
    """What there is to say of tests under way, or of how they ended.

    Attributes:
        wanted: what is tested.
        progress: HTML to show where the tests were started.
        rank: of the passage that is being tested; 0 where none is.
        busy: whether the tests go on.
    """

    wanted: Wanted
    progress: str
    rank: int = 0
    busy: bool = False


def build_evidence_tab(
    turn: gr.State,
    visitor: gr.State,
    test: PassageTester,
    session_of: Callable[[str], Session],
    news: gr.HTML,
    askers: Sequence[gr.HTML] = (),
) -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab. Redraws when the turn changes.

    Args:
        turn: holds the `app.session.Turn` to look into, or None.
        visitor: holds who this is.
        test: how to test passages of the turn, with the model that answered.
        session_of: a visitor's session, which has the job for that.
        news: see `passage_news`.
        askers: components that ask for tests too, by the events `test_passages` and `stop_tests`.
    """
    summary = gr.HTML(NOTHING_YET, elem_id="evidence-summary", elem_classes=["status-line"])
    with gr.Column(elem_id="evidence-found", elem_classes=[ONCE_DRAWN], min_width=0):
        gr.HTML(NOT_PROOF)
        cards = _scripted("passages.js", "<div class='passages'></div>", elem_id="evidence-cards")
        bars = plot_pane(label="Pages by the answer's attention", height=240, elem_id="evidence-pages")
    wanted = gr.State(None)

    def begin(event: gr.EventData, visitor: str, turn: Turn | None) -> tuple[Any, Any]:
        passages = () if turn is None else _untested(turn, told(event, "ranks"))
        if turn is None:
            return None, gr.skip()
        if not passages:
            return None, _drawn(turn)  # all are tested, which the one who asks may not have been told
        session_of(visitor).testing.begin()
        asked = Wanted(turn, passages)
        waiting = News(asked, status_html("waiting for the model"), 0 if asked.several else passages[0].rank, True)
        return asked, _drawn(turn, waiting)

    def run(visitor: str, asked: Wanted | None) -> Iterator[Any]:
        if asked is None:
            yield gr.skip()  # there was nothing to test, and a generator has to yield
            return
        session, turn, pace, done = session_of(visitor), asked.turn, Pace(), 0
        try:
            with Running(session.testing.follow(test(visitor, turn, asked.citations))) as running:
                for step in running:
                    if isinstance(step, PassageTest):
                        turn.tests[step.citation.rank] = step
                        done += 1
                    elif pace.due() and step.citation is not None:
                        yield _drawn(turn, News(asked, status_html(step), step.citation.rank, True))
            ended = ""
        except JobStopped:
            counted = f" after {done} of {len(asked.citations)}; what is done stays" if asked.several else ""
            ended = f'<p class="hint" role="status">The test was stopped{counted}.</p>'
        except (ValueError, RuntimeError, MemoryError) as error:
            ended = complaint_html(error)
        yield _drawn(turn, News(asked, ended))

    showing = IN_ORDER | {"concurrency_id": "evidence"}
    turn.change(_draw, [turn], [summary, cards, bars], **showing)
    bars.pick(_open_page, [turn], [cards], **showing)
    for asker in (cards, *askers):
        asked = on(asker.test_passages, begin, [visitor, turn], [wanted, news])
        asked.then(run, [visitor, wanted], [news], **ON_MODEL)
        on(asker.stop_tests, lambda visitor: session_of(visitor).testing.stop(), [visitor])


def passage_news() -> gr.HTML:
    """What carries the news of tests to the cards and the pages. It stands outside the tabs: what is in a tab is only
    there once that was opened."""
    return _scripted("passage_news.js", "", visible="hidden")


def _scripted(script: str, template: str, **how: Any) -> gr.HTML:
    source = (ASSETS / script).read_text(encoding="utf-8")
    return gr.HTML(html_template=template, js_on_load=source, apply_default_css=False, **how)


def _untested(turn: Turn, ranks: Any) -> tuple[Citation, ...]:
    """The turn's passages of these ranks that are not tested yet; of those that are listed where it names none."""
    ranks = ranks if isinstance(ranks, list) else []
    named = [c for c in turn.citations if c.rank in ranks] if ranks else worth_a_look(turn.citations)
    return tuple(citation for citation in named if citation.rank not in turn.tests)


def _pages_of(turn: Turn) -> list[PageShare]:
    """The pages in the picture."""
    assert turn.answer.attention is not None
    return page_shares(turn.answer.attention, turn.prompt.index, len(turn.answer.token_ids))[:MOST_PAGES]


def _draw(turn: Turn | None) -> tuple[Any, ...]:
    """The tab for `turn`, open at the passage that it names."""
    if turn is None:
        return NOTHING_YET, None, None
    if turn.proves_nothing:
        return answer_html(turn) + hint_html(PROVES_NOTHING), None, None
    if not turn.citations:
        return NO_RECORD if turn.answer.attention is None else NOTHING_FOUND, None, None
    return answer_html(turn), _drawn(turn), packed(_bars(turn), caption=caption_of(turn))


_SERIALS = count(1)


def _drawn(turn: Turn, news: News | None = None, opened: int = 0) -> str:
    """The passages for assets/passages.js: HTML by parts, so that it touches only those that changed.

    Args:
        news: of tests under way or just ended.
        opened: rank of the card to open; 0: the one that the turn names.
    """
    if not opened:
        opened = turn.opens_at if _passage(turn, turn.opens_at) else 1
    listed = {citation.rank for citation in worth_a_look(turn.citations)}
    cards = [
        {
            "rank": citation.rank,
            "tokens": [citation.token_start, citation.token_stop],
            "faint": citation.rank not in listed,
            "struck": citation.rank in turn.tests or bool(news and news.busy and news.rank == citation.rank),
            "parts": _parts(citation, turn, news),
        }
        for citation in turn.citations
    ]
    whole = {"rank": 0, "parts": _parts_of_all(turn, news)}
    drawn = {"turn": turn.id, "serial": next(_SERIALS), "opened": opened, "whole": whole, "cards": cards}
    return json.dumps(drawn)


def _parts_of_all(turn: Turn, news: News | None) -> dict[str, str]:
    """What stands above and below the cards."""
    listed, left = worth_a_look(turn.citations), _untested(turn, None)
    busy, mine = news is not None and news.busy, news is not None and news.wanted.several
    button = ""
    if busy and mine:
        button = _button("stop", "Stop")
    elif len(listed) > 1 and left:
        words = "Test all of these" if len(left) == len(listed) else f"Test the other {len(left)}"
        button = _button("test", words, disabled=busy)
    faint = len(turn.citations) - len(listed)
    left_out = ""
    if faint:
        many = "passage got less than" if faint == 1 else "passages got less than"
        left_out = (
            f"<p>{faint} more {many} {FAINT:.0%} of the attention. "
            f"<button type='button' data-do='faint'>Show {'it' if faint == 1 else 'them'}</button></p>"
        )
    return {
        "actions": f"<h2>Passages behind the answer</h2>{button}",
        "progress": news.progress if news and mine else "",
        "ranking": rankings_html([turn.tests[rank] for rank in sorted(turn.tests)], turn),
        "faint": left_out,
    }


def _parts(citation: Citation, turn: Turn, news: News | None) -> dict[str, str]:
    """What stands in a passage's card."""
    test, busy = turn.tests.get(citation.rank), news is not None and news.busy
    mine = news is not None and not news.wanted.several and news.wanted.citations[0].rank == citation.rank
    action = ""
    if busy and mine:
        action = _button("stop", "Stop")
    elif test is None:
        action = _button("test", "What if it weren't there?", disabled=busy)
    progress = news.progress if news is not None and mine else ""
    if news is not None and busy and not mine and news.rank == citation.rank:
        progress = "<p class='hint'>Being tested …</p>"
    return {
        "text": _text_html(citation, turn, struck=test is not None or bool(progress and busy)),
        "level": f"<p title='{escape(citation.paper_words, quote=True)}'>{citation.level_words}</p>",
        "actions": action,
        "progress": progress,
        "result": "" if test is None else result_html(test),
    }


def _button(does: str, words: str, *, disabled: bool = False) -> str:
    return f"<button type='button' data-do='{does}'{' disabled' if disabled else ''}>{words}</button>"


def _text_html(citation: Citation, turn: Turn, *, struck: bool) -> str:
    text = shortened(citation.text, LONG_PASSAGE)
    place = escape(place_words(citation, turn))
    quote = f"<del>{escape(text)}</del>" if struck else f"“{escape(text)}”"
    return (
        f"<div class='passage-head'><b class='passage-rank'>{citation.rank}</b>"
        f"<a href='#passage-{turn.id}-{citation.rank}' title='Show it on the page'>{place}</a>"
        f"<span class='share' title='of the attention that the answer paid to the documents'>"
        f"<i style='width:{citation.share:.1%}'></i></span><span class='share-words'>{citation.share:.0%}</span></div>"
        f"<blockquote>{quote}</blockquote>"
    )


def _bar_label(page: PageShare, turn: Turn) -> str:
    short = f"{page.page}" if page.page_word == "page" else f"part {page.page}"
    # Files of one name must not fall together, and a name must not fill the axis.
    return short if len(turn.documents) == 1 else f"{page.document + 1}: {page.name[:10]} {short}"


def _bars(turn: Turn) -> Any:
    pages = [page for page in _pages_of(turn) if page.share > 0]
    cited = {(citation.document, citation.page) for citation in worth_a_look(turn.citations)}
    marked = [number for number, page in enumerate(pages) if (page.document, page.page) in cited]
    return page_bars([_bar_label(page, turn) for page in pages], [page.share for page in pages], cited=marked)


def _passage(turn: Turn | None, rank: Any) -> Citation | None:
    return next((citation for citation in turn.citations if citation.rank == rank), None) if turn else None


def _open_page(event: gr.EventData, turn: Turn | None) -> Any:
    """A bar was clicked: its most-looked-at passage, or none where none is among the first."""
    if turn is not None and turn.citations:
        for page in _pages_of(turn):
            if _bar_label(page, turn) == str(told(event, "x")):
                here = [c for c in turn.citations if (c.document, c.page) == (page.document, page.page)]
                return _drawn(turn, opened=here[0].rank) if here else gr.skip()
    return gr.skip()
