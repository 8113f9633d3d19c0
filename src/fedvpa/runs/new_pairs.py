"""Further labelled pairs for a run that is trained: read, and told from those that training has seen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from fedvpa.core.errors import DataError, RunError, nearest
from fedvpa.data.config import DataConfig
from fedvpa.data.holdout import IN_TRAINING, OTHER_GROUP
from fedvpa.data.load import load
from fedvpa.data.schema import Pair, PairTable
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.selector.scaling import Scaling
from fedvpa.selector.selector import Selector


def load_pairs(config: RunConfig, path: Path, group_column: str | None = None) -> PairTable:
    """A file of pairs with the columns of the run.

    Args:
        config: The run; its ``data.map`` is used.
        path: The file.
        group_column: The column of groups, if it is another one.
    """
    values: dict[str, Any] = {"source": "table", "path": str(path), "strict": config.data.strict}
    columns = config.data.map.model_dump() if config.data.source == "table" else {}
    if group_column is not None:
        columns["group"] = group_column
    return load(DataConfig.parse(values | ({"map": columns} if columns else {})))


def of_one_user(table: PairTable, user: str | None, where: str) -> PairTable:
    """The pairs of one user.

    Raises:
        DataError: If there are several users and ``user`` is none of them.
    """
    users = sorted({pair.user_id for pair in table.pairs if pair.user_id is not None})
    if user is None and len(users) < 2:
        return table
    if user is None:
        raise DataError(f"holds pairs of {len(users)} users.", fix=f"Choose one: --user {users[0]!r}.", where=where)
    if user not in users:
        raise DataError(f"holds no pair of user {user!r}.", fix=nearest(user, users), where=where)
    return table.select([row for row, pair in enumerate(table.pairs) if pair.user_id == user])


def new_to(known: PairTable, table: PairTable) -> tuple[PairTable, dict[str, int]]:
    """The pairs of groups that ``known`` has and that it does not hold under the same group; reason → left out."""
    used, groups = {_content(pair) for pair in known.pairs}, known.groups()
    reasons = [
        OTHER_GROUP if pair.group not in groups else IN_TRAINING if _content(pair) in used else ""
        for pair in table.pairs
    ]
    skipped = Counter(table.report.skipped) + Counter(filter(None, reasons))
    return table.select([row for row, reason in enumerate(reasons) if not reason]), dict(skipped)


def scaling_of(selector: Selector, run: RunFolder) -> Scaling:
    """What turns features into the selector's.

    Raises:
        RunError: If the selector holds none.
    """
    if selector.scaling is None:
        raise RunError("its selector holds no feature scaling.", fix="Train the run again.", where=str(run))
    return selector.scaling


def _content(pair: Pair) -> tuple[object, ...]:
    return pair.group, pair.prompt, frozenset((pair.chosen, pair.rejected))
