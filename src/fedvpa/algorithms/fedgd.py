"""FedGD, our reading: one model for all users, in which every true group counts alike.

arXiv 2608.01556. Only its abstract was at hand, so this is what it says in a few words, and none of its numbers stand
here: one model by FedAvg, samples balanced over the groups, a few local steps on each client.

**It reads groups**: clients send their changes under their group's name, so it is a yardstick of what balancing does
and no method for real federations.

    θ ← θ + 1/|G| Σ_{g ∈ G} (Σ_{i ∈ g} n_i Δ_i / Σ_{i ∈ g} n_i),        G: the groups that the cohort has

In place of a sampler that draws as many clients from every group, which an engine that knows no groups cannot do, the
average is balanced: a cohort drawn without regard to groups then moves the model in the direction that a balanced one
gives on average. Local training is that of ``global``, with ``local.steps`` steps, and with a single group, or groups
of one weight, the method is ``global``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, FeatureSetting, Plain
from fedvpa.algorithms.client.draws import Draws
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.fixed_latent import FixedLatent
from fedvpa.algorithms.global_model import global_model
from fedvpa.algorithms.server.aggregation import Averaged, federated_average, loss_bounds, mean_losses
from fedvpa.algorithms.server.validation import Bounds, Expected
from fedvpa.core.errors import ConfigError
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector

STILL = "prototypes"
"""z = 0, never trained."""


@dataclass(frozen=True, repr=False, kw_only=True)
class Balanced(Averaged):
    """The weights, and how many groups there are.

    Attributes:
        groups: m.
    """

    groups: int


@dataclass(frozen=True)
class FedGD(Plain):
    """FedGD, our reading. See the module's docstring.

    Raises:
        ConfigError: For a robust rule.
    """

    config: MethodConfig
    name: str = "fedgd"
    reads_groups: bool = True
    personal: bool = False
    has_prototypes: bool = False
    state_type: type[Balanced] = Balanced

    def __post_init__(self) -> None:
        if self.config.server.rule != "mean":
            raise ConfigError(
                f"server.rule={self.config.server.rule} compares clients of one round, and those of fedgd are averaged "
                "within their groups first.",
                fix="Use server.rule=mean; server.clip_norm keeps single updates from being large.",
            )

    @property
    def _global(self) -> FixedLatent:
        """What trains the head that all share."""
        return global_model(self.config)

    def init(self, setting: FeatureSetting, seed: int) -> Balanced:
        """The head that ``global`` starts from."""
        return Balanced(params=self._global.init(setting, seed).params, groups=len(setting.groups))

    def broadcast(self, state: Balanced, client_ids: Sequence[str]) -> Broadcast:
        """The weights."""
        return self._global.broadcast(state, client_ids)

    def expected(self, state: Balanced) -> Expected:
        """A change of all weights and a weight for each group, and the loss."""
        deltas = {name: (state.groups, *leaf.shape) for name, leaf in state.params.items() if name != STILL}
        groups = {"group_weight": Bounds((state.groups,), 0.0, 1.0, per="weight")}
        return Expected(deltas, loss_bounds("reconstruction") | groups)

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        """The same folds as every method."""
        return self._global.draw(seed, broadcast, client_id, size)

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """E local steps of ``global``, sent under the client's group."""
        update, after = self._global.client_update(received, held, {}, draws)
        deltas = {name: leaf for name, leaf in below("delta", update.sums).items() if name != STILL}
        rest = {name: leaf for name, leaf in update.sums.items() if not name.startswith("delta.")}
        group = private["group"]
        named = prefixed("delta", {name: _under(group, leaf) for name, leaf in deltas.items()})
        return ClientUpdate(rest | named | {"group_weight": _under(group, update.sums["weight"])}), after

    def server_update(self, state: Balanced, update: CohortUpdate) -> tuple[Balanced, dict[str, float]]:
        """Average within groups, then over groups."""
        if not update.sums:
            return federated_average(state, update, self.config.server), {}
        weight = update.sums["group_weight"]
        share = torch.where(weight > 0, 1 / weight, 0.0) / (weight > 0).sum().clamp(min=1)
        deltas = {name: torch.tensordot(share, leaf, 1) for name, leaf in below("delta", update.sums).items()}
        once = (update.sums["weight"] > 0).to(weight.dtype)
        balanced = CohortUpdate({"weight": once} | prefixed("delta", deltas))
        return federated_average(state, balanced, self.config.server), mean_losses(update)

    def selector(self, state: Balanced) -> Selector:
        """The averaged head, for everybody."""
        return self._global.selector(state)


def _under(group: Float[Tensor, "*clients m"], value: Tensor) -> Tensor:
    """``value`` [*clients, ...] in the row of the client's group, shape [*clients, m, ...]; 0 in the others."""
    place = group.ndim - 1
    return group.reshape(*group.shape, *[1] * (value.ndim - place)) * value.unsqueeze(place)
