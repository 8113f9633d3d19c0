"""Methods whose clients train language models themselves, on the pairs of the first stage."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedvpa.algorithms.client.client_examples import say_weights
from fedvpa.algorithms.client.voters import ClientChoices, Voters
from fedvpa.algorithms.fedbiscuit_lora import NAME as FEDBISCUIT_LORA
from fedvpa.algorithms.fedbiscuit_lora import FedBiscuitLora, choosing_model
from fedvpa.algorithms.policy_method import server_rules
from fedvpa.alignment.dpo_job import DPOJob
from fedvpa.alignment.federated_job import FederatedJob, text_engine
from fedvpa.alignment.job import train_in_memory
from fedvpa.alignment.stage1 import Stage1
from fedvpa.alignment.voting import voting_labeller
from fedvpa.core.errors import DataError
from fedvpa.core.progress import say, track
from fedvpa.engines.text_federation import TextFederation
from fedvpa.engines.training import rounds, start
from fedvpa.models.architecture import positions_of
from fedvpa.models.encoding import SAME_TOKENS
from fedvpa.models.tokens import Limits, TokenCounts
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import say_cuts
from fedvpa.policy.templates import with_template
from fedvpa.rewards.choice import Template
from fedvpa.runs.config import RunConfig
from fedvpa.runs.policy_noise import policy_noise, selector_released
from fedvpa.runs.policy_task import task_of_stage


def train_fedbiscuit_lora_policy(stage: Stage1, history: Path | None = None) -> tuple[Policy, dict[str, Any]]:
    """FedBiscuit with language models as selectors, on the pairs of the seen clients; their vote labels for DPO.

    The notes hold, under ``selector``, what :func:`train_voters` says.
    """
    voters, report = train_voters(stage)
    job = DPOJob(stage, labelled_by=lambda *_: voting_labeller(voters), method=FEDBISCUIT_LORA)
    policy, notes = train_in_memory(job, history)
    return policy, {**notes, "selector": report}


def train_by_clients(
    method: str,
    stage: Stage1,
    config: RunConfig,
    history: Path | None = None,
    spent: Mapping[str, Any] | None = None,
) -> tuple[Policy, dict[str, Any]]:
    """A method of ``POLICY_METHODS``, on the pairs of the stage.

    Args:
        method: Its name.
        stage: The first stage.
        config: The run.
        history: Keeps a line for each round; None to keep none.
        spent: What the first stage spent of the same users' privacy; None where nothing is noised.
    """
    pairs, strict, task = stage.pairs.policy_training(), stage.pairs.table.report.strict, task_of_stage(stage, config)
    noise = None
    if config.privacy.on:
        noise = policy_noise(config, method, task, len(pairs), selector_released(config, len(pairs), spent))
    return train_in_memory(FederatedJob(method, task, pairs, strict=strict, noise=noise), history)


def train_voters(stage: Stage1) -> tuple[Voters, dict[str, Any]]:
    """The selectors of ``fedbiscuit_lora``, and what there is to say about them.

    That is their ``accuracy`` on the test pairs of the seen clients (``all``, and each group), ``seconds``, ``rounds``,
    bytes of all clients together, rejected updates, and how many texts were cut.
    """
    started, features = time.monotonic(), stage.features
    biscuit = stage.algorithm.config.biscuit
    algorithm = FedBiscuitLora(server_rules(stage.policy, biscuit.lora.rounds, biscuit))
    model = choosing_model(biscuit, with_template(stage.policy, features), features.model, stage.seed, features.device)
    limits = Limits(features.max_prompt_tokens, features.max_response_tokens, positions_of(model.model))
    template = Template.of(model.tokenizer, limits)
    held = stage.pairs.of_seen("train")
    say_weights(pair for own in held.values() for pair in own)
    choices = {name: template.of_pairs(pairs) for name, pairs in held.items()}
    cut = sum((own.counts for own in choices.values()), TokenCounts())
    say_cuts(cut, "training pairs")
    equal = sum(own.equal for own in choices.values())
    if equal:
        say(f"{equal} training pairs left out: {SAME_TOKENS}")
    if not any(map(len, choices.values())):
        raise DataError(
            f"None of the {len(choices)} clients has a preference pair, so {FEDBISCUIT_LORA} has nothing to learn."
        )
    clients = TextFederation.of(model, {name: ClientChoices(template, own) for name, own in choices.items()})
    engine, state = text_engine(stage.policy, biscuit.lora.cohort), start(algorithm, clients, stage.seed)
    counts = {"uplink_bytes": 0, "downlink_bytes": 0, "rejected": 0}
    going = rounds(algorithm, clients, engine, stage.seed, state, cohort_key="biscuit.lora.cohort")
    for trained, line in track(going, f"{FEDBISCUIT_LORA}: rounds", algorithm.rounds, unit="rounds"):
        state = trained
        counts["uplink_bytes"] += line["uplink_bytes"]
        counts["downlink_bytes"] += line["downlink_bytes"]
        counts["rejected"] += len(line["rejected"])
    voters = Voters(model.eval(), template, algorithm.selectors(state.server), biscuit.lora.base_samples)
    notes: dict[str, Any] = {
        "rounds": state.server.round,
        **counts,
        "seconds": time.monotonic() - started,
        "pairs_left_out": equal,
        "prompts_truncated": cut.prompts_truncated,
        "responses_truncated": cut.responses_truncated,
        "accuracy": _accuracy(stage, voters),
    }
    if notes["accuracy"]:
        say(f"{FEDBISCUIT_LORA}: the vote orders {notes['accuracy']['all']:.3f} of users' test pairs as they did")
    return voters, notes


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
