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
from jaxtyping import Float, Int
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
    peak = logits.amax(1, keepdim=True)
    if not bool((peak < torch.inf).all()):
        raise TrainingError(
            "The policy gives logits that are no finite numbers, so nothing can be sampled from it: its training "
            "has diverged. Lower policy.lr or policy.conditioner_lr."
        )
    if sampling.temperature == 0:
        return logits.argmax(1)
    weights = logits.sub_(peak).div_(sampling.temperature).exp_()
    if sampling.top_p < 1:
        weights = weights.masked_fill_(weights < _least(weights, sampling.top_p), 0)
    summed = weights.cumsum(1)
    total = summed[:, -1:]
    # Below the sum whatever the rounding, so that the token found has a weight.
    aim = torch.minimum(numbers[:, None].to(total.dtype) * total, total * (1 - 2**-23))
    return torch.searchsorted(summed, aim, right=True)[:, 0]


def _least(weights: Float[Tensor, "rows vocabulary"], top_p: float) -> Float[Tensor, "rows 1"]:
    """The smallest weight of each row's nucleus: the likeliest tokens until their share is ``top_p``."""
    wanted = top_p * weights.sum(1, keepdim=True)
    size = weights.shape[1]
    likely = min(LIKELY, size)
    largest = weights.topk(likely, dim=1).values
    if likely < size and bool((largest.sum(1, keepdim=True) < wanted).any()):
        largest = weights.sort(dim=1, descending=True).values
    before = largest.cumsum(1) - largest
    kept = (before < wanted).sum(1, keepdim=True)
    return largest.gather(1, kept - 1)
