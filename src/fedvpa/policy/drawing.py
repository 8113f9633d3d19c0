"""What is drawn for a prompt: named by seed, labels, prompt and the number of the sample, and by nothing else.

Each response has a stream of uniform numbers of its own, one for each token: token t is where the t-th number falls
among the probabilities of all tokens, laid one behind the other (inversion). So the batch, the order of the prompts,
the process and the way the model is computed move rounding only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.core.errors import TrainingError
from fedvpa.core.seeds import Label, numpy_generator
from fedvpa.policy.rows import Ids, alike
from fedvpa.policy.sampling import Sampling

LIKELY = 1024
"""Tokens that are sorted first for a nucleus; all of them only where these do not fill it. Chosen by us."""


def sample_numbers(prompts: Sequence[Ids]) -> list[int]:
    """For each prompt how many equal ones stand before it: the number of the sample."""
    seen: Counter[bytes] = Counter()
    found = []
    for key in alike(prompts, None):
        found.append(seen[key])
        seen[key] += 1
    return found


def uniforms(
    prompts: Sequence[Ids], numbers: Sequence[int], length: int, seed: int, *path: Label
) -> Float[NDArray[np.float64], "rows length"]:
    """The numbers in [0, 1) by which responses are drawn.

    Args:
        prompts: Tokens.
        numbers: The number of each sample among those of its prompt.
        length: The longest response.
        seed: Names, with ``path``, the streams.
        *path: Labels.
    """
    found = np.empty((len(prompts), length))
    for row, (key, number) in enumerate(zip(alike(prompts, None), numbers, strict=True)):
        name = hashlib.sha256(key).hexdigest()
        found[row] = numpy_generator(seed, *path, "response", name, number).random(length)
    return found


def pick(
    logits: Float[Tensor, "rows vocabulary"], numbers: Float[Tensor, " rows"], sampling: Sampling
) -> Int[Tensor, " rows"]:
    """The next token of each row.

    Args:
        logits: Of the next token; they are overwritten.
        numbers: One in [0, 1) for each row.
        sampling: Temperature, 0 for the likeliest token, and nucleus.

    Raises:
        TrainingError: If a logit is NaN or +infinite: what is drawn from it means nothing.
    """
    logits = logits.float()
    if not bool(drawable(logits).all()):
        raise TrainingError(
            "The policy gives logits that are no finite numbers, so nothing can be sampled from it: its training "
            "has diverged. Lower policy.lr or policy.conditioner_lr."
        )
    return pick_rows(logits, numbers, numbers.new_full((), sampling.temperature), numbers.new_full((), sampling.top_p))


def drawable(logits: Float[Tensor, "rows vocabulary"]) -> Bool[Tensor, " rows"]:
    """Whether a token can be drawn from each row: no logit is NaN or +infinite, and one is finite."""
    peak = logits.amax(1)
    return (peak < torch.inf) & (peak > -torch.inf)


def pick_rows(
    logits: Float[Tensor, "rows vocabulary"],
    numbers: Float[Tensor, " rows"],
    temperature: Float[Tensor, "*rows"],
    top_p: Float[Tensor, "*rows"],
) -> Int[Tensor, " rows"]:
    """The next token of each row, each drawn in its own way.

    Args:
        logits: Of the next token, :func:`drawable`, in float32; they are overwritten.
        numbers: One in [0, 1) for each row.
        temperature: 0 for the likeliest token; of each row, or one for all.
        top_p: Nucleus; of each row, or one for all.
    """
    temperature, top_p = (part.expand(len(logits)) for part in (temperature, top_p))
    warm = temperature > 0
    if not bool(warm.all()):
        found, rows = logits.argmax(1), warm.nonzero()[:, 0]
        if len(rows):
            found[rows] = pick_rows(logits[rows], numbers[rows], temperature[rows], top_p[rows])
        return found
    weights = logits.sub_(logits.amax(1, keepdim=True)).div_(temperature[:, None]).exp_()
    narrow = (top_p < 1).nonzero()[:, 0]
    if len(narrow) == len(logits):
        weights.masked_fill_(weights < _least(weights, top_p[:, None]), 0)
    elif len(narrow):
        part = weights[narrow]
        weights[narrow] = part.masked_fill_(part < _least(part, top_p[narrow, None]), 0)
    summed = weights.cumsum(1)
    total = summed[:, -1:]
    # Below the sum whatever the rounding, so that the token found has a weight.
    aim = torch.minimum(numbers[:, None].to(total.dtype) * total, total * (1 - 2**-23))
    return torch.searchsorted(summed, aim, right=True)[:, 0]


def _least(weights: Float[Tensor, "rows vocabulary"], top_p: Float[Tensor, "rows 1"]) -> Float[Tensor, "rows 1"]:
    """The smallest weight of each row's nucleus: the likeliest tokens until their share is ``top_p``."""
    wanted = top_p * weights.sum(1, keepdim=True)
    size = weights.shape[1]
    likely = min(LIKELY, size)
    largest = weights.topk(likely, dim=1).values
    if likely < size and bool((largest.sum(1, keepdim=True) < wanted).any()):
        largest = weights.sort(dim=1, descending=True).values
    before = largest.cumsum(1) - largest
    kept = (before < wanted).sum(1, keepdim=True).clamp(min=1)  # a share below the least float32 is 0 here
    return largest.gather(1, kept - 1)
