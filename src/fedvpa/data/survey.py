"""What a table of people's pairs holds, and what each unit of hold-out leaves of it: to look before one trains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from fedvpa.core.errors import DataError
from fedvpa.data.deal import factorise
from fedvpa.data.partition_config import PartitionConfig
from fedvpa.data.schema import Pair, PairTable, Unit
from fedvpa.data.shortage import has_enough, part_counts
from fedvpa.data.splits import TEST, hold_out, make_rule, unit_names

NAMES: dict[Unit, str] = {"prompt": "prompts", "pair": "pairs", "split": "prompts"}


@dataclass(frozen=True, slots=True)
class UnitSurvey:
    """What one unit of hold-out leaves, under one seed.

    Attributes:
        unit: What is held out as a whole.
        units: How many different ones there are; of ``split``, prompts.
        test_units: How many of them test.
        test_pairs: How many labelled pairs test.
        users: How many users keep enough pairs to train on; None where the pairs name no users.
        tested: How many of these have test pairs.
        problem: Why the unit cannot be used; empty if it can. The numbers are 0 then.
    """

    unit: Unit
    units: int = 0
    test_units: int = 0
    test_pairs: int = 0
    users: int | None = None
    tested: int | None = None
    problem: str = ""

    @classmethod
    def of(cls, pairs: Sequence[Pair], unit: Unit, config: PartitionConfig, seed: int) -> Self:
        """Hold out by the unit, and count."""
        try:
            rule = make_rule(
                pairs, unit, seed, test_fraction=config.test_fraction, validation_fraction=config.validation_fraction
            )
            parts = hold_out(pairs, rule)
        except DataError as error:
            return cls(unit, problem=str(error))
        names = unit_names(pairs, unit)
        held = {name for name, part in zip(names, parts, strict=True) if part == TEST}
        users, codes = factorise([pair.user_id for pair in pairs])
        counts = part_counts(codes, parts, len(users))
        enough = has_enough(counts, config)
        return cls(
            unit,
            len(set(names)),
            len(held),
            int((parts == TEST).sum()),
            int(enough.sum()) if users else None,
            int((enough & (counts[:, TEST] > 0)).sum()) if users else None,
        )

    def __str__(self) -> str:
        if self.problem:
            return f"by {self.unit}: {self.problem}"
        users = "" if self.users is None else f"; {self.users:,} users keep enough pairs, {self.tested:,} of them test"
        held = f"{self.test_units:,} of {self.units:,} {NAMES[self.unit]} and {self.test_pairs:,} labelled pairs test"
        return f"by {self.unit}: {held}{users}"


@dataclass(frozen=True, slots=True)
class Survey:
    """What a table holds.

    Attributes:
        pairs: Labelled pairs.
        prompts: Different prompts.
        texts: Different pairs of responses with their prompt, in either order.
        users: Users that the pairs name.
        groups: Groups that they name.
        pairs_per_user: The least, the median and the most pairs of a user; None without users.
        shared: Different pairs that several users judged.
        disagreement: How often two users who judged the same pair disagree; None if no pair is shared.
        repeated: Votes of a user on a pair that the same user had judged before.
        contradicting: Pairs on which a user voted both ways.
        units: What each unit of hold-out leaves.
    """

    pairs: int
    prompts: int
    texts: int
    users: int
    groups: tuple[str, ...]
    pairs_per_user: tuple[int, int, int] | None
    shared: int
    disagreement: float | None
    repeated: int
    contradicting: int
    units: tuple[UnitSurvey, ...]

    def to_dict(self) -> dict[str, Any]:
        """The survey as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.pairs:,} labelled pairs, {self.texts:,} different ones, under {self.prompts:,} prompts"]
        if self.pairs_per_user is None:
            lines.append("no users are named")
        else:
            least, median, most = self.pairs_per_user
            each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            lines.append(f"{self.users:,} users with {each} pairs each (median {median:,})")
        lines.append(f"groups: {', '.join(self.groups)}" if self.groups else "no groups are named")
        if self.disagreement is not None:
            lines.append(f"{self.shared:,} pairs have several judges, who disagree {self.disagreement:.0%} of the time")
        if self.repeated:
            lines.append(
                f"{self.repeated:,} votes repeat a user's own on the same pair; on {self.contradicting:,} pairs a user "
                "voted both ways"
            )
        return "\n".join([*lines, "held out …", *(f"  {unit}" for unit in self.units)])


def survey(table: PairTable, config: PartitionConfig, seed: int) -> Survey:
    """Count what there is, and what each unit of hold-out leaves.

    Args:
        table: The pairs.
        config: Its least numbers and fractions are read.
        seed: Of the hold-out.

    Returns:
        The counts. Nothing is dealt to clients.
    """
    pairs = table.pairs
    users, codes = factorise([pair.user_id for pair in pairs])
    sizes = np.bincount(codes[codes >= 0], minlength=len(users))
    shared, disagreement, repeated, contradicting = _votes(pairs)
    units: tuple[Unit, ...] = ("prompt", "pair")
    if all(pair.split for pair in pairs):
        units += ("split",)
    return Survey(
        len(pairs),
        len({pair.prompt for pair in pairs}),
        len(set(unit_names(pairs, "pair"))),
        len(users),
        tuple(table.groups()),
        (int(sizes.min()), int(np.median(sizes)), int(sizes.max())) if users else None,
        shared,
        disagreement,
        repeated,
        contradicting,
        tuple(UnitSurvey.of(pairs, unit, config, seed) for unit in units),
    )


def _votes(pairs: Sequence[Pair]) -> tuple[int, float | None, int, int]:
    """Shared pairs, how often two of their judges disagree, repeated votes, and pairs that a user contradicts.

    A user's first vote on a pair stands for the user. Pairs without a user are not looked at.
    """
    votes: dict[str, dict[str, list[object]]] = defaultdict(lambda: defaultdict(list))
    for pair, name in zip(pairs, unit_names(pairs, "pair"), strict=True):
        if pair.user_id is not None:
            votes[name][pair.user_id].append(pair.chosen)
    shared, apart, together = 0, 0, 0
    for own in votes.values():
        judges = len(own)
        first = next(iter(own.values()))[0]
        agree = sum(said[0] == first for said in own.values())
        shared += judges > 1
        apart += agree * (judges - agree)
        together += judges * (judges - 1) // 2
    every = [said for own in votes.values() for said in own.values()]
    repeated, contradicting = sum(len(said) - 1 for said in every), sum(len(set(said)) > 1 for said in every)
    return shared, apart / together if together else None, repeated, contradicting
