"""Stage 2 of a run with noise: made from what stage 1 released, and from nothing else of its users.

What is computed from a private result alone is as private as the result (post-processing: Dwork and Roth, 2014,
proposition 2.1). So a policy that is ordered by a private selector is covered by its ε if no user's text, z or group
enters: the way of a deployment's server, which has none of them.
"""

from __future__ import annotations

from dataclasses import replace

from fedvpa.alignment.stage1 import Stage1
from fedvpa.core.errors import ConfigError
from fedvpa.core.progress import say
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.runs.config import RunConfig
from fedvpa.runs.users import nobody

WHY = "and the ε of this run covers what is made of its released selector alone"


def released(stage: Stage1, config: RunConfig) -> Stage1:
    """The first stage without its users, where their sums were noised; the same stage otherwise.

    Public prompts are left out by their hash where it holds them out, and not because a user has them.

    Raises:
        ConfigError: If stage 2 would read users' texts or groups.
    """
    if not config.privacy.on:
        return stage
    limits = stage.policy.candidates
    if limits.source == "pairs":
        raise ConfigError(
            f"the responses of users' own pairs would train the policy, {WHY}.",
            fix="Give policy.candidates.source=samples, and public prompts: policy.candidates.prompt_file=FILE.",
            where="configuration key 'policy.candidates.source'",
        )
    if limits.prompt_file is None and not stage.world:
        raise ConfigError(
            f"the prompts of users' pairs would train the policy, {WHY}.",
            fix="Give public prompts, one a line: policy.candidates.prompt_file=FILE.",
            where="configuration key 'policy.candidates.prompt_file'",
        )
    if stage.by_group:
        raise ConfigError(
            f"{stage.method!r} has a policy for each true group of users, {WHY}.", fix="Use another method."
        )
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


def check_clients(config: RunConfig, method: str) -> None:
    """Raise ConfigError for clients that would train a policy on their texts in a run whose sums are noised."""
    if config.privacy.on:
        raise ConfigError(
            f"clients of {method!r} would send adapters without noise, {WHY}.",
            fix="Align by the selector, on public prompts; or train another run without the section privacy.",
            where="configuration key 'privacy'",
        )


def _no_pairs() -> ClientPairs:
    raise ConfigError(f"stage 2 would read users' pairs, {WHY}.", fix="Give public prompts.")
