"""What is loudly said about latents: a number or a name that is printed and means nothing.

Four kinds: z says nothing of its client (posterior collapse); users who disagree by their data share a prototype, so
that two names are one z; a prototype stands for nobody; groups differ in z no more than groups drawn by lot would. An
alarm is one sentence. It stands in ``metrics.json``, at the end of ``train``, before ``align``, and on top of a report.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from fedvpa.core.seeds import numpy_generator

ACTIVE_VARIANCE = 0.01
"""A unit is active if the variance over clients of its posterior mean exceeds this.

Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders (ICLR 2016).
"""

FEWEST_GROUPS = 2
"""How many groups z must tell apart for the alarm to stay silent where no true groups are known: two, chosen by us
because with fewer there is nothing to personalise."""

CROWDED = 0.75
"""Where no groups are known, a prototype that so many of the clients share is an alarm. Chosen by us: 3 of 4."""

BY_LOT = 0.2
"""The alarm about groups rings where more than this share of groups drawn by lot differ as much. Chosen by us: groups
that mean nothing ring it four times out of five, and groups whose clients are apart never do."""

DRAWS = 199
"""How many times groups are drawn by lot. Chosen by us: the share is then known to 3 points."""

FEWEST_DEALS = 10
"""Of fewer ways to deal the clients to the groups, a share says nothing: with two clients in each of two groups, one
deal in three is as far apart as the best."""


MATCHED = 0.5
"""Adjusted Rand index of prototypes and true groups below which it is an alarm: half of the way from luck, 0, to
agreement, 1. Chosen by us."""


def match_alarms(ari: float | None, groups: Sequence[str] | None) -> list[str]:
    """What suggests that prototypes are not the users' groups, though each group has one of its own.

    Args:
        ari: Adjusted Rand index of the clients' prototypes and groups; None where it is not known.
        groups: The clients' true groups, where known.
    """
    if ari is None or groups is None or len(set(groups)) < 2 or ari >= MATCHED:
        return []
    return [
        f"The prototypes match the users' groups at an adjusted Rand index of {ari:.2f} only: what is learned at one "
        "of them is no group's preference."
    ]


def collapse_alarms(active: int, nats: float, clients: int, groups: Sequence[str] | None) -> list[str]:
    """What suggests that z says nothing about its client.

    log(groups) nats is what telling equally likely groups apart takes; it is compared with an upper bound, so that the
    alarm rings only where z cannot do it.

    Args:
        active: How many dimensions of z are active.
        nats: The most that z can tell of its client.
        clients: How many there are; of a single one nothing is said.
        groups: Their true groups, where known.
    """
    if clients < 2:
        return []
    found, apart = [], len(set(groups)) if groups is not None else FEWEST_GROUPS
    if active == 0:
        found.append(f"No latent dimension is active: no posterior mean varies by more than {ACTIVE_VARIANCE}.")
    if nats < math.log(apart):
        found.append(
            f"z carries at most {nats:.2f} nats about its client; telling {apart} groups apart takes "
            f"{math.log(apart):.2f}."
        )
    return found


def prototype_alarms(labels: Sequence[int], prototypes: int, groups: Sequence[str] | None) -> list[str]:
    """What suggests that prototypes, or the groups that are named after them, mean less than they seem to.

    Args:
        labels: The prototype of each client.
        prototypes: How many there are.
        groups: The clients' true groups, where known.
    """
    if prototypes < 2 or len(labels) < 2:
        return []
    counts = Counter(labels)
    fullest, most = counts.most_common(1)[0]
    leaning = _leaning(labels, groups)
    several = len(leaning) > 1
    if most == len(labels):
        same = f", so that the groups {_named(sorted(leaning))} are one and the same z" if several else ""
        return [f"All {most} clients share one of {prototypes} prototypes{same}."]
    found = [
        f"The groups {_named(names)} lean to the same prototype ({place}): as preferences they are one and the same z."
        for place, names in _by_prototype(leaning).items()
        if len(names) > 1
    ]
    if not several and most >= CROWDED * len(labels):
        found.append(
            f"{most} of {len(labels)} clients share prototype {fullest} of {prototypes}: either their users are that "
            "much alike, or z does not tell them apart."
        )
    for place in range(prototypes):
        if counts[place] == 0:
            found.append(f"No client is at prototype {place}: as a preference it stands for nobody.")
        elif several and place not in leaning.values():
            found.append(f"No group leans to prototype {place}, which {counts[place]} of {len(labels)} clients are at.")
    return found


def group_alarms(means: Float[np.ndarray, "n k"], groups: Sequence[str] | None) -> list[str]:
    """What suggests that the names of groups say nothing of z: a permutation test of the groups' mean z.

    It asks how much of the variance of z over clients is between groups, and how often groups of the same sizes have
    as much if clients are dealt to them by lot (one-way analysis of variance under permutation; Fisher: The Design of
    Experiments, 1935).

    Args:
        means: Posterior means.
        groups: The clients' true groups, where known.
    """
    if groups is None or _deals(groups) < FEWEST_DEALS:
        return []
    names, codes, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    centred = means - means.mean(axis=0)

    def between(members: np.ndarray) -> float:
        sums = np.zeros((len(names), means.shape[1]))
        np.add.at(sums, members, centred)
        return float(((sums**2).sum(axis=1) / sizes).sum())

    rng = numpy_generator(0, "evaluation", "groups by lot")
    ours = between(codes) * (1 - 1e-9)  # the same deal, its sums in another order, is as far apart
    share = (1 + sum(between(rng.permutation(codes)) >= ours for _ in range(DRAWS))) / (1 + DRAWS)
    if share <= BY_LOT:
        return []
    return [
        f"The groups {_named(names.tolist())} differ in z no more than groups drawn by lot: {share:.0%} of such draws "
        "are as far apart. As preferences their names say little."
    ]


def _deals(groups: Sequence[str]) -> int:
    """In how many ways clients can be dealt to groups of the same sizes; which group is called what does not count."""
    sizes = Counter(groups)
    ways = math.factorial(len(groups))
    for size in sizes.values():
        ways //= math.factorial(size)
    for alike in Counter(sizes.values()).values():
        ways //= math.factorial(alike)
    return ways if len(sizes) > 1 else 0


def _leaning(labels: Sequence[int], groups: Sequence[str] | None) -> dict[str, int]:
    """Group → the prototype that most of its clients are at, the first of equals; empty where groups are not known."""
    if groups is None:
        return {}
    found: dict[str, Counter[int]] = {}
    for label, group in zip(labels, groups, strict=True):
        found.setdefault(group, Counter())[label] += 1
    return {group: min(count, key=lambda place: (-count[place], place)) for group, count in sorted(found.items())}


def _by_prototype(leaning: Mapping[str, int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name, place in leaning.items():
        found.setdefault(place, []).append(name)
    return dict(sorted(found.items()))


def _named(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
