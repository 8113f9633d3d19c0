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
selector is damped by its share of the round. Clients count alike. Written as changes it is a sum over all clients of
the round, φ_u + (1/N) Σ_i Δ_{i,u}, where Δ_{i,u} = 0 unless client i trained u; zeros cost no bytes
(``engines/codecs.py``). At a grouping every client that holds a pair gets all U selectors and reports U losses,
whichever clients the round asked; ``fedbiscuit.py`` only asks the round's. A client that is silent then keeps the
losses that it last reported.

Deviations:
    - The losses are of training pairs, the first ``biscuit.lora.report_pairs`` of each client; the paper keeps a
      validation split for that, which here would be taken from the pairs that all methods train on.
    - A full selector keeps the bidders of least loss. The authors' code keeps the first of a random order.
    - The factors A and B are averaged apart, as published, and so inexactly (``server/lora_averaging.py``).
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, Holds, Plain
from fedvpa.algorithms.client.local_training import ADAM_BETAS
from fedvpa.algorithms.client.step_means import ABSURD_LOSS, step_bounds, step_means, step_sums
from fedvpa.algorithms.client.text_client import AdapterSetting, ClientStream, TextClient
from fedvpa.algorithms.client.voters import ClientChoices, Voters
from fedvpa.algorithms.config import BiscuitConfig, MethodConfig
from fedvpa.algorithms.server.aggregation import shapes, weighted_delta
from fedvpa.algorithms.server.grouping import Timetable, regrouped
from fedvpa.algorithms.server.validation import Bounds, Expected
from fedvpa.core import tree
from fedvpa.core.errors import ConfigError
from fedvpa.core.seeds import entropy
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.policy.adapters import new_factors, restore, snapshot
from fedvpa.policy.batches import batch_rows
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.policy import Policy, new_policy
from fedvpa.rewards.choice import losses

NAME = "fedbiscuit_lora"
CLIP_NORM = 1.0
"""Longest gradient of a local step. Chosen by us."""


@dataclass(frozen=True, repr=False)
class BiscuitLoraState:
    """All that the server knows.

    Attributes:
        params: The LoRA factors of each selector, under its number and PEFT's names.
        reports: Client id → ``losses``, its U losses at the last grouping that it answered, and ``label``, one-hot, the
            selector that it trains.
        round: Rounds completed.
        grouping: Whether everybody's losses are asked for next, before the round ends.
    """

    params: Tree
    reports: Mapping[str, Tree] = field(default_factory=dict)
    round: int = 0
    grouping: bool = False

    __repr__ = short_repr


@dataclass(frozen=True)
class FedBiscuitLora(Plain):
    """FedBiscuit with language models as selectors. See the module's docstring.

    Attributes:
        config: U, ``biscuit.lora``, and the server's rules.

    Raises:
        ConfigError: If the warm-up leaves no round, or for a robust rule.
    """

    config: MethodConfig
    holds: Holds = "texts"
    name: str = NAME
    reads_groups: bool = False

    def __post_init__(self) -> None:
        _ = self.timetable
        rule = self.config.server.rule
        if rule != "mean":
            raise ConfigError(
                f"{NAME} damps each selector by its share of the round, and the rule {rule!r} would take the clients "
                "that trained other selectors for outliers.",
                fix="Choose policy.clients.rule=mean.",
            )

    @property
    def biscuit(self) -> BiscuitConfig:
        """The section of this method."""
        return self.config.biscuit

    @property
    def timetable(self) -> Timetable:
        """When what is trained."""
        own = self.biscuit.lora
        return Timetable.of(self.biscuit.selectors, own.rounds, own.warmup_rounds, own.regroup_every)

    @property
    def state_type(self) -> type[BiscuitLoraState]:
        """Selectors and reports."""
        return BiscuitLoraState

    @property
    def rounds(self) -> int:
        """``biscuit.lora.rounds``."""
        return self.biscuit.lora.rounds

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """The one of local training."""
        return {"biscuit.lora.lr": self.biscuit.lora.lr}

    def init(self, setting: AdapterSetting, seed: int) -> BiscuitLoraState:
        """U adapters that start apart, each from its own random A."""
        adapters = [new_factors(setting.start, seed, NAME, "init", u) for u in range(self.biscuit.selectors)]
        return BiscuitLoraState(numbered(adapters))

    def asks_everyone(self, state: BiscuitLoraState) -> bool:
        """At a grouping."""
        return state.grouping

    def broadcast(self, state: BiscuitLoraState, client_ids: Sequence[str]) -> Broadcast:
        """To each client the selector that it trains, and its number, one-hot; at a grouping all selectors to all."""
        if state.grouping:
            return Broadcast(prefixed("params", state.params), {}, state.round)
        label = self.timetable.labels(state.round, state.reports, client_ids)
        selectors = self.selectors(state)
        own = tree.stack([selectors[int(one.argmax())] for one in label])
        return Broadcast({}, {"label": label, **prefixed("params", own)}, state.round)

    def expected(self, state: BiscuitLoraState) -> Expected:
        """Changes of all selectors, of which all but one are 0; at a grouping U losses."""
        if state.grouping:
            report = Bounds((self.biscuit.selectors,), 0.0, ABSURD_LOSS)
            return Expected({}, {}, {"losses": report, "weight": Bounds((), 0.0, 1.0)})
        return Expected(shapes(state.params), step_bounds(self.biscuit.lora.steps, {"loss": ABSURD_LOSS}))

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> ClientStream:
        """The names of the client's streams: order of batches and dropout."""
        return ClientStream(seed, client_id, broadcast.round)

    def client_update(
        self, received: Tree, held: TextClient[ClientChoices], private: Tree, draws: ClientStream
    ) -> tuple[ClientUpdate, Tree]:
        """Local steps of the selector that the client was told to train, or the losses of all."""
        weight, own = torch.tensor(float(len(held) > 0)), below("params", received)
        if "label" not in received:
            report = self._losses(held, split(own, self.biscuit.selectors))
            return ClientUpdate({"weight": weight}, {"losses": report, "weight": weight}), {}
        after, step_losses = own, list[float]()
        if len(held):
            restore(held.policy, own)
            step_losses = self._local(held, draws)
            after = {name: leaf.cpu() for name, leaf in snapshot(held.policy).items()}
        changed = {True: after, False: own}
        told = int(received["label"].argmax())
        every = range(self.biscuit.selectors)
        sums = weighted_delta(numbered([own for _ in every]), numbered([changed[u == told] for u in every]), weight)
        return ClientUpdate(sums | step_sums({"loss": step_losses})), {}

    def server_update(self, state: BiscuitLoraState, update: CohortUpdate) -> tuple[BiscuitLoraState, dict[str, float]]:
        """Damped averages; then, when a grouping is due, wait for everybody's losses and group by them."""
        if state.grouping:
            told = {name: own for name, own in update.own.items() if own["weight"] > 0}
            nobody = torch.zeros(self.biscuit.selectors)
            reports = {name: {"losses": own["losses"], "label": nobody} for name, own in told.items()}
            reports = regrouped({**state.reports, **reports})
            return replace(state, reports=reports, round=state.round + 1, grouping=False), {}
        params, done = damped(state.params, update), state.round + 1
        due = self.timetable.groups_after(done) and done < self.rounds
        return replace(state, params=params, round=state.round + (not due), grouping=due), step_means(update)

    def selectors(self, state: BiscuitLoraState) -> tuple[Tree, ...]:
        """The factors of each selector, under PEFT's names."""
        return split(state.params, self.biscuit.selectors)

    def _local(self, held: TextClient[ClientChoices], draws: ClientStream) -> list[float]:
        """Local steps from the adapter that the policy holds; their losses."""
        own, policy, data = self.biscuit.lora, held.policy, held.data
        weights = list(policy.trained().values())
        optimiser = torch.optim.AdamW(weights, lr=own.lr, betas=ADAM_BETAS, weight_decay=0.0, fused=True)
        step_losses = []
        policy.train()
        with torch.random.fork_rng(devices=[policy.device] if policy.device.type == "cuda" else []):
            torch.manual_seed(entropy(draws.seed, NAME, "dropout", draws.client_id, draws.round) % 2**63)
            for step in range(own.steps):
                # A client's epochs go on through the rounds; those that do not ask it go by.
                number = draws.round * own.steps + step
                pairs = batch_rows(data.choices, own.batch, number, draws.seed, NAME, draws.client_id)
                loss = losses(policy, data.template, data.choices, pairs).mean()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, CLIP_NORM)
                optimiser.step()
                step_losses.append(float(loss.detach()))
        optimiser.zero_grad(set_to_none=True)
        return step_losses

    def _losses(self, held: TextClient[ClientChoices], selectors: tuple[Tree, ...]) -> Float[Tensor, " u"]:
        """U losses of the client's first pairs."""
        own = self.biscuit.lora
        voters = Voters(held.policy, held.data.template, selectors, own.base_samples)
        return voters.losses(held.data.choices.head(own.report_pairs))


def damped(params: Tree, update: CohortUpdate) -> Tree:
    """(1 − |S_u|/N) φ_u + (1/N) Σ_{i∈S_u} φ_i of every selector, which is φ_u + (1/N) Σ_i Δ_{i,u}.

    Args:
        params: φ_u of every u.
        update: N as ``weight``, and the sums of changes.
    """
    if not update.sums or not update.sums["weight"] > 0:
        return params
    count = update.sums["weight"]
    return tree.combine(lambda old, delta: old + delta / count, params, below("delta", update.sums))


def numbered(adapters: Sequence[Mapping[str, Tensor]]) -> Tree:
    """Several adapters as one tree, each under its number."""
    return {name: leaf for u, own in enumerate(adapters) for name, leaf in prefixed(f"{u:03d}", own).items()}


def split(params: Mapping[str, Tensor], count: int) -> tuple[Tree, ...]:
    """What :func:`numbered` was given."""
    return tuple(below(f"{u:03d}", params) for u in range(count))


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
