"""What the authors' own code answered, for the same weights: see golden/README.md."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import NaiveModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from selfextend import SelfExtendConfig, self_extend
from selfextend.cache import SelfExtendCache

GOLDEN = Path(__file__).parent / "golden"
CONFIG = SelfExtendConfig(group_size=4, neighbor_window=32)
TOLERANCE = 2e-5

every = pytest.mark.parametrize("name", ["llama", "phi"])


@cache
def golden(name: str) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float32).eval()
    arrays: Any = np.load(GOLDEN / name / "longlm.npz")
    return model, {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= TOLERANCE


@every
@torch.no_grad()
def test_prefill(name: str) -> None:
    model, answers = golden(name)
    with self_extend(model, CONFIG):
        assert_close(model(answers["input_ids"]).logits, answers["g4_w32"])
    assert_close(model(answers["input_ids"]).logits, answers["vanilla"])


@every
@torch.no_grad()
def test_prefill_in_chunks(name: str) -> None:
    model, answers = golden(name)
    pieces, cache = [], None
    with self_extend(model, CONFIG):
        for piece in answers["input_ids"].split([31, 1, 2, 97, 69], dim=1):
            output = model(piece, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            pieces.append(output.logits)
    assert isinstance(cache, SelfExtendCache)
    assert_close(torch.cat(pieces, dim=1), answers["g4_w32"])


@every
def test_greedy_decoding(name: str) -> None:
    model, answers = golden(name)
    with self_extend(model, CONFIG):
        output = model.generate(
            answers["input_ids"],
            attention_mask=torch.ones_like(answers["input_ids"]),
            max_new_tokens=13,
            min_new_tokens=13,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert output.sequences[0, 200:].tolist() == answers["g4_w32_greedy"].tolist()
    assert_close(torch.stack(output.logits[1:], dim=1)[0], answers["g4_w32_declogits"])


@every
@torch.no_grad()
def test_decoding_token_by_token(name: str) -> None:
    model, answers = golden(name)
    with self_extend(model, CONFIG):
        cache = model(answers["input_ids"], use_cache=True).past_key_values
        for token, expected in zip(answers["g4_w32_greedy"], answers["g4_w32_declogits"], strict=False):
            output = model(token.view(1, 1), past_key_values=cache)
            assert_close(output.logits[0, 0], expected)


@every
def test_the_naive_reference_agrees_with_the_authors_too(name: str) -> None:
    model, answers = golden(name)
    reference = NaiveModel(model, CONFIG.group_size, CONFIG.neighbor_window)
    assert_close(reference.logits(answers["input_ids"][:, :120]), answers["g4_w32"][:, :120])
