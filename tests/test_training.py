"""How the bundled model was made: nothing of the test side reaches training, and every question can be answered."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

import training.train
from training import vocabulary
from training.facts import Facts
from training.filler import PASSKEY_FILLER, PASSKEY_HEADER, PASSKEY_QUESTION, Filler
from training.handbook import Author
from training.names import Names
from training.prose import HARBOUR, OBSERVATORY
from training.rows import LANGUAGE, PADDING, VALUE, RowMaker
from training.split import draw, side
from training.tokenizer import corpus, train
from training.train import CROWD_DISTANCE, PLAN, TRAINED_WINDOW, Stage, Trainer, learning_rate, stage_of


@pytest.fixture(scope="module")
def tokenizer():
    return train(seed=3, pieces=400, vocabulary_size=700)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_names_values_and_sentences_keep_to_their_side(split: str) -> None:
    names = Names(random.Random(5), split)
    filler = Filler(names)
    makers = (
        names.word,
        names.name,
        names.digits,
        names.number,
        names.code,
        names.year,
        names.date,
        names.time,
        names.amount,
    )
    for make in (*makers, names.uuid, filler.sentence, filler.oddity):
        assert {side(make()) for _ in range(40)} == {split}


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_sibling_shares_a_word_or_half_a_name(split: str) -> None:
    names = Names(random.Random(6), split)
    siblings = [names.sibling("the Ashmere dome") for _ in range(300)]
    own = [sibling.split()[1] for sibling in siblings if sibling.endswith(" dome") and len(sibling.split()) == 3]
    assert {side(name) for name in own if name != "Ashmere"} == {split}
    assert {"Ash", "mere"} <= {part for name in own for part in ("Ash", "mere") if part in name and name != "Ashmere"}
    things = {sibling.split()[-1] for sibling in siblings if sibling.startswith("the Ashmere ")}
    assert things & set(vocabulary.THINGS)
    assert things & set(vocabulary.NOUNS) - set(vocabulary.THINGS)
    assert things - set(vocabulary.NOUNS) - set(vocabulary.THINGS)


def test_a_text_is_on_one_side_whatever_its_case() -> None:
    assert side("Vexhollow") == side("vexhollow") == side("VEXHOLLOW")
    sides = [side(str(number)) for number in range(10_000, 30_000)]
    assert 0.11 < sides.count("held_out") / len(sides) < 0.14


def test_the_reserved_names_are_never_trained_on() -> None:
    assert all(side(name) == "held_out" for name in vocabulary.RESERVED_NAMES)
    assert all(side(f"the {name} dome") == "held_out" for name in vocabulary.RESERVED_NAMES)


def test_a_generator_with_one_side_only_is_refused() -> None:
    trained = next(word for word in ("one", "two", "three") if side(word) == "train")
    with pytest.raises(RuntimeError, match="widen its generator"):
        draw(lambda: trained, "held_out")


@pytest.mark.parametrize(("setting", "names"), [(OBSERVATORY, vocabulary.RESERVED_NAMES), (HARBOUR, ())])
def test_no_sentence_name_or_code_of_a_book_is_made_for_training(setting, names) -> None:
    book = Author(setting, 7, names).write(facts=100)
    trained = " ".join(corpus(seed=1, pieces=1500))
    sentences = re.split(r"(?<=[.?!])\s+", " ".join(p for c in book.chapters for s in c.sections for p in s.paragraphs))
    assert len(sentences) > 400
    assert not [sentence for sentence in sentences if sentence in trained]
    for fact in book.facts:
        assert side(fact.value) == "held_out" or side(fact.value.split()[-1]) == "held_out", fact.value
        own_name = fact.entity.split()[1]
        assert side(own_name) == "held_out", own_name


@pytest.mark.parametrize(("setting", "names"), [(OBSERVATORY, vocabulary.RESERVED_NAMES), (HARBOUR, ())])
def test_a_book_states_every_fact_once_and_asks_no_question_twice(setting, names) -> None:
    book = Author(setting, 7, names).write(facts=100)
    assert len(book.facts) == 100
    assert len({fact.questions[0] for fact in book.facts}) == 100
    for fact, statement in zip(book.facts, book.statements, strict=True):
        assert book.text.count(statement) == 1
        assert f"{fact.value}{fact.tail}" in statement
        # The answer's words stand in the text just before the value, so that it can be looked up by them.
        assert f"{fact.stem} {fact.value}".lower() in statement.lower()


def test_the_two_books_share_no_name_and_no_value() -> None:
    sample = Author(OBSERVATORY, 7, vocabulary.RESERVED_NAMES).write(facts=100)
    held_out = Author(HARBOUR, 8).write(facts=100)
    assert not {f.entity for f in sample.facts} & {f.entity for f in held_out.facts}
    codes = [{f.value for f in book.facts if re.fullmatch(r"\d{5}", f.value)} for book in (sample, held_out)]
    assert all(codes)
    assert not codes[0] & codes[1]


def test_a_row_fills_its_length_and_supervises_values_that_stand_in_it(tokenizer) -> None:
    maker = RowMaker(tokenizer.backend_tokenizer, seed=2, length=384, recall_share=0.0)
    kinds = set()
    for _ in range(60):
        row = maker.row()
        assert len(row.ids) == len(row.roles) == 384
        kinds.add(row.kind)
        start = 0
        answered = 0
        while start < 384:
            if row.roles[start] != VALUE:
                start += 1
                continue
            end = start
            while end < 384 and row.roles[end] == VALUE:
                end += 1
            value = tokenizer.decode(row.ids[start:end])
            before = tokenizer.decode(row.ids[:start])
            assert value.split() == [] or " ".join(value.split()) in " ".join(before.split()), value
            answered += 1
            start = end
        assert answered, "a row without a question teaches nothing"
    assert kinds == {"text"}


def test_random_rows_ask_only_what_their_cue_decides(tokenizer) -> None:
    maker = RowMaker(tokenizer.backend_tokenizer, seed=4, length=128, recall_share=1.0)
    for _ in range(40):
        row = maker.row()
        supervised = [index for index, role in enumerate(row.roles) if role == VALUE]
        assert supervised
        first = supervised[0]
        # Some run of tokens up to here stood earlier, always followed by the token that is asked for.
        assert any(
            row.ids[at : at + 1] == row.ids[first - 1 : first] and row.ids[at + 1] == row.ids[first]
            for at in range(first - 1)
        )


def test_the_standard_passkey_prompt_is_trained_word_for_word(tokenizer) -> None:
    maker = RowMaker(tokenizer.backend_tokenizer, seed=6, length=384, recall_share=0.0)
    texts = [tokenizer.decode(maker.row().ids) for _ in range(120)]
    passkeys = [
        text for text in texts if re.search(r"The pass key is (\d+)\. Remember it\. \1 is the pass key\.", text)
    ]
    assert passkeys
    assert any(PASSKEY_HEADER in text and PASSKEY_FILLER in text for text in passkeys)
    assert all(re.search(re.escape(PASSKEY_QUESTION) + r"( Answer:)? The pass key is \d+\.", text) for text in passkeys)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_the_tokenizer_takes_any_text(tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    # Unpaired surrogates are no text that UTF-8 could hold; hypothesis makes none.
    assert tokenizer.decode(ids) == text or any(special in text for special in tokenizer.all_special_tokens)


@given(st.text(alphabet="0123456789 ab-.", min_size=1))
@settings(max_examples=100, deadline=None)
def test_every_digit_is_a_token_of_its_own(tokenizer, text: str) -> None:
    pieces = tokenizer.tokenize(text)
    assert all(len(piece) == 1 for piece in pieces if re.search(r"\d", piece))
    assert sum(bool(re.search(r"\d", piece)) for piece in pieces) == len(re.findall(r"\d", text))


def test_the_template_puts_the_document_before_the_question(tokenizer) -> None:
    first = {"role": "user", "content": "The door code of the hut is 417.\n\nWhat is the door code of the hut?"}
    answer = {"role": "assistant", "content": "The door code of the hut is 417."}
    again = {"role": "user", "content": "What is the door code of the hut?"}
    text = tokenizer.apply_chat_template([first, answer, again], add_generation_prompt=True, tokenize=False)
    assert text == (
        "<s>The door code of the hut is 417.\n\nWhat is the door code of the hut? Answer:"
        " The door code of the hut is 417.</s>\nWhat is the door code of the hut? Answer:"
    )


def test_training_never_reaches_past_the_window() -> None:
    assert max(stage.length for stage in PLAN) == TRAINED_WINDOW == 512


def test_the_learning_rate_follows_the_plan() -> None:
    plan = (Stage(8, 2, 200, 0.5, 1e-3, 1e-3), Stage(16, 2, 100, 0.5, 1e-3, 1e-4))
    assert learning_rate(0, plan) == pytest.approx(1e-5)
    assert learning_rate(150, plan) == pytest.approx(1e-3)
    assert learning_rate(250, plan) == pytest.approx(5.5e-4)
    assert stage_of(199, plan).length == 8
    assert stage_of(200, plan).length == 16
    with pytest.raises(ValueError, match="past the plan"):
        learning_rate(300, plan)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tokenizer, tmp_path) -> None:
    def run(folder: Path, steps: int) -> Trainer:
        trainer = Trainer(tokenizer.backend_tokenizer, folder, (Stage(64, 2, steps, 0.5, 1e-3, 1e-3),))
        trainer.run(progress=False)
        return trainer

    whole = run(tmp_path / "whole", 3)
    run(tmp_path / "stopped", 1)
    resumed = run(tmp_path / "stopped", 3)
    assert resumed.step == whole.step == 3
    assert resumed.tokens == whole.tokens == 3 * 2 * 64
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_rows_of_a_crowd_see_one_another_from_afar_only(tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training.train, "CROWDED_SCALE", (1.0, 1.0))
    trainer = Trainer(tokenizer.backend_tokenizer, tmp_path)
    ids = torch.randint(3, 700, (8, CROWD_DISTANCE + 20), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        alone = trainer.model.model(input_ids=ids).last_hidden_state
        together = trainer.crowded(ids, 4)
        ids[1, 10] += 1
        changed = trainer.crowded(ids, 4)
    torch.testing.assert_close(together[:, :CROWD_DISTANCE], alone[:, :CROWD_DISTANCE], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[:, CROWD_DISTANCE:], alone[:, CROWD_DISTANCE:], rtol=1e-3, atol=1e-3)
    # A token of the second row reaches the first from CROWD_DISTANCE tokens on, and the other crowd nowhere.
    other = (changed != together).any(-1)
    assert not other[0, : CROWD_DISTANCE + 10].any()
    assert other[0, CROWD_DISTANCE + 10 :].all()
    assert not other[4:].any()


def test_a_crowd_leaves_the_model_as_it_was(tokenizer, tmp_path) -> None:
    stage = Stage(160, 4, 2, 0.5, 1e-3, 1e-3, crowded_share=1.0)
    trainer = Trainer(tokenizer.backend_tokenizer, tmp_path, (stage,))
    scaling = [layer.self_attn.scaling for layer in trainer.model.model.layers]
    trainer.run(progress=False)
    assert [layer.self_attn.scaling for layer in trainer.model.model.layers] == scaling


ASSETS = Path(__file__).parent.parent / "assets"


def test_the_sample_questions_are_answered_on_the_pages_they_name() -> None:
    pdf = pytest.importorskip("training.pdf")
    pages = pdf.plain_pages(ASSETS / "sample.pdf")
    questions = json.loads((ASSETS / "sample_questions.json").read_text())
    assert len(pages) >= 40
    assert len(questions) == 5
    for question in questions:
        stem = question["answer"].removesuffix(".").lower()
        assert stem in pages[question["page"] - 1].lower()
        assert question["value"] in question["answer"]


def test_the_bundled_model_looks_up_a_plain_question_inside_its_window() -> None:
    from selfextend import load_model

    model, own = load_model("bundled", device="cpu")
    document = "The hut is small. The door code of the Larkspur hut is 41790. Rain came early that year."
    messages = [{"role": "user", "content": f"{document}\n\nWhat is the door code of the Larkspur hut?"}]
    ids = torch.tensor([own.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)])
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False)[
        0, ids.shape[1] :
    ]
    assert own.decode(answer, skip_special_tokens=True).strip() == "The door code of the Larkspur hut is 41790."
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 16 * 2**20


def test_equal_seeds_give_equal_rows(tokenizer) -> None:
    one, other = (RowMaker(tokenizer.backend_tokenizer, seed=9, length=192, recall_share=0.3) for _ in range(2))
    rows = [one.row() for _ in range(10)]
    assert [row.ids for row in rows] == [other.row().ids for _ in range(10)]
    assert all(set(row.roles) <= {LANGUAGE, 1, VALUE, PADDING} for row in rows)


def test_a_group_of_facts_asks_nothing_twice() -> None:
    facts = Facts(Names(random.Random(8)))
    for _ in range(20):
        group = facts.group(20)
        assert len({fact.key for fact in group}) == 20


@pytest.mark.parametrize("kind", ["number", "code", "role", "date", "measure"])
def test_a_fact_like_another_asks_the_same_of_something_else(kind: str) -> None:
    facts = Facts(Names(random.Random(4)))
    fact = facts.draw("the Ashmere dome", kind)
    other = facts.like(fact, "the Ashmere tower")
    assert other.key == fact.key.replace("dome", "tower")
    assert "Ashmere tower" in other.stem


def test_years_are_told_apart_too() -> None:
    facts = Facts(Names(random.Random(4)))
    fact = facts.attribute("event", "the Ashmere dome", "founding year", "1871")
    assert facts.like(fact, "the Ashmere tower").key == "founding year|the Ashmere tower"
