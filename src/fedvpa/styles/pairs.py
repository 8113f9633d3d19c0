"""Labelled pairs: each user draws prompts, two samples of each, and a Bradley–Terry label, from own streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from fedvpa.core.errors import DataError
from fedvpa.core.seeds import entropy, numpy_generator
from fedvpa.styles.standard import Standard
from fedvpa.styles.users import StyleUser
from fedvpa.styles.utility import StyleUtility, preferred


@dataclass(frozen=True, slots=True)
class StylePair:
    """One labelled pair, by numbers.

    Attributes:
        user: Who labelled it.
        prompt: The number of the prompt.
        chosen: The number of the sample that the user preferred.
        rejected: That of the other one.
        probability: That with which the utilities would have it so.
    """

    user: StyleUser
    prompt: int
    chosen: int
    rejected: int
    probability: float


def most_pairs(prompts: int, samples: int) -> int:
    """How many different pairs one user can label at most."""
    return prompts * samples * (samples - 1) // 2


def user_pairs(
    user: StyleUser,
    count: int,
    names: Sequence[str],
    samples: Sequence[Sequence[str]],
    standard: Standard,
    *,
    seed: int,
    temperature: float,
) -> list[StylePair]:
    """The first ``count`` pairs of a user: of each prompt one, in an order of the user's own, then of each another one.

    More pairs, more users and more prompts behind the others leave the label of a pair as it was: it depends on the
    seed, the user, the prompt and the two samples.

    Args:
        user: Who labels.
        count: How many pairs.
        names: The name of each prompt.
        samples: The samples of each prompt; two equal ones make no pair.
        standard: The base model's scale.
        seed: Names the draws.
        temperature: Of the labels.

    Raises:
        DataError: If there are not so many different pairs.
    """
    utility = StyleUtility(user.weights, standard)
    turns = _turns(user.user_id, names, samples, seed)
    if len(turns) < count:
        raise DataError(
            f"{len(names)} prompts have {len(turns)} pairs of samples that differ, and {user.user_id} is to label "
            f"{count}.",
            fix="Give more prompts, or ask for fewer --pairs or more --samples.",
        )
    values, _ = utility.values([samples[row][number] for row, *both in turns[:count] for number in both])
    found = []
    for (row, first, second), p in zip(
        turns, preferred(values[::2] - values[1::2], temperature).tolist(), strict=False
    ):
        wins = numpy_generator(seed, "styles", "label", user.user_id, names[row], first, second).random() < p
        chosen, rejected = (first, second) if wins else (second, first)
        found.append(StylePair(user, row, chosen, rejected, p if wins else 1.0 - p))
    return found


def _turns(
    user_id: str, names: Sequence[str], samples: Sequence[Sequence[str]], seed: int
) -> list[tuple[int, int, int]]:
    """(prompt, sample, sample) of all pairs of a user, in the user's order."""
    order = sorted(range(len(names)), key=lambda row: entropy(seed, "styles", "prompt", user_id, names[row]))
    choices = {
        row: sorted(
            (pair for pair in combinations(range(len(samples[row])), 2) if _differ(samples[row], pair)),
            key=lambda pair: entropy(seed, "styles", "pair", user_id, names[row], *pair),
        )
        for row in order
    }
    most = max(map(len, choices.values()), default=0)
    return [(row, *choices[row][turn]) for turn in range(most) for row in order if turn < len(choices[row])]


def _differ(texts: Sequence[str], pair: tuple[int, int]) -> bool:
    first, second = (texts[number].strip() for number in pair)
    return bool(first and second) and first != second


def bayes_accuracy(pairs: Sequence[StylePair]) -> float:
    """The expected accuracy of whoever knows the utilities: mean of max(p, 1 − p) over the pairs."""
    return float(np.mean(np.maximum(probabilities(pairs), 1.0 - probabilities(pairs))))


def agreement(pairs: Sequence[StylePair]) -> float:
    """The share of labels that are as the utilities order them; a tie counts one half."""
    p = probabilities(pairs)
    return float(np.mean(np.where(p > 0.5, 1.0, np.where(p < 0.5, 0.0, 0.5))))


def probabilities(pairs: Sequence[StylePair]) -> Float[np.ndarray, " pairs"]:
    """The probability of each label under the utilities."""
    return np.array([pair.probability for pair in pairs])


def by_group(pairs: Sequence[StylePair]) -> Mapping[str, list[StylePair]]:
    """Group → its pairs; empty where users have none."""
    found: dict[str, list[StylePair]] = {}
    for pair in pairs:
        if pair.user.group is not None:
            found.setdefault(pair.user.group, []).append(pair)
    return found
