"""FedDPO: clients run DPO on their own pairs; the server averages their LoRA adapters. One policy for all, without z.

Ye et al., "OpenFedLLM: Training Large Language Models on Decentralized Private Data via Federated Learning", KDD 2024,
arXiv 2402.06954: federated value alignment, "FedDPO" with FedAvg.

Each round, each client of the cohort starts from the server's adapter, takes a few steps of DPO with the frozen base as
its reference, and sends the adapter back; the server takes their mean, weighted by numbers of pairs. No selector, no
latent, no public prompts.

Deviations:

- **Averaging.** ``avg`` is theirs and inexact; ``ffa`` and ``svd`` are exact (:mod:`fedvpa.algorithms.lora_averaging`).
- **Objective.** DPO with the two regularisers of every other method's DPO (``policy.sft_weight``,
  ``policy.language_weight``), so that methods differ in what they learn from, not in how they keep their language.
- **Learning rate.** The schedule of the central DPO, counted over rounds × local steps: warm-up and cosine to 0. Theirs
  is constant within a round and follows a cosine over rounds, from 5e-4 to 1e-6. Adam starts afresh for every client
  and round, as theirs does.
- **Cohorts** and batches are named by the seed and the client's id, never by position.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import linear

from fedvpa.algorithms.lora_averaging import A_SUFFIX, B_SUFFIX, Averaging, average, change, factorise
from fedvpa.algorithms.rejections import NOT_FINITE, check_rejected
from fedvpa.core import tree
from fedvpa.core.errors import ConfigError, DataError, nearest
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.data.schema import Pair
from fedvpa.policy.adapters import ADAPTER, adapter_scale, check_fits, restore, snapshot
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.dpo_trainer import DPOTrainer, Step
from fedvpa.policy.examples import Examples, reference_of
from fedvpa.policy.lora import adapts_experts
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import equal_rows

METHOD = "feddpo"
"""Its name; no run is trained with it, since stage 1 has nothing to do for it."""


@dataclass(frozen=True, repr=False)
class FedDPOState:
    """All that the server knows.

    Attributes:
        weights: The LoRA factors, under PEFT's names.
        residual: Layer → what its frozen weight has got on top, shape [outputs, inputs]; empty but for ``svd``.
        round: Rounds completed.
    """

    weights: Tree
    residual: Tree = field(default_factory=dict)
    round: int = 0

    __repr__ = short_repr

    def tensors(self) -> Tree:
        """The state as one tree, to be written."""
        return {
            "round": torch.tensor(self.round),
            **tree.prefixed("weights", self.weights),
            **tree.prefixed("residual", self.residual),
        }

    @classmethod
    def of(cls, saved: Mapping[str, Tensor]) -> FedDPOState:
        """The state that :meth:`tensors` gave."""
        return cls(tree.below("weights", saved), tree.below("residual", saved), int(saved["round"]))


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        round: Its number, from 1.
        loss: DPO loss, in nats, the mean over the local steps of all clients that were not rejected; None if there is
            none.
        accuracy: Share of pairs whose implicit reward has the right order, the same mean.
        cohort: The clients that trained.
        skipped: Clients of the cohort that hold no pair.
        rejected: Clients whose adapter came back with NaN or infinity; the others' make the round.
        uplink_bytes: What the clients sent: for ``ffa`` B alone, otherwise A and B.
        downlink_bytes: What they were sent: the same, and for ``svd`` the residual, since a client keeps nothing from
            round to round.
        seconds: Wall-clock seconds.
    """

    round: int
    loss: float | None
    accuracy: float | None
    cohort: tuple[str, ...]
    skipped: int
    rejected: tuple[str, ...]
    uplink_bytes: int
    downlink_bytes: int
    seconds: float


def client_examples(policy: Policy, pairs: Sequence[Pair]) -> Examples:
    """A client's pairs, tokenised, with the log-probabilities of the frozen base.

    Pairs whose responses have the same tokens are left out: they have nothing to learn from.
    """
    tokens, _ = policy.tokenizer.pairs(pairs)
    equal = set(equal_rows(tokens))
    tokens = [row for place, row in enumerate(tokens) if place not in equal]
    prompts = [prompt for prompt, _, _ in tokens]
    chosen, rejected = [good for _, good, _ in tokens], [bad for _, _, bad in tokens]
    told = policy.reference_log_probs(prompts * 2, chosen + rejected)
    both = list(zip(told[: len(tokens)], told[len(tokens) :], strict=True))
    return Examples(prompts, chosen, rejected, *reference_of(both), None, torch.zeros(len(tokens), dtype=torch.long))


def train_feddpo(
    policy: Policy,
    clients: Mapping[str, Examples],
    config: PolicyConfig,
    seed: int,
    cohorts: Callable[[int], Sequence[str]],
    start: FedDPOState | None = None,
) -> Iterator[tuple[FedDPOState, Round]]:
    """Train round by round.

    Between rounds ``policy`` holds whatever the last client left in it: read the state, through :func:`in_force` or, at
    the end, :func:`settle`.

    Args:
        policy: Where training happens; without conditioner. If ``start`` is None, its adapter is the shared start.
        clients: Client id → its pairs, from :func:`client_examples`.
        config: ``config.feddpo`` has rounds, local steps, batch and averaging.
        seed: Names the clients' batches and dropout.
        cohorts: Round, from 0 → ids of the clients that it asks.
        start: A state to go on from, bit for bit as if never stopped.

    Yields:
        After every round, the state and what the round did.

    Raises:
        ConfigError: If the policy takes a z, or its LoRA cannot be averaged so.
        DataError: If no client has a pair, or a cohort names an unknown client.
        RunError: If ``start`` does not fit the policy.
        TrainingError: If all updates of a round are rejected.
    """
    if policy.conditioner is not None:
        raise ConfigError("FedDPO trains one policy for all users, and this one takes a z.", fix="Build it without.")
    if config.feddpo.averaging == "svd" and adapts_experts(policy):
        raise ConfigError(
            "The exact average of policy.feddpo.averaging=svd is defined for linear layers, and this base model has a "
            "mixture of experts.",
            fix="Choose avg or ffa.",
        )
    if not any(len(examples) for examples in clients.values()):
        raise DataError(f"None of the {len(clients)} clients has a preference pair, so FedDPO has nothing to learn.")
    state = start or FedDPOState(snapshot(policy))
    check_fits(policy, state.weights)
    while state.round < config.feddpo.rounds:
        state, told = _round(policy, clients, config, seed, cohorts(state.round), state)
        yield state, told


@contextlib.contextmanager
def in_force(policy: Policy, state: FedDPOState) -> Iterator[None]:
    """While inside, ``policy`` is the one of ``state``: factors and residual. The reference policy stays the base.

    The residual is added to what a layer gives rather than to its weight: in bfloat16 it would be rounded away there.
    """
    restore(policy, state.weights)
    with contextlib.ExitStack() as hooks:
        for name, residual in state.residual.items():
            handle = policy.get_submodule(name).register_forward_hook(_adding(residual.to(policy.device)))
            hooks.callback(handle.remove)
        yield


@torch.no_grad()
def settle(policy: Policy, state: FedDPOState) -> None:
    """Put ``state`` into the policy for good, which can then be generated from and saved as any other.

    With a residual the adapter gives way to one of higher rank, in place: the whole change of each layer, decomposed at
    its numerical rank. The base stays untouched, and a PEFT folder alone holds the policy; but it is as large as the
    change is full, up to the size of the adapted weights, and no longer fits :func:`train_feddpo`.
    """
    if not state.residual:
        restore(policy, state.weights)
        return
    whole = tree.combine(torch.add, change(state.weights, adapter_scale(policy)), state.residual)
    factors = {layer: factorise(leaf) for layer, leaf in whole.items()}
    rank = max(len(a) for a, _ in factors.values())
    shape = replace(policy.model.peft_config[ADAPTER], r=rank, lora_alpha=rank)
    policy.model.delete_adapter(ADAPTER)
    policy.model.add_adapter(ADAPTER, shape)
    policy.model.set_adapter(ADAPTER)
    padded = {}
    for layer, (a, b) in factors.items():
        gap = rank - len(a)
        padded[layer + A_SUFFIX] = torch.nn.functional.pad(a, (0, 0, 0, gap))
        padded[layer + B_SUFFIX] = torch.nn.functional.pad(b, (0, gap))
    restore(policy, padded)


def _round(
    policy: Policy,
    clients: Mapping[str, Examples],
    config: PolicyConfig,
    seed: int,
    cohort: Sequence[str],
    state: FedDPOState,
) -> tuple[FedDPOState, Round]:
    started = time.monotonic()
    active = with_pairs(clients, cohort, state.round)
    updates: dict[str, Tree] = {}
    rejected: dict[str, str] = {}
    steps: list[Step] = []
    for name in active:
        with in_force(policy, state), _frozen(policy, config.feddpo.averaging):
            own = _local(policy, clients[name], config, seed, name, state.round)
        update = snapshot(policy)
        if not all(bool(leaf.isfinite().all()) for leaf in update.values()):
            rejected[name] = NOT_FINITE
            say(f"round {state.round + 1}: the update of client {name!r} was rejected: {rejected[name]}")
            continue
        updates[name] = update
        steps += own
    sent = len(active) * sum(tree.size({name: leaf}) for name, leaf in state.weights.items() if _moves(name, config))
    told = Round(
        round=state.round + 1,
        loss=mean_of([step.loss for step in steps]),
        accuracy=mean_of([step.accuracy for step in steps]),
        cohort=tuple(active),
        skipped=len(cohort) - len(active),
        rejected=tuple(rejected),
        uplink_bytes=sent,
        downlink_bytes=sent + len(active) * tree.size(state.residual),
        seconds=time.monotonic() - started,
    )
    check_rejected(told.round, active, rejected, {name: name in rejected for name in active}, {"policy.lr": config.lr})
    if not updates:
        return replace(state, round=state.round + 1), told
    pairs = [len(clients[name]) for name in updates]
    averaged = average(config.feddpo.averaging, list(updates.values()), pairs, adapter_scale(policy))
    residual = averaged.residual or state.residual
    if state.residual and averaged.residual:
        residual = tree.combine(torch.add, state.residual, averaged.residual)
    return FedDPOState(averaged.factors, residual, state.round + 1), told


def _local(policy: Policy, examples: Examples, config: PolicyConfig, seed: int, name: str, round_: int) -> list[Step]:
    own = config.feddpo
    total = config.model_copy(update={"steps": own.rounds * own.steps, "batch": own.batch})
    trainer = DPOTrainer(policy, total, seed, "feddpo", name)
    # The schedule counts local steps over all rounds; so do the client's epochs, whose unasked rounds go by.
    trainer.step = round_ * own.steps
    return list(trainer.run(examples, own.steps))


def _moves(name: str, config: PolicyConfig) -> bool:
    return config.feddpo.averaging != "ffa" or not name.endswith(A_SUFFIX)


@contextlib.contextmanager
def _frozen(policy: Policy, averaging: Averaging) -> Iterator[None]:
    """While inside, clients train what the rule lets them."""
    weights = [leaf for name, leaf in policy.trained().items() if averaging == "ffa" and name.endswith(A_SUFFIX)]
    for leaf in weights:
        leaf.requires_grad_(False)
    try:
        yield
    finally:
        for leaf in weights:
            leaf.requires_grad_(True)


def _adding(residual: Tensor) -> Callable[..., Tensor]:
    def add(layer: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if layer.disable_adapters:
            return output
        return (output + linear(inputs[0].to(residual.dtype), residual)).to(output.dtype)

    return add


def with_pairs(clients: Mapping[str, Sized], cohort: Sequence[str], round_: int) -> list[str]:
    """The clients of a cohort that hold a pair.

    Raises:
        DataError: If the cohort names an unknown client.
    """
    for name in cohort:
        if name not in clients:
            raise DataError(f"Round {round_} asks an unknown client {name!r}.", fix=nearest(name, clients))
    return [name for name in cohort if len(clients[name])]


def mean_of(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None
