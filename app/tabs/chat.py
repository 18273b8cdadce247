"""The chat: question, streamed answer with page links, stop, edit, retry, undo, clear, download."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import gradio as gr

from selfextend.config import suggest
from selfextend.errors import PastReachError
from selfextend.methods import SelfExtend

from ..answering import Shown, reply_steps
from ..asking import Question, prompt_of
from ..belongings import STILL_STARTING
from ..conversation import Entry, as_text, example_text, messages, placed_messages, same_thread
from ..jobs import InBackground
from ..prompting import Exchange, build_prompt, check_question, split_thinking
from ..runtime import Runtime
from ..safe_text import plain_question
from ..sample import only_the_sample, sample_questions
from ..server.request_log import log_unexpected, request_id
from ..session import Pending, Session, Turn
from ..wording import in_page_words
from .controls import Choices, Controls, slider_updates
from .offers_panel import Again
from .widgets import (
    ASKING,
    CONVERSATION,
    QUEUED,
    DocumentView,
    States,
    buttons,
    complaint_html,
    on,
    save_on_click,
    skipped,
    status_html,
    told,
    unchanged,
)

BUSY = complaint_html("An answer is on its way: wait for it, or stop it.")
PLACEHOLDER = "## Ask the document\nThe answer streams, and its page links open the passages it comes from."
EXAMPLE_ON_ITS_WAY = (
    '<div class="contrast">\n\n<span class="tag">Example</span> The model is answering a question about the sample '
    "twice, as it is and with SelfExtend. You need not wait for it: ask.\n\n</div>"
)
WAITING = status_html("waiting for the model")
PATIENCE_SECONDS = 60.0
"""How long an answer goes on that no page follows: a reload takes a few seconds."""
NO_PATIENCE_SECONDS = 3.0
"""The same where nothing outlives a reload."""


class ChatPane(NamedTuple):
    """The chat's components.

    Attributes:
        fit: sets settings that reach far enough for a question that was refused, and asks it.
        answered: the events after which an answer is complete; cleared: the one after which there is none.
        go_on_after: has the page, after an event, go on with the answer that its `states.pending` holds.
    """

    chatbot: gr.Chatbot
    status: gr.HTML
    question: gr.Textbox
    send: gr.Button
    stop: gr.Button
    fit: gr.Button
    download: gr.Button
    show_prompt: gr.Button
    prompt: gr.Textbox
    answered: list[Any]
    cleared: Any = None
    go_on_after: Any = None


def opening(runtime: Runtime, session: Session) -> Any:
    """What stands in an empty chat, as an update of it: while the sample is the only document, the example and
    questions to ask with one click."""
    if not only_the_sample(session.documents):
        return gr.update(placeholder=PLACEHOLDER, examples=[])
    *offered, last = sample_questions()
    example = runtime.example_for(session)
    if example is not None:
        placeholder = example_text(example.entry, last.value, example.loaded.trained_window, example.read_tokens)
    else:
        placeholder = EXAMPLE_ON_ITS_WAY if runtime.ahead.progress else PLACEHOLDER
    return gr.update(placeholder=placeholder, examples=[{"text": asked.question} for asked in offered])


def build_chat(runtime: Runtime, controls: Controls, states: States, links: gr.HTML) -> ChatPane:
    """The chat's components and handlers, inside the open gr.Blocks.

    Args:
        links: tells, as its event `go_on`, that somebody wants an answer to go on.
    """
    pane = _components()
    handlers = _Handlers(runtime, pane, states)
    conversation = [states.entries, states.visitor, states.pending]
    waiting = [states.pending, pane.chatbot, pane.question, pane.send, pane.stop, pane.fit, pane.status]
    fitted = on(
        pane.fit.click,
        handlers.suggest_and_ask,
        [pane.question, states.entries, states.visitor, states.view, *controls],
        [controls.method, controls.group_size, controls.neighbor_window],
    )
    begun = [
        on(
            [pane.send.click, pane.question.submit],
            handlers.begin,
            [pane.question, *conversation],
            waiting,
            **CONVERSATION,
        ),
        on(fitted.success, handlers.begin, [pane.question, *conversation], waiting, **CONVERSATION),
        on(pane.chatbot.retry, handlers.retry, conversation, waiting, **CONVERSATION),
        on(pane.chatbot.edit, handlers.edit, conversation, waiting, **CONVERSATION),
        on(pane.chatbot.example_select, handlers.example, conversation, waiting, **CONVERSATION),
        on(links.go_on, handlers.go_on, conversation, waiting, **CONVERSATION),
        on(states.again.change, handlers.again, [states.again, *conversation], waiting, **CONVERSATION),
    ]
    given, answering = [states.pending, states.visitor, *controls], [*waiting, states.entries, states.turn]
    for event in begun:
        pane.answered.append(event.then(handlers.answer, given, answering, **QUEUED, **ASKING))
    on(pane.stop.click, lambda visitor: runtime.sessions.get(visitor).answering.stop(), [states.visitor])
    undone = [states.entries, pane.chatbot, pane.question, states.turn]
    on(pane.chatbot.undo, handlers.undo, conversation, undone, **CONVERSATION)
    outputs = [states.entries, states.turn, pane.status]
    cleared = on(pane.chatbot.clear, handlers.clear, [states.visitor, states.pending], outputs, **CONVERSATION)
    save_on_click(pane.download, handlers.save, [states.entries, states.visitor], pane.status)
    on(
        pane.show_prompt.click,
        handlers.show_prompt,
        [states.turn, states.visitor, pane.question, *controls],
        [pane.prompt],
    )

    def go_on_after(event: Any) -> None:
        # Not in the model's queue: this follows what has its turn at the model already.
        event.then(handlers.answer, given, answering, **QUEUED)

    return pane._replace(cleared=cleared, go_on_after=go_on_after)


def _components() -> ChatPane:
    chatbot = gr.Chatbot(
        label="Conversation", show_label=False, elem_id="chat", height="max(19rem, calc(100vh - 31rem))",
        editable="user",
        buttons=["copy", "copy_all"], allow_tags=False, feedback_options=None, placeholder=PLACEHOLDER, examples=[],
        layout="bubble", group_consecutive_messages=False,
    )  # fmt: skip
    status = gr.HTML(elem_id="chat-status", elem_classes=["chat-status"])
    fit = gr.Button("Suggest and ask", variant="primary", size="sm", visible=False, elem_id="suggest-and-ask")
    with gr.Row(elem_classes=["ask-row"]):
        question = gr.Textbox(
            label="Question", show_label=False, lines=1, max_lines=6, scale=6, elem_id="question",
            placeholder="Ask something…",
        )  # fmt: skip
        send = gr.Button("Send", variant="primary", elem_id="send", min_width=80, scale=1)
        stop = gr.Button("Stop", variant="stop", elem_id="stop", visible=False, min_width=80, scale=1)
    with gr.Row(elem_classes=["chat-tools"]):
        download = gr.Button("Download chat", size="sm", elem_id="download-chat")
        show_prompt = gr.Button("Show the prompt", size="sm", elem_id="show-prompt")
    prompt = gr.Textbox(
        label="The prompt of the answer on the right, as the model read it", lines=10, max_lines=20, visible=False,
        buttons=["copy"], elem_id="prompt", interactive=False,
    )  # fmt: skip
    return ChatPane(chatbot, status, question, send, stop, fit, download, show_prompt, prompt, [])


class _Handlers:
    """What the chat's events do. `begin` shows a question at once; `answer` waits for the model."""

    def __init__(self, runtime: Runtime, pane: ChatPane, states: States) -> None:
        self.runtime, self.pane, self.states = runtime, pane, states

    def begin(self, text: str, entries: list[Entry], visitor: str, pending: Pending | None) -> dict[Any, Any]:
        return self._begin(text, entries, entries, visitor, pending)

    def retry(self, event: gr.RetryData, entries: list[Entry], *rest: Any) -> dict[Any, Any]:
        place = _entry_at(event.index, entries)
        return self._begin(entries[place].question, entries[:place], entries, *rest)

    def edit(self, event: gr.EditData, entries: list[Entry], *rest: Any) -> dict[Any, Any]:
        return self._begin(_plain(event.value), entries[: _entry_at(event.index, entries)], entries, *rest)

    def example(self, event: gr.SelectData, entries: list[Entry], *rest: Any) -> dict[Any, Any]:
        return self._begin(_plain(event.value), entries, entries, *rest)

    def again(self, again: Again | None, entries: list[Entry], *rest: Any) -> dict[Any, Any]:
        if again is None:
            return unchanged(self.pane.status)
        return self._begin(again.question, entries, entries, *rest)

    def go_on(self, event: gr.EventData, entries: list[Entry], visitor: str, pending: Pending | None) -> dict[Any, Any]:
        """The last entry's answer of the turn that a link names goes on."""
        session, href = self.runtime.sessions.get(visitor), str(told(event, "href"))
        named = href.rpartition("-")[2]
        turn = session.turns.get(int(named)) if named.isdecimal() else None
        if pending is not None:
            return self._busy(pending)
        if turn is None or not entries or turn.id not in [reply.turn for reply in entries[-1].replies]:
            return self._refused("This answer is no longer in memory, so it cannot go on: ask again.")
        if turn.model_id != self.runtime.models.identity:
            words = f"{turn.model_name} gave this answer: load it again as it was for it to go on, or ask again."
            return self._refused(words)
        # What is being typed stays.
        return self._pending(session, Pending(turn.question, entries[:-1], entries, entries[-1], turn), status=WAITING)

    def _begin(
        self, text: str, entries: list[Entry], before: list[Entry], visitor: str, pending: Pending | None
    ) -> dict[Any, Any]:
        text = plain_question(text)
        if pending is not None:
            return self._busy(pending)
        if not text.strip():
            return self._refused("Type a question first.")
        if not visitor:
            return self._refused(STILL_STARTING)
        try:
            check_question(text)
        except ValueError as error:
            return self._refused(error)
        session = self.runtime.sessions.get(visitor)
        loaded, last = self.runtime.models.loaded, entries[-1] if entries else Entry("")
        model, identity = (loaded.label, loaded.identity) if loaded else (last.model, last.model_id)
        entry = Entry(text, (), model, session.contents, identity)
        return {self.pane.question: "", **self._pending(session, Pending(text, entries, before, entry))}

    def _busy(self, pending: Pending) -> dict[Any, Any]:
        pending.notes.add("busy")
        return {self.pane.status: BUSY}

    def _refused(self, words: Exception | str) -> dict[Any, Any]:
        return {self.states.pending: None, self.pane.status: complaint_html(words)}

    def _pending(self, session: Session, pending: Pending, status: str = "") -> dict[Any, Any]:
        """The page, waiting for an answer."""
        pane = self.pane
        session.answering.begin()
        session.pending = pending
        session.count_from(pending.before)  # of answers that are no longer in memory
        self.runtime.sessions.keep(session)
        shown = [*pending.entries, pending.entry]
        return {
            self.states.pending: pending,
            pane.chatbot: messages(shown, WAITING if not pending.entry.replies else ""),
            **buttons(pane.send, pane.stop, busy=True),
            pane.fit: gr.update(visible=False),
            pane.status: status,
        }

    def answer(self, pending: Pending | None, visitor: str, *values: Any) -> Iterator[dict[Any, Any]]:
        pane, states = self.pane, self.states
        if pending is None:
            yield unchanged(pane.status)
            return
        session = self.runtime.sessions.get(visitor)
        idle = {**buttons(pane.send, pane.stop, busy=False), states.pending: None}
        try:
            if pending.work is None:
                pending.work = self._start(pending, session, values)
            newest = None
            for shown in pending.work.follow():
                if shown is newest and not pending.notes:
                    yield unchanged(pane.status)  # only to see whether the page is still there
                    continue
                newest = shown
                if "cleared" in pending.notes:
                    yield {pane.chatbot: [], pane.status: "", states.entries: [], states.turn: None, **idle}
                    return
                pending.entry = entry = replace(pending.entry, replies=shown.replies)
                if not shown.done:
                    line = status_html(shown.progress)
                    in_bubble = any(reply.is_awaited for reply in entry.replies)
                    busy = BUSY if "busy" in pending.notes else ""
                    yield {
                        pane.chatbot: messages([*pending.entries, entry], line),
                        pane.status: busy if in_bubble else line + busy,
                    }
            pending.kept = [*pending.entries, entry]
            self.runtime.sessions.keep(session)  # the evidence of an answer stays for a while, however long it took
            yield {
                pane.chatbot: messages(pending.kept),
                pane.status: status_html(shown.progress) if entry.replies[-1].stopped else "",
                states.entries: pending.kept,
                states.turn: session.last_turn(pending.kept, entry.model_id),
                **idle,
            }
        except Exception as error:
            # Refused or failed, whatever the reason: what was there stays, the question goes back to where it was
            # typed, and Send comes back.
            words = error if isinstance(error, (ValueError, RuntimeError)) else _unexpected(error)
            before = [] if "cleared" in pending.notes else pending.before
            session.pending = None
            back: dict[Any, Any] = {pane.chatbot: messages(before)}
            if pending.begun is None:
                back[pane.question] = pending.question
                back[pane.fit] = gr.update(visible=isinstance(error, PastReachError))
            yield {**back, pane.status: complaint_html(words), **idle}

    def suggest_and_ask(
        self, text: str, entries: list[Entry], visitor: str, view: DocumentView, *values: Any
    ) -> tuple[Any, Any, Any]:
        """Method and both sliders, set to what reaches far enough for this question and its answer."""
        session, loaded, choices = self.runtime.sessions.get(visitor), self.runtime.models.need(), Choices.read(values)
        entry = Entry(text, (), loaded.label, session.contents, loaded.identity)
        earlier = same_thread(entries, entry) if choices.remember else []
        prompt = prompt_of(loaded, _questions(session, choices, text, earlier)[0])
        length = len(prompt) + choices.generation.max_new_tokens
        config = suggest(loaded.trained_window, length, neighbor_window=loaded.profile.neighbors)
        method = gr.skip() if len(choices.methods) > 1 else SelfExtend.heading
        return method, *slider_updates(config, view)

    def _start(self, pending: Pending, session: Session, values: tuple[Any, ...]) -> InBackground[Shown]:
        """Begin to answer.

        Args:
            values: of the controls.

        Raises:
            NoModelError: no model is loaded.
            ValueError: a number is missing or out of range.
        """
        choices = Choices.read(values)
        loaded = self.runtime.models.need()
        if pending.begun is None:
            model = loaded.label, session.contents, loaded.identity
            entry = Entry(pending.question, (), *model, choices.asked_with())
            earlier = same_thread(pending.entries, entry) if choices.remember else []
            questions: list[Question | None] = [*_questions(session, choices, entry.question, earlier)]
        else:
            entry = replace(pending.entry, asked_with=choices.asked_with(pending.entry.asked_with))
            further = Question.going_on(pending.begun, choices.generation)
            questions = [further if reply.turn == pending.begun.id else None for reply in entry.replies]
        pending.entry = entry
        steps = reply_steps(loaded, self.runtime.caches, session, questions, entry.replies)
        patience = PATIENCE_SECONDS if self.runtime.settings.persist else NO_PATIENCE_SECONDS
        return InBackground(steps, session.answering, patience)

    def undo(self, event: gr.UndoData, entries: list[Entry], visitor: str, pending: Pending | None) -> tuple[Any, ...]:
        if pending is not None:
            pending.notes.add("busy")  # which `answer` tells
            return skipped(4)
        place, session = _entry_at(event.index, entries), self.runtime.sessions.get(visitor)
        session.pending, kept = None, entries[:place]
        turn = self.runtime.turn_to_show(session, kept)
        return kept, messages(kept), entries[place].question, turn

    def clear(self, visitor: str, pending: Pending | None) -> tuple[Any, ...]:
        session = self.runtime.sessions.get(visitor)
        session.turns.clear()
        session.pending = None
        self.runtime.own.forget(visitor)
        if pending is not None:
            pending.notes.add("cleared")
            session.answering.stop()
        return [], self.runtime.turn_to_show(session, []), ""

    def save(self, entries: list[Entry], visitor: str) -> tuple[str | None, str]:
        if not entries:
            return None, complaint_html("There is nothing to download yet: ask a question first.")
        names = [stored.document.name for stored in self.runtime.sessions.get(visitor).documents]
        return self.runtime.own.save(visitor, "conversation.md", as_text(entries, names)), ""

    def show_prompt(self, turn: Turn | None, visitor: str, text: str, *values: Any) -> Any:
        loaded = self.runtime.models.loaded
        if turn is not None:
            prompt = turn.prompt.text
        elif loaded is None:
            prompt = "No model is loaded, so there is no prompt yet."
        else:
            documents = [stored.document for stored in self.runtime.sessions.get(visitor).documents]
            try:
                instructions = Choices.read(values).instructions
                prompt = build_prompt(loaded.tokenizer, documents, text, (), instructions).text
            except ValueError as error:
                prompt = in_page_words(str(error))
        return gr.update(value=prompt, visible=True)


def _questions(session: Session, choices: Choices, text: str, earlier: Sequence[Entry]) -> list[Question]:
    exchanges = tuple(
        Exchange(entry.question, split_thinking(entry.replies[-1].text)[1])
        for entry in earlier
        if entry.replies and entry.replies[-1].turn
    )
    return [
        Question(
            text=text,
            documents=tuple(session.documents),
            method=method,
            extend=choices.extend,
            generation=choices.generation,
            earlier=exchanges,
            instructions=choices.instructions,
        )
        for method in choices.methods
    ]


def _unexpected(error: Exception) -> str:
    log_unexpected(error, "an answer")
    kind = type(error).__name__
    return (
        f"Something unexpected went wrong ({kind}, request {request_id.get()}). What was there is as before; ask again."
    )


def _entry_at(index: int | tuple[int, int], entries: list[Entry]) -> int:
    """The place of the entry that a message of the chatbot belongs to."""
    number = index[0] if isinstance(index, (tuple, list)) else index
    places = [place for place, _ in placed_messages(entries)]
    return places[number] if number < len(places) else max(0, len(entries) - 1)


def _plain(content: Any) -> str:
    """The text of a chat message, which comes as text or as a list of blocks."""
    if isinstance(content, list):
        return "".join(_plain(block) for block in content)
    if isinstance(content, dict):
        return str(content.get("text", ""))
    return str(content)
