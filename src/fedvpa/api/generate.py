"""``fedvpa generate``: the aligned policy's answers under a preference."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.short_repr import short_repr
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.policy.policy import Policy
    from fedvpa.policy.preference import Preference
    from fedvpa.runs.policies import Aligned
    from fedvpa.runs.users import RunUsers


@dataclass(frozen=True)
class Answer:
    """A prompt and what the policy answered."""

    prompt: str
    response: str


@dataclass(frozen=True, repr=False)
class GenerateResult:
    """Answers under one preference.

    Attributes:
        run: The run directory.
        preference: As it was asked for; ``z`` where it was numbers.
        z: What the policy followed, k numbers; None for a policy without z.
        answers: One for each prompt.
    """

    run: Path
    preference: str | None
    z: Sequence[float] | None
    answers: Sequence[Answer]

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"run": str(self.run), "answers": [asdict(answer) for answer in self.answers]}


def generate(
    run: str | PathLike[str],
    prompts: str | Sequence[str],
    preference: Preference | None = None,
    *,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> GenerateResult:
    """Answers of the policy of ``run``.

    ``fedvpa.Policy.from_pretrained(run).generate(prompts, preference=…)`` is the same for preferences that need nothing
    but the policy.

    Args:
        run: An aligned run directory.
        prompts: One answer to each; a single prompt may be given alone.
        preference: The name of a group (``helpful``), a user's id, ``@pairs.jsonl`` (a new user's labelled pairs), or a
            number from 0 to 1 on the way from the first to the second of two groups, or z itself; None for a policy
            without z.
        temperature: 0 for greedy decoding.
        top_p: Nucleus.
        max_new_tokens: Longest answer; by default that of the candidates.
        seed: Names the draws.
        overrides: Where data and language model are now.

    Raises:
        ConfigError: For an unknown preference or user (the known ones are listed), or one that the policy cannot
            follow.
        RunError: If the run holds no policy.
    """
    if not 0 < top_p <= 1:
        raise ConfigError(f"--top-p {top_p} keeps no share of the vocabulary.", fix="Give more than 0, and at most 1.")
    folder = RunFolder.open(run)
    from fedvpa.runs.policies import open_aligned

    aligned = open_aligned(folder, overrides)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    asked = str(preference) if isinstance(preference, int | float) else preference
    policy, z = _resolve(folder, aligned, asked, overrides)
    responses = policy.generate(
        prompts, preference=z, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed
    )
    answers = [Answer(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    return GenerateResult(folder.path, asked if asked is None or isinstance(asked, str) else "z", z, answers)


def _resolve(
    folder: RunFolder, aligned: Aligned, preference: Preference | None, overrides: Sequence[str]
) -> tuple[Policy, list[float] | None]:
    """The policy to ask, and its z."""
    from fedvpa.alignment.stage1 import ONE
    from fedvpa.policy.preference import latent_of
    from fedvpa.runs.stage1 import open_selector, open_users

    policies = aligned.policies
    if aligned.by_group:
        if not isinstance(preference, str) or preference not in policies:
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
    if preference is not None and not isinstance(preference, str):
        return policy, latent_of(preference, policy.preferences).tolist()

    def users() -> RunUsers:
        config = folder.config(overrides)
        return open_users(folder, config, open_selector(folder, config))

    if preference is None:
        raise ConfigError(
            "This policy follows a preference, and none is given.", fix=_choices(policy.preferences, users())
        )
    return policy, z_of(folder, preference, policy.preferences, users, overrides)


def z_of(
    folder: RunFolder,
    preference: str,
    named: Mapping[str, Sequence[float]],
    open_users: Callable[[], RunUsers],
    overrides: Sequence[str] = (),
) -> list[float]:
    """The z that a preference names. Arguments and errors as :func:`generate`.

    Args:
        folder: The run.
        preference: A group, ``@pairs.jsonl``, a user, or a number.
        named: Group → its z.
        open_users: Opens the run's users; not called for groups and pairs.
        overrides: As of ``generate``.
    """
    from fedvpa.api.personalize import personalize
    from fedvpa.policy.preference import as_number, latent_of

    if preference.startswith("@"):
        return list(personalize(folder.path, preference[1:], overrides=overrides).mean)
    if preference in named:
        return list(named[preference])
    users = open_users()
    for some in (users.seen, users.unseen):
        if preference in some.ids:
            found: list[float] = some.z[some.ids.index(preference)].tolist()
            return found
    if as_number(preference) is None:
        raise ConfigError(f"There is no preference and no user {preference!r}.", fix=_choices(named, users, preference))
    try:
        between: list[float] = latent_of(preference, named).tolist()
    except ConfigError as error:
        raise ConfigError(error.problem, fix=f"{error.fix} {_choices(named, users)}") from None
    return between


def _choices(named: Mapping[str, Sequence[float]], users: RunUsers, given: str | None = None) -> str:
    ids = [*users.seen.ids, *users.unseen.ids]
    close = [] if given is None else difflib.get_close_matches(given, [*named, *ids], n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    shown = ", ".join(ids[:10]) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
    return f"{hint}Groups: {', '.join(named) or 'none'}; users: {shown}; or @pairs.jsonl."
