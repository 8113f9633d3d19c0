"""Accuracies of clients, and what their answers share.

Every client weighs the same, whatever its number of test pairs: the question is how well *users* are served, and pairs
of one client are not independent. Every seed weighs the same too. Where it is known which pairs a client was tested on,
pairs that seeds deal anew are one sample of pairs: they enter once, not once per seed. Pairs of one prompt count as one
item, because they share its difficulty. Where it is not known, each client's pairs are taken as its own.

Clients that were dealt are other people in every seed; where every user is a client, the same name is the same person
(``same_users``). :mod:`fedvpa.evaluation.variance` says what follows for intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from fedvpa.core.errors import DataError
from fedvpa.evaluation.resampling import Statistic, Strata, mean_of_units, sorted_values
from fedvpa.evaluation.scores import ClientScore, ItemResults
from fedvpa.evaluation.variance import Design, Values, numbered

ClientKey = tuple[int, str]
"""(seed, client id)"""


@dataclass(frozen=True, slots=True)
class ClientSample:
    """One number per client, in strata: seed → client id → value. Clients are in sorted order, so order never matters.

    Attributes:
        strata: At least one seed, each with at least one client.
        tested: Client → the items that its number is the mean of, where they are known.
        groups: Client → its group, for clients that were dealt group by group.
        same_users: Whether a client's name stands for the same person in every seed.
    """

    strata: Strata
    tested: Mapping[ClientKey, ItemResults] = field(default_factory=dict, repr=False)
    groups: Mapping[ClientKey, str] = field(default_factory=dict, repr=False)
    same_users: bool = False

    @classmethod
    def of(
        cls,
        scores: Iterable[ClientScore],
        value: Callable[[ClientScore], float | None] = lambda score: score.accuracy,
        tested: Callable[[ClientScore], ItemResults | None] = lambda score: score.tested(),
        *,
        same_users: bool = False,
    ) -> Self | None:
        """The values of scores of one method at one number of clients.

        Args:
            scores: The scores.
            value: The number to take from each; clients for which it is None are left out.
            tested: The items that this number is the mean of; None where they are not known.
            same_users: As of the class.

        Returns:
            The sample, or None if no score has a value.

        Raises:
            DataError: If the scores mix methods or numbers of clients, or score a client twice in one seed.
        """
        strata: dict[int, dict[str, float]] = {}
        items: dict[ClientKey, ItemResults] = {}
        groups: dict[ClientKey, str] = {}
        conditions: set[tuple[str, int]] = set()
        for score in scores:
            number = value(score)
            if number is None:
                continue
            conditions.add((score.method, score.n_clients))
            clients = strata.setdefault(score.seed, {})
            key = score.seed, score.client_id
            if score.client_id in clients:
                raise DataError(
                    f"{score.method} at N = {score.n_clients}, seed {score.seed}, scores client "
                    f"{score.client_id!r} twice.",
                    fix="Give one score per method, number of clients, seed and client.",
                )
            clients[score.client_id] = number
            found = tested(score)
            if found is not None:
                items[key] = found
            if score.group is not None and not same_users:
                groups[key] = score.group
        if len(conditions) > 1:
            raise DataError(
                f"one sample cannot mix {sorted(conditions)}.", fix="Select one method and number of clients."
            )
        if not strata:
            return None
        ordered = {seed: dict(sorted(strata[seed].items())) for seed in sorted(strata)}
        return cls(ordered, items, groups, same_users)

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

    def answers(self) -> tuple[Design, Values]:
        """What the answers share and count, and their values: by seed, client and item."""
        people = numbered((key[1:] if self.same_users else key) for key in self._keys())
        groups = numbered((self.groups.get(key, ""),) for key in self._keys())
        parts = [self._part(place, key) for place, key in enumerate(self._keys())]
        sizes = [len(part.items) for part in parts]
        seeds = [seed for seed, _ in self._keys()]
        design = Design(
            weights=np.concatenate([self._shares(key[0], part) for key, part in zip(self._keys(), parts, strict=True)]),
            seeds=np.repeat(seeds, sizes),
            people=np.repeat(people, sizes),
            items=np.concatenate([part.items for part in parts]),
            groups=np.repeat(groups, sizes),
        )
        return design, np.concatenate([part.values for part in parts])

    def _keys(self) -> Iterable[ClientKey]:
        return ((seed, client) for seed, clients in self.strata.items() for client in clients)

    def _part(self, place: int, key: ClientKey) -> ItemResults:
        """The items of a client; one of its own where they are not known, numbered below every hash."""
        known = self.tested.get(key)
        return ItemResults.single(-1 - place, self.strata[key[0]][key[1]]) if known is None else known

    def _shares(self, seed: int, part: ItemResults) -> Values:
        return part.counts / (part.counts.sum() * len(self.strata[seed]) * len(self.strata))

    def matched(self, *others: ClientSample) -> list[ClientSample] | None:
        """This sample and the others on the seeds that all of them have; None if there is no such seed.

        Items are kept for the clients whom all of them tested on the same.

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
        kept = {key for key, items in self.tested.items() if all(items.same(other.tested.get(key)) for other in others)}
        return [sample._only(common, kept) for sample in samples] if common else None

    def _only(self, seeds: Iterable[int], tested: set[ClientKey]) -> ClientSample:
        return replace(
            self,
            strata={seed: self.strata[seed] for seed in seeds},
            tested={key: items for key, items in self.tested.items() if key in tested},
        )

    def aligned(self, other: ClientSample) -> Values:
        """[n] the values of a matched sample at this sample's answers."""
        return other.answers()[1]

    def minus(self, other: ClientSample) -> ClientSample | None:
        """The differences by client and item in the seeds that both have; None if there is no such seed.

        Raises:
            DataError: If they differ in the clients of a common seed.
        """
        matched = self.matched(other)
        if matched is None:
            return None
        first, second = matched
        return replace(
            first,
            strata={
                seed: {client: number - second.strata[seed][client] for client, number in clients.items()}
                for seed, clients in first.strata.items()
            },
            tested={
                key: replace(items, values=items.values - second.tested[key].values)
                for key, items in first.tested.items()
            },
        )
