"""The lesson as data and as one file: scripts, styles, texts and recorded runs, put together once.

Everything that the lesson shows is worked out in the browser (assets/lesson/) from positions (assets/positions.js) and
from answers that the bundled model really gave (assets/lesson/runs.json, written by `python -m training lesson`).
`python -m app.lesson` writes assets/lesson.html, which needs no server, no model and no network.
"""

from __future__ import annotations

import base64
import json
import zlib
from functools import cache
from typing import Any

from .theme import ASSETS

FOLDER = ASSETS / "lesson"
PAGE = ASSETS / "lesson.html"
SCRIPTS = (
    ASSETS / "positions.js",
    *(FOLDER / name for name in ("model.js", "figures.js", "steps.js", "paper.js", "address.js", "lesson.js")),
)
FIRST_LANGUAGE = "en"


@cache
def recorded() -> dict[str, Any]:
    """The recorded runs; `training/README.md` says what each part means."""
    runs: dict[str, Any] = json.loads((FOLDER / "runs.json").read_text(encoding="utf-8"))
    return runs


def catalogues() -> dict[str, dict[str, str]]:
    """The lesson's texts by language, the first one first: every other .json file of the folder is a language."""
    names = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != "runs")
    names.sort(key=lambda name: name != FIRST_LANGUAGE)
    return {name: json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in names}


@cache
def script() -> str:
    """All that runs in the browser, in the order in which it needs one another."""
    return "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)


@cache
def packed() -> str:
    """Everything, as lesson.js takes it: deflated JSON in base64. The lesson needs the page and the script to save
    itself."""
    parts = {
        "runs": recorded(),
        "texts": catalogues(),
        "css": (FOLDER / "lesson.css").read_text(encoding="utf-8"),
        "script": script(),
        "page": (FOLDER / "page.html").read_text(encoding="utf-8"),
    }
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(zlib.compress(text.encode(), level=9)).decode()


def web_page() -> str:
    """The lesson as one file: what *Save as web page* gives at the first step."""
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    css = (FOLDER / "lesson.css").read_text(encoding="utf-8")
    values = {
        "title": catalogues()[FIRST_LANGUAGE]["title"],
        "language": FIRST_LANGUAGE,
        "hash": "",
        "css": css,
        "script": script(),
        "packed": packed(),
    }
    for name, value in values.items():
        page = page.replace("{{" + name + "}}", value)
    return page


if __name__ == "__main__":
    PAGE.write_text(web_page(), encoding="utf-8")
    print(f"{PAGE}: {PAGE.stat().st_size / 1000:,.0f} kB")
