"""What the server of FedVPA-GP knows, and what of it leaves for clients: components of the prior (E6), y* (E9), τ (E8).

By default no tensor of it belongs to a client. Under ``variational.prior=posteriors`` it has the published exchange.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server import posterior_exchange
from fedvpa.algorithms.server.components import m_step
from fedvpa.algorithms.server.evidence import EvidenceState
from fedvpa.core.tree import Tree, prefixed


@dataclass(frozen=True, repr=False, kw_only=True)
class MixtureState(EvidenceState):
    """All that the server knows.

    Attributes:
        moments: What the components of the prior follow from; empty before the first cohort.
        posteriors: Under ``prior=posteriors`` alone: client id → the posterior that it uploaded last.
        cohort: The same: ids of the last cohort, whose posteriors are the components.
        seed: The same: names them to clients, in place of their ids.
    """

    moments: Tree = field(default_factory=dict)
    posteriors: Mapping[str, Tree] = field(default_factory=dict)
    cohort: tuple[str, ...] = ()
    seed: int = 0


def components_of(state: MixtureState, latent: int) -> Tree:
    """``prior.means`` and ``prior.log_vars`` [j, k], and ``prior.keys`` [j], the ids of the components.

    None, which is N(0, I), before the first cohort, and where no mixture is learned.
    """
    means, log_vars, keys = torch.zeros(0, latent), torch.zeros(0, latent), torch.zeros(0, dtype=torch.int64)
    if state.cohort:
        known = [state.posteriors[name] for name in state.cohort]
        means, log_vars = (torch.stack([own[part] for own in known]) for part in ("mean", "log_var"))
        keys = posterior_exchange.component_keys(state.seed, state.cohort)
    elif state.moments:
        means, log_vars = m_step(state.moments)
        keys = torch.arange(len(means))
    return prefixed("prior", {"means": means, "log_vars": log_vars, "keys": keys})


def each_ones(state: MixtureState, client_ids: Sequence[str]) -> Tree:
    """Under ``prior=posteriors``, what each client of a cohort alone gets: its y*, and where its own component is."""
    return {
        "label": posterior_exchange.assigned_prototypes(state.posteriors, client_ids, state.params["prototypes"]),
        "component": posterior_exchange.own_component(state.cohort, client_ids),
    }


def temperature(config: MethodConfig, round_: int) -> Tensor:
    """τ of the Gumbel-Softmax, annealed exponentially from the first round to the last."""
    start, end = config.variational.temperature_start, config.variational.temperature_end
    progress = round_ / max(config.server.rounds - 1, 1)
    return torch.tensor(start * (end / start) ** progress)
