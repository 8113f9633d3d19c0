"""Answers of policies to prompts, and what they share.

A win rate speaks of prompts that nobody has seen yet; all answers to one prompt meet the same base answer and the same
difficulty, in every seed; and prompts are what every method is scored on, also one that knows no users. Where answers
belong to users, users are a second level. :mod:`fedvpa.evaluation.variance` says what follows for intervals.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from fedvpa.core.errors import DataError
from fedvpa.evaluation.outcomes import Outcome
from fedvpa.evaluation.variance import Design, Values, numbered

AnswerKey = tuple[int, str, str]
"""(seed, prompt, user id)"""


@dataclass(frozen=True, slots=True)
class PromptSample:
    """One number per answer.

    Attributes:
        values: At least one (seed, prompt, user id) → value.
        same_users: Whether a user's name stands for the same person in every seed.
        weights: What each counts in the mean: every seed the same, within it every prompt, within it every user.
    """

    values: Mapping[AnswerKey, float]
    same_users: bool = False
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
    def of(
        cls, outcomes: Iterable[Outcome], value: Callable[[Outcome], float | None], *, same_users: bool = False
    ) -> Self | None:
        """A number per outcome of one method, number of clients and preference.

        Args:
            outcomes: The outcomes.
            value: The number to take from each; outcomes for which it is None are left out.
            same_users: As of the class.

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
        return cls(dict(sorted(found.items())), same_users) if found else None

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

    def answers(self) -> tuple[Design, Values]:
        """What the answers share and count, and their values.

        An answer that belongs to no user is somebody's of whom nothing else is known. So are all where some seed has
        a single user, who says nothing about others: the interval is then over prompts alone.
        """
        known = min(self._users_by_seed().values(), default=0) > 1
        people = [self._person(key) if known and key[2] else ("answer", *key) for key in self.values]
        design = Design(
            weights=np.array([self.weights[key] for key in self.values]),
            seeds=np.array([seed for seed, _, _ in self.values], dtype=np.int64),
            people=numbered(people),
            items=numbered((prompt,) for _, prompt, _ in self.values),
            groups=np.zeros(len(self.values), dtype=np.int64),
        )
        return design, self.numbers

    def _person(self, key: AnswerKey) -> tuple[object, ...]:
        return (key[2],) if self.same_users else (key[0], key[2])

    def _users_by_seed(self) -> dict[int, int]:
        """How many users each seed has that has any."""
        found: dict[int, set[str]] = defaultdict(set)
        for seed, _, user in self.values:
            if user:
                found[seed].add(user)
        return {seed: len(users) for seed, users in found.items()}

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

    def aligned(self, other: PromptSample) -> Values:
        """[n] the other's value at each answer: of the same user where it has that user, else its prompt's mean."""
        means = other._prompt_means()
        return np.array([other.values.get(key, means[key[:2]]) for key in self.values], dtype=np.float64)

    def _prompt_means(self) -> dict[tuple[int, str], float]:
        found: dict[tuple[int, str], list[float]] = defaultdict(list)
        for (seed, prompt, _), value in self.values.items():
            found[seed, prompt].append(value)
        return {key: math.fsum(values) / len(values) for key, values in found.items()}

    def minus(self, other: PromptSample) -> PromptSample | None:
        """Paired differences: by seed, prompt and user where the other has that user, else to its mean on the prompt.

        Answers without a partner are left out; None if no answer has one.
        """
        answered = other.seed_prompts
        own = {key: value for key, value in self.values.items() if key[:2] in answered}
        if not own:
            return None
        kept = replace(self, values=own)
        return replace(kept, values=dict(zip(own, (kept.numbers - kept.aligned(other)).tolist(), strict=True)))
