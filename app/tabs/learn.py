"""The Learn tab: the lesson, which runs in the browser (assets/lesson/).

The server has two small parts in it: it tells what the page would read next, which is what the last step is about, and
it has the loaded model answer one cell, for those who press *Run it now*.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Iterator
from itertools import count
from typing import Any

import gradio as gr

from selfextend.methods import Method, SelfExtend, Vanilla
from selfextend.steps import EndNow, Running

from ..jobs import JobStopped, Pace
from ..lesson import FOLDER, packed, recorded, script
from ..model_shelf import LoadedModel
from ..runtime import Runtime
from ..wording import in_page_words
from .position_map import facts_of
from .widgets import ON_MODEL, QUEUED, SharedInputs, on, redraw_on, told

_TELL_DOCUMENT = "watch('value', () => props.value && window.selfextendLesson?.document(JSON.parse(props.value)));"
_TELL_ALL = """(document, ...settings) => {
  window.selfextendLesson?.settings(...settings);
  if (document) window.selfextendLesson?.document(JSON.parse(document));
}"""


def build_learn_tab(
    runtime: Runtime | None = None, visitor: gr.State | None = None, shared: SharedInputs | None = None
) -> None:
    """The tab's component and handler, inside the open gr.Blocks or gr.Tab.

    Args:
        runtime: whose loaded model answers; without one the lesson shows recorded answers only.
        visitor: holds who this is; goes with `runtime`.
        shared: whose document and settings the last step shows; without them it shows made-up ones.
    """
    page = gr.HTML(
        "",
        html_template="<section class='lesson-root'></section>",
        js_on_load=script() + (FOLDER / "tab.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="lesson",
        lesson_packed=packed(),
        lesson_runs=runtime is not None,
    )
    if shared is not None:
        _follow(page, shared)
    if runtime is None or visitor is None:
        return
    # Numbered, since the page is told of a value only where it is another one than before.
    numbers = count()

    def run(event: gr.EventData, visitor: str) -> Iterator[Any]:
        from selfextend.generation import PrefillProgress

        session, pace = runtime.sessions.get(visitor), Pace()  # one that nobody holds is gone
        session.learning.begin()
        try:
            with Running(session.learning.follow(cell_steps(runtime.models.need(), *asked(event)))) as running:
                for event in running:
                    if not pace.due():
                        continue
                    if isinstance(event, PrefillProgress):
                        yield json.dumps({"busy": True, "done": event.done, "total": event.total})
                    else:
                        yield gr.skip()  # only to see whether the page is still there
            told_of = running.result
        except JobStopped:
            told_of = {"error": "The run was stopped."}
        except (ValueError, RuntimeError) as error:
            told_of = {"error": in_page_words(str(error))}
        yield json.dumps({**told_of, "number": next(numbers)})

    page.run(run, [visitor], [page], **ON_MODEL)
    on(page.stop_run, lambda visitor: runtime.sessions.get(visitor).learning.stop(), [visitor])


def _follow(page: gr.HTML, shared: SharedInputs) -> None:
    """Tells the lesson of the page's document, model and settings, now and whenever they change."""
    document = gr.HTML(visible="hidden", js_on_load=_TELL_DOCUMENT)
    redraw_on("lesson-document", [shared.view.change], facts_of, [shared.view], [document])
    settings = [shared.group_size, shared.neighbor_window]
    # With no function to call, these run in the browser alone. The document may be told before the lesson is there to
    # hear of it, hence once more with the settings.
    for event in (page.ready, *(each.change for each in settings)):
        event(None, [document, *settings], None, js=_TELL_ALL, **QUEUED)


def asked(event: gr.EventData) -> tuple[int, int, int]:
    """Tokens, group size and neighbor window of one recorded cell, as the browser sent them.

    Raises:
        ValueError: there is no such cell.
    """
    runs = recorded()
    numbers = tuple(told(event, name) for name in ("tokens", "group_size", "neighbor_window"))
    offered = (runs["lengths"], [1, *runs["group_sizes"]], runs["neighbor_windows"])
    if not all(type(number) is int and number in list_ for number, list_ in zip(numbers, offered, strict=True)):
        raise ValueError("The lesson has no such cell: choose the length and the settings with its sliders.")
    tokens, group_size, neighbor_window = numbers
    return tokens, group_size, neighbor_window


def cell_steps(loaded: LoadedModel, tokens: int, group_size: int, neighbor_window: int) -> Generator[Any, None, Any]:
    """The loaded model's answers to the lesson's prompt of at most `tokens` tokens.

    Returns:
        What the lesson says of them: `model`, `n` (the prompt's tokens), `vanilla` and `selfextend` (texts in quotation
        marks).
    """
    # torch comes in only here, so that the page opens before it is there.
    from selfextend.generation import GenerationSettings, ReadingSettings, answer_steps
    from selfextend.lab.probes.passkey import Passkey

    runs = recorded()
    digits = len(runs["prompt"]["key"])
    case = Passkey(digits).case(loaded.tokenizer, tokens + digits, 0.0, random.Random(runs["made"]["seed"]))
    methods: dict[str, Method] = {
        "vanilla": Vanilla(),
        "selfextend": SelfExtend("none", group_size, neighbor_window),
    }
    said = {}
    for name, method in methods.items():
        how = ReadingSettings(method, past_reach="allow")
        settings = GenerationSettings(max_new_tokens=case.max_new_tokens)
        answer = yield from answer_steps(loaded.ready, case.tokens, settings, how)
        if answer.stopped_by == "interrupted":
            raise EndNow  # half an answer would look like a wrong one
        said[name] = f"“{answer.text}”"
    return {"model": loaded.label, "n": len(case.tokens), **said}
