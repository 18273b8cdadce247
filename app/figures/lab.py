"""A run of the lab in the page: its views as plotly figures, its tables, and all of it as one HTML file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from selfextend.lab.records import Row, Run
from selfextend.lab.sweep import recommend
from selfextend.lab.tables import by_length, ends_of_curves, grouped, labels, settings_words
from selfextend.lab.views import CurveView, GridView, View, is_sweep, views

from ..theme import ACCENTS, GREY, METHOD_LINES, ORANGE
from .style import SEQUENTIAL, compact, finish, horizontal_colour_bar, offline_html


def figure(view: View) -> go.Figure:
    """A view as a figure; an empty one where nothing was measured yet."""
    return _curves(view) if isinstance(view, CurveView) else _grid(view)


def _curves(view: CurveView) -> go.Figure:
    made = go.Figure()
    for order, curve in enumerate(view.curves):
        colour = {"color": ACCENTS[(order + 2) % len(ACCENTS)]}
        made.add_trace(
            go.Scatter(
                x=compact(np.asarray(curve.positions)),
                y=np.asarray(curve.losses, dtype=np.float32),
                mode="lines+markers" if len(curve.losses) < 40 else "lines",
                line=METHOD_LINES.get(curve.method, colour) | {"width": 2},
                name=curve.name,
                hovertemplate="position %{x:,.0f}<br>%{y:.3f} nats<extra>" + curve.name + "</extra>",
            )
        )
    if not view.length or view.trained_window <= view.length:
        made.add_vline(
            view.trained_window,
            line={"color": GREY, "dash": "dot", "width": 1.5},
            annotation={"text": f"trained window: {view.trained_window:,}", "yanchor": "bottom", "y": 1},
        )
    # The axis ends where the text does.
    made.update_xaxes(title="position (tokens)", range=[0, view.length] if view.length else None, rangemode="tozero")
    made.update_yaxes(title="loss (nats per token; lower is better)")
    return finish(made, view.title, room=30)


def _grid(view: GridView) -> go.Figure:
    values = np.full((len(view.rows), len(view.columns)), np.nan, dtype=np.float32)
    for at, cell in view.cells.items():
        values[at] = cell.value
    shown = ".0%" if view.percent else ".3~g"
    made = go.Figure(
        go.Heatmap(
            z=values,
            x=[column.replace("\n", "<br>") for column in view.columns],
            y=view.rows,
            zmin=0 if view.percent else None,
            zmax=1 if view.percent else None,
            colorscale=SEQUENTIAL,
            colorbar=horizontal_colour_bar(view.quantity) | {"tickformat": shown},
            texttemplate=f"%{{z:{shown}}}" if values.size <= 150 else None,
            xgap=2,
            ygap=2,
            hovertemplate=(
                f"{view.x.name} %{{x}}<br>{view.y.name} %{{y}}<br>{view.quantity} %{{z:{shown}}}<extra></extra>"
            ),
            hoverongaps=False,
        )
    )
    x_title = view.x.name
    if view.inside is not None and 0 < view.inside < len(view.columns):
        made.add_vline(view.inside - 0.5, line={"color": ORANGE, "dash": "dash", "width": 2})
        x_title += "<br>dashed: trained window"
    made.update_xaxes(title=x_title, type="category", showgrid=False)
    made.update_yaxes(
        title=view.y.name, type="category", autorange="reversed", showgrid=False, showticklabels=bool(view.y.name)
    )
    return finish(made, view.title, colour_bar=True)


def table_html(run: Run, view: str | None = None) -> str:
    """Each method at each length with its settings, n, Wilson interval, seconds and memory; or the curves' ends.

    Args:
        view: the name of the view that the table stands under: rows that it does not show are left out.
    """
    shown = [row for row in run.rows if view in (row["label"], row["probe"])] or run.rows
    by_probe = grouped(shown, lambda row: row["probe"])
    parts = []
    if is_sweep(run) and run.rows:
        advice = recommend(run.rows, run.header["model"]["trained_window"], run.rows[0]["length"])
        parts.append(f"<p><b>Take {escape(advice.label)}.</b> {escape(advice.reason)}</p>")
    for probe, rows in by_probe.items():
        head = f"<h4>{escape(probe)}</h4>" if len(by_probe) > 1 else ""
        parts.append(head + (_curve_table(rows) if "loss" in rows[0] else _accuracy_table(rows)))
    return "".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], css_class: str) -> str:
    """A table as HTML, every text in it escaped; each row's first cell is its heading."""
    columns = "".join(f"<th scope='col'>{escape(cell)}</th>" if cell else "<td></td>" for cell in head)
    body = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f"<table class='{css_class}'><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"


def _wide_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """One that scrolls by itself."""
    return f"<div class='lab-scroll' tabindex='0'>{table(head, rows, 'lab')}</div>"


def _cost(entry: Row) -> tuple[str, str, str]:
    """Settings, seconds and memory."""
    return settings_words(entry["settings"]), f"{entry['seconds']:.1f}", f"{entry['peak_bytes'] / 1e6:,.0f}"


def _accuracy_table(rows: list[Row]) -> str:
    several = len(labels(rows)) > 1
    return _wide_table(
        (*(["Method"] if several else []), "Tokens", "Right", "95% interval", "n", "Settings", "Seconds", "Peak MB"),
        [
            (
                *([entry["label"]] if several else []),
                f"{entry['length']:,}",
                f"{entry['accuracy']:.0%}",
                f"{entry['low']:.0%} – {entry['high']:.0%}",
                str(entry["trials"]),
                *_cost(entry),
            )
            for entry in by_length(rows)
        ],
    )


def _curve_table(rows: list[Row]) -> str:
    return _wide_table(
        ("Method", "First bin", "Last quarter", "Ratio", "Settings", "Seconds", "Peak MB"),
        [
            (label, f"{ends['first_bin']:,.2f}", f"{ends['last_quarter']:,.2f}", f"{ends['ratio']:.2f}", *_cost(ends))
            for label, ends in ends_of_curves(rows).items()
        ],
    )


def as_html(run: Run) -> str:
    """One page with all figures, the table and the header; it opens in any browser, without a network."""
    told = escape(json.dumps(run.header, indent=1, ensure_ascii=False))
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}th,td{padding:.2rem .6rem;border-bottom:1px solid #ccc;text-align:left}"
    )
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(run.title())}</title>"
        f"<style>{style}</style><h1>{escape(run.title())}</h1>{table_html(run)}{offline_html(map(figure, views(run)))}"
        f"<details><summary>How it was run</summary><pre>{told}</pre></details></html>"
    )
