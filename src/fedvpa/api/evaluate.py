"""``fedvpa evaluate`` and ``fedvpa personalize``: a trained run on new pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedvpa.algorithms import make
from fedvpa.core.errors import DataError, RunError
from fedvpa.data.holdout import IN_TRAINING, OTHER_GROUP, rows_by_group
from fedvpa.data.load import DataConfig, load
from fedvpa.data.schema import Pair, PairTable
from fedvpa.evaluation.accuracy import infer_clients, score_clients
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.runs.config import RunConfig, with_overrides
from fedvpa.runs.folder import load_run_config
from fedvpa.runs.prepare import check_features, prepare, prepare_pairs
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.scaling import Scaling
from fedvpa.selector.selector import Selector


def evaluate(
    run: Path, pairs: Path, *, group_column: str | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Score a trained run on new labelled pairs: every seen client on those of its own group.

    z comes from the client's training pairs. Pairs that the run's own data hold with the same group are left out and
    counted, so that no pair is scored that training, or z, has seen.

    Args:
        run: The run directory.
        pairs: A JSONL or Parquet file of pairs with groups.
        group_column: The column of groups, if it is not ``group``.
        overrides: Where the run's data or language model are now, such as ``features.model=PATH``.

    Returns:
        ``pairs`` scored, ``skipped`` (reason → count), ``accuracy`` with ``ci95`` over clients, and the same by group.

    Raises:
        DataError: If a pair has no group, no group is one that the run's clients have, or the run holds all pairs.
        ModelError: If the language model is not the one that the selector was trained on.
    """
    config, selector = _open(run, overrides)
    table = _load(config, pairs, group_column)
    if any(pair.group is None for pair in table.pairs):
        raise DataError(
            "some pairs have no group, and a client is scored on the pairs of its own.",
            fix="Name their column with --group-column.",
            where=str(pairs),
        )
    prepared = prepare(config)
    clients = prepared.federation.partition.seen
    if not set(table.groups()) & {client.group for client in clients}:
        raise DataError(
            f"its groups ({', '.join(table.groups())}) are none of the run's "
            f"({', '.join(prepared.federation.groups)}).",
            fix="Name the right column with --group-column.",
            where=str(pairs),
        )
    table, skipped = _new_to(prepared.table, table)
    if not table.pairs:
        raise DataError(
            "the run's own data hold all of these pairs.",
            fix="Give pairs that training has not seen.",
            where=str(pairs),
        )
    together = prepare_pairs(config, table, _scaling(selector, run))
    held = {group: _take(together, torch.from_numpy(rows)) for group, rows in rows_by_group(table).items()}
    by_group = make(config.method, config.method_config).reads_groups
    posterior = infer_clients(selector, prepared.federation, clients, by_group=by_group)
    scores = score_clients(
        selector, prepared.federation, clients, posterior, method=config.method, seed=config.seed, holdout=held
    )
    summary = comparison(scores, {}).to_dict()["summary"][0]
    return {
        "run": str(run),
        "pairs": len(table),
        "skipped": skipped,
        "accuracy": summary["holdout_mean"],
        "ci95": summary["holdout_ci95"],
        "groups": summary["holdout_groups"],
    }


def _open(run: Path, overrides: Sequence[str]) -> tuple[RunConfig, Selector]:
    config, selector = load_run_config(run), Selector.from_pretrained(run / "selector")
    config = with_overrides(config, overrides)
    check_features(config, selector)
    return config, selector


def _new_to(known: PairTable, table: PairTable) -> tuple[PairTable, dict[str, int]]:
    """The pairs of groups that ``known`` has and that it does not hold under the same group; reason → left out."""
    used, groups = {_content(pair) for pair in known.pairs}, known.groups()
    reasons = [
        OTHER_GROUP if pair.group not in groups else IN_TRAINING if _content(pair) in used else ""
        for pair in table.pairs
    ]
    skipped = Counter(table.report.skipped) + Counter(filter(None, reasons))
    return table.select([row for row, reason in enumerate(reasons) if not reason]), dict(skipped)


def _content(pair: Pair) -> tuple[object, ...]:
    return pair.group, pair.prompt, frozenset((pair.chosen, pair.rejected))


def _scaling(selector: Selector, run: Path) -> Scaling:
    if selector.scaling is None:
        raise RunError("its selector holds no feature scaling.", fix="Train the run again.", where=str(run))
    return selector.scaling


def _load(config: RunConfig, pairs: Path, group_column: str | None) -> PairTable:
    values: dict[str, Any] = {"source": "table", "path": str(pairs), "strict": config.data.strict}
    columns = config.data.map.model_dump() if config.data.source == "table" else {}
    if group_column is not None:
        columns["group"] = group_column
    return load(DataConfig.parse(values | ({"map": columns} if columns else {})))


def _take(pairs: Pairs, rows: Tensor) -> Pairs:
    return Pairs(pairs.chosen[rows], pairs.rejected[rows], pairs.weight[rows], pairs.slot[rows])
