"""Clients that hold texts and the bundled language model, small enough for a round in a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedvpa.algorithms.client_examples import client_examples
from fedvpa.data.schema import Pair
from fedvpa.engines.text_federation import TextFederation
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.examples import Examples
from fedvpa.policy.policy import Policy, new_policy
from fedvpa.world.generate import generate_world
from policy_fixtures import world_config


def text_settings(**own: object) -> PolicyConfig:
    """Stage 2 with two rounds of two local steps."""
    feddpo = {"rounds": 2, "cohort": 2, "steps": 2, "batch": 2, **own}
    return world_config(lora_rank=2, lora_alpha=4, sft_weight=0, language_weight=0, feddpo=feddpo)


def text_pairs(users: int = 3) -> Mapping[str, Sequence[Pair]]:
    """Users of the bundled world with 4 pairs each, but for the last, who has one."""
    found: dict[str, list[Pair]] = {}
    for pair in generate_world("two-groups", users, 4, 3):
        found.setdefault(pair.user_id, []).append(Pair(pair.prompt, pair.chosen, pair.rejected, user_id=pair.user_id))
    last = max(found)
    return {**found, last: found[last][:1]}


def text_policy(settings: PolicyConfig, seed: int) -> Policy:
    """The bundled language model with a fresh adapter."""
    return new_policy(settings, "bundled", None, seed, device="cpu")


def make_texts(seed: int, users: int = 3) -> TextFederation[Examples]:
    """Those users as clients of FedDPO."""
    policy = text_policy(text_settings(), seed)
    return TextFederation.of(policy, {name: client_examples(policy, own) for name, own in text_pairs(users).items()})


def share_texts(clients: TextFederation[Examples], names: Sequence[str]) -> TextFederation[Examples]:
    """Some of the clients, on a node of their own with a language model of its own."""
    packed = clients.packed()
    return replace(packed, data={name: packed.data[name] for name in names}).opened()
