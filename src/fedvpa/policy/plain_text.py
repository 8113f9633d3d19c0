"""Log-probabilities of plain text, which is neither a prompt nor a response, under a policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.errors import DataError
from fedvpa.policy.model import PolicyModel
from fedvpa.policy.rows import Ids

WINDOW = 512
"""Tokens that are read at once. Chosen by us: longer texts are read window by window, so that memory is bounded."""


def windows(model: PolicyModel, text: str) -> list[tuple[Ids, Ids]]:
    """The tokens of a text in windows, each as what comes first and what is scored.

    The first token of a window stands behind the special tokens that the tokenizer puts in front, and is not scored:
    without them it would follow nothing. What a text spells of control tokens is text.
    """
    encoder, layout = model.tokenizer.encoder, model.layout
    controls = encoder.renderer.controls
    sealed = controls.spelled_in(text)
    (ids,) = encoder.encode([controls.seal(controls.quote(text)) if sealed else text], sealed=sealed)
    before = np.asarray(model.tokenizer.before, np.int32)
    most = model.tokenizer.max_tokens or WINDOW + len(before) + layout.slots
    size = min(WINDOW, most - len(before) - layout.slots)
    parts = [ids[start : start + size] for start in range(0, len(ids), size)]
    return [(np.concatenate([before, part[:1]]), part[1:]) for part in parts if len(part) > 1]


def text_log_probs(
    model: PolicyModel, texts: Sequence[Sequence[tuple[Ids, Ids]]], z: Float[Tensor, " k"] | None
) -> Float[np.ndarray, " texts"]:
    """Log-probability of each text, summed over the tokens of its windows, in nats.

    Args:
        model: The policy; see :meth:`~fedvpa.policy.model.PolicyModel.reference` for its base.
        texts: From :func:`windows`.
        z: The latent that it follows; None for a policy without one.
    """
    owner = [place for place, own in enumerate(texts) for _ in own]
    firsts, rests = zip(*(window for own in texts for window in own), strict=True)
    every = None if z is None else z.expand(len(firsts), -1)
    with torch.inference_mode():
        found = model.token_log_probs(firsts, rests, every)
    sums = [float(values.astype(np.float64).sum()) for values in found]
    return np.bincount(owner, sums, minlength=len(texts))


def check_texts(texts: Sequence[Sequence[tuple[Ids, Ids]]], where: str) -> None:
    """Raise DataError for a text without two tokens, naming it."""
    for place, own in enumerate(texts, start=1):
        if not own:
            raise DataError(
                f"text {place} has fewer than two tokens, so that none follows another.",
                fix="Leave it out.",
                where=where,
            )
