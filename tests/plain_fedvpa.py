"""FedVPA-GP written a second time, as it is usually written: modules, one client at a time, PyTorch's optimisers.

It is the reference of ``algorithms/fedvpa_gp.py`` (bilinear head): local steps, what a client reports, the server's
step, and both priors. ``tests/algorithms/test_plain_fedvpa.py`` holds the two together, and
``benchmarks/stage1_round.py`` measures the engines against it. It shares the configuration, the draws and the names of
the weights with the package, and no formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from fedvpa.algorithms.client.draws import Draws, draw
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.posterior_exchange import component_keys
from fedvpa.engines.federation import Federation
from fedvpa.selector.pairs import Pairs

BETAS = (0.9, 0.95)
SMALLEST_SHARE = 0.02
STANDARD_USERS = 1e-4


class DoubleFederation(Federation):
    """A federation whose features are read in float64, for which that has to be torch's default precision."""

    def read(self, rows: NDArray[np.int64]) -> Pairs:
        """The scaled features of the given rows, in float64."""
        return super().read(rows).to(torch.float64)


def doubled(clients: Federation) -> DoubleFederation:
    """The same clients in float64: AdamW makes much of little differences, so that twins agree in no less."""
    return DoubleFederation(clients.store, clients.partition, clients.scaling, clients.weights)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers, each followed by a ReLU."""
    return nn.Sequential(*(layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())))


class SelectorModule(nn.Module):
    """Encoder, bilinear head, prototypes and one client's mixture logits."""

    def __init__(self, dimension: int, config: MethodConfig, logits: Tensor) -> None:
        super().__init__()
        shape = config.selector
        pair, pooled = shape.encoder.pair_widths, shape.encoder.set_widths
        self.max_log_var = shape.encoder.max_log_var
        self.pair = perceptron((dimension, *pair))
        self.pooled = perceptron((pair[-1], *pooled))
        self.to_latent = nn.Linear((*pair, *pooled)[-1], 2 * shape.latent)
        self.base = nn.Parameter(torch.zeros(dimension))
        self.personal = nn.Parameter(torch.zeros(shape.latent, dimension))
        self.prototypes = nn.Parameter(torch.zeros(shape.prototypes, shape.latent))
        self.logits = nn.Parameter(logits.clone())

    def names(self) -> dict[str, Tensor]:
        """Parameters under the names of ``fedvpa``, linear weights transposed as there."""
        named = {"head.base": self.base, "head.personal": self.personal, "prototypes": self.prototypes}
        for part, module in (("pair", self.pair), ("set", self.pooled), ("head", nn.Sequential(self.to_latent))):
            linear = [layer for layer in module if isinstance(layer, nn.Linear)]
            for number, layer in enumerate(linear):
                named[f"encoder.{part}.{number}.weight"] = layer.weight.T
                named[f"encoder.{part}.{number}.bias"] = layer.bias
        return named

    def load(self, params: Mapping[str, Tensor]) -> None:
        """Copy in the weights of the server."""
        with torch.no_grad():
            for name, leaf in self.names().items():
                leaf.copy_(params[name])

    def posterior(self, delta: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | context): the mean over pairs is weighted, and zero without any."""
        together = (weight[:, None] * self.pair(delta)).sum(0) / max(float(weight.sum()), 1e-12)
        mean, log_var = self.to_latent(self.pooled(together[None])[0]).chunk(2)
        return mean, log_var.clamp(max=self.max_log_var)

    def margin(self, delta: Tensor, z: Tensor, keep: Tensor | float = 1.0) -> Tensor:
        """r(chosen) − r(rejected) for each pair and latent."""
        return keep * (delta @ self.base) + z @ self.personal @ delta.T

    def evidence(self, delta: Tensor, weight: Tensor) -> Tensor:
        """Log-likelihood of the pairs at each prototype."""
        return (weight * logsigmoid(self.margin(delta, self.prototypes))).sum(-1)


def log_normal(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian."""
    return -0.5 * (log_var + (z - mean) ** 2 / log_var.exp() + math.log(2 * math.pi)).sum(-1)


@dataclass
class Received:
    """What one client gets in one round: weights, prior over prototypes, and the components of the prior over z."""

    params: Mapping[str, Tensor]
    log_prior: Tensor
    gain: float
    temperature: float
    z_scale: float
    means: Tensor
    log_vars: Tensor
    own: int | None
    label: Tensor | None


@dataclass
class Sent:
    """What one client computes: new weights and logits, losses of the steps, and figures under the weights received."""

    params: dict[str, Tensor]
    logits: Tensor
    losses: list[dict[str, float]]
    evidence: Tensor
    share: Tensor
    mean: Tensor
    log_var: Tensor
    pairs: float


def step_losses(
    model: SelectorModule, config: MethodConfig, got: Received, data: Pairs, draws: Draws, step: int
) -> dict[str, Tensor]:
    """The three terms of one local step."""
    context, target = draws.context[step], draws.target[step]
    delta = data.chosen - data.rejected
    mean, log_var = model.posterior(delta[context], data.weight[context])
    z = mean + (0.5 * log_var).exp() * draws.noise[step]
    fit = logsigmoid(model.margin(delta[target], got.z_scale * z, draws.base_keep[step]))
    weight = data.weight[target]
    losses = {"reconstruction": -(weight * fit).sum() / weight.sum() if len(target) else torch.zeros(())}
    others = [place for place in range(len(got.means)) if place != got.own]
    if others:
        noise = draws.gumbel[step] if config.variational.gumbel else torch.zeros_like(draws.gumbel[step])
        tau = got.temperature if config.variational.gumbel else 1.0
        weights = torch.log_softmax((model.logits + noise)[others] / tau, -1)
        mixture = torch.logsumexp(weights + log_normal(z, got.means[others], got.log_vars[others]), -1)
        normal = log_normal(z, torch.zeros_like(z), torch.zeros_like(z))
        rest = config.variational.normal_weight
        prior = torch.logaddexp(math.log(1 - rest) + mixture, math.log(rest) + normal)
        losses["kl"] = log_normal(z, mean, log_var) - prior
    else:
        losses["kl"] = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum()
    if got.label is None:
        with torch.no_grad():
            share = torch.softmax(got.log_prior + got.gain * model.evidence(delta[context], data.weight[context]), -1)
        pull = ((z - share @ model.prototypes) ** 2).sum()
    else:
        pull = ((z - got.label @ model.prototypes) ** 2).sum() if got.label.any() else torch.zeros(())
    gram = model.prototypes @ model.prototypes.T / config.selector.prototype_scale**2
    gram_loss = ((gram - torch.eye(len(gram))) ** 2).sum()
    return losses | {"orthogonal": pull + config.variational.gram_weight * gram_loss}


def train_client(config: MethodConfig, got: Received, data: Pairs, logits: Tensor, draws: Draws) -> Sent:
    """The local steps of one client."""
    variational, local = config.variational, config.local
    model = SelectorModule(data.chosen.shape[-1], config, logits)
    model.load(got.params)
    delta = data.chosen - data.rejected
    with torch.no_grad():
        evidence = model.evidence(delta, data.weight)
        share = torch.softmax(got.log_prior + got.gain * evidence, -1)
        mean, log_var = model.posterior(delta, data.weight)
    head = [model.base, model.personal]
    rest = [leaf for key, leaf in model.named_parameters() if key not in ("base", "personal")]
    optimizers = [
        torch.optim.SGD(head, lr=local.head_lr, weight_decay=local.head_weight_decay),
        torch.optim.AdamW(rest, lr=local.encoder_lr, betas=BETAS, weight_decay=local.encoder_weight_decay),
    ]
    weights = {"reconstruction": 1.0, "kl": variational.kl_weight, "orthogonal": variational.orthogonal_weight}
    steps = []
    for step in range(local.steps):
        losses = step_losses(model, config, got, data, draws, step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(weights[name] * value for name, value in losses.items()).backward()
        for optimizer in optimizers:
            optimizer.step()
        steps.append({name: value.item() for name, value in losses.items()})
    after = {key: leaf.detach().clone() for key, leaf in model.names().items()}
    pairs = float(data.weight.sum())
    return Sent(after, model.logits.detach(), steps, evidence, share, mean, log_var, pairs)


def assignment(means: Tensor, prototypes: Tensor) -> list[int]:
    """Each posterior's prototype, at most ⌈n/M⌉ to each, with the least total squared distance: by trying them all."""
    count = len(prototypes)
    places = [prototype for prototype in range(count) for _ in range(-(-len(means) // count))]
    cost = [[float(((mean - prototype) ** 2).sum()) for prototype in prototypes] for mean in means]
    tried = {order[: len(means)] for order in permutations(places, len(means))}
    return list(min(tried, key=lambda order: sum(cost[row][place] for row, place in enumerate(order))))


@dataclass
class PlainServer:
    """The server, and its clients' private logits. ``posteriors`` and ``cohort`` only under ``prior=posteriors``."""

    config: MethodConfig
    params: dict[str, Tensor]
    seed: int
    round: int = 0
    log_prior: Tensor = field(default_factory=lambda: torch.zeros(0))
    spread: float | None = None
    moments: dict[str, Tensor] = field(default_factory=dict)
    posteriors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    cohort: list[str] = field(default_factory=list)
    tail: list[dict[str, Tensor]] = field(default_factory=list)
    logits: dict[str, dict[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.log_prior):
            count = self.config.selector.prototypes
            self.log_prior = torch.full((count,), 1 / count).log()

    @property
    def exchanges(self) -> bool:
        """Whether posteriors are the components of the prior, as published."""
        return self.config.variational.prior == "posteriors"

    def components(self) -> tuple[Tensor, Tensor]:
        """Means and log-variances of the prior's components."""
        if self.exchanges:
            parts = [self.posteriors[name] for name in self.cohort]
        elif self.moments:
            parts = list(map(self.component, range(len(self.log_prior))))
        else:
            parts = []
        nothing = torch.zeros(0, self.config.selector.latent)
        means, log_vars = zip(*parts, strict=True) if parts else ((), ())
        return (torch.stack(means), torch.stack(log_vars)) if parts else (nothing, nothing)

    def component(self, row: int) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the users that belong to a prototype, and of a little of a standard normal one."""
        users = self.moments["share"][row] + STANDARD_USERS
        mean = self.moments["first"][row] / users
        variance = (self.moments["second"][row] + STANDARD_USERS) / users - mean**2
        return mean, variance.clamp(min=STANDARD_USERS).log()

    def component_ids(self) -> list[int]:
        """What the noise and the private logits of a component hang on."""
        if self.exchanges:
            return component_keys(self.seed, self.cohort).tolist()
        return list(range(len(self.log_prior))) if self.moments else []

    def gain(self) -> float:
        """The factor on evidence."""
        target = self.config.variational.gain
        return max(1.0, target / math.sqrt(self.spread)) if target and self.spread else 1.0

    def temperature(self) -> float:
        """τ, from the first round's to the last round's by equal factors."""
        variational, last = self.config.variational, max(self.config.server.rounds - 1, 1)
        ends = math.log(variational.temperature_start), math.log(variational.temperature_end)
        return math.exp(ends[0] + (ends[1] - ends[0]) * self.round / last)

    def warming_up(self) -> bool:
        """Whether all clients share one head in the round that is next."""
        return self.round < self.config.variational.warmup * self.config.server.rounds

    def received(self, name: str) -> Received:
        """What a client gets."""
        label = own = None
        if self.exchanges:
            label = torch.zeros(len(self.log_prior))
            if name in self.posteriors:
                names = list(self.posteriors)
                means = torch.stack([self.posteriors[one][0] for one in names])
                label[assignment(means, self.params["prototypes"])[names.index(name)]] = 1.0
            own = self.cohort.index(name) if name in self.cohort else None
        z_scale = 0.0 if self.warming_up() else 1.0
        return Received(
            self.params, self.log_prior, self.gain(), self.temperature(), z_scale, *self.components(), own, label
        )

    def draws(self, name: str, pairs: int) -> Draws:
        """The randomness of a client."""
        shape, ids = self.config.selector, self.component_ids()
        return draw(
            self.seed, self.round, name, pairs, self.config.local,
            latent=shape.latent, components=ids, base_dropout=shape.base_dropout,
        )  # fmt: skip

    def play(self, held: Mapping[str, Pairs]) -> dict[str, float]:
        """One round of the clients that hold these pairs; the losses of it."""
        ids, sent = self.component_ids(), {}
        for name, data in held.items():
            known = self.logits.get(name, {})
            logits = torch.tensor([known.get(one, 0.0) for one in ids])
            sent[name] = train_client(
                self.config, self.received(name), data, logits, self.draws(name, len(data.weight))
            )
        for name, one in sent.items():
            mine = self.logits.setdefault(name, {})
            mine.update(zip(ids, one.logits.tolist(), strict=True))
        self.average(list(sent.values()))
        self.learn(sent)
        total = sum(one.pairs for one in sent.values())
        return {
            name: sum(one.pairs * sum(step[name] for step in one.losses) / len(one.losses) for one in sent.values())
            / total
            for name in ("reconstruction", "kl", "orthogonal")
        }

    def average(self, sent: Sequence[Sent]) -> None:
        """FedAvg, weighted by the clients' numbers of pairs, and the weights of the tail kept for their mean."""
        total = sum(one.pairs for one in sent)
        self.params = {
            name: leaf + sum(one.pairs * (one.params[name] - leaf) for one in sent) / total
            for name, leaf in self.params.items()
        }
        server = self.config.server
        if self.round >= server.rounds * (1 - server.average_tail):
            self.tail.append(self.params)
        self.round += 1

    def learn(self, sent: Mapping[str, Sent]) -> None:
        """The running means that prior, gain and components follow from; clients without pairs say nothing."""
        rate, known = self.config.server.prior_rate, [one for one in sent.values() if one.pairs > 0]
        if self.exchanges:
            self.cohort = list(sent)
            for name, one in sent.items():
                self.posteriors.pop(name, None)
                self.posteriors[name] = (one.mean, one.log_var)
        else:
            share = torch.stack([one.share for one in known])
            first, second = (
                torch.stack([one.share[:, None] * value for one, value in zip(known, values, strict=True)])
                for values in (
                    [one.mean for one in known],
                    [one.mean**2 + one.log_var.exp() for one in known],
                )
            )
            now = {"share": share.mean(0), "first": first.mean(0), "second": second.mean(0)}
            old = self.moments or now
            self.moments = {name: (1 - rate) * old[name] + rate * leaf for name, leaf in now.items()}
        spread = sum(float(one.evidence.var()) for one in known) / len(known)
        self.spread = spread if self.spread is None else (1 - rate) * self.spread + rate * spread
        if self.config.variational.learn_prior and not self.warming_up():
            mean = torch.stack([one.share for one in known]).mean(0)
            prior = ((1 - rate) * self.log_prior.exp() + rate * mean).clamp(min=SMALLEST_SHARE)
            self.log_prior = (prior / prior.sum()).log()

    @property
    def final(self) -> dict[str, Tensor]:
        """The mean of the tail's weights, or the current ones before it begins."""
        if not self.tail:
            return self.params
        return {name: torch.stack([params[name] for params in self.tail]).mean(0) for name in self.params}
