"""``fedvpa personalize``: a new user's latent from labelled pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedvpa.algorithms.registry import make
from fedvpa.api.evaluate import _load, _open, _scaling
from fedvpa.core.errors import DataError, nearest
from fedvpa.data.schema import PairTable
from fedvpa.runs.prepare import prepare_pairs


def personalize(run: Path, pairs: Path, *, user: str | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A new user's posterior from labelled pairs, and how it lies among the prototypes. Nothing is written.

    Args:
        run: The run directory.
        pairs: A JSONL or Parquet file of the user's pairs.
        user: The user whose pairs to use, where the file holds those of several.
        overrides: Where the language model is now, such as ``features.model=PATH``.

    Returns:
        ``pairs`` used, posterior ``mean`` and ``std`` [k], ``responsibilities`` [m] over the prototypes, the index of
        the likeliest ``prototype``, and ``context_accuracy``, the share of the given pairs that the selector then
        orders as the user did (which z has seen: no estimate of accuracy on others).

    Raises:
        DataError: If the file holds several users' pairs and ``user`` is none of them.
        ModelError: If the language model is not the one that the selector was trained on.
    """
    config, selector = _open(run, overrides)
    table = _of_one_user(_load(config, pairs, None), user, str(pairs))
    context = prepare_pairs(config, table, _scaling(selector, run))
    posterior = selector.infer(context)
    mean, log_var = posterior.gaussian()
    near = selector.with_inference("responsibilities") if len(posterior.weights) == 1 else None
    personal = make(config.method, config.method_config).personal
    share = (near.infer(context) if near and personal else posterior).weights
    return {
        "run": str(run),
        "pairs": len(table),
        "skipped": table.report.skipped,
        "mean": mean.tolist(),
        "std": (0.5 * log_var).exp().tolist(),
        "responsibilities": share.tolist(),
        "prototype": int(share.argmax()),
        "context_accuracy": float((selector.margins(posterior, context) > 0).float().mean()),
    }


def _of_one_user(table: PairTable, user: str | None, where: str) -> PairTable:
    users = sorted({pair.user_id for pair in table.pairs if pair.user_id is not None})
    if user is None and len(users) < 2:
        return table
    if user is None:
        raise DataError(f"holds pairs of {len(users)} users.", fix=f"Choose one: --user {users[0]!r}.", where=where)
    if user not in users:
        raise DataError(f"holds no pair of user {user!r}.", fix=nearest(user, users), where=where)
    return table.select([row for row, pair in enumerate(table.pairs) if pair.user_id == user])
