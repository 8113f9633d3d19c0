"""Stage 2 of a run with noise: made from what stage 1 released, and from nothing else of its users.

What is computed from a private result alone is as private as the result (post-processing: Dwork and Roth, 2014,
proposition 2.1). So a policy that is ordered by a private selector is covered by its ε if no user's text, z or group
enters: the way of a deployment's server, which has none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedvpa.algorithms.base import SelectorAlgorithm
from fedvpa.algorithms.fedbiscuit_lora import NAME as FEDBISCUIT_LORA
from fedvpa.algorithms.registry import METHODS, POLICY_METHODS, make
from fedvpa.alignment.stage1 import Stage1
from fedvpa.core.errors import ConfigError
from fedvpa.core.progress import say
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.policy.config import PolicyConfig
from fedvpa.runs.config import RunConfig
from fedvpa.runs.policy_noise import check_policy
from fedvpa.runs.policy_task import task_of_config
from fedvpa.runs.users import nobody

WHY = "and the ε of this run covers what is made of its released selector alone"


def released(stage: Stage1, config: RunConfig) -> Stage1:
    """The first stage without its users, where their sums were noised; the same stage otherwise.

    Public prompts are left out by their hash where it holds them out, and not because a user has them.

    Raises:
        ConfigError: If stage 2 would read users' texts, latents or groups, as its settings are.
    """
    if not config.privacy.on:
        return stage
    _check(stage.policy, stage.method, stage.algorithm, world=stage.world)
    say("privacy: z comes from the released prior; no user's text, z or group enters the policy")
    none = nobody(config.partition, config.seed)
    return replace(
        stage,
        seen=none.seen,
        unseen=none.unseen,
        open_pairs=_no_pairs,
        has_text=False,
        holds_out=none.holds_out,
        open_tastes=dict,
    )


def check_methods(config: RunConfig, methods: Sequence[str]) -> None:
    """Raise ConfigError for the first method whose policy would read more than a run with noise releases.

    Args:
        config: The run, with the settings of stage 2.
        methods: As of a comparison of policies; ``exact_labels`` is a yardstick, of no selector.
    """
    for name in methods if config.privacy.on else ():
        if name == FEDBISCUIT_LORA:
            raise ConfigError(
                f"{name!r} cannot be trained with noise: it groups its clients by losses that each sends by itself, "
                "and noise hides a client in a sum alone.",
                fix="Leave it out, or the section privacy.",
                where="configuration key 'privacy'",
            )
        if name in POLICY_METHODS:
            check_policy(config, name, task_of_config(config))
        elif name in METHODS:
            algorithm = make(name, config.method_config)
            _check(config.policy, name, algorithm, world=config.data.source == "world")


def _check(policy: PolicyConfig, method: str, algorithm: SelectorAlgorithm[Any], *, world: bool) -> None:
    limits = policy.candidates
    if limits.source == "pairs":
        raise ConfigError(
            f"the responses of users' own pairs would train the policy, {WHY}.",
            fix="Give policy.candidates.source=samples, and public prompts: policy.candidates.prompt_file=FILE.",
            where="configuration key 'policy.candidates.source'",
        )
    if limits.prompt_file is None and not world:
        raise ConfigError(
            f"the prompts of users' pairs would train the policy, {WHY}.",
            fix="Give public prompts, one a line: policy.candidates.prompt_file=FILE.",
            where="configuration key 'policy.candidates.prompt_file'",
        )
    if algorithm.personal and policy.preferences.posteriors:
        raise ConfigError(
            f"{policy.preferences.posteriors:.0%} of the latents would be users' own, {WHY}.",
            fix="Take all from the released prior: policy.preferences.posteriors=0.",
            where="configuration key 'policy.preferences.posteriors'",
        )
    if algorithm.reads_groups and algorithm.has_prototypes:
        raise ConfigError(f"{method!r} has a policy for each true group of users, {WHY}.", fix="Use another method.")


def check_deployed_clients(config: RunConfig, method: str) -> None:
    """Raise ConfigError for nodes that would train a policy on their users' texts in a run whose sums are noised."""
    if config.privacy.on:
        raise ConfigError(
            f"the nodes of a deployment would send adapters of {method!r} without noise, which is there in simulations "
            "alone.",
            fix="Simulate it (fedvpa align RUN --method NAME), deploy a selector, or leave the section privacy out.",
            where="configuration key 'privacy'",
        )


def _no_pairs() -> ClientPairs:
    raise ConfigError(f"stage 2 would read users' pairs, {WHY}.", fix="Give public prompts.")
