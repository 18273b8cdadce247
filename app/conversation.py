"""A conversation as plain data, which a browser can keep, and how it reads in the chat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from selfextend.methods import Method, Vanilla, method_from, method_named

from .prompting import split_thinking
from .safe_text import inert, safe_markdown, safe_question

MAX_KEPT = 30
"""Entries that are kept in the browser; the oldest go first."""
LONGEST_KEPT = 2_000_000
"""Characters of a conversation, as JSON, that is read back. A browser keeps little more."""


@dataclass(frozen=True)
class Source:
    """A cited passage: see `app.evidence.Citation`, of which this is what the chat and the capsule keep."""

    rank: int
    document: str
    page: int
    page_word: str
    text: str
    share: float
    level: str
    relative_position: int
    plus_minus: int


@dataclass(frozen=True)
class Reply:
    """One method's answer to a question.

    Attributes:
        turn: the id of the `app.session.Turn` behind it, or 0 where it was stopped.
        method: the method's name; `made_by` is the method itself.
        text: the answer.
        sources: cited passages, the one looked at most first.
        stopped: what to say where it was stopped before its end, else "".
        unfinished: whether it was stopped or cut off after some words, so that it can go on.
        note: what to say below it, else "".
        settings: what `Method.settings` gave, as pairs, so that a reply has a hash: by it gr.State tells what is new.
        prompt_tokens, reused_tokens, new_tokens: of prompt and answer.
        first_token_seconds, seconds, tokens_per_second: until the answer began, in all, and while answering.
        cache_bytes: of keys and values.
    """

    turn: int
    method: str
    text: str
    sources: tuple[Source, ...] = ()
    stopped: str = ""
    unfinished: bool = False
    note: str = ""
    settings: tuple[tuple[str, Any], ...] = ()
    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    cache_bytes: int = 0

    @property
    def is_awaited(self) -> bool:
        """Whether its first word is still to come."""
        return not (self.text or self.turn or self.stopped)

    @property
    def made_by(self) -> Method:
        """The method that gave this answer.

        Raises:
            ValueError: there is none of that name, or its numbers are out of range.
        """
        return method_from(self.method, dict(self.settings))


@dataclass(frozen=True)
class Entry:
    """A question with its replies: one, or several where methods were compared.

    Attributes:
        model: that was asked: its label.
        documents: checksums of what it was asked about, in their order; None in conversations that were kept before
            entries had them.
        model_id: the model's `identity`; "" in conversations that were kept before entries had it.
        asked_with: what was chosen besides the methods, by name (see `app.tabs.controls.Choices.asked_with`); empty in
            conversations that were kept before entries had it.
    """

    question: str
    replies: tuple[Reply, ...] = ()
    model: str = ""
    documents: tuple[str, ...] | None = None
    model_id: str = ""
    asked_with: tuple[tuple[str, Any], ...] = ()

    def is_to(self, model: str, model_id: str) -> bool:
        """Whether this model was asked, by its identity, or by its label where one of the two has no identity."""
        return self.model_id == model_id if self.model_id and model_id else self.model == model

    def divides(self, earlier: Entry) -> str:
        """What has changed since an earlier entry so that the model no longer gets to read it; "" where nothing has."""
        changed = []
        if not self.is_to(earlier.model, earlier.model_id):
            same = f"another {self.model}, or quantized otherwise"
            changed.append(f"the model is {same if self.model == earlier.model else self.model}")
        if None not in (self.documents, earlier.documents) and self.documents != earlier.documents:
            changed.append("the documents are others")
        return f"From here {' and '.join(changed)}; what was said before is not in the prompt." if changed else ""


def same_thread(entries: Sequence[Entry], entry: Entry) -> list[Entry]:
    """The last entries that `entry` goes on from: those with its model and documents."""
    start = len(entries)
    while start and not entry.divides(entries[start - 1]):
        start -= 1
    return list(entries[start:])


def as_json(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The last `MAX_KEPT` entries as JSON holds them."""
    return [asdict(entry) for entry in entries[-MAX_KEPT:]]


def from_json(kept: Any) -> list[Entry]:
    """What `as_json` made, read back. What does not look like it is left out, and the oldest where it is too long: a
    browser's store can be edited."""
    entries: list[Entry] = []
    room = LONGEST_KEPT
    for record in reversed(kept[-MAX_KEPT:]) if isinstance(kept, list) else []:
        try:
            room -= len(json.dumps(record, ensure_ascii=False))
            if room < 0:
                break
            replies = tuple(_reply(reply) for reply in record["replies"])
            contents = record.get("documents")
            documents = None if contents is None else tuple(map(str, contents))
            model, model_id = str(record["model"]), str(record.get("model_id", ""))
            asked_with = _pairs(record.get("asked_with", ()))
            entries.append(Entry(str(record["question"]), replies, model, documents, model_id, asked_with))
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
            continue
    return entries[::-1]


def _reply(record: dict[str, Any]) -> Reply:
    record = record if "settings" in record else _with_settings(record)
    sources = tuple(typed(Source, source) for source in record["sources"])
    reply: Reply = typed(Reply, record | {"sources": sources, "settings": _pairs(record["settings"])})
    _ = reply.made_by  # a method that is not known is left out like anything else that makes no sense
    return reply


def _pairs(settings: Any) -> tuple[tuple[str, Any], ...]:
    """Names and values as a browser kept them.

    Raises:
        TypeError: they are no words and numbers.
    """
    pairs = tuple((name, value) for name, value in settings)
    if not all(isinstance(name, str) and isinstance(value, str | int | float | None) for name, value in pairs):
        raise TypeError("settings are words and numbers.")
    return pairs


def _with_settings(record: dict[str, Any]) -> dict[str, Any]:
    """A reply from before replies had `settings`: it has SelfExtend's two numbers, whatever its method takes."""
    earlier = ("group_size", "neighbor_window", "query_scaling")
    method = method_named(record["method"] + ("+logn" if record["query_scaling"] == "logn" else ""))
    method = method.with_numbers(group_size=record["group_size"], neighbor_window=record["neighbor_window"])
    kept = {name: value for name, value in record.items() if name not in earlier}
    return {**kept, "method": method.name, "settings": list(method.settings().items())}


def typed(kind: Any, record: dict[str, Any]) -> Any:
    """A dataclass from a dictionary whose values are of the fields' plain types.

    Raises:
        TypeError: a field is missing, unknown or of another type.
    """
    plain: dict[str, Any] = {"int": int, "str": str, "float": (int, float), "bool": bool}
    for known in fields(kind):
        expected = plain.get(str(known.type))
        if expected is not None and known.name in record and not isinstance(record[known.name], expected):
            raise TypeError(f"{known.name} is not of type {known.type}.")
    return kind(**record)


def messages(entries: Sequence[Entry], waiting: str = "") -> list[dict[str, Any]]:
    """The conversation for gr.Chatbot: for each entry a question and, where there is any, an answer.

    Args:
        waiting: HTML in the place of an answer whose first word is still to come.
    """
    return [message for _, message in placed_messages(entries, waiting)]


def placed_messages(entries: Sequence[Entry], waiting: str = "") -> list[tuple[int, dict[str, Any]]]:
    """The messages, each with the place of its entry; a divider belongs to the entry after it."""
    shown = []
    for place, entry in enumerate(entries):
        if place and (words := entry.divides(entries[place - 1])):
            divider = f'<span class="divider">{inert(words)}</span>'
            shown.append((place, {"role": "assistant", "content": divider}))
        shown.append((place, {"role": "user", "content": safe_question(entry.question)}))
        newest = place == len(entries) - 1
        text = reply_text(entry.replies, newest=newest, waiting=waiting) if entry.replies else waiting if newest else ""
        if text:
            shown.append((place, {"role": "assistant", "content": text}))
    return shown


def reply_text(replies: Sequence[Reply], *, newest: bool, waiting: str = "") -> str:
    """What the chat shows of an entry's replies: one below the other's heading in two columns, or just the one.

    Args:
        newest: of the conversation's last entry, the one whose answers can go on.
        waiting: HTML in the place of an answer whose first word is still to come.
    """
    texts = [waiting if waiting and reply.is_awaited else _markdown(reply, newest) for reply in replies]
    if len(replies) == 1:
        return texts[0]
    columns = (
        f"<div>\n\n**{reply.made_by.title}**\n\n{text}\n\n</div>" for reply, text in zip(replies, texts, strict=True)
    )
    return f'<div class="columns">\n{"".join(columns)}\n</div>'


def example_text(entry: Entry, value: str, trained_window: int, tokens: int) -> str:
    """An answered question that nobody asked, as HTML and Markdown: a column for each reply, and whether it is right.

    Args:
        value: what a right answer holds.
        trained_window: of the model, tokens.
        tokens: of the document.
    """
    columns = []
    for reply in entry.replies:
        right = value in reply.text
        word = '<span class="right">✓ right</span>' if right else '<span class="wrong">✗ wrong</span>'
        # On few lines, and not as Markdown: what a model babbles is full of breaks and signs.
        text = inert(reply.text + (" …" if reply.unfinished else ""))
        link = page_link(reply.turn, reply.sources[0]) if right and reply.sources else ""
        traced = f'<span class="traced turn-{reply.turn}">{link}</span>' if reply.turn else ""
        name = "As it is" if reply.made_by == Vanilla() else "With SelfExtend"
        head = f'<span class="note"><b>{name}</b> {word}</span>'  # no words of the answer: assets/answer_tokens.js
        columns.append(f"<div>\n\n{head}\n\n{text}\n\n{traced}\n\n</div>")
    return (
        f'<div class="contrast">\n\n<span class="tag">Example</span> This model was trained on texts of '
        f"{trained_window:,} tokens; the sample has {tokens:,}. Asked just now:\n\n"
        f"**{inert(entry.question)}**\n\n"
        f'<div class="columns">\n{"".join(columns)}\n</div>\n</div>'
    )


def _markdown(reply: Reply, newest: bool) -> str:
    thought, text = split_thinking(reply.text)
    parts = [_thinking_html(thought, open_=not text)] if thought else []
    parts.append(safe_markdown(text) or "…")
    if reply.unfinished and newest:
        words = "" if reply.stopped else "Cut off here: "
        parts.append(f'<span class="cut">{words}<a class="continue" href="#continue-{reply.turn}">Continue</a></span>')
    if reply.sources:
        # One link a page, to the passage on it that was looked at most; the Evidence tab lists the others.
        first = {(source.document, source.page): source for source in reversed(reply.sources)}
        links = sorted(first.values(), key=lambda source: source.rank)
        parts.append(" ".join(page_link(reply.turn, source) for source in links))
    traced = f" turn-{reply.turn}" if reply.turn else ""  # assets/answer_tokens.js looks for it
    if reply.note:
        parts.append(f'<span class="note">{inert(reply.note)}</span>')
    if reply.stopped:
        parts.append(f'<span class="stopped{traced}">{inert(reply.stopped)}</span>')
    elif reply.seconds:
        parts.append(f'<span class="measures{traced}">{measures(reply)}</span>')
    return "\n\n".join(parts)


def _thinking_html(thought: str, *, open_: bool) -> str:
    """What the model thought before it answered, folded up once the answer begins."""
    words = f"Thinking ({len(thought.split()):,} words)"
    opened, shown = " open" if open_ else "", safe_markdown(thought)
    return f'<details class="thinking"{opened}><summary>{words}</summary>\n\n{shown}\n\n</details>'


def page_link(turn: int, source: Source) -> str:
    """A link that opens the passage in the Document tab. assets/page.js follows it."""
    word = "p." if source.page_word == "page" else "part"
    title = inert(f"{source.document}: {source.share:.0%} of the attention on the documents")
    return f'<a class="page-link" href="#passage-{turn}-{source.rank}" title="{title}">{word} {source.page}</a>'


def settings_words(reply: Reply) -> str:
    """The settings that a reply was made with."""
    return reply.made_by.setting or "none"


def speed_words(tokens_per_second: float) -> str:
    """A speed as the page says it; "" where there is none, as of an answer of one token."""
    if not tokens_per_second:
        return ""
    return f"{tokens_per_second:,.0f} tokens/s" if tokens_per_second >= 10 else f"{tokens_per_second:.2g} tokens/s"


def measures(reply: Reply) -> str:
    """What the answer took, in a line."""
    reused = f", {reply.reused_tokens:,} of them read before" if reply.reused_tokens else ""
    parts = [
        f"{reply.seconds:,.1f} s, first word after {reply.first_token_seconds:,.1f} s",
        f"{reply.prompt_tokens:,} tokens read{reused}",
        speed_words(reply.tokens_per_second),
        f"{reply.cache_bytes / 1e6:,.0f} MB for what was read",
    ]
    return " · ".join(filter(None, parts))


def as_text(entries: Sequence[Entry], documents: Sequence[str]) -> str:
    """The conversation as Markdown, for a download."""
    lines = ["# Conversation", ""]
    if documents:
        lines += ["Documents: " + ", ".join(documents), ""]
    for place, entry in enumerate(entries):
        if place and (words := entry.divides(entries[place - 1])):
            lines += [f"*{words}*", ""]
        lines += [f"## {entry.question}", ""]
        for reply in entry.replies:
            if len(entry.replies) > 1:
                lines += [f"### {reply.made_by.title}", ""]
            lines += [reply.text, ""]
            for source in reply.sources:
                passage = " ".join(source.text.split())
                lines.append(f"- {source.document}, {source.page_word} {source.page} ({source.share:.0%}): {passage}")
            lines += ["", f"{entry.model}: {reply.stopped or measures(reply)}", ""]
    return "\n".join(lines)
