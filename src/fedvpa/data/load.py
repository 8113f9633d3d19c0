"""One function for every source: from the data section to a table of pairs."""

from __future__ import annotations

from fedvpa.data.config import DataConfig
from fedvpa.data.schema import PairTable
from fedvpa.data.sources.registry import SOURCES


def load(config: DataConfig) -> PairTable:
    """Load the pairs that ``config`` names.

    Args:
        config: The data section.

    Returns:
        The pairs in a fixed order, and the report of how many rows were read, and how many left out and why.

    Raises:
        ConfigError: If a key that the source needs is not set.
        DataError: If the data are missing or broken, lack a column, or hold a value that cannot be read.
    """
    return SOURCES.get(config.source).read(config.source_keys())
