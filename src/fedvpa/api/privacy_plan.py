"""``fedvpa privacy plan``: the noise that a wanted ε needs, and what it would cost, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.options import option

if TYPE_CHECKING:
    from fedvpa.algorithms.base import SelectorAlgorithm
    from fedvpa.algorithms.server.validation import Expected
    from fedvpa.engines.config import Codec
    from fedvpa.privacy.config import PrivacyConfig
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
        noise_length: The length of that noise over the clip: ``noise`` times the square root of the number of elements.
    """

    parameters: int
    uplink_bytes: int
    downlink_bytes: int
    noise: float
    noise_length: float


@dataclass(frozen=True)
class PrivacyPlan:
    """A plan.

    Attributes:
        budget: σ, δ, and ε in both readings.
        sampling: ``poisson`` or ``none``.
        methods: Method → bytes and noise; those that can be trained with privacy.
        measured: Method → what was measured on the bundled world with at least as much noise; None where nothing was.
    """

    budget: Budget
    sampling: str
    methods: Mapping[str, MethodPlan]
    measured: Mapping[str, Measured | None]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self.budget),
            "sampling": self.sampling,
            "unit": UNIT,
            "relation": RELATION,
            "methods": {name: asdict(plan) for name, plan in self.methods.items()},
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
    if cohort is None:
        cohort = settings.engine.cohort or settings.engine.cohort_of(clients)
    budget = plan_budget(clients, cohort, settings.server.rounds if rounds is None else rounds, settings.privacy)
    methods = method_plans(settings, budget, dimension)
    rows = measurements()
    found = {name: nearest(rows, name, budget.relative_noise, budget.rounds) for name in methods}
    return PrivacyPlan(budget, settings.privacy.sampling, methods, found)


def method_plans(config: RunConfig, budget: Budget, dimension: int) -> dict[str, MethodPlan]:
    """What clients of each method send, by the shapes of its weights; methods that read true groups are left out."""
    from fedvpa.algorithms.base import FeatureSetting
    from fedvpa.algorithms.config import ServerConfig
    from fedvpa.algorithms.registry import METHODS, make

    # No shape depends on the number of rounds, and some methods want more of them than are planned for others.
    rounds = {"rounds": ServerConfig().rounds}
    methods = config.model_copy(update={"server": config.server.model_copy(update=rounds)}).method_config
    setting, found = FeatureSetting(dimension, clients=budget.clients), {}
    for name in sorted(METHODS.names()):
        algorithm = make(name, methods)
        if algorithm.rounds and not algorithm.reads_groups:
            state = algorithm.init(setting, config.seed)
            expected = algorithm.expected(state)
            if not expected.own:
                found[name] = _method_plan(algorithm, state, expected, config.privacy, budget, config.engine.codec)
    return found


def _method_plan(
    algorithm: SelectorAlgorithm[Any],
    state: Any,
    expected: Expected,
    privacy: PrivacyConfig,
    budget: Budget,
    codec: Codec,
) -> MethodPlan:
    import torch

    from fedvpa.core import tree
    from fedvpa.engines.codecs import encode

    broadcast = algorithm.broadcast(state, ["a user"])
    statistics = {name: torch.ones(bounds.shape) for name, bounds in expected.sums.items()}
    deltas = {f"delta.{name}": torch.ones(shape) for name, shape in expected.deltas.items()}
    update = {"weight": torch.ones(()), **deltas, **statistics}
    parameters = sum(leaf.numel() for leaf in deltas.values())
    sensitivity = math.hypot(1.0, privacy.statistics_share) if statistics else 1.0
    noise = sensitivity * budget.relative_noise
    return MethodPlan(
        parameters,
        tree.size(encode(update, codec)),
        tree.size(encode(broadcast.shared, codec)) + tree.size(broadcast.own),
        noise,
        noise * math.sqrt(parameters),
    )
