"""What the chat shows of text that anybody may have written: harmless, and still what was written."""

from __future__ import annotations

import re
import time
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import sampled_from

from app.conversation import LONGEST_KEPT, MAX_KEPT, Entry, Reply, Source, from_json, messages
from app.safe_text import inert, plain_question, safe_markdown, safe_question

ACTIVE = re.compile(r"(?i)<(?!/?(?:pre|code)>)[a-z/!?]|\[[^\]]*\]\s*[(\[:]|!\[|https?://|www\.|\$\$|&(?!#\d+;|nbsp;)")
"""What a Markdown parser would make an element, a link or an image of, except for our own `<pre>` and `<code>`."""
PIECES = [
    "<", "img src=x", ">", "`", "```", "\n", "![", "](", "http://a.b/", ")", "[a]:", "&lt;", "\\", "~~~", "    ", "$$",
    "- ", "> ", "www.a.b", "a@b.c", "word", "|", "*", '"', "'", "<!--", "-->", "</code>", "</pre>", "\t", "1. ",
]  # fmt: skip


@given(st.lists(sampled_from(PIECES), max_size=24).map("".join))
def test_nothing_in_a_text_begins_a_tag_a_link_or_an_image(text: str) -> None:
    assert not ACTIVE.search(safe_markdown(text))
    assert not ACTIVE.search(inert(text))


@given(st.lists(sampled_from(PIECES), max_size=24).map("".join))
def test_a_question_is_harmless_and_can_be_had_back(text: str) -> None:
    shown = safe_question(text)
    assert plain_question(shown) == text
    assert not re.search(r"<[a-zA-Z/!?]|\][(\[:]|://|www\.|\$\$|[^\u2060]@", shown)


@given(st.text(alphabet="ab<>&`[]()!*:/.@$\\ ", max_size=60).filter(lambda text: "`" not in text and "\\" not in text))
def test_words_are_shown_as_they_were_written(text: str) -> None:
    assert unescape(safe_markdown(text.lstrip())) == text.lstrip()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**bold** and *this*", "**bold** and *this*"),
        ("1. one\n2. two\n   - three", "1. one\n2. two\n   - three"),
        ("# Title\n\n> said\n\n---", "# Title\n\n> said\n\n---"),
        ("| a | b |\n|---|--:|\n| 1 | 2 |", "| a | b |\n|---|--:|\n| 1 | 2 |"),
        ("use `a < b`", "use <code>a &#60; b</code>"),
        (r"\*not so\*", "&#42;not so&#42;"),
        ("5 < 6 & 7", "5 &#60; 6 &#38; 7"),
    ],
)
def test_markdown_stays(text: str, shown: str) -> None:
    assert safe_markdown(text) == shown


@pytest.mark.parametrize("fence", ["```", "~~~~", "```python"])
def test_code_is_what_was_written(fence: str) -> None:
    code = "if a < b:\n\n    print('</code> &amp; *x*')"
    closing = fence.removesuffix("python")
    for text in (f"so:\n{fence}\n{code}\n{closing}\nend", f"so:\n{fence}\n{code}"):
        block = re.search(r"<pre><code>(.*)</code></pre>", safe_markdown(text))
        assert block is not None
        assert unescape(block[1]) == code


def test_code_in_a_list_stays_in_it() -> None:
    assert safe_markdown("- a\n  ```\n  x = 1\n    y\n  ```\n- b").split("\n") == [
        "- a", "  <pre><code>x &#61; 1&#10;  y</code></pre>", "- b",
    ]  # fmt: skip


@given(st.text(alphabet="`ab \\", max_size=40))
def test_code_ends_at_the_next_backticks_of_the_same_number(text: str) -> None:
    text = f"a{text}"  # no block of code
    shown = [unescape(code) for code in re.findall("<code>(.*?)</code>", safe_markdown(text))]
    found = re.findall(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", text)
    assert shown == [code.strip() or code for _, code in found]


def test_backticks_without_a_partner_take_no_longer_the_more_there_are() -> None:
    def seconds(most: int) -> float:
        text = "a" + " ".join("`" * number for number in range(1, most))
        took = []
        for _ in range(3):
            began = time.perf_counter()
            safe_markdown(text)
            took.append(time.perf_counter() - began)
        return min(took)

    # Four times the text.
    assert seconds(600) < 8 * seconds(300)


def test_a_browser_gives_back_no_more_than_it_was_given() -> None:
    entry = {"question": "Who?", "replies": [], "model": "m"}
    assert len(from_json([entry] * 1000)) == MAX_KEPT
    assert from_json([entry, entry | {"question": "a" * LONGEST_KEPT}]) == []
    half = entry | {"question": "a" * (LONGEST_KEPT // 2)}
    assert [len(each.question) for each in from_json([half, half, entry])] == [len(half["question"]), 4]
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert from_json([entry | {"documents": nested}]) == []


def test_names_from_a_browser_cannot_leave_their_place() -> None:
    """What a browser kept can be edited: names of documents and models, and every word of a reply."""
    evil = '"> \n\n![x](http://a.b/) <img src=http://a.b> `'
    source = Source(1, evil, 2, "page", "text", 0.5, "strong", 3, 0)
    reply = Reply(1, "vanilla", evil, (source,), stopped=evil, note=evil)
    talk = from_json([{**entry, "documents": None} for entry in (_record(evil, reply), _record("b", reply))])
    assert len(talk) == 2
    shown = "\n".join(message["content"] for message in messages([*talk, Entry("q", (), evil)]))
    ours = re.sub(
        r'<a class="(page-link|continue)" href="#[\w-]+"( title="[^"<>\n]*")?>|</?(span|code)( class="[\w -]+")?>|</a>',
        "",
        shown,
    )
    assert not re.search(r"<[a-zA-Z/!]|!\[[^\u2060]*\]\(|https?://", ours)


def _record(question: str, reply: Reply) -> dict[str, object]:
    from dataclasses import asdict

    return {"question": question, "replies": [asdict(reply)], "model": question}
