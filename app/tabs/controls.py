"""Method, group size, neighbor window and the generation settings: the controls that say how to read and answer.

`Choices` is what the rest of the app makes of the controls' values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from selfextend.config import SelfExtendConfig
from selfextend.methods import Method, SelfExtend, Vanilla
from selfextend.positions import QueryScaling
from selfextend.profile import LONGEST_ANSWER

from ..conversation import Entry
from ..prompting import Instructions
from ..wording import called
from .widgets import COMPARE, METHODS, DocumentView, by_method, method_of, on, settings_of

if TYPE_CHECKING:
    from selfextend.generation import ExtendWhen

ALWAYS, WHEN_NEEDED = "Always", "Only past the trained window"
LOG_N = "Log-n query scaling"
SAMPLING = ("top_p", "top_k", "seed")
"""What counts only where the temperature is not 0."""


class Controls(NamedTuple):
    """The components, in the order in which handlers get their values (see `Choices.read`)."""

    method: gr.Radio
    group_size: gr.Slider
    neighbor_window: gr.Slider
    log_n: gr.Checkbox
    extend: gr.Radio
    max_new_tokens: gr.Slider
    temperature: gr.Slider
    top_p: gr.Slider
    top_k: gr.Slider
    repetition_penalty: gr.Slider
    seed: gr.Number
    remember: gr.Checkbox
    four: gr.Checkbox
    system: gr.Textbox
    thinking: gr.Checkbox

    @property
    def room(self) -> list[Any]:
        """Those that decide, besides the documents, how long the text will be."""
        return [self.max_new_tokens, self.system, self.thinking]


@dataclass(frozen=True)
class Choices:
    """The controls' values, checked.

    Attributes:
        methods: to ask with, in the order of the columns: several where they are compared. A number that no control
            sets is open.
        config: SelfExtend's settings.
        when_needed: leave the model as it is inside its trained window.
        remember: keep earlier questions and answers in the prompt.
        instructions: the system prompt, and whether to think.
        answering: how to answer, by the names of `GenerationSettings`' fields; not checked yet.
    """

    methods: tuple[Method, ...]
    config: SelfExtendConfig
    when_needed: bool
    remember: bool
    instructions: Instructions
    answering: dict[str, Any]

    @staticmethod
    def read(values: tuple[Any, ...] | list[Any]) -> Choices:
        """From the values of `Controls`, in their order.

        Raises:
            ValueError: a number is missing or out of range.
        """
        method, group, window, log_n, extend, new, temperature, top_p, top_k, penalty, seed, *rest = values
        remember, four, system, thinking = rest
        if any(number is None for number in (group, window, new, temperature, top_p, top_k, penalty, seed)):
            raise ValueError("One of the number boxes is empty: fill it in.")
        scaling: QueryScaling = "logn" if log_n else "none"
        if method == COMPARE:
            extended = method_of(SelfExtend.heading, group, window)
            chosen = [Vanilla(), replace(extended, query_scaling=scaling)]
            if four:
                chosen = [Vanilla(), Vanilla("logn"), extended, replace(extended, query_scaling="logn")]
        else:
            chosen = [method_of(method, group, window, scaling)]
        return Choices(
            methods=tuple(chosen),
            config=replace(settings_of(group, window), query_scaling=scaling),
            when_needed=extend == WHEN_NEEDED,
            remember=bool(remember),
            instructions=Instructions(str(system or "").strip(), bool(thinking)),
            answering={
                "max_new_tokens": int(new),
                "temperature": float(temperature),
                "top_p": float(top_p),
                "top_k": int(top_k),
                "repetition_penalty": float(penalty),
                "seed": int(seed),
            },
        )

    @property
    def extend(self) -> ExtendWhen:
        """When to extend, as the engine takes it."""
        return "when_needed" if self.when_needed else "always"

    @property
    def generation(self) -> Any:
        """As `selfextend.generation.GenerationSettings`.

        Raises:
            ValueError: a number is out of range.
        """
        from selfextend.generation import GenerationSettings

        return GenerationSettings(**self.answering)

    def asked_with(self, begun: Sequence[tuple[str, Any]] = ()) -> tuple[tuple[str, Any], ...]:
        """All that decides an answer besides methods and documents, as plain data; what has no effect is left out.

        Args:
            begun: what an answer that goes on was asked with: its prompt stays.
        """
        extends = any(not isinstance(method, Vanilla) for method in self.methods)
        # The conversation is kept in the browser: what is compared need not be there word for word.
        system = sha256(self.instructions.system.encode()).hexdigest()[:16]
        prompt = {"remember": self.remember, "system": system, "thinking": self.instructions.thinking}
        asked = dict(begun) or {**prompt, **({"extend": self.extend} if extends else {})}
        samples = self.answering["temperature"] > 0
        counts = {name: value for name, value in self.answering.items() if samples or name not in SAMPLING}
        return tuple({**asked, **counts}.items())

    @property
    def method(self) -> Method:
        """The one that is chosen; where methods are compared, the one that is compared with vanilla."""
        return self.methods[-1]


def build_controls(view: gr.State) -> Controls:
    """The controls, inside the open gr.Blocks.

    Args:
        view: holds the DocumentView that `Suggest` suggests for.
    """
    method = gr.Radio(list(METHODS), value="SelfExtend", label="Method", elem_id="method")
    group = gr.Slider(
        1, 128, value=8, step=1, label="Group size", elem_id="group-size", info="tokens that share a position (G)"
    )
    window = gr.Slider(
        1, 511, value=128, step=1, label="Neighbor window", elem_id="neighbor-window",
        info="nearest tokens that keep exact positions (w)",
    )  # fmt: skip
    suggest_button = gr.Button("Suggest", size="sm", elem_id="suggest")
    log_n = gr.Checkbox(
        label=LOG_N,
        elem_id="log-n",
        info="a second, separate remedy, for SelfExtend: sharpens attention over many tokens.",
    )
    with gr.Accordion("Answering", open=False, elem_id="answering"):
        system = gr.Textbox(
            label="System prompt", lines=2, max_lines=8, elem_id="system-prompt", placeholder="The model's own",
            info="what the model is told before the documents; they are read again after a change",
        )  # fmt: skip
        thinking = gr.Checkbox(
            label="Think before answering",
            elem_id="thinking",
            visible=False,
            info="what it thinks counts towards the longest answer",
        )
        extend = gr.Radio([ALWAYS, WHEN_NEEDED], value=ALWAYS, label="Use SelfExtend", elem_id="extend")
        new_tokens = gr.Slider(
            1, 4096, value=LONGEST_ANSWER, step=1, label="Longest answer", info="tokens", elem_id="max-new-tokens"
        )
        temperature = gr.Slider(
            0, 2, value=0, step=0.05, label="Temperature", info="0 is greedy", elem_id="temperature"
        )
        top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top p", elem_id="top-p")
        top_k = gr.Slider(0, 200, value=0, step=1, label="Top k", info="0 is off", elem_id="top-k")
        penalty = gr.Slider(1, 2, value=1, step=0.05, label="Repetition penalty", elem_id="repetition-penalty")
        seed = gr.Number(0, label="Seed", precision=0, elem_id="seed")
        remember = gr.Checkbox(label="Keep earlier questions in the prompt", elem_id="remember")
        four = gr.Checkbox(
            label="Compare each remedy alone too",
            info="four columns: vanilla, log-n alone, SelfExtend alone, both",
            elem_id="four",
        )
    on(suggest_button.click, suggested, [view, new_tokens], [group, window])
    return Controls(
        method, group, window, log_n, extend, new_tokens, temperature, top_p, top_k, penalty, seed, remember, four,
        system, thinking,
    )  # fmt: skip


def next_question_html(choices: Choices, entries: Sequence[Entry]) -> str:
    """Which controls have changed since the last answer, so that they take effect at the next question; "" for none.

    The classes `changes-…` mark those controls (assets/page.css).
    """
    if not entries or not entries[-1].replies:
        return ""
    last = [reply.made_by for reply in entries[-1].replies]
    methods = _changed_methods(choices, last)
    before = dict(entries[-1].asked_with)
    changed = [*methods, *(name for name, value in choices.asked_with() if before.get(name, value) != value)]
    if not changed:
        return ""
    marks = " ".join(f"changes-{name.replace('_', '-')}" for name in changed)
    names = ", ".join(called(name) for name in changed)
    made = f" The last answer is by {escape(' and '.join(map(by_method, last)))}." if methods else ""
    return f'<p class="hint next-question {marks}"><b>At the next question:</b> {escape(names)}.{made}</p>'


def _changed_methods(choices: Choices, last: list[Method]) -> list[str]:
    """What is chosen of methods and their numbers otherwise than for the last answers."""
    before = last[-1].settings()
    # A number that no control sets was settled for the last answer, and will be for the next.
    same = {name: before.get(name) for name, value in choices.method.settings().items() if value is None}
    now = [*choices.methods[:-1], choices.method.with_numbers(**same)]
    if last == now:
        return []
    if len(last) != len(now):
        return ["four"] if min(len(last), len(now)) > 1 else ["method"]
    after = now[-1].settings()
    changed = [name for name in after if name in before and after[name] != before[name]]
    return changed if changed and last[-1].kind == now[-1].kind else ["method"]


def suggested(view: DocumentView, new_tokens: int) -> tuple[Any, Any]:
    """Both sliders, set to what suits the document and the longest answer."""
    # The view follows the page; whoever sets the longest answer and clicks at once is ahead of it.
    length = view.length - view.room + int(new_tokens)
    return slider_updates(replace(view, length=length).suggestion, view)


def slider_updates(config: SelfExtendConfig, view: DocumentView) -> tuple[Any, Any]:
    """Both sliders set to these settings, with ranges that fit the model and the document."""
    widest = max(128, 2 * config.group_size)
    return (
        gr.update(value=config.group_size, maximum=widest),
        gr.update(value=config.neighbor_window, maximum=max(view.trained_window - 1, config.neighbor_window)),
    )
