"""Downloading, against a server on this machine that answers as the hub does: huggingface_hub itself runs
unchanged."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf_files import llama_gguf
from hub_server import HubServer
from quantized_files import with_settings
from safetensors.torch import save_file
from tiny_models import save_folder, tiny_model

from selfextend import errors
from selfextend.loading.hub import download_steps
from selfextend.loading.memory import estimate_memory
from selfextend.loading.models import load_model, load_steps
from selfextend.loading.quantized import stored_bytes
from selfextend.steps import Running

REPO = "somebody/tiny-llama"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    folder = save_folder(tmp_path / "repository", tiny_model())
    (folder / "onnx").mkdir()
    for name in ("onnx/model.onnx", "pytorch_model.bin", "consolidated.safetensors", "modeling_tiny.py"):
        (folder / name).write_bytes(b"not wanted")
    server = HubServer(REPO, folder)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield server
    server.stop()


def _downloads_running() -> int:
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return sum(any("hub_download.py" in word for word in child.cmdline()) for child in children)


def test_a_model_from_the_hub(hub: HubServer) -> None:
    with Running(load_steps(REPO)) as load:
        steps = list(load)
        model, tokenizer, *_ = load.result
    ids = tokenizer("over the lazy dog", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(ids).logits, tiny_model()(ids).logits)
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert set(hub.requested) == wanted | {"tokenizer_config.json"}
    # Config and tokenizer are there before the weights are even asked for.
    assert hub.requested[-1] == "model.safetensors"
    assert {step.words.split()[0] for step in steps} == {"Looking", "Reading", "Downloading", "Loading"}


def test_a_cached_model_needs_no_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    load_model(REPO)
    hub.stop()
    assert load_model(REPO)[0] is not None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_model(REPO)[0] is not None


def test_the_estimate_downloads_no_weights(hub: HubServer) -> None:
    estimate = estimate_memory(REPO, dtype="float32", available=10**9)
    assert estimate == estimate_memory(tiny_model().config, dtype="float32", available=10**9)
    assert "model.safetensors" not in hub.requested


@pytest.mark.parametrize("header", ["short", "long"])
def test_the_estimate_of_a_quantized_checkpoint_counts_the_bytes_in_its_header(
    hub: HubServer, tmp_path: Path, header: str
) -> None:
    """Its config says how it is quantized, not how much that saves. A long header comes with a second request."""
    weights = hub.folder / "model.safetensors"
    tensors = {f"model.{number}.weight": torch.zeros(64, 64, dtype=torch.int8) for number in range(20)}
    save_file(tensors, weights, {"notes": "x" * (100_000 if header == "long" else 1)})
    with_settings(hub.folder, {"quant_method": "bitsandbytes", "load_in_8bit": True})
    estimate = estimate_memory(REPO, device="cpu", dtype="float32", available=10**9)
    assert estimate.weights_bytes == stored_bytes(hub.folder) == 20 * 64 * 64
    assert hub.requested.count("model.safetensors") == (2 if header == "long" else 1)
    assert hub.sent_bytes < weights.stat().st_size + (100_000 if header == "long" else 0)
    assert not any((tmp_path / "home" / "hub").glob("models--*/**/model.safetensors"))
    hub.requested.clear()
    assert estimate_memory(REPO, device="cpu", dtype="float32", available=10**9) == estimate
    assert "model.safetensors" not in hub.requested


def test_a_quantized_checkpoint_whose_header_makes_no_sense_is_refused_before_it_is_downloaded(hub: HubServer) -> None:
    (hub.folder / "model.safetensors").write_bytes(b"\xff" * 5000)
    with_settings(hub.folder, {"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(errors.IncompleteModelError, match="damaged or was not copied to its end"):
        load_model(REPO)


def test_stop_in_a_download(hub: HubServer, tmp_path: Path) -> None:
    """Closing the generator ends the download's process, and no half file stays in the cache."""
    hub.bytes_per_second = (hub.folder / "model.safetensors").stat().st_size / 20
    home = tmp_path / "home"
    steps = load_steps(REPO)
    for step in steps:
        if "model.safetensors" in hub.requested and any(home.rglob("*.incomplete")):
            assert step.words.startswith(f"Downloading {REPO}: 0 of ")
            break
    assert _downloads_running() == 1
    steps.close()
    assert not _downloads_running()
    assert not any(home.rglob("*.incomplete"))
    hub.bytes_per_second = None
    assert load_model(REPO)[0] is not None


def test_the_next_attempt_fetches_what_was_missing(hub: HubServer) -> None:
    (hub.folder / "model.safetensors").unlink()
    tiny_model().save_pretrained(hub.folder, max_shard_size="100KB")
    shards = sorted(file.name for file in hub.folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    hub.stalled = shards[-1]
    wanted = [*hub.folder.glob("*.json"), *hub.folder.glob("model-*.safetensors")]
    total = sum(file.stat().st_size for file in wanted)
    rest = (hub.folder / shards[-1]).stat().st_size
    done = []
    for progress in (steps := download_steps(REPO, "all")):
        done.append(progress.fraction or 0.0)
        if done[-1] * total >= total - rest:
            break
    steps.close()
    assert done == sorted(done)
    hub.stalled = ""
    hub.requested.clear()
    assert load_model(REPO)[0] is not None
    assert hub.requested == [shards[-1]]


def test_a_stalled_download_gives_up(hub: HubServer) -> None:
    hub.stalled = ".safetensors"
    with pytest.raises(errors.HubUnreachableError, match="nothing arrived for 2 s"):
        list(download_steps(REPO, "all", stall_timeout=2.0))
    assert not _downloads_running()
    hub.stalled = ""


def test_no_such_repository(hub: HubServer) -> None:
    with pytest.raises(errors.ModelNotFoundError, match="no model 'somebody/else' on the Hugging Face hub"):
        load_model("somebody/else")


def test_gated_repository(hub: HubServer) -> None:
    hub.gated = True
    with pytest.raises(errors.AccessDeniedError, match="accept its licence"):
        load_model(REPO)


def test_pickle_only_repository(hub: HubServer) -> None:
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(errors.UnsafeWeightsError, match=r"pytorch_model\.bin"):
        load_model(REPO)
    assert not hub.requested


def test_repository_that_is_no_model(hub: HubServer) -> None:
    (hub.folder / "config.json").rename(hub.folder / "adapter_config.json")
    with pytest.raises(errors.IncompleteModelError, match="LoRA adapter"):
        load_model(REPO)


def test_no_network(hub: HubServer) -> None:
    hub.stop()
    with pytest.raises(errors.HubUnreachableError, match=r"did not answer .*not complete in the local cache"):
        load_model(REPO)


def test_offline_by_choice(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(errors.HubUnreachableError):
        load_model(REPO)
    assert not hub.requested


def test_too_big_is_refused_before_the_weights_are_downloaded(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfextend.loading.memory.available_bytes", lambda device: 1000)
    with pytest.raises(errors.ModelTooBigError):
        load_model(REPO)
    assert "model.safetensors" not in hub.requested


def test_the_download_ends_with_the_process_that_asked(hub: HubServer) -> None:
    """Even if that one is killed and can tidy up nothing."""
    hub.bytes_per_second = 10_000
    code = f"""
from selfextend.loading.hub import download_steps
for _ in download_steps({REPO!r}, "all"):
    print("running", flush=True)
"""
    asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert asking.stdout is not None
    asking.stdout.readline()
    children = psutil.Process(asking.pid).children()
    asking.kill()
    asking.wait()
    asking.stdout.close()
    assert children
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


@pytest.fixture
def gguf_hub(hub: HubServer) -> HubServer:
    """A repository as GGUF files are published: without a config, several quantizations, a projector."""
    for file in hub.folder.iterdir():
        if file.is_file():
            file.unlink()
    for kind in (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0):
        llama_gguf(hub.folder / f"tiny-{kind.name}.gguf", kind)
    (hub.folder / "mmproj-tiny-Q8_0.gguf").write_bytes(b"not wanted")
    (hub.folder / "tiny-Q2_K-00001-of-00002.gguf").write_bytes(b"not wanted")
    return hub


def test_a_gguf_file_from_the_hub(gguf_hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_model(f"{REPO}:q4_0")
    assert tokenizer.decode(model.generate(**tokenizer("the", return_tensors="pt"), max_new_tokens=2)[0])
    assert set(gguf_hub.requested) == {"tiny-Q4_0.gguf"}
    gguf_hub.stop()
    assert load_model(f"{REPO}:Q4_0")[0] is not None
    with pytest.raises(errors.HubUnreachableError):
        load_model(f"{REPO}:Q8_0")


def test_the_estimate_of_a_gguf_file_reads_its_beginning(gguf_hub: HubServer, tmp_path: Path) -> None:
    estimate = estimate_memory(f"{REPO}:Q8_0", dtype="float32", available=10**9)
    assert estimate == estimate_memory(gguf_hub.folder / "tiny-Q8_0.gguf", dtype="float32", available=10**9)
    assert not any((tmp_path / "home" / "hub").glob("models--*/blobs/*"))


def test_a_slow_line_is_not_taken_for_a_hub_that_does_not_answer(gguf_hub: HubServer) -> None:
    gguf_hub.bytes_per_second = (gguf_hub.folder / "tiny-Q8_0.gguf").stat().st_size / 6
    start = time.monotonic()
    steps = list(download_steps(REPO, "config", "Q8_0", stall_timeout=4.0))
    assert time.monotonic() - start > 4
    fractions = [step.fraction for step in steps if step.fraction is not None]
    assert fractions == sorted(fractions)
    assert any(0 < fraction < 1 for fraction in fractions)


def test_the_beginning_of_a_file_is_fetched_once_a_revision(
    gguf_hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Estimating the memory, then loading: on a slow line each takes minutes."""
    name = f"{REPO}:Q8_0"
    estimate = estimate_memory(name, dtype="float32", available=10**9)
    assert gguf_hub.requested == ["tiny-Q8_0.gguf"]
    assert estimate_memory(name, dtype="float32", available=10**9) == estimate
    assert gguf_hub.requested == ["tiny-Q8_0.gguf"]
    monkeypatch.setattr("hub_server._COMMIT", "f" * 40)
    estimate_memory(name, dtype="float32", available=10**9)
    assert gguf_hub.requested == ["tiny-Q8_0.gguf"] * 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{REPO}:Q9", r"no GGUF file of Q9.* It holds GGUF files \(Q2_K, Q4_0, Q8_0\): ask for somebody/tiny-llama:"),
        (REPO, r"no config\.json\. It holds GGUF files \(Q2_K, Q4_0, Q8_0\)"),
        (f"{REPO}:Q2_K", r"split into several files, .*llama-gguf-split --merge"),
    ],
)
def test_a_gguf_file_that_is_not_to_be_had(gguf_hub: HubServer, name: str, words: str) -> None:
    with pytest.raises((errors.IncompleteModelError, errors.UnsupportedModelError), match=words):
        load_model(name)
    assert not gguf_hub.requested
