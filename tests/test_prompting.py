"""Prompts: documents first and unchanged, a prefix that stays, templates that do not fit left aside, exact counts."""

from __future__ import annotations

from typing import Any

import pytest
from app_parts import document, tiny, tiny_folder  # noqa: F401 (fixtures)
from tiny_models import BARE_TEMPLATE, THINKING_TEMPLATE

from app.model_shelf import LoadedModel
from app.prompting import (
    Exchange,
    Instructions,
    SystemPromptError,
    build_prompt,
    can_switch_thinking,
    split_thinking,
)

CHAT = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]{{ message['content'] | trim }}[end]"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
FILTERING = "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"
FAILING = "{{ raise_exception('no system role') }}"


@pytest.fixture
def tokenizer(tiny: LoadedModel) -> Any:  # noqa: F811
    before = tiny.tokenizer.chat_template
    yield tiny.tokenizer
    tiny.tokenizer.chat_template = before


def shared_prefix(first: list[int], second: list[int]) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


@pytest.mark.parametrize("template", [None, CHAT])
def test_documents_stand_in_the_prompt_as_they_are(tokenizer: Any, template: str | None) -> None:
    tokenizer.chat_template = template
    documents = [document("one.txt"), document("two.txt", mark="other")]
    prompt = build_prompt(tokenizer, documents, "Who jumps?")
    assert (prompt.stop == ()) is (template is not None)
    for one in documents:
        assert one.text in prompt.text
        assert one.name in prompt.text
    assert prompt.text.index(documents[0].text) < prompt.text.index(documents[1].text) < prompt.text.index("Who jumps?")
    assert len(prompt) == len(prompt.ids) == len(tokenizer(prompt.text, add_special_tokens=template is None).input_ids)


@pytest.mark.parametrize("template", [None, CHAT])
def test_a_follow_up_keeps_everything_before_the_question(tokenizer: Any, template: str | None) -> None:
    tokenizer.chat_template = template
    documents = [document()]
    first = build_prompt(tokenizer, documents, "Who jumps?")
    other = build_prompt(tokenizer, documents, "Where is the mill?")
    later = build_prompt(tokenizer, documents, "And why?", [Exchange("Who jumps?", "The fox.")])
    of_document = int((first.index.document >= 0).nonzero()[0][-1]) + 1
    assert shared_prefix(first.ids, other.ids) >= of_document
    assert shared_prefix(first.ids, later.ids) >= of_document
    assert "The fox." in later.text
    assert "The fox." not in other.text


@pytest.mark.parametrize("template", [FILTERING, FAILING])
def test_a_template_that_changes_documents_or_fails_is_not_used(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    prompt = build_prompt(tokenizer, [document()], "Who jumps?")
    assert prompt.stop
    assert document().text in prompt.text
    assert prompt.text.endswith("Question: Who jumps?\nAnswer:")


def test_a_plain_prompt_names_where_the_answer_ends(tokenizer: Any) -> None:
    assert "\nQuestion:" in build_prompt(tokenizer, [], "Why?").stop


def test_a_document_that_begins_with_an_empty_page_survives_a_trimming_template(tokenizer: Any) -> None:
    from app.documents.document import Document, Page

    tokenizer.chat_template = CHAT
    scanned_first = Document("a.pdf", "0" * 64, "pdf", (Page(1, "", "a picture"), Page(2, "The fox jumps over it.")))
    prompt = build_prompt(tokenizer, [scanned_first], "Who?")
    assert not prompt.stop
    assert set(prompt.index.page[prompt.index.document == 0].tolist()) == {2}


def test_nothing_is_cut(tokenizer: Any) -> None:
    long = document(pages=40, sentences=12)
    prompt = build_prompt(tokenizer, [long], "Who?")
    assert prompt.text.count("Page ") == 40
    assert len(prompt) > 10 * 256


def test_the_system_prompt_comes_first_and_the_documents_stay_whole(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKING_TEMPLATE
    instructions = Instructions("Answer like a pirate.")
    prompt = build_prompt(tokenizer, [document()], "Who jumps?", [Exchange("Why?", "So.")], instructions)
    assert prompt.text.startswith("<|system|>\nAnswer like a pirate.\n<|user|>\nnotes.txt")
    assert document().text in prompt.text
    assert prompt.stop == ()


DROPPING = "{% for message in messages if message.role != 'system' %}{{ message.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "has no chat template"),
        (BARE_TEMPLATE, "takes no system prompt"),
        (DROPPING, "takes no system prompt"),
        (FILTERING, "takes no system prompt"),
        ("{% for message in messages %}{{ message.content | replace('quick', 'slow') }}{% endfor %}", "would change"),
    ],
)
def test_a_system_prompt_that_would_not_be_read_is_refused(tokenizer: Any, template: str | None, words: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(SystemPromptError, match=f"{words}.*: empty the System prompt under Answering."):
        build_prompt(tokenizer, [document()], "Who?", (), Instructions("Answer like a pirate."))
    assert build_prompt(tokenizer, [document()], "Who?").text


def test_thinking_is_switched_where_the_template_has_a_switch(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKING_TEMPLATE
    assert can_switch_thinking(tokenizer)
    assert build_prompt(tokenizer, [], "Who?").text.endswith("<think>\n\n</think>\n\n")
    assert build_prompt(tokenizer, [], "Who?", (), Instructions(thinking=True)).text.endswith("<|assistant|>\n")
    for other in (None, CHAT, FAILING):
        tokenizer.chat_template = other
        assert not can_switch_thinking(tokenizer)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("The fox.", ("", "The fox.")),
        ("<think>\nWho? A fox.\n</think>\n\nThe fox.", ("Who? A fox.", "The fox.")),
        ("Who? A fox.\n</think>\n\nThe fox.", ("Who? A fox.", "The fox.")),  # the prompt ended in the opening tag
        ("<think>\nWho? A", ("Who? A", "")),
        ("<think>\n\n</think>\n\nThe fox.", ("", "The fox.")),
    ],
)
def test_what_was_thought_is_told_from_the_answer(text: str, parts: tuple[str, str]) -> None:
    assert split_thinking(text) == parts


def test_what_is_too_long_is_refused_before_it_is_tokenized() -> None:
    nobody: Any = None
    with pytest.raises(ValueError, match="question may have at most 100,000 characters, not 100,001: shorten"):
        build_prompt(nobody, [], "a" * 100_001)
    with pytest.raises(SystemPromptError, match="system prompt may have at most 100,000 characters"):
        build_prompt(nobody, [], "Who?", (), Instructions("a" * 100_001))
