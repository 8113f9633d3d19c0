"""What really left the users' devices for a policy, in sentences, per run.

A simulation holds every user's pairs on one machine, so that nothing stayed anywhere; what a deployment would send is
said beside it. Stage 2 reads prompts where the policy is trained, and whose prompts they are depends on its settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedvpa.algorithms.registry import POLICY_METHODS, make
from fedvpa.policy.config import PolicyConfig
from fedvpa.privacy.statement import sentences
from fedvpa.runs.config import RunConfig

ROUNDS: dict[str, str] = {
    "fedem": "an update of the selector's weights, and sums of how likely the prototypes are for each user",
    "fedvpa_gp": "an update of the selector's weights, and sums of moments of the users' posteriors; alone, a user's "
    "sums tell the user's posterior",
    "fedvpl": "an update of the selector's weights",
    "fedbiscuit": "an update of one of the selectors, and for each user its losses under all of them",
    "oracle": "an update of the weights of its group's model, together with each user's true group",
    "fedgd": "an update of the selector's weights, together with each user's true group",
    "fedeb": "score statistics weighted by memberships, as a change of their running means, with memberships and the "
    "evidence of the user's pairs under each candidate",
    "lore": "an update of the weights of the basis rewards; what each user makes of them stays with the user",
    "vpl": "the gradient of every user's pairs, at every step of a training that is none of a federation",
    "global": "an update of the selector's weights",
    "finetune": "an update of the selector's weights, and in the last rounds a vote for how far heads of users' "
    "own may be from it",
}
"""Method → what leaves in each round of stage 1."""

EXCHANGED = (
    "an update of the selector's weights, and each user's posterior, which was sent on to the users of the next round "
    "(variational.prior=posteriors)"
)
"""The same of FedVPA-GP as published."""

OTHER = "what the method's clients send"
"""Of a method that another package adds."""

TRAINED_BY_CLIENTS = (
    "Names of users and their numbers of pairs left once, with a hash of the language model that trains."
)
"""What leaves before the first round where clients train the policy."""

ROTATED = ", and so did second moments of the differences of their pairs (selector.rotation)"
"""What else left once where the features are turned."""

ADAPTERS_NOISED = (
    "Names of users left once, with a hash of the language model that trains. In each round the change of the LoRA "
    "adapters left{clipped}. No prompt, no response and no figure of a client's training left."
)
"""What left where clients train the policy and sums are noised."""

NO_NOISE = "No noise was added to anything, so no (ε, δ) is claimed; updates of weights can tell about pairs."

CLIPPED = ", clipped, and with the same weight for every user; noise was added to the sum"
"""How it left where sums are noised."""

SUMMED = (
    "Of each round the server received the sum over its nodes, three at least, and of no node what it sent (secure "
    "aggregation)."
)
"""What else is true where updates are masked."""

COVERED = "Its latents came from the released prior, and no user's text, z or group entered: ε covers this policy, too."
"""Of a policy of a run with noise (:mod:`fedvpa.runs.released`)."""

NOTHING = "local"
"""The method whose clients send no weights."""


@dataclass(frozen=True)
class Setting:
    """What decides which texts left.

    Attributes:
        method: What trained the policy.
        config: The run.
        policy: Stage 2 as it was trained.
        users: How many trained.
        deployed: Whether the users' pairs were on other machines.
        noise: What ``metrics.json`` has under ``privacy``; None where nothing was noised.
    """

    method: str
    config: RunConfig
    policy: PolicyConfig
    users: int
    deployed: bool
    noise: Mapping[str, Any] | None = None


def what_left(setting: Setting) -> list[str]:
    """Sentences that say what left the devices of this run's users: where the pairs were, stage 1, stage 2, judging."""
    found = [_place(setting)]
    if setting.method in POLICY_METHODS:
        sent = [TRAINED_BY_CLIENTS, POLICY_METHODS.get(setting.method).sent(setting.policy)]
        found += sent if setting.noise is None else [ADAPTERS_NOISED.format(clipped=CLIPPED)]
        found += [SUMMED] if setting.policy.clients.secure_aggregation else []
    else:
        summed = [SUMMED] if setting.config.engine.secure_aggregation and setting.config.method != NOTHING else []
        found += [_stage1(setting), *summed, _stage2(setting), *_latents(setting)]
    found += _judging(setting)
    return [*found, NO_NOISE] if setting.noise is None else [*found, *sentences(setting.noise)]


def _place(setting: Setting) -> str:
    if setting.deployed:
        return f"The pairs of the {setting.users} users stayed on their own machines."
    return (
        f"This run was a simulation: one machine held the pairs of all {setting.users} users. In a deployment they "
        "would stay on the users' machines, and what would leave is said here."
    )


def _stage1(setting: Setting) -> str:
    method, rule = setting.config.method, setting.config.server.rule
    turned = ROTATED if setting.config.selector.rotation != "none" else ""
    once = f"names of users, their numbers of pairs and sums of their features' moments left once{turned}"
    if setting.noise is not None:
        once = "names of users left once"
    if method == NOTHING:
        return f"Stage 1: {once}; no weights left."
    if method == "fedvpa_gp" and setting.config.variational.prior == "posteriors":
        return f"Stage 1: {once}; in each round {EXCHANGED}."
    alone = "" if rule == "mean" else f", each user's by itself, as the rule {rule} needs"
    noised = "" if setting.noise is None else CLIPPED
    return f"Stage 1: {once}; in each round {ROUNDS.get(method, OTHER)}{alone}{noised}."


def _stage2(setting: Setting) -> str:
    limits = setting.policy.candidates
    if limits.prompt_file is not None and limits.source == "samples":
        return f"Stage 2 trained on public prompts ({limits.prompt_file.name}): no user's prompt left for it."
    if setting.config.data.source == "world" and limits.source == "samples":
        return "Stage 2 trained on the bundled world's own prompts: no user's prompt left for it."
    what = "prompts and both responses" if limits.source == "pairs" else "prompts"
    return (
        f"Stage 2 read the {what} of the users' training pairs where the policy was trained: these left the users' "
        "devices, without labels. Public prompts keep them there: policy.candidates.prompt_file=FILE."
    )


def _latents(setting: Setting) -> list[str]:
    """Users' own latents, which only a simulation has at hand, and no policy of a run with noise takes."""
    if setting.noise is not None:
        return [COVERED]
    algorithm, share = make(setting.method, setting.config.method_config), setting.policy.preferences.posteriors
    if not algorithm.personal or setting.deployed or not (share or not algorithm.has_prototypes):
        return []
    part = f"{share:.0%}" if algorithm.has_prototypes else "all"
    return [f"For {part} of its latents, stage 2 took the users' own posteriors, which a deployment does not have."]


def _judging(setting: Setting) -> list[str]:
    if setting.config.data.source == "world" or setting.deployed:
        return []
    return [
        "Whoever judges the policy (fedvpa evaluate RUN --policy) reads the prompts of users' held-out pairs, and an "
        "endpoint as judge is sent them."
    ]
