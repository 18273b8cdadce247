"""Makes text that anybody may have written harmless where the chat shows it as Markdown.

Gradio's chat takes Markdown with HTML in it, and its sanitizer lets images, videos, forms and styles through: a model
that repeats `![x](http://…)` from a document would have the browser call that address. Nothing here relies on finding
out which parts of a text the browser's Markdown parser takes for code: every sign that could begin a tag, a link or an
image is written as a character reference, wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_TAG_SIGNS = {sign: f"&#{ord(sign)};" for sign in "&<>[]$@\\`"}
"""Signs that begin tags, references, links, formulas and code. What is left of Markdown is emphasis, lists, headings,
rules, quotations and tables."""
_INLINE_SIGNS = {sign: f"&#{ord(sign)};" for sign in "&<>\"'[]$@\\`*_~!|#{}"}
"""Those, and all others that mean something within a line."""
_PUNCTUATION = {chr(code): f"&#{code};" for code in range(33, 127) if not chr(code).isalnum()}
_ADDRESS = re.compile(r"(?i)://|www\.|mailto:|xmpp:")
"""Where a Markdown parser finds an address by itself."""
_BACKSLASH = re.compile(r"\\([!-/:-@\[-`{-~])")
_FENCE = re.compile(r"^([ \t>]*)(?:([-*+]|\d{1,9}[.)])([ \t]+))?(`{3,}|~{3,})([^`]*)$")
_BACKTICKS = re.compile(r"`+")
_QUOTE = re.compile(r"^ {0,3}(?:> ?)+")
_DEEP = re.compile(r"^(?: {4}|\t)[ \t]*")
_ITEM = re.compile(r"^[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]")

_JOINER = "\N{WORD JOINER}"
_OPENERS = re.compile(r"(?i)([<&])|(\])(?=[(\[:])|(:)(?=//)|(www)(?=\.)|(?=@)|(\$)(?=\$)|(?<=[`~])(?=[ \t]*mermaid)")
"""Where a sign in between keeps tags, links, addresses, formulas and drawings, which bring styles, from being any."""


def inert(text: str) -> str:
    """The text as HTML and Markdown that show just it, in one line: for names in headings, links and attributes."""
    return _without_addresses("".join(_INLINE_SIGNS.get(character, character) for character in " ".join(text.split())))


def safe_markdown(text: str) -> str:
    """The text with its harmless Markdown, and everything else shown as it was written.

    Paragraphs, emphasis, lists, headings, tables, quotations and code stay. HTML, links, images, addresses and formulas
    become text. Code becomes HTML of our own, so that it shows what was written, whatever stands in it.

    Args:
        text: of a model, as far as it has come: a block of code that is still open ends with the text.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    shown: list[str] = []
    in_list, place = False, 0
    while place < len(lines):
        line = lines[place]
        if fence := _FENCE.match(line):
            code, place = _fenced(lines, place + 1, fence)
            before = fence[1] + (f"{fence[2]}{fence[3]}" if fence[2] else "")
            shown.append(f"{before}{_code_block(code)}")
            if not fence[2] and not fence[1]:
                shown.append("")
            continue
        in_list = bool(_ITEM.match(line)) or (in_list and (not line.strip() or line[:1] in " \t"))
        shown.append(_line(line, in_list))
        place += 1
    return "\n".join(shown)


def _fenced(lines: list[str], start: int, fence: re.Match[str]) -> tuple[list[str], int]:
    """The lines of a block of code, without the indentation of its fence, and the place of the line after it."""
    mark = fence[4]
    closing = re.compile(rf"^[ \t>]*{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$")
    indented = len(fence[1]) + len((fence[2] or "") + (fence[3] or ""))
    code: list[str] = []
    for place in range(start, len(lines)):
        if closing.match(lines[place]):
            return code, place + 1
        line = lines[place]
        quoted = ">" in fence[1]
        cut = next(
            (n for n, sign in enumerate(line) if n >= indented or sign not in (" \t>" if quoted else " \t")), len(line)
        )
        code.append(line[cut:])
    return code, len(lines)


def _code_block(lines: list[str]) -> str:
    """A block of code in one line of HTML, since an empty line would end it."""
    return f"<pre><code>{'&#10;'.join(map(_referenced, lines))}</code></pre>"


def _referenced(text: str) -> str:
    """The text with each sign of ASCII as a character reference: nothing in it means anything in HTML or Markdown."""
    return "".join(_PUNCTUATION.get(character, character) for character in text)


def _line(line: str, in_list: bool) -> str:
    """A line outside of blocks of code."""
    quote = _QUOTE.match(line)
    before, rest = (quote[0], line[quote.end() :]) if quote else ("", line)
    if not in_list and (deep := _DEEP.match(rest)):
        # Four spaces would make a block of code of it, in which character references show as such.
        before, rest = before + deep[0].expandtabs(4).replace(" ", "&nbsp;"), rest[deep.end() :]
    shown, end = [], 0
    for opening, closing in _code_signs(rest):
        code = rest[opening.end() : closing.start()]
        shown += [_words(rest[end : opening.start()]), f"<code>{_referenced(code.strip() or code)}</code>"]
        end = closing.end()
    return before + "".join((*shown, _words(rest[end:])))


def _code_signs(line: str) -> Iterator[tuple[re.Match[str], re.Match[str]]]:
    """The backticks before and after each code of a line: code ends at the next run of as many as it begins with.

    In one go from the last run to the first, so that a line full of runs without a partner takes no longer.
    """
    runs = list(_BACKTICKS.finditer(line))
    nearest: dict[int, int] = {}
    partner: dict[int, int] = {}
    for place in range(len(runs) - 1, -1, -1):
        length = runs[place].end() - runs[place].start()
        if length in nearest:
            partner[place] = nearest[length]
        nearest[length] = place
    place = 0
    while place < len(runs):
        if place in partner:
            yield runs[place], runs[partner[place]]
        place = partner.get(place, place) + 1


def _words(text: str) -> str:
    """Text with emphasis at most."""
    parts, end = [], 0
    for escape in _BACKSLASH.finditer(text):
        parts += [_signs(text[end : escape.start()]), _PUNCTUATION[escape[1]]]
        end = escape.end()
    return "".join((*parts, _signs(text[end:])))


def _signs(text: str) -> str:
    return _without_addresses("".join(_TAG_SIGNS.get(character, character) for character in text))


def _without_addresses(text: str) -> str:
    """The text, in which a Markdown parser finds no address to make a link of."""
    return _ADDRESS.sub(lambda found: found[0].replace(":", "&#58;").replace(".", "&#46;"), text)


def safe_question(text: str) -> str:
    """A question as the chat shows it: harmless, and still the question to whoever edits it there.

    The chat puts the message itself into the box for editing, so that character references would be seen there. An
    invisible sign keeps tags, links, images, addresses and formulas from being any; `plain_question` takes it out.
    """
    return _OPENERS.sub(lambda found: found[0] + _JOINER, text)


def plain_question(text: str) -> str:
    """What was put into `safe_question`, out of what came of it."""
    return text.replace(_JOINER, "")
