"""The plane group size x neighbor window for the document at hand: what reaches, what is advised, where you are."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import numpy.typing as npt

from selfextend.config import (
    SelfExtendConfig,
    check_window,
    max_length,
    paper_max_length,
    rule_share,
    smallest_group_size,
)
from selfextend.methods import SelfExtend

from ..figures.plane import parameter_plane_figure
from .plot_pane import packed, plot_pane
from .widgets import (
    DocumentView,
    Latest,
    SharedInputs,
    complaint_html,
    hint_html,
    redraw_on,
    settings_of,
    skipped,
    told,
    wanted,
)

COLUMNS, ROWS = 32, 24
"""Most group sizes and neighbor windows in the plane: as many as can be clicked on a phone."""

CHOOSING = "choosing-settings"
SUGGESTED, SMALLEST = "suggested", "smallest"

TOO_SHORT, ABOVE_RULE, IN_BAND, BELOW_BAND = range(4)


class Plane(NamedTuple):
    """Attributes: the columns, the rows, and for each pair what the document comes to and how far it reaches."""

    group_sizes: npt.NDArray[np.int_]
    neighbor_windows: npt.NDArray[np.int_]
    verdict: npt.NDArray[np.uint8]
    reach: npt.NDArray[np.int_]


def build_parameters_tab(shared: SharedInputs) -> None:
    """The tab's components and handlers, inside the open gr.Blocks or gr.Tab.

    Clicking a cell, or a button, sets `shared.group_size` (widening it where it ends below) and
    `shared.neighbor_window`, which fires their `change`. Redraws when they or `shared.view` change.
    """
    advice = gr.HTML(elem_id="parameters-advice", elem_classes=["readout"])
    pane = plot_pane(label="Group size by neighbor window", height=520, elem_id="parameter-plane", latest=CHOOSING)
    with gr.Row():
        use = gr.Button("Use the suggested settings", size="sm", elem_id="parameters-use")
        smallest = gr.Button("Use the smallest group size that fits", size="sm", elem_id="parameters-smallest")
    gr.HTML(hint_html("Click a cell to set both sliders to it."))

    sliders = [shared.group_size, shared.neighbor_window]
    inputs: list[Any] = [*sliders, shared.view]

    def within(config: SelfExtendConfig) -> tuple[Any, Any]:
        """The settings as the sliders can hold them: what was offered past a slider's end widens it.

        Nothing narrows it again: an event still under way with the old value would be refused.
        """
        size, window = config.group_size, config.neighbor_window
        return (size if size <= shared.group_size.maximum else gr.update(value=size, maximum=2 * size)), window

    def chosen(event: gr.EventData, group_size: float, neighbor_window: float, view: DocumentView) -> tuple[Any, ...]:
        if told(event, "pick") == SUGGESTED:
            return within(view.suggestion)
        if told(event, "pick") == SMALLEST:
            window = min(int(neighbor_window), view.trained_window - 1)
            return within(SelfExtendConfig(smallest_group_size(view.trained_window, view.length, window), window))
        try:
            cell = wanted(event, "pick")
            return skipped(2) if cell is None else within(_cell_of(cell, view))
        except ValueError:
            return skipped(2)

    redraw_on("plane", [component.change for component in inputs], _draw, inputs, [pane, advice])
    choosing = Latest(CHOOSING, chosen, inputs, sliders, first=False)
    choosing.on([use.click], pick=SUGGESTED)
    choosing.on([smallest.click], pick=SMALLEST)


def parameter_plane(
    trained_window: int, length: int, suggestion: SelfExtendConfig, here: SelfExtendConfig | None = None
) -> Plane:
    """What each group size and neighbor window comes to for `length` tokens.

    Columns run from 1 to twice the suggested group size (at least 8), rows over the trained window; both evenly
    spaced, at most COLUMNS x ROWS, and the settings given between them.

    Args:
        here: the settings that are chosen.
    """
    widest = max(8, 2 * suggestion.group_size)
    also = [suggestion] if here is None else [suggestion, here]
    group_sizes = _ticks(np.linspace(1, widest, COLUMNS), [config.group_size for config in also])
    neighbor_windows = _ticks(np.arange(1, ROWS) * trained_window / ROWS, [config.neighbor_window for config in also])
    shape = (len(neighbor_windows), len(group_sizes))
    verdict, reach = np.empty(shape, dtype=np.uint8), np.empty(shape, dtype=int)
    for row, window in enumerate(neighbor_windows.tolist()):
        for column, size in enumerate(group_sizes.tolist()):
            config = SelfExtendConfig(size, window)
            verdict[row, column] = verdict_of(trained_window, length, config)
            reach[row, column] = max_length(trained_window, config)
    return Plane(group_sizes, neighbor_windows, verdict, reach)


def _ticks(spaced: npt.NDArray[np.float64], also: list[int]) -> npt.NDArray[np.int_]:
    whole = np.floor(spaced).astype(int)
    return np.unique(np.append(whole[whole > 0], also).astype(int))


def verdict_of(trained_window: int, length: int, config: SelfExtendConfig) -> int:
    """TOO_SHORT, ABOVE_RULE, IN_BAND or BELOW_BAND."""
    if max_length(trained_window, config) < length:
        return TOO_SHORT
    share = rule_share(trained_window, length, config)
    return BELOW_BAND if share < 1 / 2 else IN_BAND if share < 2 / 3 else ABOVE_RULE


def _draw(group_size: float, neighbor_window: float, view: DocumentView) -> tuple[Any, str]:
    try:
        config = settings_of(group_size, neighbor_window)
        check_window(view.trained_window, config)
    except ValueError as error:
        return gr.skip(), complaint_html(error)
    suggestion = view.suggestion
    figure = parameter_plane_figure(
        parameter_plane(view.trained_window, view.length, suggestion, config),
        length=view.length,
        trained_window=view.trained_window,
        here=(config.group_size, config.neighbor_window),
        advised=(suggestion.group_size, suggestion.neighbor_window),
    )
    read = f"{', '.join(view.documents) or 'no document'}, {view.length:,} tokens, room for the answer included"
    caption = f"{view.model or 'No model'}, {SelfExtend.heading} ({SelfExtend.of(config).setting}), {read}."
    return packed(figure, caption=caption), _advice(config, suggestion, view)


def _advice(config: SelfExtendConfig, suggestion: SelfExtendConfig, view: DocumentView) -> str:
    reach = max_length(view.trained_window, config)
    share = rule_share(view.trained_window, view.length, config)
    fits = "fits" if view.length <= reach else "<mark>does not fit</mark>"
    smallest = smallest_group_size(view.trained_window, view.length, config.neighbor_window)
    return (
        f"<dl><dt>You are here</dt><dd>{SelfExtend.of(config).setting}: reaches <b>{reach:,}</b> tokens (the paper's "
        f"own limit says {paper_max_length(view.trained_window, config):,}); {view.length:,} tokens {fits}.</dd>"
        f"<dt>The rule</dt><dd>w + (N - w)/G is <b>{share:.0%}</b> of the trained window; the paper advises less "
        f"than 50% to 67%, since a model's largest positions are its least trained.</dd>"
        f"<dt>Suggested</dt><dd>{SelfExtend.of(suggestion).setting}: reaches "
        f"{max_length(view.trained_window, suggestion):,} tokens and uses "
        f"{rule_share(view.trained_window, view.length, suggestion):.0%} of the window.</dd>"
        f"<dt>Smallest change</dt><dd>With w = {config.neighbor_window:,}, the smallest group size that fits is "
        f"<b>{smallest:,}</b>.</dd></dl>"
    )


def _cell_of(event: gr.EventData, view: DocumentView) -> SelfExtendConfig:
    """The settings that a click names. Raises ValueError where this document could not be read with them."""
    names = [str(told(event, axis)).replace(",", "") for axis in "xy"]
    if not all(name.isascii() and name.isdigit() and len(name) < 12 for name in names):
        raise ValueError(f"A cell is named by two whole numbers, not {names}.")
    config = SelfExtendConfig(int(names[0]), int(names[1]))
    check_window(view.trained_window, config)
    return config
