"""What is loudly said about latents: a number or a name that is printed and means nothing.

Three kinds: z says nothing of its client (posterior collapse); users who disagree by their data share a prototype, so
that two names are one z; a prototype stands for nobody. An alarm is one sentence. It stands in ``metrics.json``, at
the end of ``train``, before ``align``, and on top of a report.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

ACTIVE_VARIANCE = 0.01
"""A unit is active if the variance over clients of its posterior mean exceeds this.

Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders (ICLR 2016).
"""

FEWEST_GROUPS = 2
"""How many groups z must tell apart for the alarm to stay silent where no true groups are known: two, chosen by us
because with fewer there is nothing to personalise."""

CROWDED = 0.75
"""Where no groups are known, a prototype that so many of the clients share is an alarm. Chosen by us: 3 of 4."""


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
