"""Samples of made-up numbers."""

import numpy as np

from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.prompt_sample import PromptSample


def sample_of(*strata):
    return ClientSample(
        {seed: {f"c{i:04}": float(v) for i, v in enumerate(values)} for seed, values in enumerate(strata)}
    )


def random_sample(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return sample_of(*(rng.beta(5, 2, size) for size in sizes))


def prompt_sample(values, seed=0):
    return PromptSample({(seed, f"p{number:03}", ""): float(value) for number, value in enumerate(values)})
