"""Colours, fonts and style sheets: the one place that says what the app looks like.

No web fonts and no other host: every font is one that the reader's system already has. Colours are Okabe and
Ito's, which stay apart for colour-blind eyes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selfextend.asset_files import assets_folder

if TYPE_CHECKING:
    import gradio as gr

ASSETS = assets_folder()

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "Arial", "sans-serif")
MONO_FONTS = ("ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
FONT_STACK = ", ".join(f'"{font}"' if " " in font else font for font in FONTS)

ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8F98"
ACCENTS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
"""In the order in which lines and bars take them; none is told from its neighbor by red against green."""

METHOD_LINES = {
    "vanilla": {"color": ORANGE, "dash": "dash"},
    "selfextend": {"color": BLUE, "dash": "solid"},
    "rerope": {"color": GREEN, "dash": "dashdot"},
}

INK = {"light": "#1F2328", "dark": "#E6E8EB"}
GRID = {"light": "#DFE3E8", "dark": "#3A404A"}
PAPER = {"light": "#FFFFFF", "dark": "#16191F"}


def gradio_theme() -> gr.themes.Base:
    """The theme for `launch(theme=...)`: system fonts, and accents that read on both grounds."""
    import gradio as gr

    blue = gr.themes.Color(
        name="okabe-blue",
        c50="#EAF4FA", c100="#D2E8F4", c200="#A6D0E9", c300="#74B6DC", c400="#3D98CB", c500="#0072B2",
        c600="#00659E", c700="#005584", c800="#00466D", c900="#003753", c950="#00263A",
    )  # fmt: skip
    theme: Any = gr.themes.Base(
        primary_hue=blue, secondary_hue=blue, neutral_hue="slate", font=list(FONTS), font_mono=list(MONO_FONTS)
    )
    return theme.set(
        body_background_fill_dark=PAPER["dark"],
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="#FFFFFF",
        button_primary_text_color_dark="#FFFFFF",
        slider_color="*primary_500",
        slider_color_dark="*primary_400",
        # Gradio's own grey is 2.56:1 on white; small print is to be read too: 4.5:1 and more on either ground.
        body_text_color_subdued="#3F4957",
        body_text_color_subdued_dark="#B6C0CE",
        block_info_text_color="#4B5563",
        block_info_text_color_dark="#B6C0CE",
        block_label_text_color="#374151",
        block_label_text_color_dark="#C9D1DC",
        block_title_text_color="#374151",
        block_title_text_color_dark="#D6DCE5",
        input_placeholder_color="#5B6472",
        input_placeholder_color_dark="#A9B4C3",
        link_text_color="*primary_600",
        link_text_color_dark="*primary_300",
    )


def app_css() -> str:
    """The style sheet for `launch(css=...)`."""
    names = ("app.css", "evidence.css", "reader.css", "lab.css", "position_map.css")
    return "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in names)
