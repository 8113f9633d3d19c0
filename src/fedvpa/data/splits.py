"""What is held out, decided over all clients and before pairs are dealt to them.

A unit is held out as a whole, for everybody: a ``prompt`` (the default), a ``pair`` (the unordered two responses with
their prompt), or what the data's own ``split`` column says. Whether a unit is held out follows from a hash of its text
and the seed, and from nothing else. So devices that never speak to each other hold out the same prompts, and another
user's arrival moves nobody's pairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import DataError, nearest
from fedvpa.core.options import column_option
from fedvpa.core.seeds import entropy
from fedvpa.data.schema import Pair, Text, Unit
from fedvpa.data.shards import SPLITS

Ints = NDArray[np.int64]

UNDECIDED, TRAIN, VALIDATION, TEST, UNUSED = -1, 0, 1, 2, 3
"""Codes of a pair's part. They are ordered: where pairs of one unit differ, the undecided ones follow the highest."""

FEW_UNITS = 20
"""Below so many units, the accuracy on held-out ones rests on a handful of them. Chosen by us."""

_CODES: dict[str | None, int] = {None: UNDECIDED, "train": TRAIN, "validation": VALIDATION, "test": TEST}


@dataclass(frozen=True, slots=True)
class SplitRule:
    """What is held out.

    Attributes:
        unit: What is held out as a whole.
        seed: Names the hash.
        test_fraction: Share of the units that tests.
        validation_fraction: Share of the units that validates.
    """

    unit: Unit
    seed: int
    test_fraction: float
    validation_fraction: float = 0.0

    def part(self, name: str) -> int:
        """``TRAIN``, ``VALIDATION`` or ``TEST`` for the unit with this name, by its hash alone."""
        place = self.place(name)
        if place < self.test_fraction:
            return TEST
        return VALIDATION if place < self.test_fraction + self.validation_fraction else TRAIN

    def place(self, name: str) -> float:
        """Where a unit's hash lies in [0, 1): uniform over units."""
        return (entropy(self.seed, "hold-out", name) >> 75) / 2.0**53

    def holds_out(self, prompt: Text) -> bool:
        """Whether the hash of a prompt makes it one to test on, whatever the unit of this rule is."""
        return self.part(prompt_name(prompt)) == TEST

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON values."""
        return asdict(self)


def make_rule(
    pairs: Sequence[Pair], unit: Unit | None, seed: int, *, test_fraction: float, validation_fraction: float
) -> SplitRule:
    """The rule of a run.

    Args:
        pairs: All pairs.
        unit: As configured; None for ``split`` where every pair says its split, and for ``prompt`` elsewhere.
        seed: Of the run.
        test_fraction: Share of the units that tests.
        validation_fraction: Share of the units that validates.

    Raises:
        DataError: If the unit is ``split`` and a pair says none.
    """
    silent = sum(pair.split is None for pair in pairs)
    if unit == "split" and silent:
        raise DataError(
            f"{silent} of {len(pairs)} pairs say no split, and partition.unit=split holds out what the data say.",
            fix=f"Name their column with {column_option('split')}, or hold out by prompt: partition.unit=prompt.",
        )
    chosen: Unit = unit or ("prompt" if silent or not pairs else "split")
    return SplitRule(chosen, seed, test_fraction, validation_fraction)


def hold_out(pairs: Sequence[Pair], rule: SplitRule) -> Ints:
    """The part of every pair, whoever holds it.

    A split that the data prescribe is kept, and the pairs of the same unit that say none follow it. Where the data
    prescribe no validation pairs, those are taken from the training ones, by the hash of the unit (by that of the
    prompt where the unit is ``split``).

    Args:
        pairs: All pairs.
        rule: The unit, the seed and the shares.

    Returns:
        ``TRAIN``, ``VALIDATION`` or ``TEST`` for each pair.

    Raises:
        DataError: If a split has an unknown name, or if the data prescribe different splits for one unit.
    """
    given = _prescribed(pairs)
    names = unit_names(pairs, rule.unit)
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    units = np.fromiter((number[name] for name in names), np.int64, len(names))
    drawn = np.fromiter((rule.part(name) for name in number), np.int64, len(number))
    if rule.unit == "split":
        parts = given.copy()
        if rule.validation_fraction and not (given == VALIDATION).any():
            places = np.fromiter((rule.place(name) for name in number), np.float64, len(number))
            parts[(given == TRAIN) & (places < rule.validation_fraction)[units]] = VALIDATION
    else:
        told = np.full(len(number), UNDECIDED, dtype=np.int64)
        np.maximum.at(told, units, given)
        _check_agreement(pairs, given, told[units], rule.unit)
        if not (given == VALIDATION).any():
            told = np.where((told == TRAIN) & (drawn == VALIDATION), VALIDATION, told)
        parts = np.where(told == UNDECIDED, drawn, told)[units]
    return parts


def unit_names(pairs: Sequence[Pair], unit: Unit) -> list[str]:
    """The name of each pair's unit; of ``split``, whose parts the data say, that of its prompt.

    All prompts of one conversation, where the data name it, are one unit.
    """
    if unit != "pair":
        return [prompt_name(pair.prompt) if pair.conversation is None else f"\x1f{pair.conversation}" for pair in pairs]
    return [
        "\x1e".join([prompt_name(pair.prompt), *sorted((prompt_name(pair.chosen), prompt_name(pair.rejected)))])
        for pair in pairs
    ]


def prompt_name(text: Text) -> str:
    """A text as a unit knows it: prompts that differ in white space only are one prompt."""
    if isinstance(text, str):
        return " ".join(text.split())
    return json.dumps([[turn.role, " ".join(turn.content.split())] for turn in text])


def check_held_out(pairs: Sequence[Pair], parts: Ints, rule: SplitRule) -> None:
    """Every run asks this of its own parts: no unit is in a test part and in training or validation.

    What the data's own split prescribes is not looked at.

    Raises:
        DataError: If a unit is on both sides.
    """
    if rule.unit == "split":
        return
    names = unit_names(pairs, rule.unit)
    test = {name for name, part in zip(names, parts, strict=True) if part == TEST}
    both = next((name for name, part in zip(names, parts, strict=True) if part != TEST and name in test), None)
    if both is not None:
        raise DataError(f"The {rule.unit} {both[:60]!r} would train and test.", fix="Report this: it is a bug.")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a run holds out; a key of ``metrics.json``.

    Attributes:
        unit: What is held out as a whole.
        units: How many different ones the clients hold: prompts where the unit is ``split``.
        test_units: How many of them test.
        shared_units: How many of those also train; 0 unless the data's own split puts them on both sides.
        pairs: How many pairs the clients hold.
        test_pairs: How many of them test.
        untested: How many clients that train hold no test pair: their accuracy is not measured.
    """

    unit: Unit
    units: int
    test_units: int
    shared_units: int
    pairs: int
    test_pairs: int
    untested: int = 0

    @classmethod
    def of(cls, pairs: Sequence[Pair], parts: Ints, rule: SplitRule) -> Self:
        """Count the pairs that clients hold, and the part of each."""
        names = unit_names(pairs, rule.unit)
        by_part = [{name for name, part in zip(names, parts, strict=True) if part == code} for code in (TEST, TRAIN)]
        test, train = by_part
        return cls(rule.unit, len(set(names)), len(test), len(test & train), len(pairs), int((parts == TEST).sum()))

    def __str__(self) -> str:
        kind = "pair" if self.unit == "pair" else "prompt"
        held = f"{self.test_units} of {self.units} {kind}s and {self.test_pairs} of {self.pairs} labelled pairs test"
        held += f"; {self.untested} clients hold none of these and are not scored" if self.untested else ""
        if self.unit == "split":
            return f"held out by the data's own split: {held}; {self.shared_units} of these prompts also train"
        few = f"; so few {kind}s say little" if self.units < FEW_UNITS else ""
        wider = " (partition.unit=pair holds out pairs)" if few and self.unit == "prompt" else ""
        return f"held out by {kind}, over all clients: {held}{few}{wider}"

    def to_dict(self) -> dict[str, Any]:
        """The keys of the file."""
        return asdict(self)

    def check(self, parts: Ints, *, validates: bool = False) -> None:
        """Something must be left to train on, and something to test on.

        Args:
            parts: Of the clients' pairs.
            validates: Whether a share of the units is asked for to validate on: then there must be some, too.

        Raises:
            DataError: Naming the units that there are, and another unit where that helps.
        """
        wanted = ((TRAIN, "train"), (TEST, "test"), *([(VALIDATION, "validate")] if validates else []))
        for part, use in wanted:
            if not (parts == part).any():
                kind = "pair" if self.unit == "pair" else "prompt"
                share = "validation" if part == VALIDATION else "test"
                raise DataError(
                    f"held out by {self.unit}, the {self.pairs} pairs ({self.units} different {kind}s) leave none to "
                    f"{use} on.",
                    fix="Hold out by pair, for data whose users judge the same few prompts: partition.unit=pair."
                    if self.unit == "prompt" and self.units < self.pairs
                    else f"Give more pairs, or change partition.{share}_fraction or partition.min_train.",
                )


def cap_training(parts: Ints, owner: Ints, keys: NDArray[np.uint64], cap: int) -> Ints:
    """The parts with the training pairs of each client above its first ``cap`` marked ``UNUSED``.

    Args:
        parts: Of each pair.
        owner: Client number of each pair.
        keys: The order in which a client's pairs are taken; equal keys in the order of the table.
        cap: Most training pairs of a client.
    """
    order = np.lexsort((keys, owner))
    training = (parts[order] == TRAIN).astype(np.int64)
    before = np.cumsum(training) - training
    holder = owner[order]
    first = np.searchsorted(holder, holder, side="left")
    rank = before - before[first] if len(before) else before
    capped = parts.copy()
    capped[order[(training > 0) & (rank >= cap)]] = UNUSED
    return capped


def _prescribed(pairs: Sequence[Pair]) -> Ints:
    """The split that the data prescribe for each pair, as a code."""
    unknown = {pair.split for pair in pairs} - _CODES.keys()
    if unknown:
        name = str(sorted(map(str, unknown))[0])
        raise DataError(f"the split {name!r} is not known.", fix=nearest(name, SPLITS))
    return np.fromiter((_CODES[pair.split] for pair in pairs), np.int64, len(pairs))


def _check_agreement(pairs: Sequence[Pair], given: Ints, told: Ints, unit: Unit) -> None:
    """The data must not put one unit on both sides."""
    wrong = np.flatnonzero((given != UNDECIDED) & (given != told))
    if not len(wrong):
        return
    pair = pairs[int(wrong[0])]
    raise DataError(
        f"the data's own split puts {len(wrong)} pairs elsewhere than others of the same {unit}; the first is pair "
        f"{pair.pair_id!r} ({pair.split}).",
        fix="Follow the data's split as it is with partition.unit=split, or do not read its column: "
        f"{column_option('split', '')} (nothing behind the equals sign).",
    )
