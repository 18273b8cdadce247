"""Run capsules: what is saved comes back, nothing in them loads or runs anything, other files are refused."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pytest
from app_parts import stored, tiny, tiny_folder  # noqa: F401 (fixtures)

from app.answering import reply_steps
from app.asking import Question
from app.cache_store import CacheStore
from app.capsule import (
    Capsule,
    CapsuleError,
    Pooled,
    as_csv,
    as_html,
    as_json,
    attention_csv,
    body_html,
    capsule_of,
    figures_of,
    from_dict,
    read_capsule,
)
from app.model_shelf import LoadedModel
from app.session import Session
from app.tabs.runs import _caption as caption_of_run
from selfextend.generation import GenerationSettings
from selfextend.methods import SelfExtend

NASTY = "Who </script><script>alert(1)</script> & <b>jumps</b>?"


@pytest.fixture(scope="module")
def capsule(tiny: LoadedModel) -> Capsule:  # noqa: F811
    asked = Question(
        NASTY,
        (stored(),),
        SelfExtend("logn", 8, 64),
        "always",
        GenerationSettings(max_new_tokens=5),
    )
    *_, last = reply_steps(tiny, CacheStore(10**9), Session("v"), [asked])
    rows = len(last.turns[0].answer.token_ids)
    shares = np.random.default_rng(0).random((rows, 7), dtype=np.float32)
    pages = (("1", 0), ("2", 25), ("3", 28), ("4", 50))
    pooled = Pooled(tuple(f"token {n}" for n in range(rows)), np.arange(8) * 10, shares, pages)
    return capsule_of(last.turns[0], last.replies[0], pooled)


def test_it_comes_back(capsule: Capsule) -> None:
    again = read_capsule(as_html(capsule))
    assert again.entry == capsule.entry
    assert again.pages == capsule.pages
    assert again.documents == capsule.documents
    assert again.versions == capsule.versions
    assert again.trained_window == 256
    assert again.reply.made_by == SelfExtend("logn", 8, 64)
    assert capsule.pooled is not None
    assert again.pooled is not None
    np.testing.assert_allclose(again.pooled.shares, capsule.pooled.shares, rtol=1e-3)
    assert again.pooled.edges.tolist() == capsule.pooled.edges.tolist()
    assert again.pooled.pages == capsule.pooled.pages


def test_the_file_asks_nobody_for_anything(capsule: Capsule) -> None:
    html = as_html(capsule)
    assert not re.search(r"<(script|img|link|iframe)[^>]+(src|href)=", html)
    assert "plotly" in html


def test_no_text_becomes_markup(capsule: Capsule) -> None:
    assert "<script>alert(1)" not in as_html(capsule)
    assert "<b>jumps" not in body_html(capsule)
    assert read_capsule(as_html(capsule)).entry.question == NASTY


def test_figures_are_drawn_from_what_was_saved(capsule: Capsule) -> None:
    bars, heat = figures_of(read_capsule(as_html(capsule)))
    assert sum(bars.data[0].y) == pytest.approx(1, abs=1e-3)
    rows, bins = capsule.pooled.shares.shape  # type: ignore[union-attr]
    assert heat.data[0].z.shape == (rows, bins + 2)  # two gaps between three pages, since one page shares its bin
    assert [text.strip("</b>") for text in heat.layout.xaxis.ticktext] == ["1", "3", "4"]
    assert heat.layout.xaxis.title.text == "page"


def test_its_pictures_name_model_settings_and_document(capsule: Capsule) -> None:
    caption = caption_of_run(capsule)
    for words in ("jumps", capsule.entry.model, "SelfExtend (G = 8, w = 64, log-n)", "notes.txt"):
        assert words in caption


def test_a_capsule_of_an_earlier_version_opens(capsule: Capsule) -> None:
    record = json.loads(json.dumps(as_json(capsule)))
    del record["attention"]["pages"]
    record["version"] = 1
    (reply,) = record["entry"]["replies"]
    assert reply.pop("settings")
    reply |= {"method": "selfextend", "group_size": 8, "neighbor_window": 64, "query_scaling": "logn"}
    assert from_dict(record).reply == capsule.reply
    _, heat = figures_of(from_dict(record))
    assert heat.layout.xaxis.title.text == "token of the prompt"
    assert heat.data[0].z.shape == capsule.pooled.shares.shape  # type: ignore[union-attr]
    assert heat.layout.xaxis.ticktext[0] == "0"


def test_csv_has_each_page_and_each_passage(capsule: Capsule) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(capsule))))
    assert sum(row["kind"] == "page" for row in rows) == 3
    passages = [row for row in rows if row["kind"] == "passage"]
    assert [row["text"] for row in passages] == [source.text for source in capsule.reply.sources]


def test_a_spreadsheet_runs_no_formula() -> None:
    pooled = Pooled(("=1+1",), np.array([0, 5]), np.ones((1, 1), np.float32))
    assert list(csv.reader(io.StringIO(attention_csv(pooled))))[1][0] == "'=1+1"


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<html>nothing</html>", "holds no run capsule"),
        ('<script type="application/json" id="capsule">{oops</script>', "damaged"),
        ('<script type="application/json" id="capsule">{"format": "other"}</script>', "no run capsule"),
        ('<script type="application/json" id="capsule">[]</script>', "no run capsule"),
    ],
)
def test_another_file_is_refused_in_a_sentence(html: str, words: str) -> None:
    with pytest.raises(CapsuleError, match=words):
        read_capsule(html)


def test_a_later_version_is_refused(capsule: Capsule) -> None:
    with pytest.raises(CapsuleError, match="later version"):
        from_dict({**as_json(capsule), "version": 99})


def test_a_capsule_with_arrays_that_do_not_fit_is_refused(capsule: Capsule) -> None:
    record = json.loads(json.dumps(as_json(capsule)))
    record["attention"]["tokens"].append("one more")
    with pytest.raises(CapsuleError, match="changed"):
        from_dict(record)
