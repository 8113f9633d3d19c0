"""``fedvpa generate``: the aligned policy's answers under a preference."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedvpa.alignment.stage1 import ONE, Stage1
from fedvpa.api.align import open_stage1
from fedvpa.api.personalize import personalize
from fedvpa.core.errors import ConfigError
from fedvpa.policy.model import Policy, Sampling
from fedvpa.runs.policies import Aligned, open_aligned


def generate(
    run: Path,
    prompts: Sequence[str],
    preference: str | None,
    *,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Answers of the policy of ``run``.

    Args:
        run: An aligned run directory.
        prompts: One answer to each.
        preference: The name of a group (``helpful``), a user's id, ``@pairs.jsonl`` (a new user's labelled pairs), or a
            number from 0 to 1 on the way from the first to the second of two groups; None for a policy without z.
        temperature: 0 for greedy decoding.
        top_p: Nucleus.
        max_new_tokens: Longest answer; by default that of the candidates.
        seed: Names the draws.
        overrides: Where data and language model are now.

    Returns:
        ``preference``, ``z`` (None for a policy without z) and ``answers``: a list of ``prompt`` and ``response``.

    Raises:
        ConfigError: For an unknown preference or user (the known ones are listed), or one that the policy cannot
            follow.
        RunError: If the run holds no policy.
    """
    if not 0 < top_p <= 1:
        raise ConfigError(f"--top-p {top_p} keeps no share of the words.", fix="Give more than 0, and at most 1.")
    aligned = open_aligned(run, overrides)
    policy, z = _resolve(run, aligned, preference, overrides)
    limits = aligned.config.policy.candidates
    sampling = Sampling(temperature, top_p, max_new_tokens or limits.max_new_tokens, limits.batch)
    asked = policy.words.prompts(prompts)
    _check_length(policy, max(map(len, asked)), sampling)
    latents = None if z is None else z.expand(len(prompts), -1)
    found = policy.generate(asked, latents, sampling, seed, "generate")
    answers = [
        {"prompt": prompt, "response": policy.words.text(ids)} for prompt, ids in zip(prompts, found, strict=True)
    ]
    return {"run": str(run), "preference": preference, "z": None if z is None else z.tolist(), "answers": answers}


def _check_length(policy: Policy, prompt: int, sampling: Sampling) -> None:
    whole = policy.words.max_tokens
    room = None if whole is None else whole - len(policy.words.before) - prompt
    if room is not None and sampling.max_new_tokens > room:
        raise ConfigError(
            f"--max-new-tokens {sampling.max_new_tokens} and a prompt of {prompt} tokens do not fit into the policy's "
            "positions.",
            fix=f"Give at most {room}." if room > 0 else "Give a shorter prompt.",
        )


def _resolve(
    run: Path, aligned: Aligned, preference: str | None, overrides: Sequence[str]
) -> tuple[Policy, Tensor | None]:
    """The policy to ask, and its z."""
    policies, known = aligned.policies, aligned.preferences
    if aligned.by_group:
        if preference not in policies:
            raise ConfigError(
                f"The oracle has one policy for each of {', '.join(policies)}, and no preference {preference!r}.",
                fix="Name one of them.",
            )
        return policies[preference], None
    policy = policies[ONE]
    if policy.conditioner is None:
        if preference is not None:
            raise ConfigError(
                f"The policy of {aligned.method!r} is the same for everybody and cannot follow {preference!r}.",
                fix="Leave --preference out, or align a run of fedvpa_gp.",
            )
        return policy, None
    if preference in known:
        return policy, torch.tensor(known[preference])
    stage = open_stage1(run, overrides)
    if preference is None:
        raise ConfigError("This policy follows a preference, and none is given.", fix=_choices(stage, known))
    return policy, latent_of(run, stage, known, preference, overrides)


def latent_of(
    run: Path, stage: Stage1, known: dict[str, list[float]], preference: str, overrides: Sequence[str] = ()
) -> Tensor:
    """The z that a preference names. Arguments and errors as :func:`generate`."""
    if preference.startswith("@"):
        return torch.tensor(personalize(run, Path(preference[1:]), overrides=overrides)["mean"])
    if preference in known:
        return torch.tensor(known[preference])
    for seen in (True, False):
        ids, _, z = stage.users(seen=seen)
        if preference in ids:
            return z[ids.index(preference)]
    share = _number(preference)
    if share is not None:
        if len(known) != 2 or not 0 <= share <= 1:
            raise ConfigError(
                f"The preference {preference} is no place between two groups.",
                fix="Give a number from 0 to 1 where a run has two groups. " + _choices(stage, known),
            )
        first, second = (torch.tensor(z) for z in known.values())
        return (1 - share) * first + share * second
    raise ConfigError(f"There is no preference and no user {preference!r}.", fix=_choices(stage, known, preference))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _choices(stage: Stage1, known: dict[str, list[float]], given: str | None = None) -> str:
    users = [*stage.users(seen=True)[0], *stage.users(seen=False)[0]]
    close = [] if given is None else difflib.get_close_matches(given, [*known, *users], n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    shown = ", ".join(users[:10]) + (f" and {len(users) - 10} more" if len(users) > 10 else "")
    return f"{hint}Groups: {', '.join(known) or 'none'}; users: {shown}; or @pairs.jsonl."
