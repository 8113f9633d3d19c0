"""FedVPA-GP's exchange of posteriors as published (E6, E9), for reproduction only: ``variational.prior=posteriors``.

Every client uploads its posterior under its id, the server remembers it, and every client of the next cohort is sent
the posteriors of the last one. A posterior says what its user prefers, so whoever takes part can read the preferences
of others. By default nothing of this happens; see :mod:`fedvpa.algorithms.server.components`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.algorithms.server.validation import Bounds
from fedvpa.core.seeds import entropy
from fedvpa.core.tree import Tree
from fedvpa.selector.prototypes import balanced_assignment

MEMORY = 256
"""Posteriors that the server remembers for the balanced assignment, whose cost grows with their cube. Chosen by us."""


def component_keys(seed: int, components: Sequence[str]) -> Int[Tensor, " j"]:
    """What stands for each client whose posterior is a component: the same number in every round, and no id."""
    return torch.tensor([entropy(seed, "component", name) % 2**63 for name in components], dtype=torch.int64)


def own_component(components: Sequence[str], client_ids: Sequence[str]) -> Int[Tensor, " clients"]:
    """The place of each client's own posterior among the components; −1 for none."""
    places = {name: place for place, name in enumerate(components)}
    return torch.tensor([places.get(name, -1) for name in client_ids], dtype=torch.int64)


def posterior_bounds(latent: int) -> dict[str, Bounds]:
    """The bounds of a client's posterior over z ∈ Rᵏ."""
    return {"mean": Bounds((latent,), -1e3, 1e3), "log_var": Bounds((latent,), -30.0, 30.0)}


def remember(known: Mapping[str, Tree], reported: Mapping[str, Tree]) -> dict[str, Tree]:
    """The posteriors of the ``MEMORY`` clients that reported last, oldest first; all of a larger cohort."""
    older = {name: value for name, value in known.items() if name not in reported}
    return dict([*older.items(), *reported.items()][-max(MEMORY, len(reported)) :])


def assigned_prototypes(
    posteriors: Mapping[str, Tree], client_ids: Sequence[str], prototypes: Float[Tensor, "m k"]
) -> Float[Tensor, "clients m"]:
    """y* (E9): for each client, one-hot, its prototype in a balanced assignment of the remembered posteriors.

    Zero for clients whose posterior is not remembered.
    """
    label = torch.zeros(len(client_ids), len(prototypes), dtype=prototypes.dtype)
    known = [position for position, name in enumerate(client_ids) if name in posteriors]
    if known:
        names = list(posteriors)
        means = torch.stack([posteriors[name]["mean"] for name in names])
        assigned = dict(zip(names, balanced_assignment(means, prototypes), strict=True))
        for position in known:
            label[position, assigned[client_ids[position]]] = 1.0
    return label
