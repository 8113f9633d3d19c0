"""Canaries: extra clients of a simulation that are planted by secret coins, so that an audit can guess the coins.

A canary is the client that is hardest to hide: in every round in which its coin of the cohort falls, it adds the same
random direction of its own, as long as it may be (Andrew et al., arXiv 2302.03098; the coins: Steinke et al., arXiv
2305.08846). It asks for far more than it may and is clipped as any client is, so a clip that does not hold shows in
the audit. Its statistics are 0, and ``clip=auto`` does not count it.

Whether a canary is planted, its directions and its rounds follow from the server's key, and from nothing else. The
training keeps, beside its checkpoint, what an attacker makes of the released sums (``Evidence``). The attacker is the
strongest that ε holds against: it knows the canaries' directions and the sums over all real users, and subtracts them.
It does not know the coins; one who sees the cohorts also knows in which rounds a canary would have taken part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import logsumexp
from scipy.stats import binom
from torch import Tensor

from fedvpa.core.errors import ConfigError
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.privacy.keyed import Key
from fedvpa.privacy.mechanism import WITHIN, bounded, part_of

SAID = "canaries planted: this model is for auditing, not for use"

ASKS = 100.0
"""How many times as long as it may be a canary's change is before it is clipped. Chosen by us."""

MOST_FLOATS = 1 << 27
"""Most numbers (512 MiB) that the directions of all canaries may have: the audit solves for all of them at once."""


ERROR = 0.01
"""The least error of an estimated number of rounds: rounding of sums in single precision. Chosen by us."""


@dataclass(frozen=True, repr=False)
class Canaries:
    """The canaries of a training.

    Attributes:
        key: The server's.
        count: m.
        rate: With which probability a planted one takes part in a round.
        shapes: Weight → its shape.
        shares: Part of the change → a_p.
    """

    key: Key
    count: int
    rate: float
    shapes: Mapping[str, tuple[int, ...]]
    shares: Mapping[str, float]

    __repr__ = short_repr

    @cached_property
    def planted(self) -> Bool[np.ndarray, " m"]:
        """The coins."""
        return self.key.generator(0, "canaries planted").random(self.count) < 0.5

    def asked(self, round_: int) -> list[int]:
        """Those whose coin of the cohort falls in a round, planted or not."""
        names = [f"\0canary {row}" for row in range(self.count)]
        found: list[int] = (self.key.uniform(round_, names) < self.rate).nonzero()[0].tolist()
        return found

    def direction(self, row: int) -> Tree:
        """Weight → direction of a canary, of norm a_p in each part."""
        generator = self.key.generator(row, "canary direction")
        drawn = {
            name: torch.from_numpy(np.asarray(generator.standard_normal(shape, dtype=np.float32)))
            for name, shape in sorted(self.shapes.items())
        }
        squares = dict.fromkeys(self.shares, 0.0)
        for name, leaf in drawn.items():
            squares[part_of(name, self.shares)] += float(leaf.double().square().sum())
        return {name: leaf * self._factor(name, squares) for name, leaf in drawn.items()}

    def _factor(self, name: str, squares: Mapping[str, float]) -> float:
        part = part_of(name, self.shares)
        return self.shares[part] / squares[part] ** 0.5

    def update(self, row: int, clips: Mapping[str, Tensor], nothing: Tree, told: Tree) -> Tree:
        """What one canary adds to the sums of a cohort: kept to the norms by what keeps every client to them.

        Args:
            row: Which one.
            clips: C_p of each part.
            nothing: The sums of nobody.
            told: What clients were told.
        """
        asked = {name: leaf * ASKS * self._unit(name, clips) for name, leaf in self.direction(row).items()}
        sums = bounded({**nothing, "weight": torch.ones(())} | prefixed("delta", asked), told, frozenset())
        return {name: torch.zeros(()) if name.startswith(f"{WITHIN}.") else leaf for name, leaf in sums.items()}

    def _unit(self, name: str, clips: Mapping[str, Tensor]) -> float:
        """What a weight of norm a_p is multiplied by to be at its clip."""
        part = part_of(name, self.shares)
        return float(clips[part]) / self.shares[part]

    def joined(self, round_: int, sums: Tree, clips: Mapping[str, Tensor], told: Tree) -> Tree:
        """The sums of a cohort, with those of the planted canaries that take part in the round."""
        found, nothing = dict(sums), {name: torch.zeros_like(leaf) for name, leaf in sums.items()}
        for row in self.asked(round_):
            if self.planted[row]:
                own = self.update(row, clips, nothing, told)
                found = {name: leaf + own[name] if name in own else leaf for name, leaf in found.items()}
        return found

    def evidence(self, known: Tree, round_: int, excess: Tree, clips: Mapping[str, Tensor]) -> Tree:
        """What is known after a round, for :meth:`scores`.

        Args:
            known: Before it; empty before the first round.
            round_: Its number.
            excess: Weight → what was released less what the real users added.
            clips: C_p of each part.

        Returns:
            ``sum.*``, the excess of all rounds in units in which a canary's is its direction; for each canary
            ``seen``, that of the rounds in which it would have taken part along its direction, and ``rounds``, how
            many these are.
        """
        unit = {name: leaf.double() / self._unit(name, clips) for name, leaf in excess.items()}
        total = below("sum", known)
        seen = known.get("seen", torch.zeros(self.count, dtype=torch.float64)).clone()
        rounds = known.get("rounds", torch.zeros(self.count, dtype=torch.float64)).clone()
        for row in self.asked(round_):
            direction = self.direction(row)
            seen[row] += sum(float((direction[name].double() * leaf).sum()) for name, leaf in unit.items())
            rounds[row] += 1
        added = {name: total[name] + leaf if name in total else leaf for name, leaf in unit.items()}
        return prefixed("sum", added) | {"seen": seen, "rounds": rounds}

    def released_scores(self, evidence: Tree, rounds: int, deviation: float) -> Float[np.ndarray, " m"]:
        """Log-odds that each canary is planted, to one who does not see the cohorts.

        In how many rounds each took part is estimated for all at once, by the linear estimate of least squared error
        for independent numbers of the mean and variance that coins and cohorts give. Without its pull to the mean an
        estimate is the number of rounds and an error of known variance, taken as Gaussian; a planted canary's number is
        binomial, another's 0.

        Args:
            evidence: Of all rounds.
            rounds: T.
            deviation: Of the noise of one round, on each weight, in the units of the directions.
        """
        directions = np.stack([_flat(self.direction(row)) for row in range(self.count)])
        gram, expected = directions @ directions.T, rounds * self.rate
        mean, variance = expected / 2, expected**2 / 4 + expected * (1 - self.rate) / 2
        loud = gram + np.diag(np.full(self.count, max(rounds * deviation**2 / variance, 1e-9)))
        off = np.linalg.solve(loud, directions @ _flat(below("sum", evidence)) - gram.sum(1) * mean)
        kept = np.diag(np.linalg.solve(loud, gram)).clip(1e-12, 1)
        error = np.sqrt((variance * (1 - kept) / kept).clip(ERROR**2))
        return _log_odds(mean + off / kept, error, rounds, self.rate)

    def server_scores(self, evidence: Tree, deviation: float) -> Float[np.ndarray, " m"]:
        """The same to one who sees the cohorts, given the rounds of each.

        With other canaries' directions, which are nearly orthogonal to its own, taken as none.
        """
        square = sum(share**2 for share in self.shares.values())
        found: Float[np.ndarray, " m"] = (evidence["seen"] - evidence["rounds"] * square / 2).numpy() / deviation**2
        return found


def _log_odds(
    found: Float[np.ndarray, " m"], error: Float[np.ndarray, " m"], rounds: int, rate: float
) -> Float[np.ndarray, " m"]:
    """Log-odds of a binomial number of rounds against none, of its estimate with a Gaussian error."""
    numbers = np.arange(rounds + 1)
    away = ((found[:, None] - numbers) / error[:, None]) ** 2 / 2
    odds: Float[np.ndarray, " m"] = logsumexp(binom.logpmf(numbers, rounds, rate) - away, axis=1) + away[:, 0]
    return odds


def check_size(canaries: Canaries) -> None:
    """Raise ConfigError where the directions of all canaries are more than a machine is asked to hold."""
    weights = sum(int(np.prod(shape)) for shape in canaries.shapes.values())
    if weights * canaries.count > MOST_FLOATS:
        raise ConfigError(
            f"{canaries.count} canaries in {weights:,} weights each are more than the audit can solve for at once.",
            fix=f"Give {MOST_FLOATS // weights} at most.",
            where="configuration key 'privacy.canaries'",
        )


def _flat(tree: Tree) -> Float[np.ndarray, " p"]:
    return np.concatenate([np.zeros(0), *(tree[name].double().numpy().ravel() for name in sorted(tree))])
