"""FedBiscuit, the faithful selector half: U LoRA adapters of a language model that chooses between two responses.

Wu, Liu, Wang, Wang, Su, Gao: "Towards Federated RLHF with Aggregated Client Preference for LLMs", ICLR 2025,
arXiv 2407.03038.

Variant: selector u is the base language model with adapter φ_u; it reads an instruction, the prompt and both responses,
and chooses by the cross-entropy over the tokens A and B, in both orders (:mod:`fedvpa.rewards.choice`). With U = 1 it
is FedBis. ``fedbiscuit.py`` has the same rounds with linear heads on cached features instead.

    what                 the paper's                              here
    selector             LM + LoRA, two choice tokens             the same
    orders of a pair     both                                     both, in every step; the margin is their mean
    warm-up              every client trains selector u, R_w      rounds u·R_w … (u + 1)·R_w − 1
                         rounds for each u
    grouping             every R_g rounds, by U losses of every   grouping.py: balanced_greedy, first after the warm-up
                         client
    local training       AdamW on the client's own selector       AdamW(0.9, 0.95), fresh for every client and round
    aggregation          φ_u ← (1 − |S_u|/N) φ_u                  the same, on the factors A and B
                              + (1/N) Σ_{i∈S_u} φ_i
    result               majority vote of the U selectors         selector/vote.py
    stage 2              two completions a prompt, in the order   pairs of the samples that all methods share, see below
                         of the vote, then DPO

S_u are the clients of a round that trained selector u, N those of the round that hold a pair, over all selectors: each
selector is damped by its share of the round. Clients count alike. At a grouping every client that holds a pair gets all
U selectors and reports U losses, whichever clients the round asked; ``fedbiscuit.py`` only asks the round's.

Deviations:
    - The losses are of training pairs, the first ``biscuit.lora.report_pairs`` of each client; the paper keeps a
      validation split for that, which here would be taken from the pairs that all methods train on.
    - A full selector keeps the bidders of least loss. The authors' code keeps the first of a random order.
    - The factors A and B are averaged apart, as published, and so inexactly (:mod:`fedvpa.algorithms.lora_averaging`).
    - The U adapters start from different random A; rounds are fewer and the learning rate higher, for a model of a
      million weights.
    - Stage 2 compares K/2 disjoint pairs of each prompt's K samples, (0, 1), (2, 3), …, and keeps as many of the widest
      as other methods do; those choose among all K(K − 1)/2, which here would cost 2·U passes of the language model
      each. The paper has K = 2, where both are the same.
    - A look at the validation prompts compares with a few samples of the base policy instead of all.

One model for all: no latent, and clients differ only in what they train. The method has no run directory of its own:
``fedvpa compare --stage policy --methods fedbiscuit_lora`` trains and judges it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.config import BiscuitConfig
from fedvpa.algorithms.feddpo import mean_of, with_pairs
from fedvpa.algorithms.grouping import Timetable, regrouped
from fedvpa.algorithms.local_training import ADAM_BETAS
from fedvpa.algorithms.lora_averaging import mean_of_factors
from fedvpa.core import tree
from fedvpa.core.errors import DataError
from fedvpa.core.seeds import entropy
from fedvpa.core.short_repr import short_repr
from fedvpa.policy.adapters import check_fits, new_adapter, restore, snapshot
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.dpo_trainer import batch_rows
from fedvpa.policy.policy import Policy, new_policy
from fedvpa.rewards.choice import Choices, Template, both_log_odds, losses, margins, mean_loss
from fedvpa.selector.vote import majority_margins

NAME = "fedbiscuit_lora"
CLIP_NORM = 1.0
"""Longest gradient of a local step. Chosen by us."""


@dataclass(frozen=True, repr=False)
class BiscuitState:
    """All that the server knows.

    Attributes:
        selectors: The LoRA factors of each selector, under PEFT's names.
        reports: Client id → its U losses at the last grouping and, one-hot, the selector that it trains.
        round: Rounds completed.
    """

    selectors: tuple[tree.Tree, ...]
    reports: Mapping[str, tree.Tree] = field(default_factory=dict)
    round: int = 0

    __repr__ = short_repr

    def tensors(self) -> tree.Tree:
        """The state as one tree, to be written."""
        found = {"round": torch.tensor(self.round)}
        for place, weights in enumerate(self.selectors):
            found |= tree.prefixed(f"selector.{place:03d}", weights)
        for client, report in self.reports.items():
            found |= {f"losses.{client}": report["losses"], f"label.{client}": report["label"]}
        return found

    @classmethod
    def of(cls, saved: Mapping[str, Tensor]) -> BiscuitState:
        """The state that :meth:`tensors` gave."""
        stored, label = tree.below("selector", saved), tree.below("label", saved)
        places = sorted({name.partition(".")[0] for name in stored})
        losses = tree.below("losses", saved)
        reports = {client: {"losses": told, "label": label[client]} for client, told in losses.items()}
        return cls(tuple(tree.below(place, stored) for place in places), reports, int(saved["round"]))


@dataclass(frozen=True)
class BiscuitRound:
    """What one round did.

    Attributes:
        round: Its number, from 1.
        loss: Cross-entropy over the two answers, in nats, the mean over all local steps; None if no client trained.
        cohort: The clients that trained.
        skipped: Clients of the cohort that hold no pair.
        uplink_bytes: What clients sent: each its adapter, and at a grouping each of all clients its U losses.
        downlink_bytes: What they were sent: each the adapter to train, and at a grouping all clients all adapters.
        seconds: Wall-clock seconds.
    """

    round: int
    loss: float | None
    cohort: tuple[str, ...]
    skipped: int
    uplink_bytes: int
    downlink_bytes: int
    seconds: float


@dataclass(frozen=True, repr=False)
class Voters:
    """The U selectors, that vote.

    Attributes:
        policy: Where they take turns; its own adapter is of no account.
        template: What they read.
        selectors: Their adapters.
        base_samples: Most samples of the base policy that one response is compared with.
    """

    policy: Policy
    template: Template
    selectors: tuple[tree.Tree, ...]
    base_samples: int

    __repr__ = short_repr

    def margins(self, choices: Choices) -> Float[Tensor, " pairs"]:
        """The vote on each pair, in nats; positive where the preferred response wins. Antisymmetric."""
        return majority_margins(torch.stack([margins(odds) for odds in self._odds(choices)]))

    def losses(self, choices: Choices) -> Float[Tensor, " u"]:
        """The mean loss of each selector; log 2, a coin's, where there is no pair."""
        return torch.tensor([mean_loss(odds, empty=math.log(2)) for odds in self._odds(choices)])

    def _odds(self, choices: Choices) -> Iterator[Tensor]:
        for weights in self.selectors:
            restore(self.policy, weights)
            yield both_log_odds(self.policy, self.template, choices)


def choosing_model(config: BiscuitConfig, policy: PolicyConfig, model: str, seed: int, device: str) -> Policy:
    """The base policy's language model with a LoRA of the selectors' shape.

    Args:
        config: Rank and α.
        policy: The rest.
        model: The base policy, if ``policy.model`` names none.
        seed: Names the initial weights, which no selector keeps.
        device: Where to put it.
    """
    shape = {"lora_rank": config.lora.lora_rank, "lora_alpha": config.lora.lora_alpha}
    return new_policy(policy.model_copy(update=shape), model, None, seed, device=device)


def train_selectors(
    policy: Policy,
    template: Template,
    clients: Mapping[str, Choices],
    config: BiscuitConfig,
    seed: int,
    cohorts: Callable[[int], Sequence[str]],
    start: BiscuitState | None = None,
) -> Iterator[tuple[BiscuitState, BiscuitRound]]:
    """Train the selectors round by round.

    Args:
        policy: Where training happens, from :func:`choosing_model`; holds no state between rounds.
        template: What it reads.
        clients: Client id → its pairs, from ``template``.
        config: U, and ``config.lora``.
        seed: Names the initial adapters, the clients' batches and dropout.
        cohorts: Round, from 0 → ids of the clients that it asks.
        start: A state to go on from, bit for bit as if never stopped.

    Yields:
        After every round, the state and what the round did.

    Raises:
        ConfigError: If the warm-up leaves no round.
        DataError: If no client has a pair, or a cohort names an unknown client.
        RunError: If ``start`` does not fit the policy.
    """
    own = config.lora
    timetable = Timetable.of(config.selectors, own.rounds, own.warmup_rounds, own.regroup_every)
    if not any(len(choices) for choices in clients.values()):
        raise DataError(f"None of the {len(clients)} clients has a preference pair, so {NAME} has nothing to learn.")
    state = start or BiscuitState(tuple(new_adapter(policy, seed, NAME, "init", u) for u in range(config.selectors)))
    for weights in state.selectors:
        check_fits(policy, weights)
    while state.round < own.rounds:
        started, cohort = time.monotonic(), cohorts(state.round)
        trainers = with_pairs(clients, cohort, state.round)
        state, loss, sent = _round(policy, template, clients, config, timetable, seed, trainers, state)
        uplink = downlink = sent
        if timetable.groups_after(state.round) and state.round < own.rounds:
            reports = _reports(policy, template, clients, config, state)
            state = replace(state, reports=regrouped(reports))
            uplink += sum(report["losses"].nbytes for report in reports.values())
            downlink += len(reports) * sum(map(tree.size, state.selectors))
        seconds = time.monotonic() - started
        skipped = len(cohort) - len(trainers)
        yield state, BiscuitRound(state.round, loss, tuple(trainers), skipped, uplink, downlink, seconds)


def _round(
    policy: Policy,
    template: Template,
    clients: Mapping[str, Choices],
    config: BiscuitConfig,
    timetable: Timetable,
    seed: int,
    trainers: Sequence[str],
    state: BiscuitState,
) -> tuple[BiscuitState, float | None, int]:
    """The state after local training, its mean loss, and the bytes of the adapters on their way in one direction."""
    labels = timetable.labels(state.round, state.reports, trainers)
    trained: list[list[tree.Tree]] = [[] for _ in state.selectors]
    told, sent = [], 0
    for name, label in zip(trainers, labels, strict=True):
        u = int(label.argmax())
        restore(policy, state.selectors[u])
        told += _local(policy, template, clients[name], config, seed, name, state.round)
        trained[u].append(snapshot(policy))
        sent += tree.size(state.selectors[u])
    after = tuple(damped(before, own, len(trainers)) for before, own in zip(state.selectors, trained, strict=True))
    return replace(state, selectors=after, round=state.round + 1), mean_of(told), sent


def damped(before: tree.Tree, trained: Sequence[tree.Tree], count: int) -> tree.Tree:
    """(1 − |S_u|/N) φ_u + (1/N) Σ_{i∈S_u} φ_i; φ_u itself where nobody trained it.

    Args:
        before: φ_u.
        trained: φ_i of the clients S_u.
        count: N.
    """
    if not trained:
        return before
    return mean_of_factors([before, *trained], [1 - len(trained) / count, *[1 / count] * len(trained)])


def _local(
    policy: Policy, template: Template, choices: Choices, config: BiscuitConfig, seed: int, name: str, round_: int
) -> list[float]:
    """Local steps from the adapter that the policy holds; their losses."""
    own, weights = config.lora, list(policy.trained().values())
    optimiser = torch.optim.AdamW(weights, lr=own.lr, betas=ADAM_BETAS, weight_decay=0.0, fused=True)
    step_losses = []
    policy.train()
    with torch.random.fork_rng(devices=[policy.device] if policy.device.type == "cuda" else []):
        torch.manual_seed(entropy(seed, NAME, "dropout", name, round_) % 2**63)
        for step in range(own.steps):
            # A client's epochs go on through the rounds; those that do not ask it go by.
            pairs = batch_rows(choices, own.batch, round_ * own.steps + step, seed, NAME, name)
            loss = losses(policy, template, choices, pairs).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, CLIP_NORM)
            optimiser.step()
            step_losses.append(float(loss.detach()))
    optimiser.zero_grad(set_to_none=True)
    return step_losses


def _reports(
    policy: Policy, template: Template, clients: Mapping[str, Choices], config: BiscuitConfig, state: BiscuitState
) -> dict[str, tree.Tree]:
    """U losses of every client that holds a pair; which selector it trains is still open."""
    voters = Voters(policy, template, state.selectors, config.lora.base_samples)
    nobody = torch.zeros(config.selectors)
    return {
        name: {"losses": voters.losses(choices.head(config.lora.report_pairs)), "label": nobody}
        for name, choices in clients.items()
        if len(choices)
    }
