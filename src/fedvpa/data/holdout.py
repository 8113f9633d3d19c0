"""A further set of labelled pairs, seen by nobody, on which every client is scored with the pairs of its own group."""

from __future__ import annotations

import numpy as np

from fedvpa.core.errors import DataError, nearest
from fedvpa.core.options import column_option
from fedvpa.data.config import DataConfig
from fedvpa.data.deal import factorise
from fedvpa.data.load import load
from fedvpa.data.schema import Pair, PairTable
from fedvpa.data.sources.base import PathKeys
from fedvpa.data.splits import Ints

IN_TRAINING = "the same pair, of the same group, is in the training data"
OTHER_GROUP = "no client is of this group"


def load_holdout(config: DataConfig, table: PairTable) -> PairTable:
    """Load the hold-out pairs for clients that were made from ``table``.

    Args:
        config: Where the hold-out pairs are.
        table: The pairs that the clients hold.

    Returns:
        The pairs of the table's groups. Pairs of other groups, and pairs that ``table`` holds with the same group, are
        left out and counted in the report.

    Raises:
        ConfigError: If a key that the source needs is not set.
        DataError: If the source reads no file, the file cannot be used, a pair has no group, or a group of ``table``
            has no pair.
    """
    if not isinstance(config.source_keys(), PathKeys):
        raise DataError(
            f"a hold-out is a file of pairs, and the source {config.source!r} reads no file.",
            fix="Use unseen clients (partition.unseen) instead.",
        )
    holdout = load(config)
    where = config.path or config.source
    if any(pair.group is None for pair in holdout.pairs):
        raise DataError(
            "some pairs have no group, and a client is scored on the pairs of its own.",
            fix=f"Name their column with {column_option('group')}.",
            where=where,
        )
    known, groups = holdout.groups(), table.groups()
    for group in groups:
        if group not in known:
            raise DataError(f"holds no pair of group {group!r}.", fix=nearest(group, known), where=where)
    used = {_content(pair) for pair in table.pairs}
    reasons = [
        OTHER_GROUP if pair.group not in groups else IN_TRAINING if _content(pair) in used else ""
        for pair in holdout.pairs
    ]
    return _without(holdout, reasons)


def rows_by_group(table: PairTable) -> dict[str, Ints]:
    """Group → the rows of its pairs, ascending."""
    names, codes = factorise([pair.group for pair in table.pairs])
    return {name: np.flatnonzero(codes == code) for code, name in enumerate(names)}


def _content(pair: Pair) -> tuple[object, ...]:
    return pair.group, pair.prompt, frozenset((pair.chosen, pair.rejected))


def _without(table: PairTable, reasons: list[str]) -> PairTable:
    """The table without the pairs that have a reason to be left out, and the reasons in its report."""
    report = table.report
    for pair, reason in zip(table.pairs, reasons, strict=True):
        if reason:
            report = report.add(reason, pair.place, asked=True)
    kept = tuple(pair for pair, reason in zip(table.pairs, reasons, strict=True) if not reason)
    return PairTable(kept, report)
