"""One function for every source: from the data section to a table of pairs."""

from __future__ import annotations

from dataclasses import replace

from fedvpa.core.errors import DataError
from fedvpa.core.unicode import REPLACED
from fedvpa.data.config import DataConfig
from fedvpa.data.messages import storable_text
from fedvpa.data.reserve import divide
from fedvpa.data.rows import check_name, checked_weight
from fedvpa.data.schema import PairTable
from fedvpa.data.sources.registry import SOURCES


def load(config: DataConfig) -> PairTable:
    """Load the pairs that ``config`` names.

    Args:
        config: The data section.

    Returns:
        The pairs in a fixed order, without those left aside by ``data.reserved``, and the report of how many rows were
        read, and how many left out and why.

    Raises:
        ConfigError: If a key that the source needs is not set.
        DataError: If the data are missing or broken, lack a column, or hold a value that cannot be read.
    """
    return divide(_read(config), config.reserved)[0]


def load_reserved(config: DataConfig) -> PairTable:
    """Load the pairs that ``data.reserved`` leaves aside, which no run of the same section uses.

    Raises:
        As :func:`load`; also a DataError if nothing is left aside.
    """
    aside = divide(_read(config), config.reserved)[1]
    if not len(aside):
        raise DataError(
            f"data.reserved={config.reserved:g} leaves no pair aside.",
            fix="Leave a share of the prompts aside, in the runs too: data.reserved=0.3.",
        )
    return aside


def _read(config: DataConfig) -> PairTable:
    return _checked(SOURCES.get(config.source).read(config.source_keys()), config)


def _checked(table: PairTable, config: DataConfig) -> PairTable:
    """The table under the rules that every source keeps, those of others included: texts, names and weights.

    fedvpa's own sources keep them row by row, so nothing is found in theirs.
    """
    report = replace(table.report, strict=config.strict)
    pairs = list(table.pairs)
    for row, pair in enumerate(pairs):
        where = pair.place or f"{config.source}, pair {pair.pair_id or row}"
        for name, value in (("user_id", pair.user_id), ("group", pair.group), ("pair_id", pair.pair_id)):
            check_name(value or "", name, where)
        checked_weight(pair.weight, pair.weight, where)
        texts = [storable_text(text) for text in (pair.prompt, pair.chosen, pair.rejected)]
        changed = sum(new != old for new, old in zip(texts, (pair.prompt, pair.chosen, pair.rejected), strict=True))
        if changed:
            report = report.add(REPLACED, where, effect="changed", unit="text", count=changed)
            pairs[row] = replace(pair, prompt=texts[0], chosen=texts[1], rejected=texts[2])
    return PairTable(tuple(pairs), replace(report, read=max(report.read, len(pairs))))
