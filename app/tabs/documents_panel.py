"""Adding documents and listing them: pages, tokens, what could not be read, what does not fit."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from selfextend.steps import Progress, Running

from ..belongings import STILL_STARTING, keep_document, remove_documents
from ..documents.document import DocumentError
from ..documents.holders import Named
from ..documents.library import StoredDocument
from ..documents.memo import document_tokens
from ..jobs import JobStopped
from ..prompting import PLAIN, Instructions, SystemPromptError, build_prompt
from ..runtime import Runtime
from ..sample import SAMPLE
from ..session import Session
from .controls import Controls
from .widgets import QUEUED, DocumentView, States, complaint_html, hint_html, on, status_html, told

NO_MODEL = DocumentView(512, 2048)
"""What the page shows while there is no model."""

_REMOVE = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-sha]");
  if (button) trigger("remove", { sha256: button.dataset.sha });
  const name = event.target.closest("button[data-open]");
  if (name) window.selfextendReader?.openDocument(name.dataset.open);
});
"""


class DocumentsPane(NamedTuple):
    """The drop zone, the buttons, the list, and the line about what is going on."""

    upload: gr.File
    sample: gr.Button
    stop: gr.Button
    listing: gr.HTML
    status: gr.HTML


def build_documents_panel(runtime: Runtime, states: States, controls: Controls) -> DocumentsPane:
    """The components and handlers, inside the open gr.Blocks. Sets `states.view` whenever the documents change."""
    pane = _components()

    def add(files: list[str] | None, visitor: str, *room: Any) -> Iterator[dict[Any, Any]]:
        paths = list(map(Path, files or []))
        session = runtime.sessions.get(visitor)
        session.reading.begin()
        complaints: list[str] = []
        yield {pane.stop: gr.update(visible=True), pane.upload: None}
        try:
            for path in paths if visitor else ():
                try:
                    with Running(session.reading.follow(_added(runtime, session, path))) as running:
                        for step in running:
                            yield {pane.status: status_html(step)}
                except JobStopped:
                    complaints.append(f"{path.name} was not added: reading it was stopped.")
                except DocumentError as error:
                    complaints.append(str(error))
        finally:
            for path in paths:
                runtime.own.read(path)
        if not visitor:
            complaints.append(STILL_STARTING)
        yield {
            pane.stop: gr.update(visible=False),
            pane.status: "".join(map(complaint_html, complaints)),
            pane.listing: documents_html(runtime, session),
            states.view: view_of(runtime, session, *room),
        }

    def remove(event: gr.EventData, visitor: str, *room: Any) -> tuple[Any, ...]:
        session = runtime.sessions.get(visitor)
        if visitor:
            remove_documents(runtime, session, str(told(event, "sha256")))
        return documents_html(runtime, session), "", view_of(runtime, session, *room)

    def use_sample(visitor: str, *room: Any) -> Iterator[dict[Any, Any]]:
        if visitor:
            remove_documents(runtime, runtime.sessions.get(visitor))
        yield from add([str(SAMPLE)], visitor, *room)

    def resized(visitor: str, *room: Any) -> DocumentView:
        return view_of(runtime, runtime.sessions.get(visitor), *room)

    outputs = [*pane, states.view]
    given = [states.visitor, *controls.room]
    pane.upload.upload(add, [pane.upload, *given], outputs, **QUEUED)
    pane.sample.click(use_sample, given, outputs, **QUEUED)
    on(pane.listing.remove, remove, given, [pane.listing, pane.status, states.view])
    on(pane.stop.click, lambda visitor: runtime.sessions.get(visitor).reading.stop(), [states.visitor])
    room = [controls.max_new_tokens.release, controls.system.blur, controls.thinking.input]
    on(room, resized, given, [states.view], newest=True)
    return pane


def _components() -> DocumentsPane:
    listing = gr.HTML(elem_id="documents", elem_classes=["documents"], js_on_load=_REMOVE, apply_default_css=False)
    with gr.Row(equal_height=True, elem_classes=["add-row"]):
        upload = gr.File(
            label="Add PDF, TXT, MD or DOCX", file_count="multiple", height=72, scale=5, min_width=200,
            elem_id="upload", elem_classes=["drop-zone"],
        )  # fmt: skip
        sample = gr.Button(
            "Use the sample", size="sm", scale=1, min_width=90, elem_id="use-sample", visible=SAMPLE.is_file()
        )
        stop = gr.Button(
            "Stop reading", size="sm", variant="stop", scale=1, min_width=90, visible=False, elem_id="stop-reading"
        )
    return DocumentsPane(upload, sample, stop, listing, gr.HTML(elem_id="documents-status"))


def _added(runtime: Runtime, session: Session, path: Path) -> Generator[Progress, None, None]:
    """Read an upload into the session.

    Raises:
        DocumentError: it cannot be read, or not be kept.
    """
    stored = _read_from(runtime, path)
    if stored is None:
        try:
            stored = yield from runtime.library.add_steps(path, path.name, session.visitor)
        except DocumentError:
            stored = _read_from(runtime, path)  # while this one waited for its turn
            if stored is None:
                raise
    keep_document(runtime, session, stored)
    runtime.own.read(path, stored.document.sha256)


def _read_from(runtime: Runtime, path: Path) -> StoredDocument | None:
    """What somebody else's upload of the same file was read as, see `OwnFolder.read`."""
    return runtime.library.find(runtime.own.read_as(path), path.name)


def view_of(
    runtime: Runtime, session: Session, max_new_tokens: float, system: str = "", thinking: bool = False
) -> DocumentView:
    """The tokens that documents and answer take with the model at hand.

    Args:
        max_new_tokens, system, thinking: the values of `Controls.room`.
    """
    loaded = runtime.models.loaded
    if loaded is None:
        return NO_MODEL
    documents, room = [stored.document for stored in session.documents], int(max_new_tokens)
    try:
        index = build_prompt(loaded.tokenizer, documents, "", (), Instructions((system or "").strip(), thinking)).index
    except SystemPromptError:  # told when something is asked
        index = build_prompt(loaded.tokenizer, documents, "", (), PLAIN).index

    def words(token: int) -> str:
        if token >= len(index):
            return ""
        start, end = index.chars[token]
        return index.prompt[int(start) : int(end)]

    names = tuple(document.name for document in documents)
    window, neighbors = loaded.trained_window, loaded.profile.neighbors
    return DocumentView(window, len(index) + room, words, room, loaded.label, names, neighbors)


def documents_html(runtime: Runtime, session: Session) -> str:
    """The list: for each document its pages, tokens, unreadable pages and notes; and how much text there may be."""
    most = f"{runtime.library.limits.max_characters / 1e6:g} million characters"
    if not session.named:
        return hint_html(f"No documents yet: drop some below, up to {most}. Without any, the model answers on its own.")
    items = [_item(runtime, stored) for stored in session.documents] + [_missing(named) for named in session.missing]
    taken = hint_html(f"{session.characters:,} of {most} taken.")
    return f'<ul class="document-list">{"".join(items)}</ul>{taken}'


def _missing(named: Named) -> str:
    sha256, name = escape(named[0], quote=True), escape(named[1], quote=True)
    return (
        f'<li><div><p class="name">{name}</p><p class="warning">This document is no longer kept here, so the model '
        "does not read it: add the file again, or remove it from the list.</p></div>"
        f'<button type="button" data-sha="{sha256}" aria-label="Remove {name}" title="Remove">✕</button></li>'
    )


def _item(runtime: Runtime, stored: StoredDocument) -> str:
    document = stored.document
    loaded = runtime.models.loaded
    facts = [f"{len(document.pages):,} {document.page_word}{'' if len(document.pages) == 1 else 's'}"]
    if loaded is not None:
        facts.append(f"{document_tokens(loaded.tokenizer, document):,} tokens")
    lines = [f'<p class="facts">{escape(" · ".join(facts))}</p>']
    if document.unreadable:
        pages = ", ".join(str(page.number) for page in document.unreadable[:30])
        more = " …" if len(document.unreadable) > 30 else ""
        reason = document.unreadable[0].unreadable
        lines.append(
            f'<p class="warning">{len(document.unreadable)} without text ({escape(str(reason))}): '
            f"{document.page_word} {pages}{more}</p>"
        )
    lines += [hint_html(escape(note)) for note in document.notes]
    return (
        f'<li><div><button type="button" class="name" data-open="{document.sha256}" title="Look at it">'
        f"{escape(document.name)}</button>{''.join(lines)}</div>"
        f'<button type="button" data-sha="{document.sha256}" aria-label="Remove {escape(document.name, quote=True)}" '
        'title="Remove">✕</button></li>'
    )
