"""A plotly figure that is redrawn in place, follows light and dark, and tells the server what was clicked.

gr.Plot makes a new plot for each value, which flickers under a slider, and reports no click, hover or zoom. It
also carries an older plotly.js than plotly.py writes for; this pane loads the one that plotly.py ships, from the
same server. The browser's side is assets/plot_pane.js.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import gradio as gr
import plotly
import plotly.graph_objects as go

from ..figures.style import template
from ..theme import ASSETS, VERMILLION

PLOTLY_JS = Path(plotly.__file__).resolve().parent / "package_data" / "plotly.min.js"

ONCE_DRAWN = "once-drawn"
"""The class of a column that is seen only while a pane in it has a figure. No gr.update(visible=...) for such columns:
Gradio makes a column that starts unseen only when it is first shown, and what arrives meanwhile is lost at times."""

_TEMPLATE = """
<figure class="plot-pane">
  <figcaption class="plot-title"></figcaption>
  <div class="plot-area" tabindex="0" role="application"></div>
  <div class="plot-tip" hidden></div>
</figure>
"""


def plot_pane(*, label: str, height: int, elem_id: str, latest: str = "", selects: str = "") -> gr.HTML:
    """A place for a figure in the page, empty at first. Handlers that draw into it return `packed(figure)`.

    A function and no class of its own, because Gradio writes a stub file next to every module that derives a
    component.

    Its custom event, with numbers that `app.tabs.widgets.told` reads, is `pick`: a point was clicked, {"x": ..., "y":
    ...} in axis values. Of a figure whose `meta.cells` says which tokens its cells stand for (see `attention_heatmap`),
    x is a key token. It is an open endpoint, as all events are: handlers have to check what comes in.

    Args:
        label: what a screen reader calls the plot.
        height: of the plot, in CSS pixels.
        selects: the name under which the pane sends a clicked cell as the page's selection, and follows what other
            panels select (see assets/selection.js). For figures with `meta.cells`.
        latest: the name of the `Latest` that is asked for {"pick": ...} in place of the event. Where the figure has
            `meta.cells`, it is asked for a closer view too, {"zoom": {"x": [from, to]}} in tokens, or {"zoom": {}} for
            all; the browser zooms into any other figure by itself.
    """
    gr.set_static_paths([PLOTLY_JS])
    made = {
        "pane_label": label,
        "pane_height": height,
        "latest": latest,
        "selects": selects,
        "mark": VERMILLION,
        "plotly_path": PLOTLY_JS.as_posix(),
        "templates": {tone: template(tone == "dark").to_plotly_json() for tone in ("light", "dark")},
    }
    source = (ASSETS / "plot_pane.js").read_text(encoding="utf-8")
    return gr.HTML(
        label=label,
        html_template=_TEMPLATE,
        js_on_load=f"const made = {json.dumps(made)};\n{source}",
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes=["plot-pane-block"],
    )


def packed(figure: go.Figure, *, caption: str = "") -> str:
    """The figure as the pane takes it, deflated: a map of 512 x 512 cells shrinks from 1.4 MB to 0.2 MB at most.

    Args:
        caption: stands below the title of the picture that a reader saves: model, settings and document, for one.
    """
    if caption:
        figure.update_layout(meta={**(figure.layout.meta or {}), "caption": caption})
    return base64.b64encode(zlib.compress(figure.to_json().encode(), level=1)).decode()
