"""Each method on a tiny model against an oracle of its own, in chunks, and undone afterwards."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from helpers import assert_same, assert_same_state, full_state
from lab_models import finished, ids, mistral, one_shot
from reference import NaiveModel
from tiny_models import tiny_model as tiny_llama
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel

from selfextend import SelfExtendConfig, suggest
from selfextend.errors import PastReachError, UnsupportedArchitectureError
from selfextend.lab.methods import METHOD_NAMES, Method, parse_methods
from selfextend.lab.reading import SharedText, answer_steps, loss_steps, shared_prefix
from selfextend.lab.running import running

WINDOW = 32  # small, since the naive oracle keeps all scores of all distinct positions
LENGTH = 3 * WINDOW
CHUNKS = (25, 1, 40, 30)
assert sum(CHUNKS) == LENGTH


def tiny_model(**settings):
    return tiny_llama(**({"max_position_embeddings": WINDOW} | settings))


@lru_cache(maxsize=1)
def llama():
    return tiny_model()


def in_chunks(model, method: Method, tokens: list[int]) -> torch.Tensor:
    """All logits of a text read in uneven chunks, (tokens, vocabulary)."""
    with running(model, method, WINDOW, len(tokens)) as runner:
        cache, pieces, start = runner.new_cache(len(tokens)), [], 0
        for size in CHUNKS:
            chunk = torch.tensor([tokens[start : start + size]])
            pieces.append(runner.forward(chunk, cache, keep=size)[0])
            start += size
    return torch.cat(pieces)


def naive(config: SelfExtendConfig) -> torch.Tensor:
    model = NaiveModel(
        tiny_model(),
        config.group_size,
        config.neighbor_window,
        query_scaling=config.query_scaling,
        trained_window=WINDOW,
        local_layers=(),
        no_rope_layers=(),
    )
    return model.logits(torch.tensor([ids(LENGTH)]))[0]


@pytest.mark.parametrize("scaling", ["none", "logn"])
def test_selfextend_takes_what_suggest_gives(scaling) -> None:
    method = Method("selfextend" if scaling == "none" else "selfextend+logn")
    config = suggest(WINDOW, LENGTH, query_scaling=scaling)
    assert config.group_size > 1
    assert_same(in_chunks(llama(), method, ids(LENGTH)), naive(config))


def test_logn_alone_is_the_vanilla_model_with_scaled_queries() -> None:
    found = in_chunks(llama(), Method("vanilla+logn"), ids(LENGTH))
    assert_same(found, naive(SelfExtendConfig(1, WINDOW // 4, "logn")))
    assert (found - one_shot(llama(), ids(LENGTH))).abs().max() > 1e-4


def test_vanilla_is_untouched() -> None:
    assert_same(in_chunks(llama(), Method("vanilla"), ids(LENGTH)), one_shot(llama(), ids(LENGTH)))


@pytest.mark.parametrize("name", ["linear", "dynamic", "yarn"])
def test_rope_scaling_is_what_a_model_configured_with_it_computes(name: str) -> None:
    """The oracle reads in one go a model that was built with these rope parameters."""
    factor = 1.0 if name == "dynamic" else LENGTH / WINDOW
    parameters = {
        "rope_type": name,
        "rope_theta": 10000.0,
        "factor": factor,
        "original_max_position_embeddings": WINDOW,
    }
    configured = tiny_model(rope_parameters=parameters)
    found = in_chunks(llama(), Method(name), ids(LENGTH))
    assert_same(found, one_shot(configured, ids(LENGTH)))
    assert (found - one_shot(llama(), ids(LENGTH))).abs().max() > 1e-4


def test_sliding_window_is_what_a_model_with_such_a_window_computes() -> None:
    found = in_chunks(mistral(None), Method("window"), ids(LENGTH))
    assert_same(found, one_shot(mistral(WINDOW), ids(LENGTH)))
    assert (found - one_shot(mistral(None), ids(LENGTH))).abs().max() > 1e-4


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_inside_the_window_every_method_but_fixed_settings_is_vanilla(name: str) -> None:
    tokens = ids(WINDOW)
    with running(llama(), Method(name), WINDOW, WINDOW) as runner:
        logits = runner.forward(torch.tensor([tokens]), runner.new_cache(WINDOW), keep=WINDOW)[0]
    assert_same(logits, one_shot(llama(), tokens))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_everything_is_undone_even_after_an_error(name: str) -> None:
    model = tiny_model()
    before = full_state(model)
    with pytest.raises(TypeError), running(model, Method(name), WINDOW, LENGTH) as runner:
        runner.forward(torch.tensor([ids(10)]), runner.new_cache(LENGTH), keep="nonsense")
    assert_same_state(before, full_state(model))


def test_settings_that_are_on_already_come_back() -> None:
    from selfextend import disable, enable
    from selfextend.plugin import active_extension

    model, own = tiny_model(), SelfExtendConfig(3, 16)
    enable(model, own, trained_window=WINDOW)
    with running(model, Method("vanilla"), WINDOW, LENGTH):
        assert active_extension(model) is None
    assert active_extension(model).config == own
    disable(model)


def test_fixed_settings_that_do_not_reach_are_refused() -> None:
    with pytest.raises(PastReachError, match="Group size"):
        Method("selfextend", 2, 8).check(WINDOW, 5000)
    with pytest.raises(PastReachError), running(llama(), Method("selfextend", 2, 8), WINDOW, 5000):
        pass


def test_a_model_with_rope_scaling_of_its_own_is_refused_another() -> None:
    parameters = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    with (
        pytest.raises(UnsupportedArchitectureError, match="of its own"),
        running(tiny_model(rope_parameters=parameters), Method("yarn"), WINDOW, LENGTH),
    ):
        pass


def test_what_does_not_fit_a_model_is_refused() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=64, n_positions=WINDOW)).eval()
    with pytest.raises(UnsupportedArchitectureError, match="no rotary"), running(gpt2, Method("yarn"), WINDOW, LENGTH):
        pass
    config = Gemma3TextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=32, max_position_embeddings=WINDOW,
    )  # fmt: skip
    with (
        pytest.raises(UnsupportedArchitectureError, match="by design"),
        running(Gemma3ForCausalLM(config).eval(), Method("window"), WINDOW, LENGTH),
    ):
        pass


def test_names_are_parsed_and_wrong_ones_refused() -> None:
    found = parse_methods(["vanilla", "recommended", "vanilla"], recommended_scaling="logn", group_size=4)
    assert [(method.name, method.group_size) for method in found] == [("vanilla", None), ("selfextend+logn", 4)]
    assert [method.name for method in parse_methods(["all"])] == list(METHOD_NAMES)
    for names in (["alibi"], []):
        with pytest.raises(ValueError, match="method"):
            parse_methods(names)
    with pytest.raises(ValueError, match="setting of SelfExtend"):
        Method("yarn", group_size=4)
    with pytest.raises(ValueError, match="at least 1"):
        Method("selfextend", group_size=0)


# Reading


@pytest.mark.parametrize("method", [Method("vanilla"), Method("selfextend+logn"), Method("window"), Method("dynamic")])
def test_answers_in_batches_with_a_shared_text_are_those_of_each_prompt_alone(method: Method) -> None:
    text = ids(150)
    prompts = [text[:90] + ids(30, seed) + text[90:] for seed in (1, 2, 3)]
    prompts.append(prompts[0][:-7])  # of another length
    common = text[: shared_prefix(prompts)]
    assert len(common) == 90
    with running(llama(), method, WINDOW, 200) as runner:
        together = finished(answer_steps(runner, SharedText(200), common, prompts, 6, frozenset()))
        for prompt, answer in zip(prompts, together, strict=True):
            logits = runner.forward(torch.tensor([prompt]), cache := runner.new_cache(200))
            alone = [int(logits[0, -1].argmax())]
            while len(alone) < 6:
                logits = runner.forward(torch.tensor([[alone[-1]]]), cache)
                alone.append(int(logits[0, -1].argmax()))
            assert answer == alone


def test_vanilla_answers_are_those_of_generate() -> None:
    prompt = ids(100)
    with running(llama(), Method("vanilla"), WINDOW, 120) as runner:
        (answer,) = finished(answer_steps(runner, SharedText(120), [], [prompt], 8, frozenset()))
    generated = llama().generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert answer == generated[0, 100:].tolist()


def test_an_answer_ends_before_its_end_token() -> None:
    prompt = ids(50)
    with running(llama(), Method("vanilla"), WINDOW, 100) as runner:
        (full,) = finished(answer_steps(runner, SharedText(100), [], [prompt], 8, frozenset()))
        (cut,) = finished(answer_steps(runner, SharedText(100), [], [prompt], 8, frozenset([full[3]])))
    assert cut == full[: full.index(full[3])]


def test_losses_in_chunks_are_the_cross_entropy_of_one_pass() -> None:
    tokens = ids(150)
    with running(llama(), Method("vanilla"), WINDOW, 150) as runner:
        losses = finished(loss_steps(runner, tokens, chunk_tokens=40))
    logits = one_shot(llama(), tokens)
    expected = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:]), reduction="none")
    assert losses.shape == (149,)
    assert torch.from_numpy(losses) == pytest.approx(expected, abs=1e-4)


def test_a_shared_prefix_leaves_every_prompt_a_token() -> None:
    assert shared_prefix([[1, 2, 3], [1, 2, 4]]) == 2
    assert shared_prefix([[1, 2, 3]]) == 2
    assert shared_prefix([[1, 2], [1, 2, 3]]) == 1
    assert shared_prefix([[5], [6]]) == 0
