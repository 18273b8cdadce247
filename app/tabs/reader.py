"""The Document tab: the pages in their real look, and where the answer's tokens looked on them.

The browser's side is assets/reader.js (the pages) and assets/answer_tokens.js (the tokens in the chat). They ask the
server for pages, for what was found, and for an answer's traces; nothing of that goes through Gradio's events, so that
a hovered token need not wait.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from ..documents.document import DocumentError
from ..documents.holders import is_holder
from ..documents.library import StoredDocument
from ..pages import Pages, find_text
from ..runtime import Runtime
from ..session import Session, Turn
from ..theme import ASSETS
from ..traces import ALL, trace_of
from .widgets import States, redraw_on

LONGEST_SEARCH = 200


def build_reader_tab(runtime: Runtime, states: States) -> gr.HTML:
    """The tab's component and handlers, inside the open gr.Blocks or gr.Tab. Redraws when documents or turn change."""
    source = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in ("reader.js", "answer_tokens.js"))
    pages = Pages(share=runtime.settings.share_reading)
    runtime.library.deleted.append(pages.forget)
    pane = gr.HTML(
        html_template="<div class='reader'></div>",
        js_on_load=source,
        apply_default_css=False,
        elem_id="reader",
        server_functions=server_functions(runtime, pages),
    )

    def draw(visitor: str, turn: Turn | None) -> str:
        return json.dumps(contents(runtime.sessions.get(visitor), turn)) if visitor else ""

    redraw_on("reader", [states.view.change, states.turn.change], draw, [states.visitor, states.turn], [pane])
    return pane


def contents(session: Session, turn: Turn | None) -> dict[str, Any]:
    """What the reader shows: the visitor's documents, and those of the answer in question that were removed since."""
    shown = list(session.documents)
    here = set(session.contents)
    if turn is not None:
        shown += [stored for stored in turn.documents if stored.document.sha256 not in here]
    return {
        "visitor": session.visitor,
        "documents": [
            {
                "sha256": stored.document.sha256,
                "name": stored.document.name,
                "pages": len(stored.document.pages),
                "page_word": stored.document.page_word,
                "own": stored.document.sha256 in here,
            }
            for stored in shown
        ],
        "turn": turn.id if turn is not None else 0,
        "tokens": len(turn.answer.token_ids) if turn is not None else 0,
        "opens_at": turn.opens_at if turn is not None and turn.citations else 0,
    }


def server_functions(runtime: Runtime, pages: Pages) -> list[Callable[[Any], Any]]:
    """What assets/reader.js may ask. Open endpoints, as all of Gradio's are: each takes one JSON object and checks it.

    Each returns a JSON object; `error` in it is a sentence for the visitor. Somebody else's documents and answers
    cannot be asked for without the random text that names their visitor.
    """

    def session_of(asked: Any) -> Session:
        visitor = asked.get("visitor") if isinstance(asked, dict) else None
        known = is_holder(visitor) and (visitor in runtime.sessions or runtime.library.knows(str(visitor)))
        if not known:
            raise ValueError("This page is not known here any more: load it again.")
        return runtime.sessions.get(str(visitor))

    def stored_in(session: Session, sha256: Any) -> StoredDocument:
        removed = (stored for turn in session.turns.values() for stored in turn.documents)
        everywhere = [*session.documents, *(stored for stored in removed if stored.path.is_file())]
        found = next((stored for stored in everywhere if stored.document.sha256 == sha256), None)
        if found is None:
            raise ValueError("This document was removed.")
        return found

    def turn_of(session: Session, number: Any) -> Turn:
        turn = runtime.turn_of(session, number) if isinstance(number, int) else None
        if turn is None:
            raise ValueError("Where this answer looked is no longer in memory: ask again to see it.")
        return turn

    def answering(answer: Callable[[Session, dict[str, Any]], dict[str, Any]]) -> Callable[[Any], Any]:
        def checked(asked: Any) -> dict[str, Any]:
            try:
                return answer(session_of(asked), asked)
            except (ValueError, DocumentError) as error:
                return {"error": str(error)}

        checked.__name__ = answer.__name__
        return checked

    def sizes(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
        return {"sizes": pages.sizes(stored_in(session, asked.get("document")))}

    def views(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
        numbers = asked.get("pages")
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise ValueError("Pages are asked for by their numbers.")
        return {"views": pages.views(stored_in(session, asked.get("document")), numbers)}

    def find(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
        wanted = asked.get("text")
        if not isinstance(wanted, str) or len(wanted) > LONGEST_SEARCH:
            raise ValueError(f"What is looked for is a text of at most {LONGEST_SEARCH} characters.")
        return {"hits": find_text(stored_in(session, asked.get("document")), wanted)}

    def trace(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
        layer, head = (str(asked.get(name, ALL)) for name in ("layer", "head"))
        return trace_of(turn_of(session, asked.get("turn")), layer, head)

    def token(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
        turn = turn_of(session, asked.get("turn"))
        names = [stored.document.sha256 for stored in turn.documents]
        document, page, char = (asked.get(name) for name in ("document", "page", "char"))
        if document not in names or not isinstance(page, int) or not isinstance(char, int):
            raise ValueError("A word is named by its document, page and character.")
        try:
            return {"token": turn.prompt.index.token_at(names.index(document), page, char)}
        except KeyError:
            raise ValueError("There is no such word.") from None

    def place(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
        token = asked.get("token")
        index = turn_of(session, asked.get("turn")).prompt.index
        if not isinstance(token, int) or not 0 <= token < len(index):
            raise ValueError("A word is named by the number of its token.")
        return {"place": index.place(token)}

    return [answering(answer) for answer in (sizes, views, find, trace, token, place)]
