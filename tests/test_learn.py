"""The lesson's numbers against a double loop, and its sentences against its numbers."""

import base64
import json
import re
import zlib

import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from app.lesson import EXAMPLES, MAX_TOKENS, Example, lesson
from app.tabs.learn import pack


@st.composite
def examples(draw: st.DrawFn) -> Example:
    trained_window = draw(st.integers(2, 40))
    return Example(
        trained_window=trained_window,
        length=draw(st.integers(8, MAX_TOKENS)),
        group_size=draw(st.integers(1, 8)),
        neighbor_window=draw(st.integers(1, trained_window - 1)),
    )


def positions(contents: dict, name: str) -> list[list[int]]:
    return [[position for position, _ in row] for row in contents["maps"][name]]


@settings(max_examples=15)
@given(examples())
def test_every_map_is_what_its_step_says(example: Example) -> None:
    contents = lesson(example)
    group, window = example.group_size, example.neighbor_window
    rows = range(len(contents["words"]))
    assert positions(contents, "vanilla") == [[i - j for j in range(i + 1)] for i in rows]
    assert positions(contents, "grouped") == [[i // group - j // group for j in range(i + 1)] for i in rows]
    assert positions(contents, "unjoined") == [
        [i - j if i - j < window else i // group - j // group for j in range(i + 1)] for i in rows
    ]
    assert positions(contents, "selfextend") == [
        [reference.relative_position(i, j, group, window) for j in range(i + 1)] for i in rows
    ]
    assert contents["groups"] == [n // group for n in rows]
    assert contents["numbers"]["reach"] == reference.reach(example.trained_window, group, window)


@settings(max_examples=5)
@given(examples())
def test_every_sum_comes_to_its_position(example: Example) -> None:
    contents = lesson(example)
    for rows in contents["maps"].values():
        for row in rows:
            for position, words in row:
                sum_alone = words.removeprefix("neighbor: ").removeprefix("grouped: ").split(" (")[0]
                assert re.fullmatch(r"[\d+\-/= ]+", sum_alone)
                for side in sum_alone.split(" = "):
                    assert eval(side) == position  # noqa: S307 (digits and signs only, see above)


@settings(max_examples=25)
@given(examples())
def test_last_step_shows_where_the_reach_ends(example: Example) -> None:
    contents = lesson(example)
    reach, trained = contents["numbers"]["reach"], example.trained_window
    unseen = [max(row) >= trained for row in positions(contents, "selfextend")]
    shown = contents["steps"][5]["rows"]
    assert unseen[:shown] == [query >= reach for query in range(shown)]
    assert shown == max(example.length, min(reach + 2, MAX_TOKENS))
    assert all(step["rows"] <= len(contents["words"]) for step in contents["steps"])


def test_first_example_is_the_golden_matrix() -> None:
    contents = lesson(EXAMPLES[next(iter(EXAMPLES))])
    rows = positions(contents, "selfextend")
    assert rows[4] == [4, 3, 2, 1, 0]
    assert rows[9] == [6, 6, 5, 5, 4, 4, 3, 2, 1, 0]
    sentences = [" ".join(step["text"]) for step in contents["steps"]]
    assert "The 6 hatched cells hold 7 or more" in sentences[1]
    assert "Query 9 now sees key 0 at 9//2 - 0//2 = 4 - 0 = 4" in sentences[2]
    assert "Key 6 stands at 3. The next one back, key 5, stands at 2." in sentences[3]
    assert "Row 9 reads 6 6 5 5 4 4 3 2 1 0." in sentences[4]
    assert "2 * (7 - 4 + 4//2) = 2 * 5 = 10 tokens" in sentences[5]
    assert "query 10 would see key 0 at 7" in sentences[5]


def test_six_steps_and_every_example_work() -> None:
    for example in EXAMPLES.values():
        contents = lesson(example)
        assert len(contents["steps"]) == 6
        packed = pack(contents)
        assert json.loads(zlib.decompress(base64.b64decode(packed))) == json.loads(json.dumps(contents))
        assert len(packed) < 100_000


def test_vanilla_settings_say_that_nothing_changes() -> None:
    contents = lesson(Example(trained_window=9, length=8, group_size=1, neighbor_window=8))
    sentences = [" ".join(step["text"]) for step in contents["steps"]]
    assert "These 8 tokens fit" in sentences[1]
    assert "Dividing by 1 changes no number" in sentences[2]
    assert "This is the vanilla model" in sentences[3]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example(7, 7, 2, 4), "Tokens must be at least 8"),
        (Example(7, 65, 2, 4), "at most 64 tokens"),
        (Example(7, 10, 2, 7), "must be smaller than the trained window"),
        (Example(7, 10, 0, 4), "group_size must be at least 1"),
    ],
)
def test_refuses_in_plain_words(example: Example, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lesson(example)
