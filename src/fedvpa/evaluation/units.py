"""What is resampled: clients for accuracies; prompts, and users where answers belong to users, for win rates.

**Clients.** Every client weighs the same, whatever its number of test pairs: the question is how well *users* are
served, and pairs of one client are not independent. Every seed weighs the same too. Seeds are fixed strata: a resample
draws clients inside each seed and never exchanges them between seeds. Intervals therefore speak of other clients under
these seeds; what another seed would change shows in the spread of the rows.

Two methods scored on the same clients see the same resamples; see :mod:`fedvpa.evaluation.resampling`.

**Prompts.** A win rate speaks of prompts that nobody has seen yet; all answers to one prompt meet the same base answer
and the same difficulty, in every seed; and prompts are what every method is scored on, also one that knows no users.
One draw of prompts therefore decides for all seeds.

Where answers belong to users, users are a second level; see :func:`fedvpa.evaluation.resampling.crossed_draws`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from fedvpa.core.errors import DataError
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate, Values
from fedvpa.evaluation.outcomes import Outcome
from fedvpa.evaluation.resampling import (
    AnswerKey,
    Statistic,
    Strata,
    crossed_draws,
    mean_of_units,
    resampled,
    sorted_values,
    worst_decile,
)
from fedvpa.evaluation.scores import ClientScore


@dataclass(frozen=True, slots=True)
class ClientSample:
    """One number per client, in strata: seed → client id → value. Clients are in sorted order, so order never matters.

    Attributes:
        strata: At least one seed, each with at least one client.
    """

    strata: Strata

    @classmethod
    def of(
        cls,
        scores: Iterable[ClientScore],
        value: Callable[[ClientScore], float | None] = lambda score: score.accuracy,
    ) -> Self | None:
        """The values of scores of one method at one number of clients.

        Args:
            scores: The scores.
            value: The number to take from each; clients for which it is None are left out.

        Returns:
            The sample, or None if no score has a value.

        Raises:
            DataError: If the scores mix methods or numbers of clients, or score a client twice in one seed.
        """
        strata: dict[int, dict[str, float]] = {}
        conditions: set[tuple[str, int]] = set()
        for score in scores:
            number = value(score)
            if number is None:
                continue
            conditions.add((score.method, score.n_clients))
            clients = strata.setdefault(score.seed, {})
            if score.client_id in clients:
                raise DataError(
                    f"{score.method} at N = {score.n_clients}, seed {score.seed}, scores client "
                    f"{score.client_id!r} twice.",
                    fix="Give one score per method, number of clients, seed and client.",
                )
            clients[score.client_id] = number
        if len(conditions) > 1:
            raise DataError(
                f"one sample cannot mix {sorted(conditions)}.", fix="Select one method and number of clients."
            )
        return cls({seed: dict(sorted(strata[seed].items())) for seed in sorted(strata)}) if strata else None

    @property
    def numbers(self) -> Values:
        """[seeds x clients] all values, by seed and sorted client id."""
        return np.concatenate([self.values(seed) for seed in self.seeds])

    @property
    def units(self) -> int:
        """Clients, counted once per seed."""
        return sum(map(len, self.strata.values()))

    @property
    def seeds(self) -> list[int]:
        """The strata, sorted."""
        return sorted(self.strata)

    @property
    def mean(self) -> float:
        """The mean over seeds of the mean over clients."""
        return self.statistic(mean_of_units)

    def statistic(self, statistic: Statistic) -> float:
        """The mean over seeds of a statistic over clients."""
        return float(np.mean([float(statistic(self.values(seed))) for seed in self.seeds]))

    def values(self, seed: int) -> Values:
        """[clients] the values of one seed, by sorted client id."""
        return sorted_values(self.strata[seed])

    def draws(self, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP, statistic: Statistic = mean_of_units) -> Values | None:
        """[resamples] the statistic's mean over seeds in each resample.

        None if a seed has a single client: nothing can be said about clients from one of them.
        """
        return resampled(self.strata, bootstrap, statistic)

    def matched(self, *others: ClientSample) -> list[ClientSample] | None:
        """This sample and the others on the seeds that all of them have; None if there is no such seed.

        Raises:
            DataError: If they differ in the clients of a common seed.
        """
        samples = (self, *others)
        common = sorted(set.intersection(*(set(sample.strata) for sample in samples)))
        for seed in common:
            names = [set(sample.strata[seed]) for sample in samples]
            if odd := names[0].union(*names) - names[0].intersection(*names):
                raise DataError(
                    f"in seed {seed}, {len(odd)} clients (such as {min(odd)!r}) were scored under one method and not "
                    "under another.",
                    fix="Paired comparisons need every method scored on the same clients.",
                )
        return [ClientSample({seed: sample.strata[seed] for seed in common}) for sample in samples] if common else None

    def minus(self, other: ClientSample) -> ClientSample | None:
        """The differences by client in the seeds that both have; None if there is no such seed.

        Raises:
            DataError: If they differ in the clients of a common seed.
        """
        matched = self.matched(other)
        if matched is None:
            return None
        first, second = matched
        return ClientSample(
            {
                seed: {client: number - second.strata[seed][client] for client, number in clients.items()}
                for seed, clients in first.strata.items()
            }
        )


def estimate_worst_decile(sample: ClientSample, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> Estimate:
    """The mean over seeds of :func:`worst_decile` over clients, with its interval."""
    return Estimate.of(sample.statistic(worst_decile), sample.draws(bootstrap, worst_decile), bootstrap)


@dataclass(frozen=True, slots=True)
class PromptSample:
    """One number per answer.

    Attributes:
        values: At least one (seed, prompt, user id) → value.
        weights: What each counts in the mean: every seed the same, within it every prompt, within it every user.
    """

    values: Mapping[AnswerKey, float]
    weights: Mapping[AnswerKey, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        users: dict[tuple[int, str], int] = defaultdict(int)
        prompts: dict[int, set[str]] = defaultdict(set)
        for seed, prompt, _ in self.values:
            users[seed, prompt] += 1
            prompts[seed].add(prompt)
        weights = {key: 1 / (len(prompts) * len(prompts[key[0]]) * users[key[:2]]) for key in self.values}
        object.__setattr__(self, "weights", weights)

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], value: Callable[[Outcome], float | None]) -> Self | None:
        """A number per outcome of one method, number of clients and preference.

        Args:
            outcomes: The outcomes.
            value: The number to take from each; outcomes for which it is None are left out.

        Returns:
            The sample, or None if no outcome has a value.

        Raises:
            DataError: If two outcomes have the same seed, prompt and user.
        """
        found: dict[AnswerKey, float] = {}
        for outcome in outcomes:
            number = value(outcome)
            if number is None:
                continue
            key = outcome.seed, outcome.prompt, outcome.user_id
            if key in found:
                raise DataError(f"{outcome.name} is there twice.", fix="Give one answer per prompt, user and seed.")
            found[key] = float(number)
        return cls(dict(sorted(found.items()))) if found else None

    @property
    def numbers(self) -> Values:
        """[answers] all values."""
        return np.array(list(self.values.values()), dtype=np.float64)

    @property
    def units(self) -> int:
        """Different prompts."""
        return len({prompt for _, prompt, _ in self.values})

    @property
    def users(self) -> int:
        """Users, counted once per seed."""
        return len({(seed, user) for seed, _, user in self.values if user})

    @property
    def seeds(self) -> list[int]:
        """The seeds, sorted."""
        return sorted({seed for seed, _, _ in self.values})

    @property
    def seed_prompts(self) -> set[tuple[int, str]]:
        """(seed, prompt) of every answer."""
        return {(seed, prompt) for seed, prompt, _ in self.values}

    @property
    def mean(self) -> float:
        """The mean over seeds of the mean over prompts of the mean over the prompt's users."""
        return math.fsum(self.weights[key] * value for key, value in self.values.items())

    def seed_means(self) -> dict[int, float]:
        """The mean in each seed."""
        seeds = self.seeds
        sums: dict[int, list[float]] = defaultdict(list)
        for key, value in self.values.items():
            sums[key[0]].append(self.weights[key] * value * len(seeds))
        return {seed: math.fsum(sums[seed]) for seed in seeds}

    def draws(self, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> Values | None:
        """[resamples] the mean in each resample; None for a single prompt."""
        means = self.seed_means()
        residuals = {key: self.weights[key] * (value - means[key[0]]) for key, value in self.values.items()}
        return crossed_draws(self.mean, residuals, bootstrap)

    def matched(self, *others: PromptSample) -> list[PromptSample]:
        """This sample and the others, unchanged.

        Raises:
            DataError: If they are not on the same prompts in the same seeds.
        """
        for other in others:
            if odd := self.seed_prompts ^ other.seed_prompts:
                seed, prompt = min(odd)
                raise DataError(
                    f"in seed {seed}, {prompt!r} was answered by one method and not by another.",
                    fix="Paired comparisons need every method on the same prompts.",
                )
        return [self, *others]

    def minus(self, other: PromptSample) -> PromptSample | None:
        """Paired differences: by seed, prompt and user where the other has that user, else to its mean on the prompt.

        Answers without a partner are left out; None if no answer has one.
        """
        means: dict[tuple[int, str], list[float]] = defaultdict(list)
        for (seed, prompt, _), value in other.values.items():
            means[seed, prompt].append(value)
        paired = {
            key: value - other.values.get(key, math.fsum(means[key[:2]]) / len(means[key[:2]]))
            for key, value in self.values.items()
            if key[:2] in means
        }
        return PromptSample(paired) if paired else None
