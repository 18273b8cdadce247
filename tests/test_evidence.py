"""Evidence: against full attention matrices that are computed and added up naively here.

The oracle reads the whole prompt with `output_attentions=True` and knows bins, records and caches only by result.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TRAINED_WINDOW, save_tokenizer, tiny_model
from transformers import AutoTokenizer

from app import evidence
from app.columns import picture_of
from app.documents.document import Document, Page
from app.evidence import Citation, passages_behind, recording_request
from app.pooling import Looked, view_of
from app.prompting import Prompt, build_prompt
from app.session import Turn
from app.tabs.passage_results import rankings_html, result_html
from app.whatif import (
    Answered,
    PassageTest,
    UnderTest,
    blanked,
    by_effect,
    likelihood_words,
    neutral_token,
    passage_test_steps,
    passage_tests_steps,
)
from selfextend import SelfExtendConfig, self_extend
from selfextend.generation import Answer, GenerationSettings, ReadingSettings, ReadyModel, answer_steps
from selfextend.methods import Method, SelfExtend, Vanilla
from selfextend.profile import Profile
from selfextend.reading import PrefixCache
from selfextend.steps import Running, result_of

GROUPED = SelfExtendConfig(group_size=5, neighbor_window=48)  # G does not divide w
VANILLA = SelfExtendConfig(group_size=1, neighbor_window=48)
PROFILE = Profile(4 * TRAINED_WINDOW)
NEW_TOKENS = 12
LAYERS, HEADS = 2, 4


def a_page(number: int, sentences: int = 3) -> Page:
    words = ("lamp", "tide", "stone", "ledger", "boat", "harbour")
    lines = [
        f"On page {number} the {words[(number + k) % 6]} is by the {words[(number * k + 1) % 6]} number {10 + k}."
        for k in range(sentences)
    ]
    return Page(number, " ".join(lines))


def a_document(name: str, pages: int, sentences: int = 3) -> Document:
    return Document(name, "0" * 64, "txt", tuple(a_page(n + 1, sentences) for n in range(pages)))


DOCUMENTS = (a_document("first.txt", 2), a_document("second.txt", 1, sentences=2))


@pytest.fixture(scope="module")
def model() -> Any:
    model = tiny_model()
    with torch.no_grad():  # larger queries and keys, so that attention is uneven, as a trained model's is
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(12)
    return model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def prompt(tokenizer: Any) -> Prompt:
    return build_prompt(tokenizer, DOCUMENTS, "Where is the lamp?")


def method_of(config: SelfExtendConfig) -> Method:
    """group_size 1 stands for the vanilla model here."""
    return Vanilla() if config.group_size == 1 else SelfExtend.of(config)


def answered(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    config: SelfExtendConfig,
    prefix: PrefixCache | None = None,
    **request: Any,
) -> Answer:
    record = recording_request(prompt.index, NEW_TOKENS, layers=range(LAYERS), heads=HEADS, **request)
    return result_of(
        answer_steps(
            ReadyModel(model, tokenizer, PROFILE),
            prompt.ids,
            GenerationSettings(max_new_tokens=NEW_TOKENS),
            ReadingSettings(method_of(config), chunk_tokens=100),
            prefix=prefix,
            record=record,
        )
    )


@torch.no_grad()
def full_attention(model: Any, ids: list[int], config: SelfExtendConfig) -> np.ndarray:
    """(layers, heads, queries, keys), of one pass over everything."""
    with self_extend(model, config, trained_window=4 * TRAINED_WINDOW):
        attentions = model(torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    return torch.cat(attentions).double().numpy()


def naive_weights(attention: np.ndarray, prompt: Prompt, rows: range) -> np.ndarray:
    """The rule of `passage_weights`, with loops."""
    weights = np.zeros(len(prompt.index.passages))
    for number in range(len(weights)):
        tokens = [t for t in range(len(prompt)) if prompt.index.passage[t] == number]
        for layer in range(LAYERS):
            for head in range(HEADS):
                for row in rows:
                    weights[number] += attention[layer, head, row, tokens].sum() ** 2
    return weights / weights.sum()


@pytest.mark.parametrize("config", [GROUPED, VANILLA], ids=["grouped", "vanilla"])
def test_shares_are_those_of_the_full_attention(
    model: Any, tokenizer: Any, prompt: Prompt, config: SelfExtendConfig
) -> None:
    answer = answered(model, tokenizer, prompt, config)
    assert answer.attention is not None
    ids = [*prompt.ids, *answer.token_ids]
    assert len(ids) > TRAINED_WINDOW
    rows = range(len(prompt) - 1, len(ids) - 1)
    expected = naive_weights(full_attention(model, ids, config), prompt, rows)

    passages, weights = evidence.passage_weights(answer.attention, prompt.index, len(answer.token_ids))
    assert passages == list(prompt.index.passages)
    np.testing.assert_allclose(weights, expected, rtol=2e-4, atol=1e-7)

    cited = passages_behind(answer.attention, prompt.index, len(answer.token_ids), config, most=3)
    order = np.argsort(-expected)[:3]
    assert [citation.rank for citation in cited] == [1, 2, 3]
    assert [(c.token_start, c.share) for c in cited] == [
        (prompt.index.passages[n].token_start, pytest.approx(expected[n], rel=2e-4)) for n in order
    ]

    by_page = {(p.document, p.page): p.share for p in evidence.page_shares(answer.attention, prompt.index, NEW_TOKENS)}
    assert set(by_page) == {(0, 1), (0, 2), (1, 1)}
    for place in by_page:
        of_page = sum(w for p, w in zip(prompt.index.passages, expected, strict=True) if (p.document, p.page) == place)
        assert by_page[place] == pytest.approx(of_page, rel=2e-4)
    assert list(by_page.values()) == sorted(by_page.values(), reverse=True)


@pytest.mark.parametrize("config", [GROUPED, VANILLA], ids=["grouped", "vanilla"])
def test_a_citation_says_where_it_stands_and_how_the_model_saw_it(
    model: Any, tokenizer: Any, prompt: Prompt, config: SelfExtendConfig
) -> None:
    answer = answered(model, tokenizer, prompt, config)
    assert answer.attention is not None
    attention = full_attention(model, [*prompt.ids, *answer.token_ids], config)
    cited = passages_behind(answer.attention, prompt.index, len(answer.token_ids), config, most=100)
    assert len(cited) == len(prompt.index.passages)
    levels = set()
    for citation in cited:
        page = prompt.index.documents[citation.document].pages[citation.page - 1]
        assert page.text[citation.char_start : citation.char_end].strip() == citation.text
        assert citation.name == prompt.index.documents[citation.document].name
        tokens = range(citation.token_start, citation.token_stop)
        rows = range(len(prompt) - 1, len(prompt) - 1 + len(answer.token_ids))
        looked = [(attention[:, :, row, tokens].sum(-1) ** 2).sum() for row in rows]
        query, key = rows[int(np.argmax(looked))], tokens[(len(tokens) - 1) // 2]
        near = config.group_size == 1 or query - key < config.neighbor_window
        seen = query - key
        if not near:
            shift = config.neighbor_window - config.neighbor_window // config.group_size
            seen = query // config.group_size - key // config.group_size + shift
        assert citation.relative_position == seen
        assert citation.level == ("neighbor" if near else "grouped")
        assert citation.plus_minus == (0 if near else config.group_size)
        assert set(citation.as_json()) == {"document", "page", "text", "share", "level", "relative_position"}
        levels.add(citation.level_words)
    assert levels <= {"seen at its exact place", "place known to ±5 tokens"}
    assert ("place known to ±5 tokens" in levels) == (config.group_size > 1)


def test_every_token_has_a_bin_of_its_own_kind(prompt: Prompt) -> None:
    request = recording_request(prompt.index, NEW_TOKENS, layers=range(LAYERS), heads=HEADS)
    assert request.query_rows == range(len(prompt) - 1, len(prompt) - 1 + NEW_TOKENS)
    bins = np.searchsorted(request.bin_starts, np.arange(len(prompt) + NEW_TOKENS), side="right") - 1
    owner = np.append(prompt.index.passage, np.full(NEW_TOKENS, -2))
    for number in range(bins.max() + 1):
        assert len(set(owner[bins == number].tolist())) == 1
    assert prompt.index.passage[0] == -1, "the file's name comes first, so that the sink is no part of a passage"


@settings(max_examples=25)
@given(
    pages=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    layers=st.integers(1, 40),
    heads=st.integers(1, 40),
    new_tokens=st.integers(1, 600),
    kilobytes=st.integers(40, 4000),
)
def test_a_request_keeps_to_its_bytes(
    tokenizer: Any, pages: list[int], layers: int, heads: int, new_tokens: int, kilobytes: int
) -> None:
    document = Document("d.txt", "0" * 64, "txt", tuple(a_page(n + 1, count) for n, count in enumerate(pages)))
    index = build_prompt(tokenizer, [document], "Why?").index
    limit = kilobytes * 1024
    request = recording_request(index, new_tokens, layers=range(layers), heads=heads, max_bytes=limit)
    assert request.layers is not None
    rows = len(request.query_rows)
    assert 2 * 4 * len(request.layers) * heads * rows * (len(request.bin_starts) + request.top) <= limit
    assert request.query_rows.start == len(index) - 1
    assert request.layers[-1] == layers - 1
    starts = np.asarray(request.bin_starts)
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    bins = np.searchsorted(starts, np.arange(len(index)), side="right") - 1
    for number in range(len(starts)):
        inside = index.page[(bins == number) & (index.passage >= 0)]
        assert len(set(inside.tolist())) <= 1, "a bin never holds passages of two pages"
    untouched = recording_request(index, new_tokens, layers=range(layers), heads=heads, max_bytes=2**40)
    if len(request.bin_starts) < len(untouched.bin_starts):
        assert len(request.layers) <= evidence.ENOUGH_LAYERS, "layers are thinned before passages are merged"
    if rows < min(new_tokens, evidence.MAX_ROWS):
        assert len(starts) <= 3 + 2 * len(pages), "passages are merged before rows are left out"


def test_merged_passages_are_cited_as_one(model: Any, tokenizer: Any, prompt: Prompt) -> None:
    fine = recording_request(prompt.index, NEW_TOKENS, layers=range(LAYERS), heads=HEADS)
    limit = 2 * 4 * LAYERS * HEADS * NEW_TOKENS * (len(fine.bin_starts) + fine.top - 2)
    answer = answered(model, tokenizer, prompt, GROUPED, max_bytes=limit)
    record = answer.attention
    assert record is not None
    assert len(record.bin_starts) < len(fine.bin_starts)
    cited = passages_behind(record, prompt.index, NEW_TOKENS, GROUPED, most=100)
    assert len(cited) < len(prompt.index.passages)
    assert sum(citation.share for citation in cited) == pytest.approx(1)
    covered = sorted(t for c in cited for t in range(c.token_start, c.token_stop))
    assert covered == np.flatnonzero(prompt.index.passage >= 0).tolist()
    for citation in cited:
        page = prompt.index.documents[citation.document].pages[citation.page - 1]
        assert page.text[citation.char_start : citation.char_end].strip() == citation.text


def test_trimming_keeps_what_was_answered(model: Any, tokenizer: Any, prompt: Prompt) -> None:
    record = recording_request(prompt.index, 40, layers=range(LAYERS), heads=HEADS)
    steps = answer_steps(
        ReadyModel(model, tokenizer, PROFILE), prompt.ids, GenerationSettings(max_new_tokens=7),
        ReadingSettings(SelfExtend.of(GROUPED)), record=record,
    )  # fmt: skip
    answer = result_of(steps)
    assert answer.attention is not None
    said = len(answer.token_ids)
    kept = evidence.trimmed(answer.attention, said)
    assert {array.shape[2] for array in kept.arrays_of_rows.values()} == {said}
    assert len(kept.query_rows) == said < 40
    assert not np.isnan(kept.sums).any()
    np.testing.assert_allclose(kept.sums.sum(axis=-1), 1, atol=1e-5)
    before = passages_behind(answer.attention, prompt.index, said, GROUPED)
    assert passages_behind(kept, prompt.index, said, GROUPED) == before


def test_an_answer_without_documents_has_no_citations(model: Any, tokenizer: Any) -> None:
    bare = build_prompt(tokenizer, [], "Where is the lamp?")
    answer = answered(model, tokenizer, bare, GROUPED)
    assert answer.attention is not None
    assert passages_behind(answer.attention, bare.index, NEW_TOKENS, GROUPED) == []
    assert evidence.page_shares(answer.attention, bare.index, NEW_TOKENS) == []


@torch.no_grad()
def naive_log_probabilities(model: Any, ids: list[int], answer: list[int], config: SelfExtendConfig) -> np.ndarray:
    everything = [*ids, *answer]
    with self_extend(model, config, trained_window=4 * TRAINED_WINDOW):
        logits = model(torch.tensor([everything]), use_cache=False).logits[0].double()
    scores = torch.log_softmax(logits, -1)
    return np.array([scores[len(ids) - 1 + n, token] for n, token in enumerate(answer)])


@pytest.mark.parametrize("config", [GROUPED, VANILLA], ids=["grouped", "vanilla"])
def test_blanking_out_a_passage(model: Any, tokenizer: Any, prompt: Prompt, config: SelfExtendConfig) -> None:
    prefix = PrefixCache()
    answer = answered(model, tokenizer, prompt, config, prefix=prefix)
    assert answer.attention is not None
    cited = passages_behind(answer.attention, prompt.index, NEW_TOKENS, config, most=100)
    citation = next(c for c in cited if c.document == 1)  # late enough for much to be reused
    token = neutral_token(tokenizer)
    without = blanked(prompt.ids, citation, token)
    changed = [n for n, (old, new) in enumerate(zip(prompt.ids, without, strict=True)) if old != new]
    assert set(changed) <= set(range(citation.token_start, citation.token_stop))
    assert set(without[citation.token_start : citation.token_stop]) == {token}

    held, passed = list(prefix.tokens), []
    hook = model.register_forward_pre_hook(
        lambda _, arguments, named: passed.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    asked = Answered(ReadyModel(model, tokenizer, PROFILE), prompt.ids, answer, prefix=prefix)
    running = Running(passage_test_steps(asked, citation))
    steps = list(running)
    hook.remove()
    done = running.result
    np.testing.assert_allclose(
        done.before, naive_log_probabilities(model, prompt.ids, list(answer.token_ids), config), atol=2e-4
    )
    np.testing.assert_allclose(
        done.after, naive_log_probabilities(model, without, list(answer.token_ids), config), atol=2e-4
    )
    assert done.change == pytest.approx(done.after.sum() - done.before.sum())
    assert done.change != 0
    anew = len(without) - changed[0] + 2 * NEW_TOKENS + 1
    assert sum(passed) <= anew < len(without), "everything before the passage was read already"
    told = [step.fraction for step in steps if "without the passage" in getattr(step, "words", "")]
    assert told == sorted(told)
    assert told[-1] == 1
    assert prefix.tokens == held, "the next question goes on from what was read for the answer"

    again = result_of(
        answer_steps(
            ReadyModel(model, tokenizer, PROFILE), without, GenerationSettings(max_new_tokens=NEW_TOKENS),
            ReadingSettings(method_of(config)),
        )
    )  # fmt: skip
    assert done.answer == again.text
    assert done.old_answer == answer.text


def test_a_test_that_is_closed_lets_go_of_the_model(model: Any, tokenizer: Any, prompt: Prompt) -> None:
    answer = answered(model, tokenizer, prompt, GROUPED)
    assert answer.attention is not None
    citation = passages_behind(answer.attention, prompt.index, NEW_TOKENS, GROUPED)[0]
    asked = Answered(ReadyModel(model, tokenizer, PROFILE), prompt.ids, answer, chunk_tokens=50)
    steps = passage_test_steps(asked, citation)
    first = [next(steps), next(steps)]
    assert all(0 < step.fraction < 1 for step in first)
    steps.close()
    assert answered(model, tokenizer, prompt, GROUPED).token_ids == answer.token_ids


def counted_tokens(model: Any, work: Any) -> tuple[list[Any], int]:
    """Everything that work yields, and the tokens that the model read for it."""
    passed = []
    hook = model.register_forward_pre_hook(
        lambda _, arguments, named: passed.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    steps = list(work)
    hook.remove()
    return steps, sum(passed)


@pytest.mark.parametrize("held", ["all", "nothing", "half"])
def test_passages_tested_in_a_row_are_tested_as_each_alone(
    model: Any, tokenizer: Any, prompt: Prompt, held: str
) -> None:
    prefix = PrefixCache()
    answer = answered(model, tokenizer, prompt, GROUPED, prefix=prefix)
    assert answer.attention is not None
    cited = passages_behind(answer.attention, prompt.index, NEW_TOKENS, GROUPED, most=4)
    ready = ReadyModel(model, tokenizer, PROFILE)
    if held == "nothing":
        prefix.clear()
    elif held == "half":
        prefix = PrefixCache()
        answered(model, tokenizer, prompt, GROUPED, prefix=prefix)
        prefix.tokens = [*prompt.ids[:60], -1, *prefix.tokens[61:]]  # as if another text had followed
    before = list(prefix.tokens)
    asked = Answered(ready, prompt.ids, answer, prefix=prefix, chunk_tokens=40)
    steps, read = counted_tokens(model, passage_tests_steps(asked, cited))
    tests = [step for step in steps if isinstance(step, PassageTest)]
    assert [test.citation for test in tests] == cited, "one after another, in the order given"
    for test in tests:
        alone = result_of(passage_test_steps(Answered(ready, prompt.ids, answer, chunk_tokens=40), test.citation))
        np.testing.assert_allclose(test.after, alone.after, atol=2e-4)
        assert test.answer == alone.answer
    assert prefix.tokens == before, "the next question goes on from what was read for the answer"

    last = max(citation.token_start for citation in cited)
    shared = {"all": last, "nothing": 0, "half": 60}[held]
    own = sum(len(prompt) - citation.token_start + 2 * NEW_TOKENS + 1 for citation in cited)
    assert read <= max(0, last - shared) + own, "what comes before the passages is read once"

    told = [step for step in steps if isinstance(step, UnderTest)]
    fractions = [step.fraction for step in told]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1
    assert fractions[-1] > 0.9
    assert any(step.seconds_left for step in told)
    assert {step.words[:6] for step in told if step.citation is cited[1] and "passages:" not in step.words} == {
        "2 of 4"
    }


def test_asking_again_keeps_to_the_answers_own_settings(model: Any, tokenizer: Any, prompt: Prompt) -> None:
    settings = GenerationSettings(max_new_tokens=8, temperature=1.5, seed=3)
    ready = ReadyModel(model, tokenizer, PROFILE)
    whole = recording_request(prompt.index, 8, layers=range(LAYERS), heads=HEADS)
    answer = result_of(answer_steps(ready, prompt.ids, settings, ReadingSettings(SelfExtend.of(GROUPED)), record=whole))
    assert answer.attention is not None
    citation = passages_behind(answer.attention, prompt.index, 8, GROUPED)[0]
    nothing = replace(citation, token_stop=citation.token_start)
    done = result_of(passage_test_steps(Answered(ready, prompt.ids, answer, settings), nothing))
    assert done.same_answer, "a sampled answer comes again where nothing was taken away"
    assert done.change == pytest.approx(0, abs=1e-3)
    greedy = result_of(passage_test_steps(Answered(ready, prompt.ids, answer), nothing))
    assert not greedy.same_answer


def made_test(rank: int, change: float, answer: str = "old") -> PassageTest:
    citation = Citation(
        rank, 0, "a.txt", rank, "page", "text", 1 / rank, "neighbor", 1, 0, 0, 4, 0, 4
    )  # fmt: skip
    return PassageTest(citation, np.zeros(2), np.array([change, 0.0]), "old", answer, " .")


def test_passages_are_ranked_by_what_the_answer_loses() -> None:
    tests = [made_test(1, 2.0), made_test(2, -0.1), made_test(3, -9.0), made_test(4, -0.5), made_test(5, -2.0)]
    assert [test.citation.rank for test in by_effect(tests)] == [3, 5, 2, 4, 1]
    assert [test.matters for test in tests] == [False, False, True, False, True]
    assert made_test(1, 0, "old\n").same_answer
    assert not made_test(1, 0, "new").same_answer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (0, "100%"), (-0.5, "61%"), (-2.2, "11%"), (-math.log(3417), "1/3,400"), (-math.log(11.4), "1/11"),
        (-math.log(2.1e6), "1/2.1 million"), (-math.log(5e9), "1/5 billion"), (-40, "less than a trillionth"),
        (-1e4, "less than a trillionth"), (0.05, "105%"), (0.7, "2 times"), (math.log(1234), "1,200 times"),
        (1e4, "over a million times"),
    ],
)  # fmt: skip
def test_likelihood_is_said_in_words(change: float, words: str) -> None:
    assert likelihood_words(change) == words


def test_a_tokenizer_without_a_neutral_token_is_refused() -> None:
    class Odd:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [1, 2]

    with pytest.raises(ValueError, match="as a single token"):
        neutral_token(Odd())  # type: ignore[arg-type]


def turn_of(prompt: Prompt, answer: Answer) -> Turn:
    return Turn(1, prompt, answer, GROUPED, "always", PROFILE, "tiny", (), PrefixCache(), ())


@pytest.mark.parametrize(
    ("change", "answer", "words"),
    [
        (-8, "new", "It matters: without this passage the old answer is 1/3,000 as likely."),
        (
            -3,
            "old",
            "It matters: without this passage the old answer is 1/20 as likely, though the model still gives it.",
        ),
        (-0.5, "old", "It does not matter: without this passage the old answer is 61% as likely."),
        (0, "old", "It does not matter: without this passage the old answer is as likely as before."),
        (-0.5, "new", "A close call: the answer changes, though without this passage the old answer is 61% as likely."),
        (2, "old", "It was in the way: without this passage the old answer is 7.4 times as likely."),
    ],
)
def test_a_result_is_said_in_a_sentence(change: float, answer: str, words: str) -> None:
    html = result_html(made_test(1, change, answer))
    assert re.sub("<[^>]+>", "", html.split("</p>")[0]).startswith(words)
    assert f"{change:+.2f}" in html
    assert ("With it and without it" in html) == (answer == "old")


def test_the_words_that_differ_are_marked_and_nothing_is_markup() -> None:
    test = replace(made_test(1, -3), old_answer="The <b>code</b> is 417 today.", answer="The <b>code</b> is 235 today.")
    html = result_html(test)
    assert "<p>The &lt;b&gt;code&lt;/b&gt; is <del>417</del> today.</p>" in html
    assert "<p>The &lt;b&gt;code&lt;/b&gt; is <ins>235</ins> today.</p>" in html


@pytest.mark.parametrize(
    ("changes", "order", "words"),
    [
        ((-9, -2, 0), "123", "They agree: the answer looked most at passage 1 (page 1) and depends most on it, and"),
        ((-9, 0, 0), "123", "They agree: the answer looked most at passage 1 (page 1) and depends most on it; without"),
        ((-9, 0, -2), "132", "They agree: the answer looked most at passage 1 (page 1) and depends most on it."),
        (
            (-2, 0, -9),
            "312",
            "They disagree: the answer looked most at passage 1 (page 1), but depends most on passage 3",
        ),
        ((0, -0.5, 0.5), "123", "Attention is not proof here: without any one of these passages"),
    ],
)
def test_attention_and_effect_are_compared_in_a_sentence(
    model: Any, tokenizer: Any, prompt: Prompt, changes: tuple[float, ...], order: str, words: str
) -> None:
    turn = turn_of(prompt, answered(model, tokenizer, prompt, GROUPED))
    tests = [made_test(rank, change) for rank, change in enumerate(changes, start=1)]
    assert rankings_html(tests[:1], turn) == "", "one passage makes no ranking"
    html = rankings_html(tests, turn)
    assert re.sub("<[^>]+>", "", html).startswith(words)
    assert "".join(re.findall(r"passage-rank'>(\d)", html)) == "123" + order
    assert html.count("class='matters'") == sum(change < -1 for change in changes)


def naive(weights: np.ndarray, pooled: str) -> np.ndarray:
    """(layers, heads, rows, keys of a stretch) -> (rows,), as the words under the picture say it."""
    if pooled == "max":
        return weights.max((0, 1, 3))
    shares = weights.sum(-1)
    return np.sqrt((shares**2).mean((0, 1))) if pooled == "cited" else shares.mean((0, 1))


@pytest.mark.parametrize("pooled", ["cited", "max", "sum"])
@pytest.mark.parametrize(("layer", "head"), [("all", "all"), ("1", "all"), ("all", "2"), ("0", "3")])
def test_the_attention_map_pools_the_full_attention(
    model: Any, tokenizer: Any, prompt: Prompt, layer: str, head: str, pooled: str
) -> None:
    answer = answered(model, tokenizer, prompt, GROUPED)
    attention = full_attention(model, [*prompt.ids, *answer.token_ids], GROUPED)
    rows = range(len(prompt) - 1, len(prompt) - 1 + len(answer.token_ids))
    of_layers = attention[[int(layer)] if layer != "all" else slice(None)]
    weights = of_layers[:, [int(head)] if head != "all" else slice(None)][:, :, rows]
    turn = turn_of(prompt, answer)
    for sink in (True, False):
        looked = Looked(layer, head, pooled, sink)
        shown, picture = view_of(turn, looked), picture_of(turn, looked)
        for column, (start, stop) in enumerate(pairwise(shown.edges.tolist())):
            expected = naive(weights[..., start:stop], pooled)
            if not sink and prompt.index.passage[start] < 0:
                expected = 0 * expected
            np.testing.assert_allclose(shown.shares[:, column], expected, atol=1e-5)
        inside = np.flatnonzero(prompt.index.passage >= 0)
        everything = (0, len(prompt) + len(answer.token_ids))
        assert (shown.edges[0], shown.edges[-1]) == (everything if sink else (inside[0], inside[-1] + 1))

        starts, stops = picture.columns.starts.tolist(), picture.columns.stops.tolist()
        for column, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            np.testing.assert_allclose(picture.shares[:, column], naive(weights[..., start:stop], pooled), atol=1e-5)
            assert ((start <= picture.keys[:, column]) & (picture.keys[:, column] < stop)).all()
        if not sink:
            # The hardest look of each row goes to the token that the selection names.
            by_key = np.square(weights).sum((0, 1))
            for row, column in enumerate(picture.shares.argmax(axis=1)):
                inside_it = by_key[row, starts[column] : stops[column]]
                assert picture.keys[row, column] == starts[column] + inside_it.argmax()
        covered = [token for start, stop in zip(starts, stops, strict=True) for token in range(start, stop)]
        assert covered == (list(range(everything[1])) if sink else inside.tolist())


def pages(picture: Any) -> list[tuple[str, int, bool]]:
    return [(group.label, group.stop - group.first, group.folded) for group in picture.columns.groups]


def test_pages_that_do_not_matter_are_folded_to_what_is_strongest_there(
    model: Any, tokenizer: Any, prompt: Prompt
) -> None:
    turn = turn_of(prompt, answered(model, tokenizer, prompt, GROUPED))
    assert pages(picture_of(turn)) == [("1:1", 3, False), ("1:2", 3, False), ("2:1", 2, False)]
    folded = picture_of(turn, kept={(0, 2)})
    assert pages(folded) == [("1:1", 1, True), ("1:2", 3, False), ("2:1", 1, True)]
    whole = picture_of(turn, kept={(1, 1)})
    assert pages(whole) == [("1:1–1:2", 1, True), ("2:1", 2, False)]
    for pooled in ("cited", "max", "sum"):
        loose = picture_of(turn, Looked(pooled=pooled))
        tight = picture_of(turn, Looked(pooled=pooled), {(1, 1)})
        np.testing.assert_array_equal(tight.shares[:, 1:], loose.shares[:, 6:])
        np.testing.assert_array_equal(tight.shares[:, 0], loose.shares[:, :6].max(axis=1))
        strongest = loose.keys[np.arange(len(loose.shares)), loose.shares[:, :6].argmax(axis=1)]
        np.testing.assert_array_equal(tight.keys[:, 0], strongest)
    # With what belongs to no page, and zoomed in.
    named = [label for label, _, _ in pages(picture_of(turn, Looked(sink=True), {(0, 1)}))]
    assert named == ["start", "1:1", "1:2–2:1", "question", "answer"]
    start = turn.prompt.index.page_tokens(0, 2)[0]
    assert pages(picture_of(turn, kept={(0, 2)}, span=(start + 1, start + 2))) == [("1:2", 1, False)]
    # A view within folded pages shows them apart.
    assert pages(picture_of(turn, kept={(1, 1)}, span=(0, start))) == [("1:1", 3, False)]


def test_the_attention_map_puts_columns_together(
    model: Any, tokenizer: Any, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = turn_of(prompt, answered(model, tokenizer, prompt, GROUPED))
    fine = {pooled: view_of(turn, Looked(pooled=pooled, sink=True)) for pooled in ("sum", "max")}
    monkeypatch.setattr("app.pooling.COLUMNS", 4)
    monkeypatch.setattr("app.columns.SHOWN", 4)
    for pooled, whole in fine.items():
        coarse = view_of(turn, Looked(pooled=pooled, sink=True))
        assert coarse.shares.shape[1] == 4
        assert set(coarse.edges) <= set(whole.edges)
        np.testing.assert_allclose(
            coarse.shares.sum(1) if pooled == "sum" else coarse.shares.max(1),
            whole.shares.sum(1) if pooled == "sum" else whole.shares.max(1),
        )
    # In the picture, passages are put together on their own page only.
    assert pages(picture_of(turn)) == [("1:1", 2, False), ("1:2", 2, False), ("2:1", 1, False)]
    with pytest.raises(ValueError, match="no recorded layer 7"):
        view_of(turn, Looked("7"))
    with pytest.raises(ValueError, match="one of cited, max, sum"):
        view_of(turn, Looked(pooled="most"))
