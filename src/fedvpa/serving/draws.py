"""The next token of each row, in the row's own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.core.errors import TrainingError
from fedvpa.policy.drawing import drawable, pick_rows
from fedvpa.serving.row import Row


def draw(rows: Sequence[Row], logits: Float[Tensor, "rows vocabulary"]) -> tuple[Int[Tensor, " rows"], Sequence[int]]:
    """Draw a token for each row and give it to the row, with its log-probability where it was asked for.

    Args:
        rows: The rows.
        logits: Of the next token; they are overwritten.

    Returns:
        The tokens, and the places of rows whose logits are no finite numbers: those are given no token.
    """
    logits = logits.float()
    fine = drawable(logits)
    failed = (~fine).nonzero()[:, 0].tolist()
    if failed:
        logits = logits.masked_fill(~fine[:, None], 0.0)
    told = [place for place, row in enumerate(rows) if row.request.top_logprobs is not None]
    scores = torch.log_softmax(logits[told], 1) if told else None
    temperature = _each(rows, logits, lambda row: row.request.sampling.temperature)
    top_p = _each(rows, logits, lambda row: row.request.sampling.top_p)
    tokens = pick_rows(logits, _each(rows, logits, Row.number), temperature, top_p)
    own = {} if scores is None else dict(zip(told, _scores(scores, tokens[told], _most(rows)), strict=True))
    for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
        if place not in failed:
            logprob, top = own.get(place, (None, []))
            row.add(token, logprob, top[: row.request.top_logprobs or 0])
    return tokens, failed


def no_numbers() -> TrainingError:
    """What a row is told whose logits are no finite numbers."""
    return TrainingError(
        "The policy gives logits that are no finite numbers under this z, so nothing can be sampled from it. Use a z "
        "that is nearer to the prototypes; if all fail, the training has diverged."
    )


def _each(rows: Sequence[Row], logits: Tensor, value: Callable[[Row], float]) -> Float[Tensor, " rows"]:
    return torch.tensor([value(row) for row in rows], dtype=torch.float32, device=logits.device)


def _most(rows: Sequence[Row]) -> int:
    return max(row.request.top_logprobs or 0 for row in rows)


def _scores(scores: Tensor, tokens: Tensor, most: int) -> list[tuple[float, list[tuple[int, float]]]]:
    """The log-probability of each row's token, and the likeliest tokens with theirs."""
    own = scores.gather(1, tokens[:, None])[:, 0].tolist()
    top = scores.topk(min(most, scores.shape[1]), 1)
    likely = [list(zip(*pair, strict=True)) for pair in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
    return list(zip(own, likely, strict=True))
