"""Reads a model's trained window (the paper's L) from its config."""

from typing import Any

# Most configs say `max_position_embeddings`; the others are what older families call the same number.
_WINDOW_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")


def trained_window(config: Any) -> int:
    """The number of tokens a model was trained on, as far as its config tells.

    The largest relative position the model has seen is this number less one. What counts, by case:

    - RoPE of type `default`, `dynamic`: `max_position_embeddings`. Dynamic NTK changes nothing up to there
      and has trained nothing beyond.
    - `linear`, `llama3`, `longrope`: `max_position_embeddings` too. With its scaling in force such a model
      was trained to the long window, not to `original_max_position_embeddings`. (Where a checkpoint keeps the
      short number there, that is used, which is on the safe side.)
    - `yarn`: the larger of `max_position_embeddings` and `factor * original_max_position_embeddings`. YaRN is
      published both ways: some configs raise `max_position_embeddings`, some leave it and state the factor.
    - Every layer has a sliding window (Mistral-7B-v0.1, StarCoder2): that window, if it is the smaller
      number. No query ever saw a key further away, and SelfExtend has to switch the window off. With a mix of
      sliding and full layers (Gemma) the full layers decide.
    - A composite config (text and vision): its text part.

    Args:
        config: a transformers config, or anything with the same attributes.

    Returns:
        Tokens, at least 1.

    Raises:
        ValueError: the config states no window; the message says how to go on.
    """
    text_config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    stated = (getattr(text_config, field, None) for field in _WINDOW_FIELDS)
    window = next((value for value in stated if isinstance(value, int) and value > 0), None)
    if window is None:
        raise ValueError(
            f"the config of this {getattr(text_config, 'model_type', 'unknown')!r} model does not say how "
            "many tokens it was trained on (no max_position_embeddings). Give the trained window yourself."
        )
    rope = getattr(text_config, "rope_parameters", None) or {}
    rope = rope.get("full_attention") or rope  # some models (Gemma-3) keep one set per layer type
    if rope.get("rope_type") == "yarn":
        scaled = (rope.get("factor") or 1.0) * (rope.get("original_max_position_embeddings") or window)
        window = max(window, int(scaled))
    sliding_window = getattr(text_config, "sliding_window", None)
    layer_types = getattr(text_config, "layer_types", None) or ["sliding_attention"]
    if sliding_window and all(layer_type == "sliding_attention" for layer_type in layer_types):
        window = min(window, sliding_window)
    return window
