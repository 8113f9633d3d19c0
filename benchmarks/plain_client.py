"""A client of FedVPA-GP as it is usually written: modules, one client at a time, PyTorch's optimisers as they come.

It is what ``stage1_round.py`` measures the engines against, and an independent second writing of
``algorithms/fedvpa_gp.py`` (bilinear head, y* from responsibilities, Gumbel-Softmax mixture prior): one round of both
must agree, and ``tests/benchmarks`` holds them to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from fedvpa.algorithms.client.draws import Draws
from fedvpa.algorithms.client.local_training import ADAM_BETAS
from fedvpa.algorithms.config import MethodConfig
from fedvpa.core.tree import Tree
from fedvpa.selector.pairs import Pairs


class SelectorModule(nn.Module):
    """Encoder, bilinear head, prototypes and one client's mixture logits."""

    def __init__(self, dimension: int, config: MethodConfig, components: int) -> None:
        super().__init__()
        shape = config.selector
        widths = (dimension, *shape.encoder.pair_widths)
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.max_log_var = shape.encoder.max_log_var
        self.pair = nn.Sequential(*layers)
        self.to_latent = nn.Linear(widths[-1], 2 * shape.latent)
        self.base = nn.Parameter(torch.zeros(dimension))
        self.personal = nn.Parameter(torch.zeros(shape.latent, dimension))
        self.prototypes = nn.Parameter(torch.zeros(shape.prototypes, shape.latent))
        self.logits = nn.Parameter(torch.zeros(components))

    def names(self) -> dict[str, Tensor]:
        """Parameters under the names of ``fedvpa``, linear weights transposed as there."""
        named = {"head.base": self.base, "head.personal": self.personal, "prototypes": self.prototypes}
        linear = [layer for layer in self.pair if isinstance(layer, nn.Linear)]
        for number, layer in enumerate(linear):
            named |= {f"encoder.pair.{number}.weight": layer.weight.T, f"encoder.pair.{number}.bias": layer.bias}
        return named | {"encoder.head.0.weight": self.to_latent.weight.T, "encoder.head.0.bias": self.to_latent.bias}

    def load(self, params: dict[str, Tensor]) -> None:
        """Copy in the weights of the server."""
        with torch.no_grad():
            for name, leaf in self.names().items():
                leaf.copy_(params[name])

    def posterior(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | context)."""
        mean, log_var = self.to_latent(self.pair(delta).mean(0)).chunk(2)
        return mean, log_var.clamp(max=self.max_log_var)

    def margin(self, delta: Tensor, z: Tensor) -> Tensor:
        """r(chosen) − r(rejected) for each pair and latent."""
        return delta @ self.base + z @ self.personal @ delta.T


def log_normal(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian."""
    return -0.5 * (log_var + (z - mean) ** 2 / log_var.exp() + math.log(2 * math.pi)).sum(-1)


def train_client(config: MethodConfig, params: Tree, received: Tree, data: Pairs, draws: Draws) -> dict[str, Tensor]:
    """The weights of one client after its local steps."""
    shared, variational, local = received, config.variational, config.local
    components = len(shared["prior.keys"])
    model = SelectorModule(data.chosen.shape[-1], config, components)
    model.load(params)
    head = [model.base, model.personal]
    rest = [leaf for key, leaf in model.named_parameters() if key not in ("base", "personal")]
    optimizers = [
        torch.optim.SGD(head, lr=local.head_lr, weight_decay=local.head_weight_decay),
        torch.optim.AdamW(rest, lr=local.encoder_lr, betas=ADAM_BETAS, weight_decay=local.encoder_weight_decay),
    ]
    scale = config.selector.prototype_scale
    for step in range(local.steps):
        context, target = draws.context[step], draws.target[step]
        delta_context = data.chosen[context] - data.rejected[context]
        delta_target = data.chosen[target] - data.rejected[target]
        mean, log_var = model.posterior(delta_context)
        z = mean + (0.5 * log_var).exp() * draws.noise[step]
        with torch.no_grad():
            likelihood = logsigmoid(model.margin(delta_context, model.prototypes)).sum(-1)
            share = torch.softmax(shared["log_prior"] + shared["gain"] * likelihood, -1)
        weights = torch.log_softmax((model.logits + draws.gumbel[step]) / shared["temperature"], -1)
        mixture = torch.logsumexp(weights + log_normal(z, shared["prior.means"], shared["prior.log_vars"]), -1)
        normal = log_normal(z, torch.zeros_like(z), torch.zeros_like(z))
        rest_weight = variational.normal_weight
        prior = torch.logaddexp(math.log(1 - rest_weight) + mixture, math.log(rest_weight) + normal)
        gram = model.prototypes @ model.prototypes.T / scale**2 - torch.eye(len(model.prototypes))
        orthogonal = ((z - share @ model.prototypes) ** 2).sum() + variational.gram_weight * (gram**2).sum()
        loss = -logsigmoid(model.margin(delta_target, z)).mean()
        loss = loss + variational.kl_weight * (log_normal(z, mean, log_var) - prior)
        loss = loss + variational.orthogonal_weight * orthogonal
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    return {key: leaf.detach() for key, leaf in model.names().items()}


def average(before: dict[str, Tensor], clients: Sequence[dict[str, Tensor]], sizes: Sequence[int]) -> dict[str, Tensor]:
    """FedAvg, weighted by the clients' numbers of pairs."""
    total = sum(sizes)
    return {
        name: leaf + sum(size * (client[name] - leaf) for client, size in zip(clients, sizes, strict=True)) / total
        for name, leaf in before.items()
    }
