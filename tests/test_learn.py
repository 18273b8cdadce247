"""What the lesson is made of: recorded runs, texts, one file; and the server's one part in it."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import gradio as gr
import pytest
import reference

from app.lesson import FOLDER, PAGE, catalogues, recorded, web_page
from app.runtime import make_runtime
from app.settings import read_settings
from app.tabs.learn import asked, build_learn_tab, cell_steps
from app.theme import ASSETS
from selfextend.steps import EndNow, Progress, Running, result_of


def test_the_grid_is_whole() -> None:
    runs = recorded()
    answers, lengths = runs["answers"], len(runs["lengths"])
    pairs = {f"{group},{window}" for group in runs["group_sizes"] for window in runs["neighbor_windows"]}
    assert answers["selfextend"].keys() == answers["no_shift"].keys() == pairs
    assert answers["no_neighbors"].keys() == {str(group) for group in runs["group_sizes"]}
    rows = [answers["vanilla"], *(row for kind in answers if kind != "vanilla" for row in answers[kind].values())]
    assert all(len(row) == lengths for row in rows)
    assert {text for row in rows for text in row} == set(range(len(runs["texts"])))
    assert runs["lengths"] == sorted(set(runs["lengths"]))
    assert all(len(runs["chain"][kind]) == lengths for kind in ("vanilla", "selfextend"))


def test_it_was_recorded_with_the_bundled_model() -> None:
    made, card = recorded()["made"], (ASSETS / "model" / "README.md").read_text()
    weights = (ASSETS / "model" / "model.safetensors").read_bytes()
    assert made["model"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert {"selfextend", "torch", "transformers"} <= made["versions"].keys()
    assert all(cell in card for row in recorded()["log_n"]["rows"].values() for cell in row)


def test_vanilla_breaks_and_selfextend_mends() -> None:
    """What the lesson is about; were it not so, another seed would have to be recorded."""
    runs = recorded()
    key, texts, chain = runs["prompt"]["key"], runs["texts"], runs["chain"]
    vanilla = [texts[n] == key for n in runs["answers"]["vanilla"]]
    shown = runs["answers"]["selfextend"][f"{chain['group_size']},{chain['neighbor_window']}"]
    window = runs["made"]["trained_window"]
    assert all(right for right, length in zip(vanilla, runs["lengths"], strict=True) if length <= window)
    assert not vanilla[-1]
    assert all(texts[n] == key for n in shown)
    assert any(row["weight"] < 0.01 for row in chain["vanilla"])
    assert all(row["weight"] > 0.5 for row in chain["selfextend"])


def test_what_notes_and_worksheet_say_without_numbers_of_their_own_is_true() -> None:
    """Sentences of the catalogue that no setting fills in. tests/browser/test_lesson.py checks all others."""
    runs = recorded()
    key, texts, answers = runs["prompt"]["key"], runs["texts"], runs["answers"]
    window, rope = runs["made"]["trained_window"], runs["made"]["rope"]

    def right(kind: str, group: int, neighbors: int) -> list[bool]:
        return [texts[n] == key for n in answers[kind][f"{group},{neighbors}"]]

    # s1.note: w = 1, or a reach that is too short, breaks SelfExtend.
    assert not any(all(right("selfextend", group, 1)) for group in runs["group_sizes"])
    reach = reference.reach(window, 2, 500)
    short = [n for n, whole in zip(runs["lengths"], right("selfextend", 2, 500), strict=True) if not whole]
    assert any(n > reach for n in short)
    # s2.note: half the hands have seen every angle.
    turned = [window * rope["base"] ** (-pair / rope["pairs"]) >= 2 * math.pi for pair in range(rope["pairs"])]
    assert 2 * sum(turned) == rope["pairs"]
    # s5.note: with G = 3 and w = 4 a number is skipped; the shift matters most where w is small, not with 8 and 128.
    row = [reference.relative_position(15, j, 3, 4) for j in range(16)]
    assert 4 not in row
    assert {3, 5} <= set(row)
    gains = [sum(right("selfextend", 8, w)) - sum(right("no_shift", 8, w)) for w in runs["neighbor_windows"][1:]]
    assert gains == sorted(gains, reverse=True)
    assert gains[runs["neighbor_windows"].index(8) - 1] == len(runs["lengths"])
    assert gains[runs["neighbor_windows"].index(128) - 1] == 0
    # s1.reach.out: a text past the reach can be answered wrong, and right.
    assert any(n > reach and n not in short for n in runs["lengths"])
    # paper.a4: unshifted, grouped positions begin at about w//G, shifted at w or w + 1.
    for group, neighbors, query in product(range(2, 9), range(1, 32), range(32, 64)):
        first = reference.relative_position(query, query - neighbors, group, neighbors)
        assert first in (neighbors, neighbors + 1)
        assert first - (neighbors - neighbors // group) in (neighbors // group, neighbors // group + 1)


@pytest.mark.slow
def test_recorded_cells_come_out_again() -> None:
    import torch

    from selfextend.generation import ReadyModel
    from selfextend.lab.probes.passkey import Passkey
    from selfextend.loading.models import load_model
    from selfextend.methods import SelfExtend, Vanilla
    from selfextend.profile import profile_of
    from training.lesson import Ablated, Recorder

    runs = recorded()
    folder = ASSETS / "model"
    model, tokenizer = load_model(folder, device="cpu")
    ready = ReadyModel(model, tokenizer, profile_of(str(folder), folder, model.config))
    draw = random.Random(7)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    digits = len(runs["prompt"]["key"])
    shortest = Passkey(digits).case(tokenizer, runs["lengths"][0] + digits, 0.0, random.Random(runs["made"]["seed"]))
    for at in draw.sample(range(len(runs["lengths"])), 3):
        seed = random.Random(runs["made"]["seed"])
        case = Passkey(digits).case(tokenizer, runs["lengths"][at] + digits, 0.0, seed)
        assert len(case.tokens) == runs["lengths"][at]
        group, window = draw.choice(runs["group_sizes"]), draw.choice(runs["neighbor_windows"])
        methods: dict[str, Any] = {
            "vanilla": Vanilla(),
            "selfextend": SelfExtend("none", group, window),
            "no_shift": Ablated("none", group, window),
            "no_neighbors": Ablated("none", group, 1, without="neighbors"),
        }
        for kind, method in methods.items():
            recorder = Recorder(ready, [case])
            row = runs["answers"][kind]
            if kind != "vanilla":
                row = row[str(group) if kind == "no_neighbors" else f"{group},{window}"]
            assert recorder.answers(method) == [0]
            assert recorder.texts == [runs["texts"][row[at]]], (kind, group, window, at)
    chain = Recorder(ready, [shortest, case]).chain()  # the shortest text says which head
    assert [chain[name] for name in ("layer", "head", "key_at")] == [
        runs["chain"][name] for name in ("layer", "head", "key_at")
    ]
    for kind in ("vanilla", "selfextend"):
        assert chain[kind][1] == pytest.approx(runs["chain"][kind][at], rel=1e-3, abs=1e-6)
    # s1.nothing: not a weight was changed.
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.slow
def test_the_far_passkey_comes_out_again() -> None:
    from selfextend.generation import ReadyModel
    from selfextend.loading.models import load_model
    from selfextend.profile import profile_of
    from training.lesson import far

    folder = ASSETS / "model"
    model, tokenizer = load_model(folder, device="cpu")
    assert far(ReadyModel(model, tokenizer, profile_of(str(folder), folder, model.config))) == recorded()["far"]


def test_every_language_says_everything_about_the_same_numbers() -> None:
    texts = catalogues()
    first = texts["en"]
    assert list(texts) == ["en", "zh"]
    for language, catalogue in texts.items():
        assert catalogue.keys() == first.keys(), language
        assert len(catalogue["story"].split()) >= 32, language
        for key, sentence in catalogue.items():
            assert set(re.findall(r"\{(\w+)\}", sentence)) == set(re.findall(r"\{(\w+)\}", first[key])), (language, key)


def test_no_text_is_left_unused() -> None:
    scripts = "".join(path.read_text() for path in sorted(FOLDER.glob("*.js")))
    made = re.compile(r"s\d+\.(title|lead|caption|note)|(kind|symbol|tool|s5)\.\w+|paper\.[qa]\d|language|story|title")
    unused = [key for key in catalogues()["en"] if not made.fullmatch(key) and f'"{key}"' not in scripts]
    assert not unused


def test_the_page_is_small_and_as_it_was_built() -> None:
    page = web_page()
    assert len(page.encode()) < 1_000_000
    assert "{{" not in re.sub(r"\$\{|\{\{\$", "", page.split("<script>")[0])
    assert PAGE.read_text(encoding="utf-8") == page, "run `python -m app.lesson`"
    assert not re.findall(r"""(?:src|href)=["'](?!data:)[^"'$#]""", page)


def event(**data: Any) -> gr.EventData:
    return gr.EventData(None, data)


def test_only_recorded_cells_are_run() -> None:
    runs = recorded()
    tokens, group, window = runs["lengths"][3], runs["group_sizes"][0], runs["neighbor_windows"][0]
    assert asked(event(tokens=tokens, group_size=group, neighbor_window=window)) == (tokens, group, window)
    assert asked(event(tokens=tokens, group_size=1, neighbor_window=window)) == (tokens, 1, window)
    for wrong in ({"tokens": 10**9}, {"tokens": float(tokens)}, {"group_size": True}, {"neighbor_window": "8"}, {}):
        told = {"tokens": tokens, "group_size": group, "neighbor_window": window, **wrong}
        with pytest.raises(ValueError, match="no such cell"):
            asked(event(**(told if wrong else {})))


def test_runs_a_cell_on_the_loaded_model() -> None:
    from app.model_shelf import ModelShelf
    from selfextend.generation import NewToken

    runs = recorded()
    shelf = ModelShelf()
    result_of(shelf.load_steps("bundled"))
    group, window = runs["chain"]["group_size"], runs["chain"]["neighbor_window"]
    for at in (0, len(runs["lengths"]) - 1):
        told = result_of(cell_steps(shelf.need(), runs["lengths"][at], group, window))
        vanilla, extended = runs["answers"]["vanilla"][at], runs["answers"]["selfextend"][f"{group},{window}"][at]
        assert told["n"] == runs["lengths"][at]
        assert (told["vanilla"], told["selfextend"]) == tuple(f"“{runs['texts'][n]}”" for n in (vanilla, extended))
    with Running(cell_steps(shelf.need(), runs["lengths"][0], group, window)) as running:
        assert any(isinstance(step, NewToken) for step in running)
        with pytest.raises(EndNow):  # half an answer is no result
            running.end()


def test_a_running_cell_stops_with_its_page_and_with_its_visitor(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, closed = make_runtime(read_settings(["--no-browser", "--no-persist"], {})), []

    def steps(*_: Any) -> Iterator[Progress]:
        try:
            while True:
                yield Progress("reading")
        finally:
            closed.append(True)

    monkeypatch.setattr(runtime.models, "need", lambda: None)
    monkeypatch.setattr("app.tabs.learn.cell_steps", steps)
    with gr.Blocks() as page:
        build_learn_tab(runtime, gr.State(""))
    (run,) = (found.fn for found in page.fns.values() if found.targets[0][1] == "run")
    runs = recorded()
    cell = event(tokens=runs["lengths"][0], group_size=1, neighbor_window=runs["neighbor_windows"][0])
    running = run(cell, "ada")
    next(running)
    assert runtime.sessions.get("ada").is_busy
    running.close()
    assert closed == [True]
    running = run(cell, "ada")
    next(running)
    runtime.sessions.get("ada").learning.stop()
    assert "stopped" in [*running][-1]
    assert closed == [True, True]
    assert not runtime.sessions.get("ada").is_busy


def test_the_lesson_asks_the_server_for_nothing() -> None:
    with gr.Blocks() as page:
        build_learn_tab()
    assert not page.fns
    assert [block["type"] for block in page.get_config_file()["components"]] == ["html"]
