"""``fedvpa privacy plan``: the noise that a wanted ε needs, and what it would cost, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.options import option

if TYPE_CHECKING:
    from fedvpa.algorithms.base import Broadcast
    from fedvpa.algorithms.server.validation import Expected
    from fedvpa.engines.config import Codec
    from fedvpa.privacy.measured import Measured
    from fedvpa.privacy.planning import Budget
    from fedvpa.runs.config import RunConfig

UNIT = "one user with all that they hold, in all rounds"
RELATION = "add or remove one user"

DIMENSION = 128
"""How long a feature of the bundled language model is."""


@dataclass(frozen=True)
class MethodPlan:
    """What the clients of a method send, and the noise on it.

    Attributes:
        parameters: How many weights are trained.
        uplink_bytes: What a client sends in a round.
        downlink_bytes: What it receives in a round.
        noise: Standard deviation of the noise on each element of the cohort's mean change, over the clip. Of several
            parts that are clipped each on its own, the greatest.
        noise_length: The length of that noise over the clip: the deviation times the square root of the number of
            elements; of several parts the greatest.
        times: How much more noise that is than the noise multiplier says: 1 unless nodes add it.
    """

    parameters: int
    uplink_bytes: int
    downlink_bytes: int
    noise: float
    noise_length: float
    times: float


@dataclass(frozen=True)
class PrivacyPlan:
    """A plan.

    Attributes:
        budget: σ, δ, and ε in both readings.
        sampling: ``poisson`` or ``none``.
        noise: Who adds the noise: ``server`` or ``clients``.
        methods: Method → bytes and noise; those that can be trained with privacy.
        refused: Method → why it cannot be trained with privacy.
        measured: Method → what was measured on the bundled world with at least as much noise; None where nothing was.
    """

    budget: Budget
    sampling: str
    noise: str
    methods: Mapping[str, MethodPlan]
    refused: Mapping[str, str]
    measured: Mapping[str, Measured | None]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self.budget),
            "sampling": self.sampling,
            "noise": self.noise,
            "unit": UNIT,
            "relation": RELATION,
            "methods": {name: asdict(plan) for name, plan in self.methods.items()},
            "refused": dict(self.refused),
            "measured": {name: row and asdict(row) for name, row in self.measured.items()},
        }


def privacy_plan(
    clients: int,
    *,
    cohort: int | None = None,
    rounds: int | None = None,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    delta: float | None = None,
    dimension: int = DIMENSION,
    weights: int | None = None,
    config: RunConfig | None = None,
) -> PrivacyPlan:
    """The noise that a wanted ε needs, or the ε of given noise, and what both mean for a federation.

    Args:
        clients: How many users there are.
        cohort: How many of them a round is expected to have. By default ``engine.cohort`` of the configuration.
        rounds: How many rounds. By default ``server.rounds`` of the configuration.
        epsilon: What the released model may cost in all rounds.
        noise_multiplier: σ, in place of ``epsilon``.
        delta: δ; N^−1.1 unless given.
        dimension: How long a feature is: the hidden size of the language model.
        weights: How many weights an adapter has that clients train (``align --method feddpo``), for a row of its own,
            ``adapter``.
        config: A run's configuration, whose section ``privacy`` counts where an argument is not given.

    Raises:
        ConfigError: A number is out of range, δ is 1/N or more, a cohort is larger than all users, both or none of ε
            and the noise multiplier are given, or the extra ``privacy`` is not installed.
    """
    from fedvpa.privacy.measured import measurements, nearest
    from fedvpa.privacy.planning import plan_budget
    from fedvpa.runs.config import RunConfig, with_settings

    values = {"epsilon": epsilon, "noise_multiplier": noise_multiplier, "delta": delta}
    given = {"privacy": {name: value for name, value in values.items() if value is not None}}
    settings = RunConfig.parse(given) if config is None else with_settings(config, given)
    if dimension < 1:
        raise ConfigError(f"Features of dimension {dimension} do not exist.", fix=f"Give {option('dimension', '768')}.")
    if weights is not None and weights < 1:
        raise ConfigError(
            f"An adapter of {weights} weights learns nothing.", fix=f"Give {option('weights', '500000')}."
        )
    if cohort is None:
        cohort = settings.engine.cohort or settings.engine.cohort_of(clients)
    budget = plan_budget(clients, cohort, settings.server.rounds if rounds is None else rounds, settings.privacy)
    methods, refused = method_plans(settings, budget, dimension)
    if weights is not None:
        methods["adapter"] = _adapter_plan(weights, settings, budget)
    rows = measurements()
    found = {
        name: nearest(rows, name, plan.times * budget.relative_noise, budget.rounds) for name, plan in methods.items()
    }
    return PrivacyPlan(budget, settings.privacy.sampling, settings.privacy.noise, methods, refused, found)


def method_plans(config: RunConfig, budget: Budget, dimension: int) -> tuple[dict[str, MethodPlan], dict[str, str]]:
    """What clients of each method send, by the shapes of its weights, and why others cannot be trained with noise.

    Methods that read true groups are in neither.
    """
    from fedvpa.algorithms.base import FeatureSetting
    from fedvpa.algorithms.config import ServerConfig
    from fedvpa.algorithms.registry import METHODS, make
    from fedvpa.engines.private import check_private

    # No shape depends on the number of rounds, and some methods want more of them than are planned for others.
    rounds = {"rounds": ServerConfig().rounds}
    methods = config.model_copy(update={"server": config.server.model_copy(update=rounds)}).method_config
    setting, found, refused = FeatureSetting(dimension, clients=budget.clients), dict[str, MethodPlan](), {}
    for name in sorted(METHODS.names()):
        algorithm = make(name, methods)
        if algorithm.reads_groups:
            continue
        if not algorithm.rounds:
            refused[name] = "its clients send nothing"
            continue
        state = algorithm.init(setting, config.seed)
        try:
            check_private(algorithm, algorithm.expected(state), everyone=algorithm.asks_everyone(state))
        except ConfigError as error:
            refused[name] = error.problem
            continue
        found[name] = _method_plan(
            algorithm.expected(state), algorithm.broadcast(state, ["a user"]), config, budget, config.engine.codec
        )
    return found, refused


def _adapter_plan(weights: int, config: RunConfig, budget: Budget) -> MethodPlan:
    """Of clients that train an adapter of so many weights, and send its change alone."""
    import torch

    from fedvpa.algorithms.base import Broadcast
    from fedvpa.algorithms.server.validation import Expected

    sent = Broadcast({"params.adapter": torch.ones(weights)}, {}, 0)
    return _method_plan(Expected({"adapter": (weights,)}), sent, config, budget, config.policy.clients.codec)


def _method_plan(
    expected: Expected, broadcast: Broadcast, config: RunConfig, budget: Budget, codec: Codec
) -> MethodPlan:
    """Of one method: one client's vector as it travels, and the noise on each part of it that is clipped on its own."""
    import torch

    from fedvpa.algorithms.server.limits import Guard
    from fedvpa.core import tree
    from fedvpa.engines.codecs import encode
    from fedvpa.engines.noise_shares import NoiseShares
    from fedvpa.engines.private import WITHOUT_MEDIANS, Privacy, Terms
    from fedvpa.privacy.keyed import Key
    from fedvpa.privacy.mechanism import part_of

    terms = Terms(
        budget.noise_multiplier, budget.rate, float(budget.cohort), budget.clients, budget.rounds, budget.delta
    )
    release = Privacy(config.privacy, terms, Key.new()).next(None, expected)
    shape, answers = release.shape, release.answers
    shared = broadcast.shared | Guard().announced(WITHOUT_MEDIANS, answers) | release.told
    deltas = {name: torch.ones(size) for name, size in answers.deltas.items()}
    statistics = {name: torch.ones(bounds.shape) for name, bounds in answers.sums.items()}
    update = {"weight": torch.ones(()), **tree.prefixed("delta", deltas), **statistics}
    sizes = dict.fromkeys(shape.parts, 0)
    for name, leaf in deltas.items():
        sizes[part_of(name, shape.parts)] += leaf.numel()
    unit = {part: torch.ones(()) for part in shape.parts}  # clips of 1, so that noise is in units of them
    # With noise of nodes there is more of it than the noise multiplier says; here each user has a node.
    shares = NoiseShares(release, config.engine.secure_share, budget.clients, budget.clients)
    times = shares.sizes.times if config.privacy.in_shares else 1.0
    noise = {
        part: times * shape.deviations(unit, budget.noise_multiplier)[part] / budget.cohort for part in shape.parts
    }
    return MethodPlan(
        sum(sizes.values()),
        tree.size(encode(update, codec)),
        tree.size(encode(shared, codec)) + tree.size(broadcast.own),
        max(noise.values()),
        max(noise[part] * math.sqrt(sizes[part]) for part in shape.parts),
        times,
    )
