"""The differential privacy of a deployment: a key that stays on the server, and a federation that does not grow.

The number of users N, and with it the probability to be drawn, δ and the noise, is what is known when a training
begins. Users who join later join the next training. How features are scaled is computed in one place, on the server,
from public pairs, and sent down: a basis that each node computed would differ from node to node in the last bits, and
where two directions weigh nearly alike, altogether.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fedvpa.algorithms.base import FeatureSetting
from fedvpa.algorithms.registry import make
from fedvpa.core.errors import ConfigError, FedvpaError, ModelError
from fedvpa.core.files import read_own_object, write_json
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.engines.federation import PublicScaling
from fedvpa.engines.flower.roster import Roster
from fedvpa.engines.private import Privacy, check_private
from fedvpa.engines.secure_aggregation import check_noise
from fedvpa.engines.training import TrainState
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.noise import (
    check_scaling,
    keep_key,
    key_of,
    privacy_of,
    public_scaling,
    said,
    summary,
    unmasked_of,
    unscaled,
)
from fedvpa.runs.prepare import feature_key, pinned
from fedvpa.runs.spending import Spending

SOME_FEATURES = FeatureSetting(dimension=256, clients=100)
"""What a method's updates are made of does not depend on the sizes."""


@dataclass(frozen=True, repr=False)
class DeployedNoise:
    """The noise of a deployment, if there is any.

    Attributes:
        privacy: The mechanism; None where nothing is noised.
        members: The users that the training began with, sorted.
    """

    privacy: Privacy | None
    members: tuple[str, ...]

    __repr__ = short_repr

    @classmethod
    def of(cls, config: RunConfig, run: RunFolder, roster: Roster, quorum: float) -> Self:
        """That of a run that begins, or goes on. From then on nobody joins.

        Args:
            config: The run.
            run: The server's run directory.
            roster: Who is there.
            quorum: The share of the users that must be there when a run goes on.

        Raises:
            ConfigError: If the run cannot be private as it is configured, or not with so many users.
            RunError: If a run that goes on has lost its key.
            FedvpaError: If too few of the users are there.
        """
        if not config.privacy.on:
            return cls(None, roster.client_ids)
        begins = not run.checkpoint.is_file()
        check_deployed(config)
        members = roster.client_ids if begins else _read_members(run)
        key = None if begins else key_of(config, run.checkpoint)
        rounds = make(config.method, config.method_config).rounds
        nodes, unmasked = len(roster.introductions), unmasked_of(config, run.checkpoint)
        privacy = privacy_of(config, len(members), rounds, key, nodes=nodes, unmasked=unmasked)
        roster.fix(members)
        if len(roster.client_ids) < quorum * len(members):
            raise FedvpaError(
                f"{len(roster.client_ids)} of the {len(members)} users that the training began with are there, and the "
                f"quorum is {quorum:.0%}. Start their nodes, or choose another out."
            )
        return cls(privacy, members)

    def keep(self, run: RunFolder) -> None:
        """Write the key and the users of a run that begins, for the server's eyes alone."""
        if self.privacy is None:
            return
        keep_key(self.privacy, run.checkpoint)
        write_json(run.members, {"members": list(self.members)})
        os.chmod(run.members, 0o600)

    def spending(self, state: TrainState) -> Spending | None:
        """What tells the lines of the history what was spent, from a state on; None where nothing is noised."""
        if self.privacy is None:
            return None
        return Spending(self.privacy, self.members, state.ledger.releases if state.ledger else 0)

    @property
    def from_nodes(self) -> bool:
        """Whether nodes add the noise."""
        return self.privacy is not None and self.privacy.config.in_shares

    def asked(self, line: Mapping[str, Any]) -> str:
        """How many a round asked, as may be said."""
        return f"{len(line['cohort'])}" if self.privacy is None else f"{self.privacy.terms.cohort:g} or so"

    def spent(self, state: TrainState) -> dict[str, Any]:
        """What ``metrics.json`` says of it, said in a line, too; nothing where nothing is noised."""
        if self.privacy is None or state.ledger is None:
            return {}
        found = summary(self.privacy, state.ledger, self.members)
        say(said(found))
        return {"privacy": found}


def check_deployed(config: RunConfig) -> None:
    """Raise ConfigError if a deployment cannot be as private as its configuration says; before any node is asked."""
    if not config.privacy.on:
        return
    if config.privacy.seeded:
        raise ConfigError(
            "noise that follows from the run's seed is for simulations: every node of a deployment has the seed.",
            fix="Leave it out: the server draws a key of its own.",
            where="configuration key 'privacy.seeded'",
        )
    config.privacy.check_no_canaries("a deployment")
    if config.privacy.scaling == "private":
        raise ConfigError(
            "private scaling needs sums over features of every user before the first round, which nodes do not send.",
            fix="Give public pairs (privacy.public_pairs=FILE), or privacy.scaling=none.",
            where="configuration key 'privacy.scaling'",
        )
    check_noise(config.engine, config.privacy)
    check_scaling(config)
    algorithm = make(config.method, config.method_config)
    state = algorithm.init(SOME_FEATURES, config.seed)
    check_private(algorithm, algorithm.expected(state), everyone=algorithm.asks_everyone(state))


def scaling_without_users(config: RunConfig, roster: Roster) -> PublicScaling:
    """How nodes scale their features: by the server's public pairs, or not at all.

    Raises:
        ModelError: If the server reads texts in another way than the nodes, or lacks the language model.
        DataError: If the public pairs cannot be read.
    """
    dimension = len(roster.moments.sum)
    blocks = config.features.widths(dimension)
    if config.privacy.public_pairs is None:
        return unscaled(dimension, blocks, rms=config.selector.normalise == "rms")
    features = pinned(config.features)
    here, there = feature_key(features), json.loads(roster.reads)
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise ModelError(
                f"The server reads public pairs (privacy.public_pairs) with {name} = {here.get(name)!r}, and the nodes "
                f"read users' pairs with {there.get(name)!r}.",
                fix="Give the server the language model that the nodes have: features.model at export.",
                where=str(features.model),
            )
    return public_scaling(config, features, dimension, blocks)


def _read_members(run: RunFolder) -> tuple[str, ...]:
    """Raises RunError if the file is gone or damaged."""
    return tuple(read_own_object(run.members)["members"])
