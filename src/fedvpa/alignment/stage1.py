"""TODO."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.registry import make
from fedvpa.evaluation.accuracy import infer_clients
from fedvpa.features.backbone import Backbone, load_backbone
from fedvpa.runs.config import RunConfig
from fedvpa.runs.prepare import Prepared
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector

ONE = ""
"""The name of the policy of a method that has one for all."""


@dataclass(frozen=True)
class Stage1:
    """A trained selector and the data that it was trained on.

    Attributes:
        config: Of the run; ``config.policy`` is stage 2's.
        prepared: Pairs, features, clients.
        selector: Frozen.
        posterior: Of the seen clients, in the partition's order.
    """

    config: RunConfig
    prepared: Prepared
    selector: Selector
    posterior: Posterior

    @property
    def groups(self) -> tuple[str, ...]:
        """The preferences that evaluation knows by name."""
        return self.prepared.federation.groups

    @property
    def personal(self) -> bool:
        """Whether the method infers a latent that its policy follows."""
        return make(self.config.method, self.config.method_config).personal

    @property
    def by_group(self) -> bool:
        """Whether the method trains one policy per true group: the oracle."""
        return make(self.config.method, self.config.method_config).reads_groups

    @property
    def policies(self) -> tuple[str, ...]:
        """The names of the method's policies."""
        return self.groups if self.by_group else (ONE,)

    @cached_property
    def backbone(self) -> Backbone:
        """The selector's language model."""
        return load_backbone(self.config.features)

    def users(self, *, seen: bool) -> tuple[list[str], list[str | None], Float[Tensor, "n k"]]:
        """Ids, true groups and z of seen or unseen users; z is the posterior's mean from their training pairs."""
        partition = self.prepared.federation.partition
        clients = partition.seen if seen else partition.unseen
        ids, groups = [client.client_id for client in clients], [client.group for client in clients]
        if not clients:
            return ids, groups, torch.zeros(0, self.selector.prototypes.shape[1])
        if seen:
            return ids, groups, self.posterior.mean
        posterior = infer_clients(self.selector, self.prepared.federation, clients, by_group=self.by_group)
        return ids, groups, posterior.mean

    def named_preferences(self) -> dict[str, list[float]]:
        """Group → the z that stands for it: the prototype that most of its users are nearest to, or their mean z."""
        _, groups, z = self.users(seen=True)
        found = {}
        for name in self.groups:
            rows = [row for row, group in enumerate(groups) if group == name]
            if not rows:
                continue
            shares = self.posterior.weights[rows].mean(0)
            prototypes = self.selector.prototypes
            found[name] = (
                prototypes[int(shares.argmax())] if len(shares) == len(prototypes) > 1 else z[rows].mean(0)
            ).tolist()
        return found
