"""The README.md of a policy's folder, as a model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedvpa.algorithms.registry import POLICY_METHODS
from fedvpa.alignment.job import AlignmentJob
from fedvpa.policy.origin import describe
from fedvpa.policy.policy import Policy
from fedvpa.runs.config import RunConfig
from fedvpa.runs.privacy import Setting, what_left

PRIVACY_HEADING = "## What left the users' devices"
"""Above the sentences about users; what is made of a policy repeats them."""

CARD = """---
library_name: peft
base_model: {base}
tags: [fedvpa, dpo, lora]
---

# A policy aligned with fedvpa ({method})

One LoRA {whose}: {how} {conditioning}

{origin}

{heading}

{privacy}

Use: `fedvpa generate RUN --prompt TEXT{preference}`.
"""

BY_SELECTOR = """DPO on the base model's own samples, ordered by a selector that {seen} clients trained together in
{rounds} rounds."""

BY_CLIENTS = "{seen} clients {trained}, and their LoRA adapters were averaged over {rounds} rounds."


def card(
    job: AlignmentJob,
    policy: Policy,
    config: RunConfig,
    clients: int,
    *,
    deployed: bool,
    noise: Mapping[str, Any] | None = None,
) -> str:
    """The text for one policy.

    Args:
        job: What trained it.
        policy: The result.
        config: The run.
        clients: How many trained.
        deployed: Whether their pairs were on other machines.
        noise: What ``metrics.json`` has under ``privacy``; None where nothing was noised.
    """
    alone, follows = job.method in POLICY_METHODS, policy.conditioner is not None
    whose = f"for the group {job.name!r}" if job.name else "for all users" + (", which follows z" if follows else "")
    rounds = job.total if alone else config.server.rounds
    trained = POLICY_METHODS.get(job.method).trained if alone else ""
    setting = Setting(job.method, config, job.settings, clients, deployed, noise)
    return CARD.format(
        base=policy.source.label,
        origin=describe(policy.source),
        method=job.method,
        whose=whose,
        how=(BY_CLIENTS if alone else BY_SELECTOR).format(seen=clients, rounds=rounds, trained=trained),
        conditioning="`z_conditioner.safetensors` holds the map from z; without it this adapter ignores preferences."
        if follows
        else "It takes no z.",
        heading=PRIVACY_HEADING,
        privacy="\n".join(f"- {said}" for said in what_left(setting)),
        preference=" --preference NAME" if follows or job.name else "",
    )
