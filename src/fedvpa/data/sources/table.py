"""Source ``table``: any data with TRL's preference columns, from JSON lines, JSON, CSV, TSV, Parquet or the hub.

``prompt``, ``chosen`` and ``rejected`` are strings or lists of role/content messages; the prompt may be implicit.
Optional columns: ``user_id``, ``group``, ``split``, ``weight``, ``pair_id``. Other names go through ``map``. What
labelling tools export, two responses and a column that says which of them won, is read with ``map.winner``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from fedvpa.core.errors import ConfigError
from fedvpa.core.options import column_option
from fedvpa.data.columns import ColumnMap
from fedvpa.data.rows import read_pairs
from fedvpa.data.schema import PairTable
from fedvpa.data.shards import Shard, hub_shards, is_hub_id, local_shards
from fedvpa.data.sources.base import PathKeys, Source, require_path
from fedvpa.data.winner import Side

EXAMPLE = "data.path=pairs.jsonl"


class TableKeys(PathKeys):
    """Keys of the source ``table``.

    Attributes:
        map: Our column names → the names in the data, e.g. ``{"user_id": "worker"}``.
        winner_values: Value of the winner column → ``first``, ``second`` or ``tie``, for values that are not known
            by themselves (``{"0": "first", "1": "second"}``).
    """

    map: ColumnMap = ColumnMap()
    winner_values: dict[str, Side] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _winner_is_mapped(self) -> Self:
        if self.winner_values and not self.map.winner:
            raise ConfigError(
                "'winner_values' was set, and no column of winners is mapped.", fix=f"Add {column_option('winner')}."
            )
        return self


def read(config: TableKeys, *, ties: bool = False) -> PairTable:
    """Read a file, the data files of a folder, or a hub data set.

    Args:
        config: The keys of this source.
        ties: Keep the pairs of which neither response won, as ``Pair.tie``; they are left out otherwise.

    Returns:
        The pairs, and the report of what was left out.

    Raises:
        ConfigError: If no path is set.
        DataError: If the data are missing or broken, lack a column, or hold a value that cannot be read.
    """
    path = require_path(config, EXAMPLE)
    shards = hub_shards(path, config.split) if is_hub_id(path) else _local(config)
    return read_pairs(shards, config.map, what=path, strict=config.strict, winners=config.winner_values, ties=ties)


def check(config: TableKeys) -> None:
    """Raise what :func:`read` would about files that are not there."""
    if not is_hub_id(require_path(config, EXAMPLE)):
        _local(config)


def _local(config: TableKeys) -> list[Shard]:
    return local_shards(Path(config.path).expanduser(), config.split)


SOURCE = Source(TableKeys, read, check)
