"""Scores of a trained run on new labelled pairs, from what the run holds: no pair that its training saw is scored.

Two ways. **By user**: each pair is scored with the z of the user who labelled it. A user whom the run knows has its own
z; of one whom it does not know z is inferred from some of the new pairs, and the others are scored. **By group**: every
seen client is scored on the pairs of its own group, so that pairs need no user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedvpa.algorithms.base import SelectorAlgorithm, placed_by_group
from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.data.holdout import IN_TRAINING, OTHER_GROUP, rows_by_group
from fedvpa.data.report import DataReport
from fedvpa.data.schema import Pair, PairTable
from fedvpa.data.splits import unit_names
from fedvpa.evaluation.accuracy import mark_pairs
from fedvpa.evaluation.scores import ClientScore, item_name
from fedvpa.runs.context import context_pairs
from fedvpa.runs.held import HeldPairs
from fedvpa.runs.users import RunUsers
from fedvpa.selector.pairs import Pairs, pad
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector

By = Literal["user", "group"]

Features = Callable[[PairTable], tuple[PairTable, Pairs]]
"""Gives the scaled features of pairs."""

HELD = "the same pair is in the training data"
NO_USER = "it names no user, and others do"
LONE = "it is the only pair of a new user, whose z needs another one"

AT_ONCE = 64
"""Clients that are scored together on the same pairs: bounds memory. Chosen by us."""


@dataclass(frozen=True, repr=False)
class Grader:
    """What scores new pairs.

    Attributes:
        method: The run's.
        algorithm: The same.
        seed: The run's.
        selector: Trained.
        users: Of the run.
        natural: Whether a client of the run is a user, and not a share of a dealt table.
    """

    method: str
    algorithm: SelectorAlgorithm[Any]
    seed: int
    selector: Selector
    users: RunUsers
    natural: bool

    __repr__ = short_repr

    def knows(self, user: str) -> bool:
        """Whether the run has a z of this user's own."""
        return self.natural and self.users.z_of(user) is not None

    @property
    def infers(self) -> bool:
        """Whether the z of a new user depends on that user's pairs."""
        return self.selector.way.reads_pairs

    def score(self, client: str, group: str | None, seen: bool, marks: list[float], items: list[str]) -> ClientScore:
        """What one client's z got right: 1, ½ or 0 for each pair, and what each pair is about."""
        told = (self.method, len(self.users.seen.ids), self.seed, client, group, seen)
        return ClientScore.of_pairs(*told, right=marks, names=items)


@dataclass(frozen=True, repr=False)
class UserRows:
    """The new pairs of one user.

    Attributes:
        user: The name.
        known: Whether the run knows the user.
        context: Rows that z is inferred from; none of a known user.
        scored: The other rows.
    """

    user: str
    known: bool
    context: NDArray[np.int64]
    scored: NDArray[np.int64]

    __repr__ = short_repr


@dataclass(frozen=True, repr=False)
class NewScores:
    """Scores on new pairs.

    Attributes:
        scores: One for each client or user.
        known: The ids of those whose z comes from the training pairs of the run.
        pairs: How many different pairs were scored.
        context: How many others gave the z of new users.
        report: What of the file was left out.
        same_users: Whether a client's name stands for a person.
    """

    scores: Sequence[ClientScore]
    known: frozenset[str]
    pairs: int
    context: int
    report: DataReport
    same_users: bool

    __repr__ = short_repr


def way_to_score(table: PairTable, grader: Grader) -> By:
    """By user where the pairs name users and the run's clients are users; else by group where both share one."""
    named = any(pair.user_id is not None for pair in table.pairs)
    groups = {pair.group for pair in table.pairs} & set(grader.users.seen.groups) - {None}
    return "group" if groups and not (grader.natural and named) else "user"


def by_group(grader: Grader, given: PairTable, held: HeldPairs | None, features: Features, where: str) -> NewScores:
    """Every seen client on the pairs of its own group.

    Args:
        grader: What scores.
        given: The new pairs.
        held: The pairs of the run's data; None where nobody knows.
        features: Gives the pairs that can be ordered, and their scaled features.
        where: The file, for messages.

    Raises:
        DataError: If no pair is left to score.
    """
    table, pairs = features(_some(new_of_groups(given, grader.users, held), where))
    scores = scores_by_group(grader, table, pairs)
    return NewScores(
        scores, frozenset(score.client_id for score in scores), len(table), 0, table.report, grader.natural
    )


def by_user(grader: Grader, given: PairTable, held: HeldPairs | None, features: Features, where: str) -> NewScores:
    """Every user on the user's own pairs. Arguments and errors as of :func:`by_group`."""
    table, pairs = features(_some(new_of_users(given, held), where))
    table, rows = rows_of_users(table, grader)
    if not rows:
        raise DataError(
            "holds a single pair of each new user, and z is inferred from others than are scored."
            + "".join(f" {finding}." for finding in table.report.findings if finding.effect == "left out"),
            fix="Give several pairs of each user.",
            where=where,
        )
    scores = scores_by_user(grader, table, rows, pairs)
    known = frozenset(own.user for own in rows if own.known)
    scored, context = (sum(len(getattr(own, part)) for own in rows) for part in ("scored", "context"))
    return NewScores(scores, known, scored, context, table.report, same_users=True)


def new_of_groups(table: PairTable, users: RunUsers, held: HeldPairs | None) -> PairTable:
    """The pairs of groups that seen clients have and that the run's data do not hold; the report counts the others."""
    known = set(users.seen.groups)
    reasons = [
        OTHER_GROUP if pair.group not in known else IN_TRAINING if held and held.holds(pair) else ""
        for pair in table.pairs
    ]
    return _without(table, reasons)


def new_of_users(table: PairTable, held: HeldPairs | None) -> PairTable:
    """The pairs that the run's data do not hold and, where some pairs name a user, that do; the report counts the rest.

    Where no pair names a user, all of them are of one.
    """
    named = any(pair.user_id is not None for pair in table.pairs)
    reasons = [
        HELD if held and held.holds(pair) else NO_USER if named and pair.user_id is None else "" for pair in table.pairs
    ]
    return _without(table, reasons)


def rows_of_users(table: PairTable, grader: Grader) -> tuple[PairTable, list[UserRows]]:
    """Which rows of each user are scored, and which give z; the report counts pairs that can do neither."""
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(table.pairs):
        rows.setdefault(pair.user_id or "", []).append(row)
    found, report = [], table.report
    nothing = np.zeros(0, dtype=np.int64)
    for user, own in sorted(rows.items()):
        here = np.array(own)
        known = grader.knows(user)
        if known or not _needs_context(grader, [table.pairs[row] for row in own]):
            found.append(UserRows(user, known, nothing, here))
            continue
        context = context_pairs([table.pairs[row] for row in own], user)
        if not context.any():
            report = report.add(LONE, table.pairs[own[0]].place, count=len(own), asked=True)
            continue
        found.append(UserRows(user, False, here[context], here[~context]))
    return PairTable(table.pairs, report), found


def scores_by_user(grader: Grader, table: PairTable, rows: Sequence[UserRows], pairs: Pairs) -> list[ClientScore]:
    """One score for each user.

    Args:
        grader: What scores.
        table: The new pairs.
        rows: From :func:`rows_of_users`.
        pairs: Their scaled features.
    """
    found = []
    for own in rows:
        given = [table.pairs[int(row)].group for row in (*own.context, *own.scored)]
        group = _group_of(grader.users, own, given)
        posterior = _posterior(grader, own, group, pairs)
        marks = mark_pairs(grader.selector, posterior, pairs.rows(own.scored))[0]
        seen = own.known and own.user in grader.users.seen.ids
        found.append(grader.score(own.user, group, seen, marks, _items(grader, table, own.scored)))
    return found


def scores_by_group(grader: Grader, table: PairTable, pairs: Pairs) -> list[ClientScore]:
    """One score for each seen client whose group has a pair. Arguments as of :func:`scores_by_user`."""
    seen, found = grader.users.seen, []
    assert seen.posterior is not None
    for group, rows in rows_by_group(table).items():
        own = pairs.rows(rows)
        members = np.flatnonzero([name == group for name in seen.groups])
        for some in np.array_split(members, -(-len(members) // AT_ONCE) or 1):
            marks = mark_pairs(grader.selector, seen.posterior[torch.from_numpy(some)], own)
            about = _items(grader, table, rows)
            found += [
                grader.score(seen.ids[place], group, True, one, about) for place, one in zip(some, marks, strict=True)
            ]
    return found


def _items(grader: Grader, table: PairTable, rows: NDArray[np.int64]) -> list[str]:
    """What pairs are about, for intervals: the unit that the run holds out as a whole, whose difficulty they share."""
    rule = grader.users.partition.rule
    pairs = [table.pairs[int(row)] for row in rows]
    return [item_name(name) for name in unit_names(pairs, "prompt" if rule is None else rule.unit)]


def _needs_context(grader: Grader, pairs: Sequence[Pair]) -> bool:
    """Whether the z of a new user comes from pairs: not where one model serves all, nor from a group for the oracle."""
    groups = {pair.group for pair in pairs}
    told = placed_by_group(grader.algorithm) and len(groups) == 1 and groups <= set(grader.users.groups)
    return grader.infers and not told


def _posterior(grader: Grader, own: UserRows, group: str | None, pairs: Pairs) -> Posterior:
    """Of one user, along a leading axis of one."""
    for some in (grader.users.seen, grader.users.unseen):
        if own.known and own.user in some.ids and some.posterior is not None:
            row = some.ids.index(own.user)
            return some.posterior[row : row + 1]
    if not len(own.context) and placed_by_group(grader.algorithm) and group in grader.users.groups:
        return grader.selector.at_prototype(torch.tensor([grader.users.groups.index(group)]))
    return grader.selector.infer(pad([pairs.rows(own.context)]))


def _group_of(users: RunUsers, own: UserRows, given: Sequence[str | None]) -> str | None:
    """The group of a user: as the run knows it, else the one that all of the new pairs say."""
    for some in (users.seen, users.unseen):
        if own.known and own.user in some.ids and some.groups[some.ids.index(own.user)] is not None:
            return some.groups[some.ids.index(own.user)]
    return given[0] if len(set(given)) == 1 else None


def _some(table: PairTable, where: str) -> PairTable:
    """The table, unless it is empty."""
    if not table.pairs:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in table.report.skipped.items())
        raise DataError(
            f"no pair is left to score: {reasons}.", fix="Give pairs that training has not seen.", where=where
        )
    return table


def _without(table: PairTable, reasons: Sequence[str]) -> PairTable:
    report = table.report
    for pair, reason in zip(table.pairs, reasons, strict=True):
        if reason:
            report = report.add(reason, pair.place, asked=True)
    return PairTable(tuple(p for p, reason in zip(table.pairs, reasons, strict=True) if not reason), report)
