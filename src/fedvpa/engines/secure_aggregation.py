"""What secure aggregation asks of a run, and how large a tensor of one client may be.

The server adds up integers that it cannot read one by one (:mod:`fedvpa.privacy.secure_sum`), so that each tensor needs
a largest value that is known before anybody trains, and whatever reads single updates cannot be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.options import option
from fedvpa.core.rules import RulesConfig
from fedvpa.engines.config import EngineConfig
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.mechanism import is_told, largest_told
from fedvpa.privacy.quantised import Layout
from fedvpa.privacy.thresholds import FEWEST_NODES

if TYPE_CHECKING:
    from torch import Tensor

    from fedvpa.algorithms.base import Algorithm
    from fedvpa.algorithms.server.validation import Expected

INSTEAD = {"features": "fedeb, fedem or fedvpa_gp with variational.prior=mixture", "texts": "feddpo with avg or ffa"}
"""What clients hold → methods whose updates are sums."""


@dataclass(frozen=True)
class Keys:
    """Where the configuration says who runs the clients and by which rules, for messages.

    Attributes:
        engine: The key of the engine's name.
        section: The section of ``secure_aggregation`` and ``codec``.
        rules: The section of the server's rules.
        cohort: The key of how many clients a round asks.
    """

    engine: str = "engine.name"
    section: str = "engine"
    rules: str = "server"
    cohort: str = "engine.cohort"


KEYS = Keys()
"""Of methods whose clients train a selector."""


def text_keys(cohort: str) -> Keys:
    """Of a method whose clients train a language model, with its own key of the cohort."""
    return Keys("policy.clients.engine", "policy.clients", "policy.clients", cohort)


def check_secure(
    engine: EngineConfig, rules: RulesConfig, *, keys: Keys = KEYS, deployed: bool = False, private: bool = False
) -> None:
    """What of a configuration cannot be had with secure aggregation; nothing if it is off.

    Args:
        engine: Who runs the clients.
        rules: The server's rules.
        keys: Where both are configured.
        deployed: Whether nodes of a deployment run them, whatever ``engine.name`` says.
        private: Whether differential privacy bounds every update, so that the server's own limits do not matter.

    Raises:
        ConfigError: For the first thing that cannot be.
    """
    if not engine.secure_aggregation:
        return
    switch = f"{keys.section}.secure_aggregation"
    if engine.name != "flower" and not deployed:
        raise ConfigError(
            f"{switch} hides a node's update from the server, and on {keys.engine}={engine.name} there are no nodes.",
            fix=f"Give {keys.engine}=flower, or leave {switch} out.",
        )
    if rules.rule != "mean":
        raise ConfigError(
            f"{keys.rules}.rule={rules.rule} compares single updates, and with {switch} the server sees their sum "
            "alone.",
            fix=f"Give {keys.rules}.rule=mean, or leave {switch} out.",
        )
    if engine.codec != "fp32":
        raise ConfigError(
            f"{keys.section}.codec={engine.codec} rounds single updates, and with {switch} they are masked integers "
            "of 32 bits, which no codec makes smaller.",
            fix=f"Give {keys.section}.codec=fp32.",
        )
    for name, what in (("clip_norm", "long a change"), ("max_weight", "heavy a client")):
        value = getattr(rules, name)
        if not private and not isinstance(value, float):
            given = "null" if value is None else value
            raise ConfigError(
                f"{keys.rules}.{name}={given} does not say how {what} may be before the first round, and {switch} "
                "needs to know, since the server never sees a single update.",
                fix=f"Give a number: {keys.rules}.{name}={'1.0' if name == 'clip_norm' else '50'}, for example. A run "
                f"without {switch} says what the clients' median is.",
            )
    if engine.cohort is not None and engine.cohort < FEWEST_NODES:
        raise ConfigError(
            f"{keys.cohort}={engine.cohort} is too small for {switch}: of the sum over two clients each of "
            "them can take its own update out.",
            fix=f"Give {keys.cohort}={FEWEST_NODES} or more.",
        )


def check_noise(engine: EngineConfig, privacy: PrivacyConfig) -> None:
    """Raise ConfigError if nodes are to add noise that the server could take off again, node by node."""
    if privacy.in_shares and not engine.secure_aggregation:
        raise ConfigError(
            "clients are to add noise without secure aggregation, and one node's share does not hide its update.",
            fix="Give engine.secure_aggregation=true (with engine.name=flower, or in a deployment), or "
            "privacy.noise=server.",
            where="configuration key 'privacy.noise'",
        )


def check_nodes(secure: bool, nodes: int) -> None:
    """Raise ConfigError if a deployment of so many nodes is too small; nothing if secure aggregation is off."""
    if secure and nodes < FEWEST_NODES:
        raise ConfigError(
            f"a deployment of {nodes} nodes is too small for secure aggregation: of the sum over two nodes each of "
            "them can take its own part out.",
            fix=f"Give {option('nodes', str(FEWEST_NODES))} or more.",
        )


def check_additive(
    engine: EngineConfig, algorithm: Algorithm[Any, Any], state: Any, clients: int, *, private: bool = False
) -> None:
    """Whether the updates of a method can be hidden in a sum; nothing if secure aggregation is off.

    Args:
        engine: Who runs the clients.
        algorithm: The method.
        state: The server's.
        clients: How many clients there are.
        private: Whether differential privacy keeps on the clients what is no sum.

    Raises:
        ConfigError: If its updates hold more than sums, or there are too few clients.
    """
    if not engine.secure_aggregation or not algorithm.rounds:
        return
    own = {name: one for name, one in algorithm.expected(state).own.items() if not (private and one.released == "kept")}
    if own:
        raise ConfigError(
            f"{algorithm.name!r} reads {', '.join(sorted(own)[:3])} of every single client under these settings, and "
            "with secure aggregation the server sees sums alone.",
            fix=f"Use {INSTEAD[algorithm.holds]}, or no secure aggregation.",
        )
    if engine.cohort_of(clients) < FEWEST_NODES:
        raise ConfigError(
            f"a round asks {engine.cohort_of(clients)} of {clients} clients, and secure aggregation adds up "
            f"{FEWEST_NODES} at least.",
            fix="Use more clients or a larger cohort, or no secure aggregation.",
        )


def layout_of(expected: Expected, rules: RulesConfig, told: Mapping[str, Tensor], clients: int) -> Layout:
    """How the updates of a cohort become integers.

    Args:
        expected: What the update of one client must look like.
        rules: With numbers for ``clip_norm`` and ``max_weight``, unless differential privacy bounds every update.
        told: What the cohort is sent; the bounds of differential privacy are among it.
        clients: How many clients there are in the cohort.

    Raises:
        ConfigError: If a limit is no number.
    """
    shapes = {"weight": ()} | {f"delta.{name}": tuple(shape) for name, shape in expected.deltas.items()}
    shapes |= {name: tuple(bounds.shape) for name, bounds in expected.sums.items()}
    largest = largest_told(shapes, told) if is_told(told) else _largest(expected, rules)
    return Layout(largest, shapes, clients)


def _largest(expected: Expected, rules: RulesConfig) -> dict[str, float]:
    """Name → the largest absolute value of an element of one client's tensor, under the server's limits."""
    clip_norm, max_weight = rules.clip_norm, rules.max_weight
    if not isinstance(clip_norm, float) or not isinstance(max_weight, float):
        raise ConfigError("secure aggregation needs numbers for clip_norm and max_weight.")
    # A change is sent times the weight, and no element of it is longer than the whole.
    found = {"weight": max_weight} | {f"delta.{name}": clip_norm * max_weight for name in expected.deltas}
    for name, bounds in expected.sums.items():
        times = max_weight if bounds.per == "weight" else 1.0
        found[name] = times * max(abs(bounds.least), abs(bounds.most))
    return found
