"""What a language model is: decoder or encoder, how many positions, which attention window."""

from __future__ import annotations

from typing import Any, Literal

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from fedvpa.core.errors import ModelError

Kind = Literal["causal", "encoder"]


def kind_of(settings: Any) -> Kind:
    """Whether a configuration is of a decoder-only model or of an encoder.

    The rule reads the lists of transformers: an architecture with a masked-language-model head is an encoder unless
    ``is_decoder`` is set; else one with a causal head is decoder-only; anything else is not decided here. Extraction
    later checks by a probe that a causal model does not see the future.

    Raises:
        ModelError: For encoder-decoders and for architectures with neither head.
    """
    family = settings.model_type
    if getattr(settings, "is_encoder_decoder", False):
        raise ModelError(
            f"{family!r} is an encoder-decoder.",
            fix="Use a decoder-only model (Qwen2, Llama …) or an encoder (BERT …).",
        )
    masked, causal = family in MODEL_FOR_MASKED_LM_MAPPING_NAMES, family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if masked and not getattr(settings, "is_decoder", False):
        return "encoder"
    if causal:
        return "causal"
    raise ModelError(
        f"The architecture {family!r} has neither a causal nor a masked language model head in transformers, so it is "
        "unclear how it reads a prompt and a response.",
        fix="Use a decoder-only model (Qwen2, Llama …) or an encoder (BERT …).",
    )


def position_limit(model: Any, tokenizer: Any) -> int | None:
    """How many tokens a sequence may have.

    The smaller of ``max_position_embeddings`` and the tokenizer's ``model_max_length``; RoBERTa-like position tables
    start behind their padding row and lose those rows.
    """
    limits = []
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and positions > 0:
        tables = [table for name, table in model.named_modules() if name.endswith("position_embeddings")]
        paddings = [table.padding_idx for table in tables if getattr(table, "padding_idx", None) is not None]
        limits.append(positions - max((padding + 1 for padding in paddings), default=0))
    if 0 < tokenizer.model_max_length < 1_000_000_000:  # larger values are the library's way to say "unknown"
        limits.append(tokenizer.model_max_length)
    return min(limits, default=None)


def attention_window(text: Any) -> int | None:
    """The shortest window (sliding or chunked) that any layer's attention is limited to."""
    if getattr(text, "use_sliding_window", True) is False:
        return None
    windows = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((int(window) for window in windows if window), default=None)


def positions_of(model: Any) -> int | None:
    """How many tokens a row of a model may have; None where nothing says."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(positions) if positions else None
