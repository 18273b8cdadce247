"""What the tabs share: the states and inputs of the page, how events are registered, and small parts of HTML."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from selfextend.config import SelfExtendConfig, suggest
from selfextend.methods import POSITION_METHODS, Method, position_method
from selfextend.positions import QueryScaling
from selfextend.steps import Progress

from ..reading_time import duration
from ..session import Turn
from ..theme import ASSETS
from ..wording import in_page_words

STORAGE_KEY = "selfextend-explorer-1"
"""Under which the browser keeps what it keeps of the page."""
COMPARE = "Compare"
METHODS = (*(kind.heading for kind in POSITION_METHODS), COMPARE)
"""The choices of the page's `method` radio."""


@dataclass(frozen=True, eq=False)
class DocumentView:
    """The tokens at hand, as the tabs need to know them. Put a new one into the gr.State to redraw every tab.

    Compared by identity, so that gr.State can tell a new one from the old without hashing 100,000 words.

    Attributes:
        trained_window: the model's L, in tokens.
        length: tokens of the prompt (documents, question and room for the answer).
        token_text: the words at a position, as a function of it; None if nothing is read yet.
        room: how many of `length` are room for the answer.
        model: the model's name for people; empty where none is loaded.
        documents: the names of the documents.
        neighbor_window: the model's recommended w, in tokens; None for a quarter of its window.
    """

    trained_window: int
    length: int
    token_text: Callable[[int], str] | None = None
    room: int = 0
    model: str = ""
    documents: tuple[str, ...] = ()
    neighbor_window: int | None = None

    @property
    def suggestion(self) -> SelfExtendConfig:
        """The settings that suit the model and `length`."""
        return suggest(self.trained_window, self.length, neighbor_window=self.neighbor_window)

    def words_at(self, position: int) -> str | None:
        """The token's text at `position`, or None where it is unknown."""
        if self.token_text is None or not 0 <= position < self.length:
            return None
        return self.token_text(position)


class States(NamedTuple):
    """The page's gr.States.

    Attributes:
        visitor: who this is: a random text that the browser keeps.
        entries: the conversation, a list of Entry.
        turn: the Turn that the tabs beside the chat look into, or None.
        pending: what is being asked (see `app.tabs.chat`), or None.
        view: the DocumentView.
        again: a question that the page asks by itself (see `app.tabs.offers_panel.Again`), or None.
    """

    visitor: gr.State
    entries: gr.State
    turn: gr.State
    pending: gr.State
    view: gr.State
    again: gr.State


class SharedInputs(NamedTuple):
    """The page's components that the tabs listen to: `method` has METHODS, `view` holds a DocumentView."""

    group_size: gr.Slider
    neighbor_window: gr.Slider
    method: gr.Radio
    view: gr.State


# Events

QUEUED: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
"""What all of the page's own events have in common: no spinner over what they set, and not in the API.

A hidden spinner is kept up to date all the same: at each event's news, Gradio's page copies all that each component
holds on which one may be shown. So it is shown on none.
"""

IN_ORDER: dict[str, Any] = {**QUEUED, "trigger_mode": "multiple", "concurrency_limit": 1}
"""For events that set the same outputs and are answered in steps: one at a time, in the order in which they came. Give
them a `concurrency_id` in common."""

MODEL_QUEUE = "model"
"""The concurrency id of everything that uses the model: one at a time."""
ON_MODEL: dict[str, Any] = {**QUEUED, "concurrency_limit": 1, "concurrency_id": MODEL_QUEUE}


CONVERSATION: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "conversation"}
"""For what changes a conversation at once: a question that is sent right after Clear begins when all is cleared."""

MAX_ANSWERS = 64
"""Questions that are taken at a time. They wait for the model in its own line, where each is told its place."""
ASKING: dict[str, Any] = {"concurrency_limit": MAX_ANSWERS, "concurrency_id": "answers"}
"""What all events of the page that ask questions have in common."""
MAX_CALLS = 16
"""Questions of programs that are taken at a time. They have places of their own, so that the page goes on answering."""
CALLING: dict[str, Any] = {"concurrency_limit": MAX_CALLS, "concurrency_id": "calls"}


def on(
    events: Any,
    handler: Callable[..., Any],
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    *,
    newest: bool = False,
    **options: Any,
) -> Any:
    """Register a handler of the page: queued where it sets a gr.State, answered at once elsewhere.

    `State.change` reaches the page through queued events only: what listens to a state that was set by any other
    handler goes on showing what was there before.

    Args:
        newest: for values that are set one after the other: an event that comes while one before it is answered is
            answered after it. Gradio would drop it, as a second click on a button.
        options: Gradio's own, beside those that all events have.
    """
    queue = any(isinstance(output, gr.State) for output in outputs or ())
    kind: dict[str, Any] = {**QUEUED, "queue": queue, "trigger_mode": "always_last" if newest else None, **options}
    if isinstance(events, list):
        return gr.on(events, handler, inputs, outputs, **kind)
    return events(handler, inputs, outputs, **kind)


def buttons(start: gr.Button, stop: gr.Button, *, busy: bool) -> dict[Any, Any]:
    """Start while nothing runs, Stop in its place while something does."""
    return {start: gr.update(visible=not busy), stop: gr.update(visible=busy)}


def unchanged(part: Any) -> dict[Any, Any]:
    """For a handler that changes nothing this time: Gradio wants one update at least, whatever the part."""
    return {part: gr.skip()}


def skipped(count: int) -> tuple[Any, ...]:
    """For a handler that leaves all of its `count` outputs as they are."""
    return tuple(gr.skip() for _ in range(count))


class Latest:
    """Asks for something again and again, one request at a time, so that the newest answer is the one that stays.

    Gradio's "always_last" does not see to it: it sends two requests where two values change in one go, whose answers
    may come in either order; it knows nothing of another listener with the same outputs; and a request that it put off
    is sent with the data of the event before it. Here a request that is wanted while an answer is under way goes out
    after that answer, with the values of that moment.

    Args:
        name: tells it from the others of the page.
        answer: a handler that sets no state that others listen to. It may take a gr.EventData, which has everything
            that was wanted since the last request.
        first: ask once when the part of the page in which this was made comes up: a tab is made when it is opened.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        *,
        first: bool = True,
    ) -> None:
        source = (ASSETS / "latest.js").read_text(encoding="utf-8")
        made = {"name": name, "first": first}
        self._called = f"window.selfextendLatest?.[{json.dumps(name)}]?"
        asking = gr.HTML(visible="hidden", js_on_load=f"const made = {json.dumps(made)};\n{source}")
        asked = asking.ask(answer, inputs, outputs, queue=False, trigger_mode="multiple", **QUEUED)
        for ended in (asked.success, asked.failure):
            ended(None, js=f"() => {{ {self._called}.answered(); }}", **QUEUED)

    def on(self, events: Sequence[Any], **wanted: Any) -> None:
        """Ask at these events, and tell the handler what is wanted."""
        gr.on(list(events), None, js=f"() => {{ {self._called}.want({json.dumps(wanted)}); }}", **QUEUED)

    def after(self, handled: Any) -> None:
        """Ask after an event was handled."""
        handled.then(None, js=f"() => {{ {self._called}.want({{}}); }}", **QUEUED)


def redraw_on(
    name: str, events: Sequence[Any], draw: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]
) -> Latest:
    """Draws at these events, and once when the part of the page in which this is called comes up; the newest wins."""
    latest = Latest(name, draw, inputs, outputs)
    latest.on(events)
    return latest


def told(event: gr.EventData, name: str) -> Any:
    """A value that came with an event of gr.HTML; None where there is none. Anybody may send anything, so check it."""
    try:
        return getattr(event, name, None)
    except TypeError:  # what came is no JSON object
        return None


def wanted(event: gr.EventData, name: str) -> gr.EventData | None:
    """What is wanted of a `Latest`, as an event of its own; None where it is not wanted."""
    data = told(event, name)
    return None if data is None else gr.EventData(None, data)


def is_finite(number: Any) -> bool:
    """Whether this is a number that can name a token."""
    return isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < 2**31


def cell_of(event: gr.EventData) -> tuple[int, int]:
    """(row, column) that a click or the pointer on a `plot_pane` names.

    Raises:
        ValueError: it names none.
    """
    row, column = told(event, "y"), told(event, "x")
    if not (is_finite(row) and is_finite(column)):
        raise ValueError("A cell is named by two numbers, x and y.")
    return round(row), round(column)


def tokens_in(event: gr.EventData, axis: str, length: int, smallest: int) -> tuple[int, int] | None:
    """The tokens [from, to) that a zoom of a `plot_pane` shows on an axis, moved and widened to lie within a text.

    Args:
        length: of the text; `smallest` is the fewest tokens to show of it.

    Returns:
        None where all of the axis is to be shown.

    Raises:
        ValueError: the range is not two finite numbers.
    """
    edges = told(event, axis)
    if edges is None:
        return None
    if not isinstance(edges, list) or len(edges) != 2 or not all(map(is_finite, edges)):
        raise ValueError("The view to zoom to must be two numbers for each axis.")
    start, stop = (round(edge) for edge in sorted(edges))
    span = min(length, max(stop - start, smallest))
    start = min(max(0, (start + stop - span) // 2), length - span)
    return start, start + span


# A DownloadButton saves what it held before the click; here the file is made by the click.
_SAVE_FILE = """(file) => {
  if (!file) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name ?? "";
  document.body.append(link);
  link.click();
  link.remove();
}"""


def save_on_click(
    button: gr.Button,
    make: Callable[..., tuple[str | None, str]],
    inputs: Sequence[gr.components.Component],
    status: gr.HTML,
) -> None:
    """Makes a file when `button` is clicked and has the browser save it.

    `make` gets the values of `inputs` and returns the file's path, or None, and what `status` then says.
    """
    made = gr.DownloadButton(visible="hidden")
    on(button.click, make, inputs, [made, status]).success(None, [made], None, js=_SAVE_FILE, queue=False, **QUEUED)


# HTML


def status_html(progress: Progress | str) -> str:
    """A line of progress that screen readers announce."""
    if isinstance(progress, str):
        progress = Progress(progress)
    if not progress.words:
        return ""
    bar = "" if progress.fraction is None else f'<progress value="{progress.fraction:.4f}" max="1"></progress>'
    words = progress.words[0].upper() + progress.words[1:]
    if progress.seconds_left:
        words += f", about {duration(progress.seconds_left)} left"
    return f'<div class="progress-line" role="status">{bar}<span>{escape(words)}</span></div>'


def complaint_html(error: Exception | str) -> str:
    """A sentence about what went wrong."""
    return f'<p role="alert" class="complaint">{escape(in_page_words(str(error)))}</p>'


def hint_html(words: str) -> str:
    """A sentence in small print. `words` is HTML."""
    return f'<p class="hint">{words}</p>'


NO_RECORD = hint_html("No attention was recorded for this answer: SelfExtend does not fit this model.")


def answer_html(turn: Turn) -> str:
    """Which answer a tab looks into: its question, its words, its method and model."""
    return (
        f"<p><b>{escape(turn.question)}</b><br>{escape(turn.answer.text.strip()) or '(no words)'} "
        f'<span class="hint">({turn.method.title}, {escape(turn.model_name)})</span></p>'
    )


def by_method(method: Method) -> str:
    """A method with its numbers: "SelfExtend (G = 8, w = 1,024, log-n)"."""
    return f"{method.heading} ({method.setting})" if method.setting else method.title


def answer_caption(question: str, model: str, method: Method, documents: Sequence[str], tokens: int) -> str:
    """What an answer was made with: `documents` are names, `tokens` those of the prompt."""
    return f"“{question}” {model}, {by_method(method)}, {', '.join(documents) or 'no document'}, {tokens:,} tokens."


def caption_of(turn: Turn) -> str:
    """What an answer was made with, for a picture that leaves the page: question, model, settings and documents."""
    names = [stored.document.name for stored in turn.documents]
    return answer_caption(turn.question, turn.model_name, turn.answer.method, names, turn.answer.prompt_tokens)


# Settings


def settings_of(group_size: float, neighbor_window: float) -> SelfExtendConfig:
    """The sliders' numbers as settings. Sliders send floats where the step is whole, and null when emptied."""
    if group_size is None or neighbor_window is None:
        raise ValueError("Group size and Neighbor window both need a whole number.")
    return SelfExtendConfig(int(group_size), int(neighbor_window))


def method_of(heading: str, group_size: float, neighbor_window: float, query_scaling: QueryScaling = "none") -> Method:
    """A method of the page's radio with those of the sliders' numbers that it takes. One without numbers of its own
    takes no query scaling either: log-n is offered as a remedy beside another.

    Raises:
        ValueError: no such method, or a slider is empty.
    """
    method, config = position_method(str(heading)), settings_of(group_size, neighbor_window)
    if method.heading != heading:
        raise ValueError(f"The method is one of {', '.join(METHODS)}.")
    method = method.with_numbers(group_size=config.group_size, neighbor_window=config.neighbor_window)
    return replace(method, query_scaling=query_scaling) if method.symbols else method
