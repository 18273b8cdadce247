"""The chat: question, streamed answer with page links, stop, edit, retry, undo, clear, download.

Turns what `app.answering` streams into components' values. Knows no attention.
"""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import closing
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from app.answering import Progress, Shown, reply_steps
from app.asking import Question
from app.conversation import Entry, as_text, messages, reply_text
from app.prompting import Exchange, build_prompt
from app.runtime import SAMPLE, SAMPLE_QUESTIONS, Runtime
from app.session import Session
from app.tabs.controls import Choices, Controls
from app.tabs.shared import save_on_click

MODEL_QUEUE = "model"
"""The concurrency id of everything that uses the model: one at a time."""


class States(NamedTuple):
    """The page's gr.States.

    Attributes:
        visitor: who this is: a random text that the browser keeps.
        entries: the conversation, a list of Entry.
        pending: what is being asked: {"question", "entries", "cleared", "busy"}; None while nothing is.
        turn: the Turn that the tabs beside the chat look into, or None.
        view: the DocumentView.
    """

    visitor: gr.State
    entries: gr.State
    pending: gr.State
    turn: gr.State
    view: gr.State


class ChatPane(NamedTuple):
    """Attributes: the components, and the event after which an answer is complete."""

    chatbot: gr.Chatbot
    question: gr.Textbox
    status: gr.HTML
    answered: Any


def first_questions() -> list[str]:
    """Questions on the sample document, to ask with one click."""
    if not (SAMPLE.is_file() and SAMPLE_QUESTIONS.is_file()):
        return []
    return [record["question"] for record in json.loads(SAMPLE_QUESTIONS.read_text(encoding="utf-8"))]


def examples_for(session: Session) -> list[dict[str, str]]:
    """Questions to ask with one click: those on the sample, while it is the document at hand."""
    if [stored.document.name for stored in session.documents] != [SAMPLE.name]:
        return []
    return [{"text": question} for question in first_questions()]


def status_html(progress: Progress) -> str:
    """A line of progress that screen readers announce."""
    if not progress.words:
        return ""
    bar = "" if progress.fraction is None else f'<progress value="{progress.fraction:.4f}" max="1"></progress>'
    words = progress.words[0].upper() + progress.words[1:]
    return f'<div class="progress-line" role="status">{bar}<span>{escape(words)}</span></div>'


def complaint_html(error: Exception | str) -> str:
    """A sentence about what went wrong."""
    return f'<p role="alert" class="complaint">{escape(str(error))}</p>'


BUSY = complaint_html("An answer is on its way: wait for it, or stop it.")


def build_chat(runtime: Runtime, controls: Controls, states: States) -> ChatPane:
    """The chat's components and handlers, inside the open gr.Blocks."""
    chatbot = gr.Chatbot(
        label="Conversation",
        elem_id="chat",
        height="max(19rem, calc(100vh - 28.5rem))",
        editable="user",
        buttons=["copy", "copy_all"],
        allow_tags=False,
        feedback_options=None,
        placeholder="### Ask the document\nThe answer streams, and its page links open the passages it comes from.",
        examples=[],
        layout="bubble",
    )
    status = gr.HTML(elem_id="chat-status", elem_classes=["chat-status"])
    with gr.Row(elem_classes=["ask-row"]):
        question = gr.Textbox(
            label="Question", lines=1, max_lines=6, scale=6, elem_id="question", placeholder="Ask something…",
        )  # fmt: skip
        send = gr.Button("Send", variant="primary", elem_id="send", min_width=80, scale=1)
        stop = gr.Button("Stop", variant="stop", elem_id="stop", visible=False, min_width=80, scale=1)
    with gr.Row(elem_classes=["chat-tools"]):
        download = gr.Button("Download chat", size="sm", elem_id="download-chat")
        show_prompt = gr.Button("Show the prompt", size="sm", elem_id="show-prompt")
    prompt_box = gr.Textbox(
        label="The prompt of the answer on the right, as the model read it", lines=10, max_lines=20, visible=False,
        buttons=["copy"], elem_id="prompt", interactive=False,
    )  # fmt: skip

    asked = [question, states.entries, states.visitor, states.pending]
    waiting = [states.pending, chatbot, question, send, stop, status]
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    at_once: dict[str, Any] = {"queue": False, **hidden}

    def begin(text: str, entries: list[Entry], visitor: str, pending: dict[str, Any] | None) -> tuple[Any, ...]:
        """Shows the question at once, while the model may still be busy with somebody else."""
        if pending is not None:
            return *_busy(pending, 5), BUSY
        if not text.strip():
            return None, gr.skip(), gr.skip(), gr.skip(), gr.skip(), complaint_html("Type a question first.")
        runtime.sessions.get(visitor).stop.clear()
        shown = [*messages(entries), {"role": "user", "content": text}]
        return (
            {"question": text, "entries": entries, "cleared": False, "busy": False},
            shown,
            "",
            gr.update(visible=False),
            gr.update(visible=True),
            status_html(Progress("waiting for the model", None)),
        )

    def answer(pending: dict[str, Any] | None, visitor: str, *values: Any) -> Iterator[dict[Any, Any]]:
        if pending is None:
            yield {status: gr.skip()}
            return
        session = runtime.sessions.get(visitor)
        entries, text = pending["entries"], pending["question"]
        rest = {send: gr.update(visible=True), stop: gr.update(visible=False), states.pending: None}
        try:
            choices = Choices.read(values)
            loaded = runtime.models.need()
            questions = _questions(session, choices, choices.ways(loaded.trained_window), text, entries)
            with closing(reply_steps(loaded, runtime.caches, session, questions)) as steps:
                for shown in steps:
                    if pending["cleared"]:
                        yield {chatbot: [], status: "", states.entries: [], states.turn: None, **rest}
                        return
                    entry = Entry(text, shown.replies, loaded.label)
                    if not shown.done:
                        line = status_html(shown.progress) + (BUSY if pending["busy"] else "")
                        yield {chatbot: _growing(entries, entry, shown), status: line}
            kept = [*entries, entry]
            yield {
                chatbot: messages(kept),
                status: status_html(shown.progress) if entry.replies[-1].stopped else "",
                states.entries: kept,
                states.turn: shown.turns[-1] if shown.turns else gr.skip(),
                **rest,
            }
        except Exception as error:
            # Refused or failed, whatever the reason: what was there stays, the question goes back to where it was
            # typed, and Send comes back.
            words = error if isinstance(error, (ValueError, RuntimeError)) else _unexpected(error)
            yield {chatbot: messages(entries), question: text, status: complaint_html(words), **rest}

    def retry(event: gr.RetryData, entries: list[Entry], *rest: Any) -> tuple[Any, ...]:
        place = _entry_at(event.index, entries)
        return begin(entries[place].question, entries[:place], *rest)

    def edit(event: gr.EditData, entries: list[Entry], *rest: Any) -> tuple[Any, ...]:
        return begin(_plain(event.value), entries[: _entry_at(event.index, entries)], *rest)

    def undo(event: gr.UndoData, entries: list[Entry], visitor: str, pending: dict[str, Any] | None) -> tuple[Any, ...]:
        if pending is not None:
            return _busy(pending, 4)
        place = _entry_at(event.index, entries)
        kept = entries[:place]
        last = kept[-1].replies[-1].turn if kept and kept[-1].replies else 0
        turn = runtime.sessions.get(visitor).turns.get(last)
        return kept, messages(kept), entries[place].question, turn

    def clear(visitor: str, pending: dict[str, Any] | None) -> tuple[Any, ...]:
        session = runtime.sessions.get(visitor)
        session.turns.clear()
        if pending is not None:
            pending["cleared"] = True
            session.stop.set()
        return [], None, ""

    def example(event: gr.SelectData, entries: list[Entry], *rest: Any) -> tuple[Any, ...]:
        return begin(_plain(event.value), entries, *rest)

    def save(entries: list[Entry], visitor: str) -> tuple[str | None, str]:
        if not entries:
            return None, complaint_html("There is nothing to download yet: ask a question first.")
        names = [stored.document.name for stored in runtime.sessions.get(visitor).documents]
        path = Path(tempfile.mkdtemp(prefix="selfextend-")) / "conversation.md"
        path.write_text(as_text(entries, names), encoding="utf-8")
        return str(path), ""

    def prompt_text(turn: Any, visitor: str, text: str) -> Any:
        if turn is not None:
            return gr.update(value=turn.prompt.text, visible=True)
        loaded = runtime.models.loaded
        if loaded is None:
            return gr.update(value="No model is loaded, so there is no prompt yet.", visible=True)
        documents = [stored.document for stored in runtime.sessions.get(visitor).documents]
        return gr.update(value=build_prompt(loaded.tokenizer, documents, text).text, visible=True)

    begun = gr.on([send.click, question.submit], begin, asked, waiting, **at_once)
    again = [states.entries, states.visitor, states.pending]
    begins = [
        begun,
        chatbot.retry(retry, again, waiting, **at_once),
        chatbot.edit(edit, again, waiting, **at_once),
        chatbot.example_select(example, again, waiting, **at_once),
    ]
    outputs = [chatbot, status, question, send, stop, *states[1:4]]
    answered = [
        event.then(
            answer,
            [states.pending, states.visitor, *controls],
            outputs,
            concurrency_limit=1,
            concurrency_id=MODEL_QUEUE,
            **hidden,
        )
        for event in begins
    ]
    stop.click(lambda visitor: runtime.sessions.get(visitor).stop.set(), [states.visitor], None, **at_once)
    chatbot.undo(undo, again, [states.entries, chatbot, question, states.turn], **at_once)
    chatbot.clear(clear, [states.visitor, states.pending], [states.entries, states.turn, status], **at_once)
    save_on_click(download, save, [states.entries, states.visitor], status)
    show_prompt.click(prompt_text, [states.turn, states.visitor, question], prompt_box, **at_once)
    return ChatPane(chatbot, question, status, answered)


def _questions(session: Session, choices: Choices, ways: list[Any], text: str, entries: list[Entry]) -> list[Question]:
    earlier: tuple[Exchange, ...] = ()
    if choices.remember:
        earlier = tuple(
            Exchange(entry.question, entry.replies[-1].text)
            for entry in entries
            if entry.replies and entry.replies[-1].turn
        )
    return [
        Question(
            text=text,
            documents=tuple(session.documents),
            config=config,
            method=method,
            extend="when_needed" if choices.when_needed else "always",
            generation=choices.generation,
            earlier=earlier,
        )
        for method, config in ways
    ]


def _busy(pending: dict[str, Any], outputs: int) -> tuple[Any, ...]:
    """Leaves everything as it is, and has the answer that is on its way say so beside its progress."""
    pending["busy"] = True
    return tuple(gr.skip() for _ in range(outputs))


def _unexpected(error: Exception) -> str:
    traceback.print_exception(error)
    return f"Something unexpected went wrong ({type(error).__name__}: {error}). What was there is as before; ask again."


def _growing(entries: list[Entry], entry: Entry, shown: Shown) -> list[dict[str, Any]]:
    return [
        *messages(entries),
        {"role": "user", "content": entry.question},
        {"role": "assistant", "content": reply_text(shown.replies)},
    ]


def _entry_at(index: int | tuple[int, int], entries: list[Entry]) -> int:
    """The entry that a message of the chatbot belongs to."""
    place = index[0] if isinstance(index, (tuple, list)) else index
    owners = [number for number, entry in enumerate(entries) for _ in range(1 + bool(entry.replies))]
    return owners[place] if place < len(owners) else max(0, len(entries) - 1)


def _plain(content: Any) -> str:
    """The text of a chat message, which comes as text or as a list of blocks."""
    if isinstance(content, list):
        return "".join(_plain(block) for block in content)
    if isinstance(content, dict):
        return str(content.get("text", ""))
    return str(content)
