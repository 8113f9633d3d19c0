"""Whether a tokenizer and a model belong together: every token has a row in the model's embeddings."""

from __future__ import annotations

from typing import Any

from fedvpa.core.errors import ModelError

PLACEHOLDERS = ("image_token", "video_token", "audio_token", "boi_token", "eoi_token", "boa_token", "eoa_token")
"""Tokens that stand for pictures and sounds, by the names that transformers gives them. The text-only models of some
families (Gemma 3 with a billion parameters) share their tokenizer with larger ones and have no rows for these; text
never becomes one."""


def check_vocabulary(tokenizer: Any, model: Any) -> None:
    """Refuse a tokenizer that gives numbers for which the model has no embedding.

    Raises:
        ModelError: With both numbers, and the first such token; says if it is the padding, begin or end token.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    placeholders = {str(getattr(tokenizer, name, None)) for name in PLACEHOLDERS}
    beyond = {
        number: token for token, number in tokenizer.get_vocab().items() if number >= rows and token not in placeholders
    }
    if not beyond:
        return
    number = min(beyond)
    roles = {"padding": tokenizer.pad_token_id, "begin": tokenizer.bos_token_id, "end": tokenizer.eos_token_id}
    special = [f"the {role} token is number {own}" for role, own in roles.items() if own is not None and own >= rows]
    raise ModelError(
        f"The tokenizer has {max(beyond) + 1} tokens, and the model has embeddings for {rows}: {beyond[number]!r} is "
        f"number {number}{''.join(f', {words}' for words in special)}.",
        fix="Use the tokenizer that belongs to the model; or, where tokens were added on purpose, give the model rows "
        "for them with model.resize_token_embeddings(len(tokenizer)), train them, and save both.",
    )
