"""What users truly like, where it is known: users of the bundled world, and those that ``fedvpa simulate`` drew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fedvpa.core.errors import DataError
from fedvpa.data.schema import Pair, PairTable, Text
from fedvpa.data.text import plain_text
from fedvpa.runs.config import RunConfig
from fedvpa.styles.simulation import FILE, Simulation
from fedvpa.world.judge import judge
from fedvpa.world.users import find_population, make_users
from fedvpa.world.utility import Utility

TIE_DIGITS = 9
"""Utilities that agree to so many digits are a tie: sums of the same numbers in another order."""

Utilities = Callable[[str, Sequence[tuple[Text, str]]], Float[np.ndarray, " items"]]
"""Gives the utilities of (prompt, response) of each to the user, or to the group, of this name."""


@dataclass(frozen=True)
class Truth:
    """Known utilities of a run's users.

    Attributes:
        of_user: The utilities of a user.
        of_group: The utilities of a group.
        groups: The groups whose users all like the same; empty where users of a group differ, or have none.
        temperature: Of the labels, in units of utility.
        flip: The probability that a label is turned round.
    """

    of_user: Utilities
    of_group: Utilities
    groups: tuple[str, ...]
    temperature: float
    flip: float


def truth_of(config: RunConfig) -> Truth | None:
    """What the users of a run like; None where nobody knows.

    Raises:
        RunError: If the file beside a simulated table cannot be read.
    """
    if config.data.source == "world":
        return _of_the_world(config)
    folder = simulated_folder(config)
    return None if folder is None else _of_a_simulation(Simulation.load(folder))


def knows_users(config: RunConfig) -> bool:
    """Whether :func:`truth_of` has something to say; reads no file."""
    return config.data.source == "world" or simulated_folder(config) is not None


def simulated_folder(config: RunConfig) -> Path | None:
    """The folder of a simulated table; None of other data."""
    if config.data.source != "table" or not config.data.path:
        return None
    folder = Path(config.data.path).expanduser().parent
    return folder if (folder / FILE).is_file() else None


def margins(utilities: Utilities, name: str, pairs: Sequence[Pair]) -> Float[np.ndarray, " pairs"]:
    """Utility of the chosen responses less that of the rejected ones, to the user or group of this name."""
    items = [(pair.prompt, _response(side)) for pair in pairs for side in (pair.chosen, pair.rejected)]
    values = utilities(name, items)
    return (values[::2] - values[1::2]).round(TIE_DIGITS)


def own_margins(truth: Truth, table: PairTable) -> Float[np.ndarray, " pairs"]:
    """:func:`margins` of every pair to the user who labelled it."""
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(table.pairs):
        rows.setdefault(str(pair.user_id), []).append(row)
    found = np.empty(len(table))
    for user, own in rows.items():
        found[own] = margins(truth.of_user, user, [table.pairs[row] for row in own])
    return found


def _response(text: Text) -> str:
    """A response as text: that of its messages where it is a conversation."""
    return text if isinstance(text, str) else "\n\n".join(turn.content for turn in text)


def _of_the_world(config: RunConfig) -> Truth:
    data = config.resolved_data()
    population = find_population(data.population)
    users = make_users(population, data.users, data.seed, data.user_shares or None)
    own = {user.user_id: user.utility for user in users}
    groups = {utility.name: utility for utility in population.utilities}

    def of(utility: Utility, items: Sequence[tuple[Text, str]]) -> Float[np.ndarray, " items"]:
        return np.array([judge(plain_text(prompt), text, utility).utility for prompt, text in items])

    return Truth(
        of_user=lambda name, items: of(own[name], items),
        of_group=lambda name, items: of(groups[name], items),
        groups=() if population.concentration is not None else tuple(groups),
        temperature=data.temperature,
        flip=data.flip,
    )


def _of_a_simulation(simulation: Simulation) -> Truth:
    known = {user.user_id for user in simulation.users}

    def of_user(name: str, items: Sequence[tuple[Text, str]]) -> Float[np.ndarray, " items"]:
        if name not in known:
            raise DataError(
                f"The table has pairs of {name!r}, who is none of the {len(known)} simulated users of the {FILE} "
                "beside it.",
                fix=f"Leave these pairs out, or move the table away from {FILE}.",
            )
        return simulation.utility(name).values([text for _, text in items])[0]

    return Truth(
        of_user=of_user,
        of_group=lambda name, items: simulation.utility(name).values([text for _, text in items])[0],
        groups=tuple(simulation.groups),
        temperature=simulation.temperature,
        flip=0.0,
    )
