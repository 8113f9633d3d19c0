"""How responses are drawn from a model: by settings of our own, up to the stop set.

Nothing is inherited from the checkpoint's ``generation_config.json``, whose penalties and beams would make samples of
something else than the policy. Its list of end tokens is a part of the stop set, :mod:`fedvpa.models.stops`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from fedvpa.core.errors import TrainingError
from fedvpa.policy.rows import Ids, PolicyTokenizer
from fedvpa.policy.sampling import Sampling


def settings_of(sampling: Sampling, tokenizer: PolicyTokenizer) -> GenerationConfig:
    """The whole distribution at a temperature within a nucleus, or greedy decoding; nothing else."""
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(tokenizer.stops.tokens),
        pad_token_id=tokenizer.pad,
        **drawn,
    )


@contextlib.contextmanager
def inheriting_nothing(model: Any) -> Iterator[None]:
    """While inside, a model has no generation settings of its own, which would fill what ours leave open."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class FiniteLogits(LogitsProcessor):
    """Refuses logits that are NaN or +infinite: what is drawn from them, or picked greedily, means nothing."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """The scores as they are.

        Raises:
            TrainingError: If one is no number to draw by.
        """
        if not bool((scores < torch.inf).all()):
            raise TrainingError(
                "The policy gives logits that are no finite numbers, so nothing can be sampled from it: its training "
                "has diverged. Lower policy.lr or policy.conditioner_lr."
            )
        return scores


class StopTexts(StoppingCriteria):
    """Stops a row once its response holds one of its texts.

    Args:
        tokenizer: Reads the tokens.
        texts: The texts of each row.
    """

    def __init__(self, tokenizer: PolicyTokenizer, texts: Sequence[tuple[str, ...]]) -> None:
        self._tokenizer, self._texts = tokenizer, texts
        # Every token is at least a byte; a few more hold what the first one of the text begins with.
        self._window = 8 + max((len(text.encode()) for row in texts for text in row), default=0)

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """Whether each row is done; ``input_ids`` are the tokens drawn so far."""
        done = torch.zeros(len(input_ids), dtype=torch.bool)
        for row, (ids, texts) in enumerate(zip(input_ids[:, -self._window :].tolist(), self._texts, strict=True)):
            if texts:
                said = self._tokenizer.text(ids)
                done[row] = any(text in said for text in texts)
        return done.to(input_ids.device)  # type: ignore[return-value]


def response_of(drawn: Ids, tokenizer: PolicyTokenizer, texts: Sequence[str]) -> Ids:
    """A row of drawn tokens as a response: up to its first stop token, which stays, or to the first stop text.

    Of the token in which a stop text begins, what stands before the text is kept by keeping the token.
    """
    ends = np.isin(drawn, tokenizer.stops.tokens).nonzero()[0]
    ids = drawn[: ends[0] + 1] if len(ends) else drawn
    said = tokenizer.text(ids)
    starts = [said.index(text) for text in texts if text in said]
    if not starts:
        return ids
    kept = 0
    while kept < len(ids) and len(tokenizer.text(ids[:kept])) < min(starts):
        kept += 1
    return ids[:kept]


def rows_of(drawn: Tensor, tokenizer: PolicyTokenizer, texts: Sequence[tuple[str, ...]]) -> list[Ids]:
    """A batch of drawn tokens as responses."""
    found = drawn.cpu().numpy().astype(np.int32)
    return [response_of(row, tokenizer, own) for row, own in zip(found, texts, strict=True)]
