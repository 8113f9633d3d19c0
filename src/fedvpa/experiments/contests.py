"""Who answers which prompts and whose taste decides: the duels of policies, before anything is sampled or judged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.alignment.stage1 import ONE, Users
from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr

EVERYBODY = "all"
"""The one preference of data that name no groups: all users ask, and what the judge knows under this name decides."""

PATH_STEPS = 5
"""Latents from one prototype to the other, both included: the switching curve of the evaluation protocol."""


@dataclass(frozen=True, repr=False)
class Served:
    """Policies and the users that they serve.

    Attributes:
        method: What trained the policies.
        n_clients: How many clients trained.
        seed: Of the run.
        policies: The names of the policies: one for all, or one for each group.
        personal: Whether the policies follow z.
        seen: The users that trained.
        unseen: The users that did not.
        latents: Group → the z that stands for it, in the order of the groups.
        groups: The groups that the pairs name. Where no user has one, because clients hold pairs of several (such as
            under ``partition.kind=topics``), policies are judged under all of them, and every user asks under each.
        tastes: User → the name under which the judge knows what that user likes, where users have no groups and the
            judge knows each of them; see :func:`fedvpa.runs.tastes.own_tastes`.
    """

    method: str
    n_clients: int
    seed: int
    policies: tuple[str, ...]
    personal: bool
    seen: Users
    unseen: Users
    latents: Mapping[str, Sequence[float]]
    groups: tuple[str, ...] = ()
    tastes: Mapping[str, str] = field(default_factory=dict)

    __repr__ = short_repr

    @property
    def user_groups(self) -> frozenset[str]:
        """Those of all users."""
        return frozenset(group for group in (*self.seen.groups, *self.unseen.groups) if group is not None)

    @property
    def preferences(self) -> tuple[str, ...]:
        """What the policies are judged under: groups of users, of pairs, or one preference where there are none."""
        return preferences_of(self.user_groups or self.groups)

    @property
    def judged_under(self) -> tuple[str, ...]:
        """All that a judge has to know: the preferences, or the taste of each user."""
        return tuple(sorted(set(self.tastes.values()))) or self.preferences


@dataclass(frozen=True, repr=False)
class Contest:
    """Answers to all prompts, each against the base policy's, decided by one preference, or by the taste of each user.

    Attributes:
        preference: Whose taste decides: a group's, or everybody's own.
        policy: The name of the policy that answers.
        users: Who asks, for each prompt; empty where the answer is the same for everybody.
        z: What the policy follows at each prompt; None for a policy without z.
        seen: Whether these users took part in training; true where nobody asks.
        stream: Names the random draws. Two contests that differ in nothing but their preference have the same answers.
        tastes: The name of the taste that decides at each prompt; empty where ``preference`` names that of all.
    """

    preference: str
    policy: str
    users: tuple[str, ...]
    z: Float[Tensor, "prompts k"] | None
    seen: bool
    stream: tuple[str, ...]
    tastes: tuple[str, ...] = ()

    __repr__ = short_repr

    def judged_by(self, count: int) -> tuple[str, ...]:
        """Whose taste decides at each of the first ``count`` prompts, as the judge knows it."""
        return self.tastes[:count] or (self.preference,) * count


def preferences_of(groups: Collection[str]) -> tuple[str, ...]:
    """What policies are judged under, for users of these groups."""
    return tuple(sorted(groups)) or (EVERYBODY,)


def contests(served: Served, count: int) -> list[Contest]:
    """The contests about so many prompts: under every preference its seen users, then its unseen ones.

    The users of a preference take turns, each with the own z. A policy without z has one contest for each preference;
    where everybody's own taste decides, those of the seen users take turns there too.

    Raises:
        DataError: If there is no policy for a preference.
    """
    kinds = (True, False) if served.personal else (True,)
    found = [_contest(served, preference, count, seen=seen) for seen in kinds for preference in served.preferences]
    return [contest for contest in found if contest is not None]


def path(served: Served, count: int) -> list[list[Contest]]:
    """The contests along the straight way between two latents; each step under both preferences. Empty for no way."""
    if why_no_path(served) is not None:
        return []
    names = path_ends(served)
    first, second = (torch.tensor(served.latents[name]) for name in names)
    shares = [step / (PATH_STEPS - 1) for step in range(PATH_STEPS)]
    latents = [((1 - share) * first + share * second).expand(count, -1) for share in shares]
    return [[Contest(name, ONE, ("",) * count, z, True, ("path",)) for name in names] for z in latents]


def path_ends(served: Served) -> tuple[str, ...]:
    """The preferences between which the path leads: the first two that a latent stands for."""
    return tuple(served.latents)[:2]


def why_no_path(served: Served) -> str | None:
    """Why no path leads from one preference to another, in a sentence; None where one does."""
    if not served.personal:
        return f"{served.method} has policies that follow no z."
    ends = path_ends(served)
    if len(ends) < 2:
        known = f"one preference ({ends[0]!r})" if ends else "no preference"
        return f"{served.method} (seed {served.seed}) knows {known} by a z, and a path leads from one to another."
    if list(served.latents[ends[0]]) == list(served.latents[ends[1]]):
        return f"{served.method} (seed {served.seed}) has the same z for {ends[0]!r} and {ends[1]!r}."
    return None


def left_out(served: Served) -> list[str]:
    """Which users no contest knows, in sentences."""
    groups = [*served.seen.groups, *served.unseen.groups]
    nobody = sum(group is None for group in groups)
    if nobody in (0, len(groups)) or not served.personal:
        return []
    return [f"{nobody} of {len(groups)} users have no group; policies are judged by the others."]


def _contest(served: Served, preference: str, count: int, *, seen: bool) -> Contest | None:
    users = served.seen if seen else served.unseen
    everybody = preference == EVERYBODY or not served.user_groups
    own = [row for row, group in enumerate(users.groups) if everybody or group == preference]
    if not own:
        return None
    name = ONE if ONE in served.policies else preference
    if name not in served.policies:
        raise DataError(f"There is no policy for {preference!r}.", fix="Align the run again.")
    rows = [own[place % len(own)] for place in range(count)]
    tastes = tuple(served.tastes[users.ids[row]] for row in rows) if served.tastes else ()
    if not served.personal:
        return Contest(preference, name, ("",) * count, None, True, (), tastes)
    return Contest(
        preference,
        name,
        tuple(users.ids[row] for row in rows),
        users.z[rows],
        seen,
        ("seen" if seen else "unseen",),
        tastes,
    )
