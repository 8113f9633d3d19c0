"""Methods whose clients train language models themselves, on the pairs of the first stage, without its selector."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from fedvpa.algorithms.fedbiscuit_lora import NAME as FEDBISCUIT_LORA
from fedvpa.algorithms.fedbiscuit_lora import Voters, choosing_model, train_selectors
from fedvpa.algorithms.feddpo import METHOD as FEDDPO
from fedvpa.alignment.dpo_job import DPOJob
from fedvpa.alignment.feddpo_job import FedDPOJob
from fedvpa.alignment.job import cohorts, train_in_memory
from fedvpa.alignment.stage1 import Stage1
from fedvpa.alignment.voting import voting_labeller
from fedvpa.core.progress import say, track
from fedvpa.models.architecture import positions_of
from fedvpa.models.encoding import SAME_TOKENS
from fedvpa.models.tokens import Limits, TokenCounts
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import say_cuts
from fedvpa.policy.templates import with_template
from fedvpa.rewards.choice import Template


def train_fedbiscuit_lora_policy(stage: Stage1) -> tuple[Policy, dict[str, Any]]:
    """FedBiscuit with language models as selectors, on the pairs of the seen clients; their vote labels for DPO.

    The notes hold, under ``selector``, what :func:`train_voters` says.
    """
    voters, report = train_voters(stage)
    policy, notes = train_in_memory(DPOJob(stage, labeller=voting_labeller(voters), method=FEDBISCUIT_LORA))
    return policy, {**notes, "selector": report}


def train_feddpo_policy(stage: Stage1) -> tuple[Policy, dict[str, Any]]:
    """FedDPO, which reads the pairs of the stage and not its selector."""
    pairs, strict = stage.pairs.policy_training(), stage.pairs.table.report.strict
    return train_in_memory(FedDPOJob(stage.policy, stage.features, pairs, stage.seed, strict=strict))


def train_voters(stage: Stage1) -> tuple[Voters, dict[str, Any]]:
    """The selectors of ``fedbiscuit_lora``, and what there is to say about them.

    That is their ``accuracy`` on the test pairs of the seen clients (``all``, and each group), ``seconds``, ``rounds``,
    bytes of all clients together, and how many texts were cut.
    """
    biscuit, started = stage.algorithm.config.biscuit, time.monotonic()
    rules, features = biscuit.lora, stage.features
    model = choosing_model(biscuit, with_template(stage.policy, features), features.model, stage.seed, features.device)
    limits = Limits(features.max_prompt_tokens, features.max_response_tokens, positions_of(model.model))
    template = Template.of(model.tokenizer, limits)
    choices = {name: template.of_pairs(pairs) for name, pairs in stage.pairs.of_seen("train").items()}
    cut = sum((own.counts for own in choices.values()), TokenCounts())
    say_cuts(cut, "training pairs")
    equal = sum(own.equal for own in choices.values())
    if equal:
        say(f"{equal} training pairs left out: {SAME_TOKENS}")
    rounds = train_selectors(
        model,
        template,
        choices,
        biscuit,
        stage.seed,
        cohorts(list(choices), rules.cohort, stage.seed, "biscuit.lora.cohort"),
    )
    notes: dict[str, Any] = {"uplink_bytes": 0, "downlink_bytes": 0}
    for state, result in track(rounds, f"{FEDBISCUIT_LORA}: rounds", rules.rounds, unit="rounds"):
        notes["rounds"] = state.round
        notes["uplink_bytes"] += result.uplink_bytes
        notes["downlink_bytes"] += result.downlink_bytes
    voters = Voters(model.eval(), template, state.selectors, rules.base_samples)
    notes |= {
        "seconds": time.monotonic() - started,
        "pairs_left_out": equal,
        "prompts_truncated": cut.prompts_truncated,
        "responses_truncated": cut.responses_truncated,
        "accuracy": _accuracy(stage, voters),
    }
    if notes["accuracy"]:
        say(f"{FEDBISCUIT_LORA}: the vote orders {notes['accuracy']['all']:.3f} of users' test pairs as they did")
    return voters, notes


TRAINED_BY_CLIENTS: dict[str, Callable[[Stage1], tuple[Policy, dict[str, Any]]]] = {
    FEDDPO: train_feddpo_policy,
    FEDBISCUIT_LORA: train_fedbiscuit_lora_policy,
}
"""Method → how its policy is trained, and what there is to say about that."""


def _accuracy(stage: Stage1, voters: Voters) -> dict[str, float]:
    """Share of test pairs that the vote orders as their user did, a tie one half; mean over clients, by group too."""
    groups = dict(zip(stage.seen.ids, stage.seen.groups, strict=True))
    found: dict[str, list[float]] = defaultdict(list)
    for name, pairs in stage.pairs.of_seen("test").items():
        if pairs:
            margins = voters.margins(voters.template.of_pairs(pairs))
            right = float(((margins > 0).float() + 0.5 * (margins == 0).float()).double().mean())
            found["all"].append(right)
            if groups[name] is not None:
                found[str(groups[name])].append(right)
    return {name: sum(values) / len(values) for name, values in found.items()}
