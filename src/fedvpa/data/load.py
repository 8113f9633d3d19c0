"""One configuration section and one function for every source."""

from __future__ import annotations

from typing import Self

from pydantic import field_validator, model_validator

from fedvpa.core.errors import ConfigError, nearest
from fedvpa.data.schema import PairTable
from fedvpa.data.sources import SOURCES
from fedvpa.data.sources.hh_rlhf import HhRlhfKeys
from fedvpa.data.sources.table import TableKeys
from fedvpa.data.sources.world import WorldKeys
from fedvpa.data.unread import check_unread


class DataConfig(WorldKeys, HhRlhfKeys, TableKeys):
    """Where the pairs come from: ``data.source=table data.path=pairs.jsonl data.map.group=objective``.

    The keys of all sources live side by side; one that the chosen source does not read must keep its default.

    Attributes:
        source: ``world``, ``hh-rlhf`` or ``table``.
    """

    source: str = "world"

    @field_validator("source")
    @classmethod
    def _check_source(cls, value: str) -> str:
        if value not in SOURCES:
            raise ConfigError(f"there is no source {value!r}.", fix=nearest(value, SOURCES))
        return value

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        read = {"source", *SOURCES[self.source].keys.model_fields}
        check_unread(self, read, f"source {self.source!r}")
        return self


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
    return SOURCES[config.source].read(config)
