"""Models to offer by name, with what is known of them.

Settings are listed only where their source is named; for every other model `suggest()` gives them from the trained
window and the length.
"""

from dataclasses import dataclass

from selfextend.config import QueryScaling


@dataclass(frozen=True)
class PublishedSetting:
    """SelfExtend settings that somebody published for a model.

    Attributes:
        group_size: the paper's G_s.
        neighbor_window: the paper's w_n, tokens.
        length: tokens it was published for, or None where the source names none.
        source: where it was published.
    """

    group_size: int
    neighbor_window: int
    length: int | None
    source: str


@dataclass(frozen=True)
class Preset:
    """One model to choose.

    Attributes:
        label: what a menu shows.
        repo_id: what `load_model` takes: a hub id, or "bundled".
        trained_window: tokens (the paper's L), or None where only the model's folder says it.
        licence: as the model card names it.
        published: settings that somebody published, the one to start from first.
        gated: the hub asks for an account that has accepted the licence.
        query_scaling: "logn" where the model was found to need it past its window, else "none".
        download_bytes: of a model that was made to answer questions, what has to be downloaded for it, in 16 bits a
            weight; None for others and for large ones.
    """

    label: str
    repo_id: str
    trained_window: int | None
    licence: str
    published: tuple[PublishedSetting, ...] = ()
    gated: bool = False
    query_scaling: QueryScaling = "none"
    download_bytes: int | None = None


BUNDLED = "bundled"
_LONGLM = "github.com/datamllab/LongLM"
_SMOL = "HuggingFaceTB"

# The trained windows are max_position_embeddings in each config.json. Only Mistral's configs say 32,768 with a sliding
# window of 4,096, without which SelfExtend runs; 8,192 is from its paper (arXiv 2310.06825, table 1) and from LongLM's
# mistral_example.py.
PRESETS: tuple[Preset, ...] = (
    Preset("Bundled teaching model", BUNDLED, None, "MIT", query_scaling="logn"),
    Preset(
        "Llama-2-7b-chat",
        "meta-llama/Llama-2-7b-chat-hf",
        4096,
        "Llama 2 Community License",
        published=(
            PublishedSetting(4, 1024, None, f"{_LONGLM}, README, how to run"),
            PublishedSetting(8, 1024, 15_800, f"{_LONGLM}, README, how to choose the group size"),
            PublishedSetting(32, 1024, None, f"{_LONGLM}, example.py (passkey)"),
        ),
        gated=True,
    ),
    Preset("Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1", 8192, "Apache-2.0"),
    Preset(
        "Mistral-7B-Instruct-v0.1",
        "mistralai/Mistral-7B-Instruct-v0.1",
        8192,
        "Apache-2.0",
        published=(PublishedSetting(4, 1024, 10_000, f"{_LONGLM}, mistral_example.py (passkey)"),),
    ),
    Preset("SOLAR-10.7B-Instruct-v1.0", "upstage/SOLAR-10.7B-Instruct-v1.0", 4096, "CC-BY-NC-4.0"),
    Preset(
        "Phi-2",
        "microsoft/phi-2",
        2048,
        "MIT",
        published=(
            PublishedSetting(4, 512, 4096, "arXiv 2401.01325, table 5"),
            PublishedSetting(8, 512, 6144, "arXiv 2401.01325, table 5"),
        ),
    ),
    Preset("SmolLM2-135M-Instruct", f"{_SMOL}/SmolLM2-135M-Instruct", 8192, "Apache-2.0", download_bytes=273_000_000),
    Preset("SmolLM2-360M-Instruct", f"{_SMOL}/SmolLM2-360M-Instruct", 8192, "Apache-2.0", download_bytes=727_000_000),
    Preset("Qwen3-0.6B", "Qwen/Qwen3-0.6B", 40_960, "Apache-2.0", download_bytes=1_520_000_000),
    Preset(
        "Gemma-3-1b-it",
        "google/gemma-3-1b-it",
        32_768,
        "Gemma Terms of Use",
        gated=True,
        download_bytes=2_040_000_000,
    ),
    Preset(
        "Llama-3.2-1B-Instruct",
        "meta-llama/Llama-3.2-1B-Instruct",
        131_072,
        "Llama 3.2 Community License",
        gated=True,
        download_bytes=2_480_000_000,
    ),
    Preset("SmolLM2-1.7B-Instruct", f"{_SMOL}/SmolLM2-1.7B-Instruct", 8192, "Apache-2.0", download_bytes=3_430_000_000),
    Preset("Qwen3-1.7B", "Qwen/Qwen3-1.7B", 40_960, "Apache-2.0", download_bytes=4_080_000_000),
    Preset("Phi-4-mini-instruct", "microsoft/Phi-4-mini-instruct", 131_072, "MIT", download_bytes=7_690_000_000),
)


def find_preset(repo_id: str) -> Preset | None:
    """The preset of this hub id (or "bundled"), or None."""
    return next((preset for preset in PRESETS if preset.repo_id == repo_id), None)
