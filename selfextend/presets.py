"""Models worth offering by name, with the facts a chooser wants beside them.

A table and nothing else: it loads no model and asks no network. A setting stands here only where its source
is named; for every other model `suggest()` gives one from the trained window and the length.
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
        trained_window: tokens (the paper's L), or None where only the config knows.
        window_source: who says so.
        published: settings somebody published, the one to start from first; may be empty.
        gated: the hub asks for an account that has accepted the licence.
        licence: as the model card names it.
        query_scaling: "logn" where the model was found to need it past its window, else "none".
    """

    label: str
    repo_id: str
    trained_window: int | None
    window_source: str
    published: tuple[PublishedSetting, ...]
    gated: bool
    licence: str
    query_scaling: QueryScaling = "none"


_CONFIG = "max_position_embeddings in its config.json"
_LONGLM = "github.com/datamllab/LongLM"

PRESETS: tuple[Preset, ...] = (
    Preset(
        label="Bundled teaching model",
        repo_id="bundled",
        trained_window=None,
        window_source=_CONFIG,
        published=(),
        gated=False,
        licence="MIT",
        query_scaling="logn",
    ),
    Preset(
        label="Llama-2-7b-chat",
        repo_id="meta-llama/Llama-2-7b-chat-hf",
        trained_window=4096,
        window_source=_CONFIG,
        published=(
            PublishedSetting(4, 1024, None, f"{_LONGLM}, README, how to run"),
            PublishedSetting(8, 1024, 15_800, f"{_LONGLM}, README, how to choose the group size"),
            PublishedSetting(32, 1024, None, f"{_LONGLM}, example.py (passkey)"),
        ),
        gated=True,
        licence="Llama 2 Community License",
    ),
    # Mistral's configs say 32,768 with a sliding window of 4,096; SelfExtend runs without that sliding window.
    Preset(
        label="Mistral-7B-v0.1",
        repo_id="mistralai/Mistral-7B-v0.1",
        trained_window=8192,
        window_source="arXiv 2310.06825, table 1 (context_len)",
        published=(),
        gated=False,
        licence="Apache-2.0",
    ),
    Preset(
        label="Mistral-7B-Instruct-v0.1",
        repo_id="mistralai/Mistral-7B-Instruct-v0.1",
        trained_window=8192,
        window_source=f"{_LONGLM}, mistral_example.py",
        published=(PublishedSetting(4, 1024, 10_000, f"{_LONGLM}, mistral_example.py (passkey)"),),
        gated=False,
        licence="Apache-2.0",
    ),
    Preset(
        label="SOLAR-10.7B-Instruct-v1.0",
        repo_id="upstage/SOLAR-10.7B-Instruct-v1.0",
        trained_window=4096,
        window_source=_CONFIG,
        published=(),
        gated=False,
        licence="CC-BY-NC-4.0",
    ),
    Preset(
        label="Phi-2",
        repo_id="microsoft/phi-2",
        trained_window=2048,
        window_source=_CONFIG,
        published=(
            PublishedSetting(4, 512, 4096, "arXiv 2401.01325, table 5"),
            PublishedSetting(8, 512, 6144, "arXiv 2401.01325, table 5"),
        ),
        gated=False,
        licence="MIT",
    ),
    Preset(
        label="Llama-3.2-1B-Instruct",
        repo_id="meta-llama/Llama-3.2-1B-Instruct",
        trained_window=131_072,
        window_source=_CONFIG,
        published=(),
        gated=True,
        licence="Llama 3.2 Community License",
    ),
    Preset(
        label="Qwen3-0.6B",
        repo_id="Qwen/Qwen3-0.6B",
        trained_window=40_960,
        window_source=_CONFIG,
        published=(),
        gated=False,
        licence="Apache-2.0",
    ),
    Preset(
        label="Gemma-3-1b-it",
        repo_id="google/gemma-3-1b-it",
        trained_window=32_768,
        window_source=_CONFIG,
        published=(),
        gated=True,
        licence="Gemma Terms of Use",
    ),
    Preset(
        label="SmolLM2-135M-Instruct",
        repo_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        trained_window=8192,
        window_source=_CONFIG,
        published=(),
        gated=False,
        licence="Apache-2.0",
    ),
)


def find_preset(repo_id: str) -> Preset | None:
    """The preset of this hub id (or "bundled"), or None: what was typed in by hand has none."""
    return next((preset for preset in PRESETS if preset.repo_id == repo_id), None)
