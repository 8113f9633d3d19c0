"""Samples of a policy that other processes help to draw, where one process leads (:func:`fedvpa.core.processes.lead`).

Draws are named by prompt, so the samples are those of one process, token for token, wherever rounding decides no draw.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence

from torch import Tensor

from fedvpa.core.processes import alone, helped
from fedvpa.core.seeds import Label
from fedvpa.policy.partial_samples import PartialSamples
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.policy.sampling import Sampling


def sample_together(
    policy: Policy,
    prompts: Sequence[Ids],
    z: Tensor | None,
    sampling: Sampling,
    seed: int,
    *path: Label,
    reference: bool = False,
    kept: PartialSamples | None = None,
) -> list[Ids]:
    """One response per prompt, as :meth:`~fedvpa.policy.model.PolicyModel.sample` draws it.

    Processes that help this one make the policy themselves, by its ``again``, and draw their share.

    Args:
        policy: As it was when it was made or loaded.
        prompts: Tokens, special ones in front included.
        z: A latent per prompt; None for a policy without z, and for the reference policy.
        sampling: How.
        seed: Names, with ``path``, the draws.
        *path: Labels.
        reference: Whether its reference policy answers.
        kept: Where samples are kept until all are there.
    """
    with helped(help_with_samples, policy.again, prompts, z, sampling, seed, path, reference):
        return _drawn(policy, prompts, z, sampling, seed, path, reference, kept)


def help_with_samples(
    again: Callable[[], Policy],
    prompts: Sequence[Ids],
    z: Tensor | None,
    sampling: Sampling,
    seed: int,
    path: Sequence[Label],
    reference: bool,
) -> None:
    """What the other processes do while one samples: their share of the responses.

    Args:
        again: Makes the policy.
        prompts: See :func:`sample_together`, as all that follow.
        z: A latent per prompt.
        sampling: How.
        seed: Names, with ``path``, the draws.
        path: Labels.
        reference: Whether its reference policy answers.
    """
    _drawn(_made(again), prompts, z, sampling, seed, path, reference, None)


def _drawn(
    policy: Policy,
    prompts: Sequence[Ids],
    z: Tensor | None,
    sampling: Sampling,
    seed: int,
    path: Sequence[Label],
    reference: bool,
    kept: PartialSamples | None,
) -> list[Ids]:
    if not reference:
        return policy.sample(prompts, z, sampling, seed, *path, kept=kept)
    with policy.reference() as base:
        return base.sample(prompts, None, sampling, seed, *path, kept=kept)


_policies: dict[bytes, Policy] = {}


def _made(again: Callable[[], Policy]) -> Policy:
    """The policy of a process that helps, made when it is first asked for; one is kept, as calls come block by block.

    It is whole in each process, also where a policy in training would be sharded.
    """
    name = pickle.dumps(again)
    if name not in _policies:
        _policies.clear()
        with alone():
            _policies[name] = again().eval()
    return _policies[name]
