"""Further labelled pairs for a run that is trained: which columns hold them, and whose they are.

The rule for columns: a name that the caller gives is the name. Otherwise a column that the run's own data called
otherwise is looked for under that name, and taken where the file has it; else under the standard name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ConfigError, DataError, RunError, nearest
from fedvpa.core.options import new_pairs, option
from fedvpa.core.progress import say
from fedvpa.data.columns import ColumnMap
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.data.schema import PairTable
from fedvpa.data.shards import hub_shards, is_hub_id, local_shards
from fedvpa.data.sources import table
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.selector.scaling import Scaling
from fedvpa.selector.selector import Selector

RESPONSES = ("chosen", "rejected", "winner")

Columns = Mapping[str, str]
"""Our name of a column → its name in a file."""


def load_pairs(config: RunConfig, path: Path | str, columns: Columns | None = None, *, ties: bool = False) -> PairTable:
    """A file of new pairs.

    Args:
        config: The run; its ``data.map`` is used for columns that the file has and the caller does not name.
        path: The file, or a hub id.
        columns: Our name of a column → its name in this file.
        ties: Keep the pairs of which neither response won, as ``Pair.tie``; they are left out otherwise.

    Raises:
        ConfigError: For a column that is none of ours.
        DataError: If the file cannot be read, or lacks a column.
    """
    with new_pairs():
        return _load(config, str(path), dict(columns or {}), ties)


def _load(config: RunConfig, path: str, given: Columns, ties: bool) -> PairTable:
    for ours in given.keys() - ColumnMap.model_fields.keys():
        problem = f"{option('columns')} names {ours!r}, which is no column of pairs."
        raise ConfigError(problem, fix=nearest(ours, ColumnMap.model_fields))
    chosen = _of_run(config, path, given) | dict(given)
    values: dict[str, Any] = {"source": "table", "path": path, "strict": config.data.strict}
    if chosen:
        values["map"] = chosen
    if chosen.get("winner") and config.data.winner_values:
        values["winner_values"] = config.data.winner_values
    data = DataConfig.parse(values)
    return table.read(data, ties=True) if ties else load(data)


def _of_run(config: RunConfig, path: str, given: Columns) -> dict[str, str]:
    """The run's own names of columns, of those that the file has and the caller does not name.

    The two responses and the winner between them are one thing: their names are the run's for all of them or for none.
    """
    if config.data.source != "table":
        return {}
    standard = ColumnMap().model_dump()
    own = {ours: name for ours, name in config.data.map.model_dump().items() if name != standard.get(ours)}
    if not own:
        return {}
    there = _columns(path)
    found = {ours: name for ours, name in own.items() if ours not in given and name in there}
    responses = {ours: name for ours, name in own.items() if ours in RESPONSES}
    if given.keys() & set(RESPONSES) or any(name not in there for name in responses.values() if name):
        responses = {}
    found = {ours: name for ours, name in found.items() if ours not in RESPONSES} | responses
    if found:
        named = ", ".join(f"{ours}={name}" for ours, name in found.items())
        say(f"{path} is read with the columns of the run: {named}")
    return found


def _columns(path: str) -> set[str]:
    shards = hub_shards(path) if is_hub_id(path) else local_shards(Path(path).expanduser())
    return {name for shard in shards for _, values in shard.rows for name in values}


def of_one_user(table: PairTable, user: str | None, where: str) -> PairTable:
    """The pairs of one user.

    Raises:
        DataError: If there are several users and ``user`` is none of them.
    """
    users = sorted({pair.user_id for pair in table.pairs if pair.user_id is not None})
    if user is None and len(users) < 2:
        return table
    if user is None:
        fix = f"Choose one: {option('user', repr(users[0]))}."
        raise DataError(f"holds pairs of {len(users)} users.", fix=fix, where=where)
    if user not in users:
        raise DataError(f"holds no pair of user {user!r}.", fix=nearest(user, users), where=where)
    return table.select([row for row, pair in enumerate(table.pairs) if pair.user_id == user])


def scaling_of(selector: Selector, run: RunFolder) -> Scaling:
    """What turns features into the selector's.

    Raises:
        RunError: If the selector holds none.
    """
    if selector.scaling is None:
        raise RunError("its selector holds no feature scaling.", fix="Train the run again.", where=str(run))
    return selector.scaling
