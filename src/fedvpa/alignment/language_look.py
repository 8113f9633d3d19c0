"""Has a policy that clients trained kept its language? One look at its end, within the limits of ``policy.guard``.

No selector compares it with the base policy, so the look chooses no weights: the policy stays as its method made it,
and what is said of it tells whether to use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from fedvpa.alignment.guard import divergences, language_of, refusals
from fedvpa.alignment.prompts import draw, world_prompts
from fedvpa.core.seeds import Label
from fedvpa.core.short_repr import short_repr
from fedvpa.data.prompt_files import read_prompts
from fedvpa.data.schema import Text
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.policy.sampling import Sampling


@dataclass(frozen=True, repr=False)
class OneEach:
    """The base policy's samples, one to each prompt; see :class:`~fedvpa.alignment.guard.BaseAnswers`.

    Attributes:
        responses: Their tokens.
        reference: The log-probabilities of these tokens, in nats.
    """

    responses: Sequence[Sequence[Ids]]
    reference: Sequence[Sequence[NDArray[Any]]]

    __repr__ = short_repr


@dataclass(frozen=True)
class LanguageLook:
    """A policy beside its base; numbers as of :class:`~fedvpa.alignment.stopping.ValidationResult`.

    Attributes:
        prompts: How many were answered.
        kl: Mean log π − log π_ref of the policy's answers, in nats.
        tokens: Mean length of its answers.
        language: Mean log-probability of a token of its answers under the base, in nats.
        base_language: Of the base policy's own answers.
        distinct: Distinct-2 of its answers.
        base_distinct: Of the base policy's own.
        base_tokens: Mean length of the base policy's answers.
        refused: Why it is not admissible, in words; empty if it is.
    """

    prompts: int
    kl: float
    tokens: float
    language: float
    base_language: float
    distinct: float
    base_distinct: float
    base_tokens: float
    refused: str


def look_prompts(settings: PolicyConfig, seed: int, own: Sequence[Text], *, world: bool, strict: bool) -> list[Text]:
    """The prompts of a look: public ones, or those of the world, or those that clients train on.

    Nothing is chosen by them, so a policy can be judged on them as well.

    Args:
        settings: Stage 2.
        seed: Of the run.
        own: Those that clients train on; none on the server of a deployment.
        world: Whether the data are the bundled world's.
        strict: Whether a prompt that would be changed is an error (``data.strict``).

    Raises:
        DataError: If the file of public prompts cannot be read.
    """
    limits = settings.candidates
    if world and limits.prompt_file is None:
        return world_prompts("validation", limits.validation_prompts, seed)
    texts = list(dict.fromkeys(own)) if limits.prompt_file is None else read_prompts(limits.prompt_file, strict=strict)
    return draw(texts, limits.validation_prompts, seed, "language")


@torch.no_grad()
def look_at_language(
    policy: Policy, prompts: Sequence[Ids], settings: PolicyConfig, seed: int, *path: Label
) -> LanguageLook:
    """Sample a policy and its base once per prompt, by the same draws, and compare.

    Args:
        policy: Without z.
        prompts: Their tokens; at least one.
        settings: How answers are sampled, and the limits.
        seed: Names, with ``path``, the draws.
        *path: Labels.
    """
    limits = settings.candidates
    sampling = Sampling(limits.temperature, limits.top_p, limits.max_new_tokens, limits.batch)
    found = policy.sample(prompts, None, sampling, seed, "language", *path)
    with policy.reference() as reference:
        theirs = reference.sample(prompts, None, sampling, seed, "language", *path)
        said, known = (reference.token_log_probs(prompts, rows, None) for rows in (found, theirs))
    moved = divergences(policy.token_log_probs(prompts, found, None), said)
    base = OneEach([[ids] for ids in theirs], [[part] for part in known])
    spoken = language_of(found, said, base, range(len(prompts)))
    kl = float(moved.mean())
    tokens = sum(map(len, found)) / len(found)
    refused = "; ".join(refusals(settings.guard, {"": kl}, {"": spoken}))
    return LanguageLook(len(prompts), kl, tokens, **asdict(spoken), refused=refused)


def look_notes(look: LanguageLook | None) -> dict[str, Any]:
    """What ``metrics.json`` says: as of a policy that a selector trained, and the look itself; None for no look."""
    if look is None:
        return {"looks": 0, "admissible": 0, "collapsed": ""}
    return {"looks": 1, "admissible": int(not look.refused), "collapsed": look.refused, "look": asdict(look)}


def look_line(notes: Mapping[str, Any]) -> str:
    """What :func:`look_notes` says, in a clause."""
    look = notes.get("look")
    if look is None:
        return "language not checked"
    found = (
        f"KL {look['kl']:.1f} nats, {look['language']:.2f} nats a token under the base (its own "
        f"{look['base_language']:.2f}), distinct-2 {look['distinct']:.2f} ({look['base_distinct']:.2f})"
    )
    return found + (f": not admissible: {look['refused']}" if look["refused"] else ": admissible")
