"""Loading: what is loaded is what was saved, a stop stops, and every bad input gets its own plain error."""

import gc
import json
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import TRAINED_WINDOW, save_folder, save_tokenizer, tiny_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM, T5Config
from transformers.utils import logging as transformers_logging

from selfextend import errors
from selfextend.loading import hardware, memory, models, sources, weights
from selfextend.loading.models import load_model, load_steps, load_tokenizer
from selfextend.loading.sources import check_weights, read_config
from selfextend.steps import Progress, Running, result_of

# The 16 levels of NormalFloat4, from the QLoRA paper (arXiv 2305.14314, appendix E).
_NF4_LEVELS = torch.tensor(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "model", tiny_model())


@pytest.fixture(scope="module")
def token_ids() -> torch.Tensor:
    return torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(1))


def _logits(model: Any, token_ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(token_ids).logits.float()


def _relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def test_what_was_saved_comes_back(folder: Path, token_ids: torch.Tensor) -> None:
    model, tokenizer = load_model(folder, dtype="float32")
    assert torch.equal(_logits(model, token_ids), _logits(tiny_model(), token_ids))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer.decode(tokenizer("Grüße, 世界!").input_ids) == "Grüße, 世界!"
    assert tokenizer.pad_token == "<eos>"


def test_dtype(folder: Path) -> None:
    model, _ = load_model(str(folder), dtype="bfloat16")
    assert model.dtype == torch.bfloat16


def test_steps_report_and_end_with_the_model(folder: Path) -> None:
    with Running(load_steps(folder)) as load:
        first, *others = load
        model, tokenizer, _, found = load.result
    assert first == Progress(f"Looking for {folder}")
    assert model is not None
    assert tokenizer is not None
    loading = [step for step in others if step != first]
    assert all(step.words.startswith("Loading ") for step in loading)
    assert [step.fraction for step in loading] == sorted(step.fraction or 0.0 for step in loading)
    assert found == folder


# Odd sizes: bitsandbytes works in blocks of 64 weights, and these fill none of them evenly.
_ODD_SIZES = {"hidden_size": 36, "intermediate_size": 90, "num_attention_heads": 6}


@pytest.mark.parametrize("sizes", [{}, _ODD_SIZES], ids=["even", "odd"])
def test_nf4_is_nf4(tmp_path: Path, token_ids: torch.Tensor, sizes: dict[str, int]) -> None:
    """The quantized model computes what a plain one does whose weights were rounded to NF4 by hand."""
    expected = tiny_model(**sizes)
    folder = save_folder(tmp_path / "model", expected)
    model, _ = load_model(folder, "nf4", device="cpu", dtype="float32")
    original = _logits(expected, token_ids)
    with torch.no_grad():
        for name, module in expected.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                module.weight.copy_(_rounded_to_nf4(module.weight))
    got = _logits(model, token_ids)
    # Where a processor has bfloat16 instructions, bitsandbytes computes nf4 with them, whatever the model's type.
    tolerance = 0.06 if hardware.has_fast_bfloat16(torch.device("cpu")) else 1e-4
    error = _relative_error(got, _logits(expected, token_ids))
    assert error < tolerance
    assert max(0.01, 2 * error) < _relative_error(got, original) < 0.3


def _rounded_to_nf4(weight: torch.Tensor) -> torch.Tensor:
    flat = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    scale = flat.abs().amax(dim=1, keepdim=True)
    nearest = (flat / scale.clamp_min(1e-30)).unsqueeze(-1).sub(_NF4_LEVELS).abs().argmin(-1)
    return (_NF4_LEVELS[nearest] * scale).flatten()[: weight.numel()].view_as(weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_is_near_the_original(tmp_path: Path, token_ids: torch.Tensor, dtype: str) -> None:
    """Each row of a weight is rounded to 127 steps of its largest value; activations likewise."""
    original = tiny_model()
    folder = save_folder(tmp_path / "model", original)
    model, _ = load_model(folder, "int8", device="cpu", dtype=dtype)
    weight = original.model.layers[0].mlp.up_proj.weight
    rounded = torch.round(weight * 127 / weight.abs().amax(dim=1, keepdim=True))
    stored = model.model.layers[0].mlp.up_proj.weight
    assert stored.dtype == torch.int8
    # One step of slack: bitsandbytes rounds in float16.
    assert (stored.float() - rounded).abs().max() <= 1
    assert _relative_error(_logits(model, token_ids), _logits(original, token_ids)) < 0.03


def test_quantized_models_generate(folder: Path) -> None:
    for quantization in ("int8", "nf4"):
        model, tokenizer = load_model(folder, quantization, device="cpu")
        inputs = tokenizer("the quick", return_tensors="pt")
        answer = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
        assert answer.shape[1] == inputs.input_ids.shape[1] + 5


def test_sharded_weights(tmp_path: Path, token_ids: torch.Tensor) -> None:
    folder = save_folder(tmp_path / "model", tiny_model(), max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    model, _ = load_model(folder)
    assert torch.equal(_logits(model, token_ids), _logits(tiny_model(), token_ids))
    next(folder.glob("model-00002-*.safetensors")).unlink()
    with pytest.raises(errors.IncompleteModelError, match="lacks 1 of"):
        load_model(folder)


def _models_alive() -> int:
    gc.collect()
    return sum(type(thing) is LlamaForCausalLM for thing in gc.get_objects())


def test_closing_the_generator_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of the weights: the loop ends early, and no model is left."""
    reached: list[str] = []
    started, go_on = threading.Event(), threading.Event()
    bar = weights._watched_bar

    def slow_bar(shared: Any) -> type:
        class SlowBar(bar(shared)):  # type: ignore[misc]
            def __iter__(self) -> Iterator[Any]:
                for item in super().__iter__():
                    reached.append(item[0])
                    started.set()
                    go_on.wait(10)
                    yield item

        return SlowBar

    monkeypatch.setattr(weights, "_watched_bar", slow_bar)
    before = _models_alive()
    steps = load_steps(folder)
    for _ in steps:
        if started.is_set():
            break
    closer = threading.Timer(0.2, go_on.set)
    closer.start()
    steps.close()
    closer.join()
    assert len(reached) == 1
    assert _models_alive() == before
    assert not weights._LOADING.locked()
    assert transformers_logging.set_tqdm_hook(None) is None
    monkeypatch.undo()
    assert load_model(folder)[0] is not None


def test_a_loaded_model_is_freed_with_its_last_reference(folder: Path) -> None:
    model, _ = load_model(folder)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_two_loads_take_turns(folder: Path) -> None:
    first = load_steps(folder)
    while not next(first).words.startswith("Loading "):
        pass
    next(first)  # the loading thread runs now, or has run
    second = threading.Thread(target=load_model, args=(folder,))
    second.start()
    time.sleep(0.3)
    assert second.is_alive() or not weights._LOADING.locked()
    assert result_of(first).model is not None
    second.join(30)
    assert not second.is_alive()


def test_missing_folder() -> None:
    for name in ("./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a b", "", "one/two/three"):
        with pytest.raises(errors.ModelNotFoundError, match="no folder"):
            load_model(name)


def test_a_file_is_not_a_folder(folder: Path) -> None:
    with pytest.raises(errors.ModelNotFoundError, match="is a file"):
        load_model(folder / "config.json")


def test_bundled_model(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SELFEXTEND_BUNDLED_MODEL", str(folder))
    assert load_model("bundled")[0].config.max_position_embeddings == TRAINED_WINDOW
    monkeypatch.setenv("SELFEXTEND_BUNDLED_MODEL", str(tmp_path / "elsewhere"))
    with pytest.raises(errors.ModelNotFoundError, match="SELFEXTEND_BUNDLED_MODEL"):
        load_model("bundled")


def test_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(errors.IncompleteModelError, match=r"no config\.json"):
        load_model(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(errors.IncompleteModelError, match="LoRA"):
        load_model(tmp_path)


def test_unreadable_config(folder: Path) -> None:
    for text in ("{", "[]", "\udcff"):
        (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(errors.IncompleteModelError, match="cannot be read"):
            load_model(folder)


def test_pickled_weights_are_refused_unread(tmp_path: Path) -> None:
    """The pickle would create a file when read; it must not."""
    model = tiny_model()
    model.config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    witness = tmp_path / "was-run"
    torch.save(_Bomb(witness), tmp_path / "pytorch_model.bin")
    with pytest.raises(errors.UnsafeWeightsError, match=r"pytorch_model\.bin.*save_pretrained") as caught:
        load_model(tmp_path)
    assert caught.value.reason == "pickle-only"
    assert not witness.exists()


class _Bomb:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(errors.IncompleteModelError, match="no weights"):
        load_model(folder)


def test_truncated_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(errors.IncompleteModelError, match="damaged"):
        load_model(folder)


def test_weights_of_another_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(errors.IncompleteModelError, match="weights of the model are in none of its files"):
        load_model(folder)


def test_no_tokenizer(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(errors.IncompleteModelError, match="no tokenizer"):
        load_model(tmp_path)


def test_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(errors.IncompleteModelError, match=r"tokenizer in .* cannot be read"):
        load_model(folder)


def test_other_kinds_of_models(tmp_path: Path) -> None:
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(errors.UnsupportedModelError, match="not a causal language model"):
        load_model(tmp_path)


def test_code_from_a_repository_is_never_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "configuration_homemade.HomemadeConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    witness = folder / "was-run"
    code = f"open({str(witness)!r}, 'w')\nclass HomemadeConfig: pass\n"
    (folder / "configuration_homemade.py").write_text(code)
    with pytest.raises(errors.UnsupportedModelError, match="'homemade' without running code"):
        load_model(folder)
    assert not witness.exists()


def test_too_big_is_refused_with_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfextend.loading.memory.available_bytes", lambda device: 100_000)
    numbers = r"0\.\d+ MB of weights .* 0\.10 MB are free.*'nf4'"
    with pytest.raises(errors.ModelTooBigError, match=numbers) as caught:
        load_model(folder)
    assert caught.value.estimate is not None
    assert not caught.value.estimate.fits
    assert load_model(folder, allow_oversize=True)[0] is not None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
        RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_out_of_memory_while_loading(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(errors.ModelTooBigError, match="Memory ran out"):
        load_model(folder)


@pytest.mark.parametrize(
    "error", [ValueError("out of memory"), RuntimeError("shapes differ"), errors.DiskFullError("No room"), OSError(12)]
)
def test_other_errors_are_not_taken_for_memory_that_ran_out(error: Exception) -> None:
    assert not errors.is_out_of_memory(error)


def test_torch_says_so_itself_when_memory_runs_out() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 46)
    assert errors.is_out_of_memory(caught.value)


def test_unknown_quantization_and_dtype(folder: Path) -> None:
    with pytest.raises(ValueError, match="'none', 'int8' or 'nf4'"):
        load_model(folder, "int3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype must be"):
        load_model(folder, dtype="int8")


def test_quantization_without_bitsandbytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfextend.loading.quantization_methods.find_spec", lambda name: None)
    with pytest.raises(errors.QuantizationUnavailableError, match="pip install bitsandbytes"):
        load_model(folder, "nf4")
    assert load_model(folder)[0] is not None


def test_quantization_on_a_device_that_cannot(folder: Path) -> None:
    """This torch has no XPU, which stands for any device that bitsandbytes does not work on."""
    with pytest.raises(errors.QuantizationUnavailableError, match="cannot run int8 on xpu"):
        hardware.check_quantization("int8", torch.device("xpu"))


def test_quantized_checkpoints_are_not_quantized_again(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(errors.QuantizationUnavailableError, match=r"already \(awq\)"):
        load_model(folder, "nf4")


@pytest.mark.parametrize("device", ["cuda:99", "toaster", "mps"])
def test_devices_that_are_not_here(folder: Path, device: str) -> None:
    with pytest.raises(errors.DeviceUnavailableError, match=r"not (here|a device|available)"):
        load_model(folder, device=device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_loading_on_a_gpu(folder: Path, token_ids: torch.Tensor, quantization: Any) -> None:
    model, _ = load_model(folder, quantization)
    assert next(model.parameters()).device.type == "cuda"
    got = _logits(model, token_ids.cuda()).cpu()
    assert _relative_error(got, _logits(tiny_model(), token_ids)) < 0.3


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": 3}', "[]"])
def test_a_damaged_list_of_weight_files_is_said_to_be_damaged(tmp_path: Path, text: str) -> None:
    save_file({"x": torch.zeros(1)}, str(tmp_path / "model-00001-of-00002.safetensors"))
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(errors.IncompleteModelError, match="damaged"):
        check_weights(tmp_path)


def test_a_config_whose_numbers_do_not_fit_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 256, "num_attention_heads": 6}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(errors.IncompleteModelError, match="does not describe a model"):
        read_config(tmp_path)


def test_a_stop_does_not_wait_for_what_is_read_before_the_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer of a big vocabulary takes longer than who stops should wait. The next load waits for it instead."""
    begun, go_on, read = threading.Event(), threading.Event(), list[str]()

    def slowly(files: Path) -> Any:
        begun.set()
        assert go_on.wait(10)
        read.append("tokenizer")
        return load_tokenizer(files)

    monkeypatch.setattr(models, "load_tokenizer", slowly)
    steps = load_steps(folder)
    while not begun.is_set():
        next(steps)
    steps.close()
    assert not read
    with Running(load_steps(folder)) as load:
        waited = next(load), next(load), next(load)
        go_on.set()
        assert len([*waited, *load]) > len(waited)
        assert load.result.model is not None
    assert read == ["tokenizer", "tokenizer"]


def test_whatever_reads_with_transformers_does_so_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped load may still be reading, and two threads that import transformers at once break each other."""
    seen = list[tuple[str, bool]]()
    for module, name in (
        (models, "read_config"),
        (models, "estimate_files"),
        (models, "load_tokenizer"),
        (memory, "read_config"),
        (memory, "estimate_files"),
    ):
        read = getattr(module, name)

        def noted(*args: Any, read: Any = read, name: str = name, **more: Any) -> Any:
            seen.append((name, sources.READING.locked()))
            return read(*args, **more)

        monkeypatch.setattr(module, name, noted)
    load_model(folder)
    memory.estimate_memory(folder)
    models.can_chat(folder)
    names = {"read_config", "estimate_files", "load_tokenizer"}
    assert {name for name, _ in seen} == names
    assert all(alone for _, alone in seen), seen


def test_a_stop_does_not_wait_for_another_load_to_have_read_its_config(folder: Path) -> None:
    with sources.READING:
        steps = load_steps(folder)
        waited = next(steps), next(steps), next(steps)
        steps.close()
    assert waited[0] == waited[1] == waited[2]
    assert load_model(folder)[0] is not None
