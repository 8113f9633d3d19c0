"""How responses are drawn from a model: by settings of our own, up to the stop set.

Nothing is inherited from the checkpoint's ``generation_config.json``, whose penalties and beams would make samples of
something else than the policy. Its list of end tokens is a part of the stop set, :mod:`fedvpa.models.stops`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from fedvpa.policy.network import PolicyNetwork
from fedvpa.policy.rows import Ids, PolicyTokenizer
from fedvpa.policy.sampling import Sampling


def settings_of(sampling: Sampling, tokenizer: PolicyTokenizer) -> GenerationConfig:
    """Greedy decoding, of what :class:`Draws` leaves, and nothing else."""
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(tokenizer.stops.tokens),
        pad_token_id=tokenizer.pad,
        do_sample=False,
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


class Draws(LogitsProcessor):
    """Draws the next token and leaves the logits of no other, so that ``generate`` has nothing to choose.

    Args:
        draw: Logits, number of the step and rows → tokens.
    """

    def __init__(self, draw: Callable[[Tensor, int, Tensor], Tensor]) -> None:
        self._draw = draw

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Zero for the token that is drawn and minus infinity for all others.

        Raises:
            TrainingError: If one is no number to draw by.
        """
        rows = torch.arange(len(scores), device=scores.device)
        tokens = self._draw(scores.clone(), input_ids.shape[1], rows)
        found = torch.full_like(scores, -torch.inf)
        found[rows, tokens] = 0.0
        return found  # type: ignore[return-value]


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

    @property
    def watches(self) -> bool:
        """Whether any row has a text to stop at."""
        return any(self._texts)

    def ended(self, drawn: Tensor, rows: Tensor) -> Tensor:
        """Whether each of these rows is done.

        Args:
            drawn: The tokens drawn so far, of all rows.
            rows: Which rows are asked for.
        """
        done = torch.zeros(len(rows), dtype=torch.bool)
        recent = drawn[rows, -self._window :].tolist()
        for place, (row, ids) in enumerate(zip(rows.tolist(), recent, strict=True)):
            if self._texts[row]:
                said = self._tokenizer.text(ids)
                done[place] = any(text in said for text in self._texts[row])
        return done.to(drawn.device)

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """Whether each row is done; ``input_ids`` are the tokens drawn so far."""
        return self.ended(input_ids, torch.arange(len(input_ids)))  # type: ignore[return-value]


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


def generated(
    policy: PolicyNetwork,
    prompts: Sequence[Ids],
    z: Tensor | None,
    sampling: Sampling,
    draw: Callable[[Tensor, int, Tensor], Tensor],
    texts: Sequence[tuple[str, ...]],
) -> list[Ids]:
    """Responses by ``generate`` of transformers, for any architecture.

    Args:
        policy: In evaluation mode.
        prompts: Tokens.
        z: A latent per prompt, on the policy's device.
        sampling: How.
        draw: See :class:`Draws`.
        texts: The texts that end each response.
    """
    rows = policy.layout.rows(prompts).to(policy.device)
    with policy.listening(z), inheriting_nothing(policy.model.get_base_model()):
        tokens = policy.model.generate(
            inputs_embeds=policy.embed(rows, z),
            attention_mask=rows.attention,
            generation_config=settings_of(sampling, policy.tokenizer),
            logits_processor=[Draws(draw)],
            stopping_criteria=[StopTexts(policy.tokenizer, texts)] if any(texts) else None,
        )
    return list(tokens.cpu().numpy().astype(np.int32))
