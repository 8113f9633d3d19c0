"""``fedvpa evaluate`` and ``fedvpa personalize``: a trained run on new pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fedvpa.api.config import RunConfig
from fedvpa.api.prepare import prepare, prepare_pairs
from fedvpa.api.train import load_run_config
from fedvpa.core.errors import DataError
from fedvpa.data import DataConfig, PairTable, load, rows_by_group
from fedvpa.evaluation.accuracy import infer_clients, score_clients
from fedvpa.evaluation.comparison import comparison
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector


def evaluate(run: Path, pairs: Path, *, group_column: str | None = None) -> dict[str, Any]:
    """Score a trained run on new labelled pairs: every seen client on those of its own group.

    z comes from the client's training pairs.

    Args:
        run: The run directory.
        pairs: A JSONL or Parquet file of pairs with groups.
        group_column: The column of groups, if it is not ``group``.

    Raises:
        DataError: If a pair has no group, or no group is one that the run's clients have.
    """
    config, selector = load_run_config(run), Selector.from_pretrained(run / "selector")
    table = _load(config, pairs, group_column)
    if any(pair.group is None for pair in table.pairs):
        raise DataError(
            "some pairs have no group, and a client is scored on the pairs of its own.",
            fix="Name their column with --group-column.",
            where=str(pairs),
        )
    prepared = prepare(config)
    clients = prepared.federation.partition.seen
    held = _by_group(config, table, selector)
    shared = sorted(set(held) & {client.group for client in clients if client.group})
    if not shared:
        raise DataError(
            f"its groups ({', '.join(sorted(held))}) are none of the run's ({', '.join(prepared.federation.groups)}).",
            fix="Name the right column with --group-column.",
            where=str(pairs),
        )
    by_group = config.method == "oracle"
    posterior = infer_clients(selector, prepared.federation, clients, by_group=by_group)
    scores = score_clients(
        selector, prepared.federation, clients, posterior, method=config.method, seed=config.seed, holdout=held
    )
    summary = comparison(scores, {})["summary"][0]
    return {
        "run": str(run),
        "pairs": len(table),
        "skipped": table.report.skipped,
        "accuracy": summary["holdout_mean"],
        "ci95": summary["holdout_ci95"],
        "groups": summary["holdout_groups"],
    }


def personalize(run: Path, pairs: Path) -> dict[str, Any]:
    """A new user's posterior from labelled pairs, and how it lies among the prototypes. Nothing is written.

    Args:
        run: The run directory.
        pairs: A JSONL or Parquet file of the user's pairs.

    Returns:
        ``pairs`` used, posterior ``mean`` and ``std`` [k], ``responsibilities`` [m] over the prototypes, the index of
        the likeliest ``prototype``, and ``context_accuracy``, the share of the given pairs that the selector then
        orders as the user did (which z has seen: no estimate of accuracy on others).
    """
    config, selector = load_run_config(run), Selector.from_pretrained(run / "selector")
    table = _load(config, pairs, None)
    if selector.scaling is None:
        raise DataError("the run's selector holds no feature scaling.", fix="Train the run again.", where=str(run))
    context = prepare_pairs(config, table, selector.scaling)
    posterior = selector.infer(context)
    mean, log_var = posterior.gaussian()
    near = selector.with_inference("responsibilities") if len(posterior.weights) == 1 else None
    share = (near.infer(context) if near and config.method.startswith("fedvp") else posterior).weights
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


def _load(config: RunConfig, pairs: Path, group_column: str | None) -> PairTable:
    values: dict[str, Any] = {"source": "table", "path": str(pairs), "strict": config.data.strict}
    columns = config.data.map.model_dump() if config.data.source == "table" else {}
    if group_column is not None:
        columns["group"] = group_column
    return load(DataConfig.parse(values | ({"map": columns} if columns else {})))


def _by_group(config: RunConfig, table: PairTable, selector: Selector) -> dict[str, Pairs]:
    if selector.scaling is None:
        raise DataError("the selector holds no feature scaling.", fix="Train the run again.")
    together = prepare_pairs(config, table, selector.scaling)
    found = {}
    for group, rows in rows_by_group(table).items():
        index = torch.from_numpy(rows)
        found[group] = Pairs(
            together.chosen[index], together.rejected[index], together.weight[index], together.slot[index]
        )
    return found
