"""User-level differential privacy in the rounds of a run, for any algorithm on any engine.

cohort      Poisson: each client by a coin of its own, from the server's key            privacy/keyed.py
            a round that asks several times draws anew each time: one release for each request, one coin for each
            release, so that releases compose as independent ones do
told        with the broadcast: the norms within which parts and statistics leave       privacy/mechanism.py
answers     what an update must look like then: no losses, nothing that is not a sum
release     the sum of the cohort, with noise, over the expected size of a cohort
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, CohortUpdate
from fedvpa.algorithms.server.limits import BY_WEIGHT
from fedvpa.algorithms.server.robust import Part
from fedvpa.algorithms.server.validation import Bounds, Expected, PrivatePart
from fedvpa.core import tree
from fedvpa.core.errors import ConfigError, RunError, TrainingError
from fedvpa.core.rules import RulesConfig
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.engines.codecs import encode
from fedvpa.engines.config import Codec
from fedvpa.privacy.canaries import Canaries, check_size
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.keyed import KEY_FILE, Key
from fedvpa.privacy.mechanism import HALF, WHOLE, WITHIN, Shape, adapted, noised, shortened
from fedvpa.privacy.unmasked import Unmasked

ANY_LENGTH = float("inf")
"""The norm above which an update is rejected under privacy: norms bound every update, and a limit that followed from
the others' updates would let one user decide whether others count."""

WITHOUT_MEDIANS = RulesConfig(clip_norm=None, max_weight=1.0)
"""The server's rules under privacy: medians of the clients' updates would tell of them, and every client weighs 1."""


@dataclass(frozen=True)
class Terms:
    """What a training promises, in numbers.

    Attributes:
        noise_multiplier: σ.
        rate: q, the probability with which a client takes part in a round; 1 without Poisson sampling, where every
            client counts as taking part in every round.
        cohort: The expected number of clients of a round.
        clients: N.
        rounds: How many sums are released at most.
        delta: δ.
        once: The noise multiplier of one release before the rounds, in which everybody takes part
            (:mod:`fedvpa.engines.private_scaling`); None without.
    """

    noise_multiplier: float
    rate: float
    cohort: float
    clients: int
    rounds: int
    delta: float
    once: float | None = None


@dataclass(frozen=True, repr=False)
class Ledger:
    """What was released so far, and what the next round goes by.

    Attributes:
        clips: C_p of each part.
        releases: How many sums were released.
        key: Which key coins and noise are of (:attr:`~fedvpa.privacy.keyed.Key.name`).
        evidence: What an attacker makes of the sums released so far, where canaries are planted; see
            :meth:`fedvpa.privacy.canaries.Canaries.evidence`.
    """

    clips: Tree = field(default_factory=dict)
    releases: int = 0
    key: str = ""
    evidence: Tree = field(default_factory=dict)

    __repr__ = short_repr


@dataclass(frozen=True, repr=False)
class Privacy:
    """The mechanism of one training.

    Attributes:
        config: How updates are clipped.
        terms: How much noise.
        key: Where coins and noise come from. The server's own.
        nodes: How many nodes the clients are on; None for one each.
        unmasked: What counts how often noise of nodes was unmasked.
    """

    config: PrivacyConfig
    terms: Terms
    key: Key
    nodes: int | None = None
    unmasked: Unmasked = field(default_factory=Unmasked)

    __repr__ = short_repr

    def start(self, expected: Expected) -> Ledger:
        """Before the first release."""
        given = self.config.clip_start if self.config.clip == "auto" else self.config.clip
        clips = {name: part.start if given is None else given for name, part in parts_of(expected).items()}
        return Ledger({name: torch.tensor(clip) for name, clip in clips.items()}, 0, self.key.name)

    def cohort(self, ledger: Ledger | None, client_ids: Sequence[str]) -> list[str]:
        """The clients of the next release whose coin says so, each with probability ``rate``."""
        coins = self.key.uniform(ledger.releases if ledger else 0, client_ids)
        return [client_ids[row] for row in (coins < self.terms.rate).nonzero()[0].tolist()]

    def next(self, ledger: Ledger | None, expected: Expected) -> Release:
        """The next release.

        Args:
            ledger: What was released so far.
            expected: What the method wants of one client.
        """
        return Release(self, ledger or self.start(expected), expected)

    def line(self, line: dict[str, Any], ledger: Ledger | None) -> dict[str, Any]:
        """The line of ``history.jsonl`` of a round: who took part is a secret of the server's, and is left out."""
        clips = {part: float(f"{float(clip):.4g}") for part, clip in (ledger.clips if ledger else {}).items()}
        told = {"noise_multiplier": self.terms.noise_multiplier, "rate": self.terms.rate, "delta": self.terms.delta}
        hidden: dict[str, list[str]] = {"cohort": [], "dropped": [], "rejected": []}
        return {**line, **hidden, "privacy": {**told, "releases": ledger.releases if ledger else 0, "clip": clips}}


@dataclass(frozen=True, repr=False)
class Release:
    """The sum of one cohort, before it is there.

    Attributes:
        privacy: The mechanism.
        ledger: What was released before.
        expected: What the method wants of one client.
    """

    privacy: Privacy
    ledger: Ledger
    expected: Expected

    __repr__ = short_repr

    @cached_property
    def shape(self) -> Shape:
        """What the vector of one client has."""
        config, sums = self.privacy.config, self.expected.sums
        limits = {name: bounds.norm for name, bounds in sums.items() if bounds.released == "noised"}
        shares = {name: part.share for name, part in parts_of(self.expected).items()}
        return Shape(shares, limits, config.statistics_share, config.clip == "auto")

    @cached_property
    def clips(self) -> Tree:
        """C_p of each part in this release: what is known of it, times what of it holds in this round."""
        parts = parts_of(self.expected)
        return {name: clip * parts[name].scale for name, clip in self.ledger.clips.items()}

    @property
    def canaries(self) -> Canaries | None:
        """Those that are planted; None without."""
        privacy = self.privacy
        if not privacy.config.canaries:
            return None
        shapes = {name: tuple(shape) for name, shape in self.expected.deltas.items()}
        return Canaries(privacy.key, privacy.config.canaries, privacy.terms.rate, shapes, self.shape.parts)

    @property
    def told(self) -> Tree:
        """What clients are told beside the broadcast."""
        by_weight = [name for name in self.shape.limits if self.expected.sums[name].per == "weight"]
        flags = {name: torch.tensor(True) for name in by_weight}
        return self.shape.told(self.clips) | prefixed(BY_WEIGHT, flags)

    @property
    def answers(self) -> Expected:
        """What the update of one client must look like that was told the norms: no losses, every client alike."""
        sums = {name: replace(self.expected.sums[name], per="client") for name in self.shape.limits}
        bits = {f"{WITHIN}.{part}": Bounds((), -HALF, HALF) for part in self.shape.parts}
        return Expected(self.expected.deltas, sums | bits)

    def traffic(self, broadcast: Broadcast, told: Tree, codec: Codec) -> tuple[int, int]:
        """Bytes up and down: those of one client times the expected cohort. The true ones tell how many took part.

        Args:
            broadcast: To one client, without what follows.
            told: The norms, and what else clients are told.
            codec: How weights travel.
        """
        one = {
            name: torch.ones_like(leaf) for name, leaf in self._nothing.items()
        }  # a change of 0 is sent as its shape
        up = tree.size(encode({"weight": torch.ones(()), **one}, codec))
        down = tree.size(encode(broadcast.shared | told, codec)) + tree.size(broadcast.own)
        return round(self.privacy.terms.cohort * up), round(self.privacy.terms.cohort * down)

    def noised(
        self, update: CohortUpdate, round_: int, noise_multiplier: float | None = None
    ) -> tuple[CohortUpdate, Ledger]:
        """The sum with noise, as the update of a cohort of the expected size; and what is known after it.

        A cohort of nobody is released too: that nobody came would be told otherwise.

        Args:
            update: The sum.
            round_: The round.
            noise_multiplier: Of what the server adds; None for all of the noise.

        Raises:
            TrainingError: If as many sums were released as the noise was made for.
        """
        config, terms, ledger = self.privacy.config, self.privacy.terms, self.ledger
        if ledger.releases >= terms.rounds:
            raise TrainingError(
                f"round {round_}: the noise was made for {terms.rounds} sums, which were released, and the method "
                "asks for another one."
            )
        sums = {**self._nothing, **update.sums}
        if not self.shape.adaptive:
            sums = {name: leaf for name, leaf in sums.items() if not name.startswith(f"{WITHIN}.")}
        canaries, evidence = self.canaries, ledger.evidence
        joined = sums if canaries is None else canaries.joined(round_, sums, self.clips, self.told)
        generator = self.privacy.key.generator(round_, f"sum {ledger.releases}")
        multiplier = terms.noise_multiplier if noise_multiplier is None else noise_multiplier
        found = noised(joined, self.shape, self.clips, multiplier, generator)
        if canaries is not None:
            users = below("delta", sums)
            excess = {name: leaf - users[name] for name, leaf in below("delta", found).items()}
            evidence = canaries.evidence(evidence, round_, excess, self.clips)
        clips = ledger.clips
        if self.shape.adaptive:
            clips = adapted(clips, found, terms.cohort, config.clip_quantile, config.clip_rate)
        counted = [name for name, bounds in self.expected.sums.items() if bounds.released == "counted"]
        counts = {name: torch.tensor(terms.cohort) for name in ("weight", *counted)}
        kept = {name: self._clamped(name, leaf) for name, leaf in found.items() if not name.startswith(f"{WITHIN}.")}
        return CohortUpdate(kept | counts), Ledger(clips, ledger.releases + 1, ledger.key, evidence)

    @property
    def _nothing(self) -> Tree:
        """The sum over nobody."""
        deltas = {name: torch.zeros(tuple(size)) for name, size in self.expected.deltas.items()}
        statistics = {name: torch.zeros(tuple(self.expected.sums[name].shape)) for name in self.shape.limits}
        bits = {f"{WITHIN}.{part}": torch.zeros(()) for part in self.shape.parts}
        return prefixed("delta", deltas) | statistics | bits

    def _clamped(self, name: str, leaf: Tensor) -> Tensor:
        """A statistic between its bounds, which noise may have left: it is released already, so this costs nothing."""
        if name not in self.expected.sums:
            return leaf
        bounds, size = self.expected.sums[name], self.privacy.terms.cohort
        return leaf.clamp(size * bounds.least, size * bounds.most)


def parts_of(expected: Expected) -> dict[str, PrivatePart]:
    """The parts of the weights' change."""
    return dict(expected.parts) or {WHOLE: PrivatePart()}


def begin(algorithm: Any, server: Any, ledger: Ledger | None, privacy: Privacy) -> Ledger:
    """What a training goes on from.

    Raises:
        ConfigError: If the method cannot be trained under differential privacy.
        RunError: If the key is not the one that it was begun with.
    """
    check_private(algorithm, algorithm.expected(server))
    canaries = privacy.next(ledger, algorithm.expected(server)).canaries
    if canaries is not None:
        check_size(canaries)
    if ledger is None:
        return privacy.start(algorithm.expected(server))
    if ledger.key != privacy.key.name:
        raise RunError(
            "was begun with another key of noise and cohorts than the one that is there now.",
            fix=f"Restore {KEY_FILE}, or start again.",
        )
    return ledger


def check_private(algorithm: Any, expected: Expected, *, everyone: bool = False) -> None:
    """Raise ConfigError where what a method's clients send is no sum that noise can hide."""
    if everyone:
        raise ConfigError(
            f"{algorithm.name!r} asks all clients at once, and privacy counts on cohorts that are drawn.",
            fix="Leave the section privacy out, or use another method.",
            where="configuration key 'method'",
        )
    alone = sorted(name for name, bounds in expected.own.items() if bounds.released != "kept")
    if alone:
        raise ConfigError(
            f"clients of {algorithm.name!r} send {', '.join(alone[:3])} each by itself, and noise hides a client in a "
            "sum alone.",
            fix="Leave the section privacy out, or use another method.",
            where="configuration key 'method'",
        )


def within(parts: Sequence[Part], received: Tree) -> list[Part]:
    """What came back, each within the norms of so many clients: what a client sends is a claim."""
    return [
        Part(part.clients, CohortUpdate(shortened(part.update.sums, received, len(part.clients)), part.update.own))
        for part in parts
    ]
