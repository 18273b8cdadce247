"""The probes' prompts, word for word where a protocol is named, and what is refused."""

from __future__ import annotations

import json
import random
import re
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab_models import tokenizer

from selfextend.lab.errors import LabError, TestSetError
from selfextend.lab.grid import GridPlan
from selfextend.lab.probes.cases import Case, case_seed
from selfextend.lab.probes.haystack import Filler, check_depth, encode, even_depths, own_text, sentences_of
from selfextend.lab.probes.key_values import KeyValues
from selfextend.lab.probes.needle import VARIANTS, Needle, OwnNeedle
from selfextend.lab.probes.passkey import Passkey, case_of_row, read_test_set
from selfextend.methods import Vanilla

LINE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


def text_of(case: Case) -> str:
    return tokenizer().decode(case.tokens)


@settings(max_examples=25)
@given(st.integers(300, 3000), st.floats(0, 1), st.integers(0, 10**6))
def test_passkey_prompts_are_the_protocols_and_as_long_as_wanted(length: int, depth: float, seed: int) -> None:
    case = Passkey().case(tokenizer(), length, depth, random.Random(seed))
    (key,) = case.expected
    lines = text_of(case).split("\n")
    assert lines[0] == (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
        "I will quiz you about the important information there."
    )
    assert lines[-1] == "What is the pass key? The pass key is "
    at = lines.index(f"The pass key is {key}. Remember it. {key} is the pass key.")
    filler = [*lines[1:at], *lines[at + 1 : -1]]
    assert set(filler) <= {LINE}
    assert at - 1 == round(depth * len(filler))
    assert len(key) == case.max_new_tokens == 5
    # As many lines as fit, and no more.
    assert len(case.tokens) + 5 <= length
    assert len(case.tokens) + 5 + len(encode(tokenizer(), "\n" + LINE)) > length


def test_cases_depend_on_their_seed_alone() -> None:
    def keys(seed: int) -> list[tuple[str, ...]]:
        return [
            Passkey().case(tokenizer(), 400, 0.5, case_seed(seed, "passkey", 400, 0.5, trial)).expected
            for trial in range(4)
        ]

    assert keys(0) == keys(0)
    assert keys(0) != keys(1)
    assert len(set(keys(0))) == 4


def test_a_passkey_is_scored_by_its_own_characters() -> None:
    case = Case((1,), ("48213",), 5, "begins")
    assert [case.score(answer) for answer in ("48213", " 48213.", "48212", "4821", "key 48213", "")] == [
        1,
        1,
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("depth", [0.0, 0.37, 1.0])
def test_everything_a_needle_asks_for_stands_in_the_text(variant: str, depth: float) -> None:
    case = Needle(variant).case(tokenizer(), 2500, depth, random.Random(3))
    assert len(case.tokens) + case.max_new_tokens <= 2500
    text = text_of(case)
    _, _, body = text.partition("\n")
    body, _, question = body.rpartition("\n")
    planted = re.findall(r"The access code of [A-Z][a-z]+ \w+ is \d{5}\.|Variable \w\d\d holds [^.]*\.", body)
    assert len(planted) == (1 if variant == "single" else 4)
    expected = set(case.expected)
    assert len(expected) == {"single": 1, "multi-key": 1}.get(variant, 4)
    if variant == "tracking":
        assert expected == {sentence.split()[1] for sentence in planted}
        (value,) = re.findall(r"\d{5}", body)
        assert value in question
    else:
        asked = [sentence for sentence in planted if re.search(r"of (\w+ \w+) is", sentence)[1] in question]
        assert expected == {re.search(r"\d{5}", sentence)[0] for sentence in asked}
    assert case.score(" ".join(case.expected)) == 1
    assert case.score("nothing of the kind") == 0
    if len(expected) > 1:
        assert case.score(case.expected[0]) == pytest.approx(1 / len(expected))


def test_needles_stand_after_a_full_stop_and_before_a_new_sentence() -> None:
    for depth in (0.2, 0.5, 0.9):
        case = Needle("single").case(tokenizer(), 1500, depth, random.Random(1))
        before, after = re.split(r"The access code of \w+ \w+ is \d{5}\.", text_of(case).split("\n")[1])
        assert before.endswith(". ")
        assert re.match(r" [A-Z]", after)


def test_the_first_needle_lies_at_its_depth() -> None:
    found = []
    for depth in (0.0, 0.25, 0.5, 0.75, 1.0):
        body = text_of(Needle("single").case(tokenizer(), 2500, depth, random.Random(1))).split("\n")[1]
        found.append(body.index("The access code of") / (len(body) - 45))
    assert found == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0], abs=0.05)


def test_key_values_are_json_and_hold_the_pair_asked_for() -> None:
    for depth in (0.0, 0.5, 1.0):
        case = KeyValues().case(tokenizer(), 3000, depth, random.Random(5))
        assert len(case.tokens) + case.max_new_tokens <= 3000
        _, data, question = re.fullmatch(r"(.*?)\n(\{.*\})\n(.*)", text_of(case), re.DOTALL).groups()
        pairs = json.loads(data)
        key = re.search(r'Key: "(.*)"\nValue: "', question)[1]
        assert (pairs[key],) == case.expected
        assert len(pairs) > 5
        assert list(pairs).index(key) == pytest.approx(depth * (len(pairs) - 1), abs=1)


def test_a_needle_of_ones_own_in_a_document_of_ones_own() -> None:
    document = "First comes this. Then comes that! Does anything follow? It ends here. Or there. Or not at all. " * 20
    probe = OwnNeedle("The cake is in the shed.", "Where is the cake?", "the shed", own_text(document, "mine.txt"))
    case = probe.case(tokenizer(), 600, 0.5, random.Random(0))
    text = text_of(case)
    assert text.count("The cake is in the shed.") == 1
    assert re.search(r"[.!?] The cake is in the shed\. [A-Z]", text)
    assert text.endswith("\nWhere is the cake?")
    assert (case.score("In THE SHED, I think"), case.score("in the house")) == (1, 0)


def test_sentences_keep_their_ends() -> None:
    assert sentences_of('One. "Two!" Three?  Four\n') == ["One.", '"Two!"', "Three?", "Four"]
    with pytest.raises(LabError, match="empty"):
        sentences_of(" \n ")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(LabError, match="by itself"):
        Passkey().case(tokenizer(), 120, 0.5, random.Random(0))
    with pytest.raises(LabError, match="smaller length or a longer text"):
        Needle("single", filler=own_text("Too short. " * 9, "short.txt")).case(tokenizer(), 900, 0.5, random.Random(0))
    with pytest.raises(LabError, match="longer than the text"):
        OwnNeedle("A sentence that is quite long.", "What?", "long", own_text("Tiny.", "tiny.txt"))
    with pytest.raises(LabError, match="is empty"):
        OwnNeedle("A sentence.", " ", "long")
    with pytest.raises(LabError, match="variant"):
        Needle("several")
    with pytest.raises(LabError, match="at most"):
        Needle("multi-key", 1000)


@pytest.mark.parametrize("depth", [-0.1, 1.1, float("nan"), "0.5", True])
def test_depths_outside_the_text_are_refused(depth: object) -> None:
    with pytest.raises(LabError, match=r"0 … 1"):
        check_depth(depth)  # type: ignore[arg-type]


def test_depths_are_spread_evenly() -> None:
    assert even_depths(11) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert even_depths(1) == [0.5]
    with pytest.raises(LabError, match="at least 1"):
        even_depths(0)


def test_a_plan_refuses_what_measures_nothing() -> None:
    vanilla = (Vanilla(),)
    fixed = OwnNeedle("A.", "What?", "a", Filler(("One.", "Two."), False, " ", "mine"))
    for arguments, words in (
        ((Passkey(), vanilla, (512,), (0.5,), 0), "trials"),
        ((Passkey(), (), (512,), (0.5,), 1), "at least one method"),
        ((Passkey(), vanilla, (1,), (0.5,), 1), "length"),
        ((Passkey(), vanilla, (512,), (1.5,), 1), "0 … 1"),
        ((fixed, vanilla, (512,), (0.5,), 3), "one trial says it all"),
    ):
        with pytest.raises(LabError, match=words):
            GridPlan(*arguments)


def test_longlms_test_sets_are_read(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"input": "Text. ", "target": "12345", "passkey_position": 7}\n\n{"input": "x", "target": 9}\n')
    rows = read_test_set(path)
    assert [row["target"] for row in rows] == ["12345", "9"]
    case = case_of_row(tokenizer(), rows[0])
    assert text_of(case) == "Text. What is the pass key? The pass key is "
    assert (case.expected, case.max_new_tokens) == (("12345",), 5)
    own = "Text. What is the pass key? The pass key is"
    assert text_of(case_of_row(tokenizer(), {"input": own, "target": "1"})) == own


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no rows"),
        (b"nonsense\n", "line 1, is not JSON"),
        (b'{"input": "x"}\n', "no `input` and `target`"),
        (b"[1]\n", "no `input` and `target`"),
        (b'{"input": "x", "target": ""}\n', "empty target"),
        (b'{"input": "x", "target": "1", "passkey_position": "far"}\n', "passkey_position"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(content)
    with pytest.raises(TestSetError, match=words):
        read_test_set(path)
    with pytest.raises(TestSetError, match="cannot be read"):
        read_test_set(tmp_path / "missing.jsonl")


def test_passkeys_are_numbers_that_the_bundled_model_never_trained_on() -> None:
    keys = {Passkey().case(tokenizer(), 300, 0.5, random.Random(seed)).expected[0] for seed in range(30)}
    assert len(keys) > 20
    assert all(zlib.crc32(key.encode()) % 8 == 0 and len(key) == 5 for key in keys)
    assert len(Passkey(digits=1).case(tokenizer(), 300, 0.5, random.Random(0)).expected[0]) == 1
