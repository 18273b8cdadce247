"""What became of an answer without its passages, as HTML: one passage's result, and two rankings side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape

from ..evidence import Citation, PageShare
from ..prompting import split_thinking
from ..session import Turn
from ..whatif import PassageTest, by_effect, likelihood_words


def place_words(where: Citation | PageShare, turn: Turn) -> str:
    """Where a passage or page is: with the document's name where there are several."""
    name = f"{where.name}, " if len(turn.documents) > 1 else ""
    return f"{name}{where.page_word} {where.page}"


def result_html(test: PassageTest) -> str:
    """What the test of a passage showed: in a sentence, the two answers side by side, and the numbers."""
    before, after = float(test.before.sum()), float(test.after.sum())
    tokens = test.citation.token_stop - test.citation.token_start
    return (
        f"<p class='verdict' role='status'>{_verdict(test)}</p>"
        f"<div class='answers'>{_answers_html(test)}</div>"
        "<details><summary>The numbers</summary><dl>"
        f"<dt>Log-probability of the old answer</dt><dd>{before:.2f} with the passage, {after:.2f} without: "
        f"<b>{test.change:+.2f}</b></dd>"
        f"<dt>Blanked out with</dt><dd><code>{escape(repr(test.neutral))}</code> for each of its {tokens:,} tokens, so "
        "that nothing else moves</dd></dl></details>"
    )


def _answers_html(test: PassageTest) -> str:
    """The two answers, or the one where they are the same."""
    old, new = _compared(_said(test.old_answer), _said(test.answer))
    if test.same_answer:
        return f"<section><h3>With it and without it</h3><p>{old}</p></section>"
    return f"<section><h3>With it</h3><p>{old}</p></section><section><h3>Without it</h3><p>{new}</p></section>"


def _said(text: str) -> str:
    """What was answered, without what was thought before."""
    return split_thinking(text)[1].strip() or text.strip() or "(no words)"


def _verdict(test: PassageTest) -> str:
    times = likelihood_words(test.change)
    likely = f"without this passage the old answer is <b>{times} as likely</b>"
    if test.matters:
        return f"<b>It matters:</b> {likely}{', though the model still gives it' if test.same_answer else ''}."
    if not test.same_answer:
        return f"<b>A close call:</b> the answer changes, though {likely}."
    if test.change > 1:
        return f"<b>It was in the way:</b> {likely}."
    if times == "100%":
        return "<b>It does not matter:</b> without this passage the old answer is as likely as before."
    return f"<b>It does not matter:</b> {likely}."


def _compared(old: str, new: str) -> tuple[str, str]:
    """Both texts as HTML, with the words that are in one only marked."""
    before, after = re.findall(r"\s+|\S+", old), re.findall(r"\s+|\S+", new)
    sides: tuple[list[str], list[str]] = ([], [])
    for kind, start, stop, new_start, new_stop in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        parts = (("del", before[start:stop]), ("ins", after[new_start:new_stop]))
        for side, (tag, words) in zip(sides, parts, strict=True):
            text = escape("".join(words))
            side.append(text if kind == "equal" or not text.strip() else f"<{tag}>{text}</{tag}>")
    return "".join(sides[0]), "".join(sides[1])


def rankings_html(tests: Sequence[PassageTest], turn: Turn) -> str:
    """The tested passages by attention and by effect, joined by lines, and whether the two agree.

    Args:
        tests: in the order of their passages' ranks. Nothing is shown of fewer than two.
    """
    if len(tests) < 2:
        return ""
    ranked, most = by_effect(tests), max(1e-9, *(-test.change for test in tests))
    rows = 10 * len(tests)
    lines = "".join(
        f"<path d='M0 {10 * place + 5} C50 {10 * place + 5} 50 {10 * to + 5} 100 {10 * to + 5}' "
        f"class='{'matters' if test.matters else ''}'/>"
        for place, test in enumerate(tests)
        for to in [ranked.index(test)]
    )
    attention = "".join(_row(test, turn, test.citation.share, f"{test.citation.share:.0%}", "") for test in tests)
    effect = "".join(
        _row(
            test,
            turn,
            max(0.0, -test.change) / most,
            likelihood_words(test.change),
            f"log-probability of the old answer {test.change:+.2f}",
        )
        for test in ranked
    )
    return (
        f"<figure class='rankings'><figcaption>{_agreement(tests, ranked, turn)}</figcaption>"
        f"<div class='rankings-grid'><section><h3>Looked at most</h3><ol>{attention}</ol></section>"
        f"<svg viewBox='0 0 100 {rows}' preserveAspectRatio='none' aria-hidden='true'>{lines}</svg>"
        f"<section><h3>Missed most</h3><ol>{effect}</ol></section></div>"
        "<p class='hint'>Left: the share of the attention. Right: how likely the old answer is without the passage."
        "</p></figure>"
    )


def _row(test: PassageTest, turn: Turn, length: float, words: str, hover: str) -> str:
    place = escape(place_words(test.citation, turn))
    return (
        f"<li title='{hover or place}'><i style='width:{length:.1%}'></i>"
        f"<b class='passage-rank'>{test.citation.rank}</b><span>{place}</span><em>{words}</em></li>"
    )


def _agreement(tests: Sequence[PassageTest], ranked: Sequence[PassageTest], turn: Turn) -> str:
    """Whether the passage that was looked at most is the one that the answer depends on most."""
    first, top = tests[0], ranked[0]
    looked, missed = (f"passage {t.citation.rank} ({escape(place_words(t.citation, turn))})" for t in (first, top))
    if not top.matters:
        return (
            "<b>Attention is not proof here:</b> without any one of these passages the old answer is about as likely. "
            "The model has it from elsewhere, or from several of them at once."
        )
    if first is top:
        if not any(test.matters for test in tests[1:]):
            rest = "; without any of the others it is about as likely"
        else:
            rest = ", and the others follow in the same order" if list(tests) == list(ranked) else ""
        return f"<b>They agree:</b> the answer looked most at {looked} and depends most on it{rest}."
    though = "it depends on that too" if first.matters else "without that it is about as likely"
    return f"<b>They disagree:</b> the answer looked most at {looked}, but depends most on {missed}; {though}."
