"""``fedvpa evaluate``: a trained run on new labelled pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import DataError
from fedvpa.data.config import check_pairs_file
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.data.schema import PairTable
    from fedvpa.evaluation.intervals import Estimate
    from fedvpa.runs.prepare import Prepared


@dataclass(frozen=True)
class EvaluateResult:
    """Accuracy of a run on new pairs.

    Attributes:
        run: The run directory.
        pairs: How many pairs were scored.
        skipped: Reason → pairs of the file that were left out.
        accuracy: Mean over clients.
        ci95: Its interval, over clients and pairs, of this trained model.
        groups: The same by group.
    """

    run: Path
    pairs: int
    skipped: Mapping[str, int]
    accuracy: float | None
    ci95: Sequence[float] | None
    groups: Mapping[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        from fedvpa.evaluation.summaries import fields_as_json

        return fields_as_json(self) | {"run": str(self.run)}


def evaluate(
    run: str | PathLike[str],
    pairs: str | PathLike[str],
    *,
    group_column: str | None = None,
    overrides: Sequence[str] = (),
) -> EvaluateResult:
    """Score a trained run on new labelled pairs: every seen client on those of its own group.

    z comes from the client's training pairs. Pairs that the run's own data hold with the same group are left out and
    counted, so that no pair is scored that training, or z, has seen.

    Args:
        run: The run directory.
        pairs: A JSONL or Parquet file of pairs with groups.
        group_column: The column of groups, if it is not ``group``.
        overrides: Where the run's data or language model are now, such as ``features.model=PATH``.

    Raises:
        DataError: If a pair has no group, no group is one that the run's clients have, or the run holds all pairs.
        ModelError: If the language model is not the one that the selector was trained on.
    """
    folder = RunFolder.open(run)
    config = folder.config(overrides)
    check_pairs_file(pairs)
    from fedvpa.data.holdout import rows_by_group
    from fedvpa.evaluation.accuracy import score_clients
    from fedvpa.evaluation.accuracy_tables import comparison
    from fedvpa.runs.new_pairs import load_pairs, scaling_of
    from fedvpa.runs.prepare import prepare, prepare_pairs
    from fedvpa.runs.stage1 import open_selector, open_users

    selector = open_selector(folder, config)
    given = load_pairs(config, Path(pairs), group_column)
    _check_groups(given, str(pairs))
    prepared = prepare(config)
    federation = prepared.federation
    table, skipped = _new_pairs(given, prepared, str(pairs))
    together = prepare_pairs(config.features, table, scaling_of(selector, folder))
    held = {group: together.rows(rows) for group, rows in rows_by_group(table).items()}
    posterior = open_users(folder, config, selector, prepared).seen.posterior
    assert posterior is not None
    clients, method, seed = federation.partition.seen, config.method, config.seed
    scores = score_clients(selector, federation, clients, posterior, method=method, seed=seed, holdout=held)
    summary = comparison(scores, {}).summary[0]
    return EvaluateResult(
        run=folder.path,
        pairs=len(table),
        skipped=skipped,
        accuracy=summary.holdout_mean,
        ci95=summary.holdout_ci95,
        groups=summary.holdout_groups,
    )


def _check_groups(table: PairTable, where: str) -> None:
    if any(pair.group is None for pair in table.pairs):
        raise DataError(
            "some pairs have no group, and a client is scored on the pairs of its own.",
            fix="Name their column with --group-column.",
            where=where,
        )


def _new_pairs(table: PairTable, prepared: Prepared, where: str) -> tuple[PairTable, dict[str, int]]:
    """The pairs that a run can be scored on, and reason → how many were left out."""
    from fedvpa.runs.new_pairs import new_to

    federation = prepared.federation
    if not set(table.groups()) & {client.group for client in federation.partition.seen}:
        raise DataError(
            f"its groups ({', '.join(table.groups())}) are none of the run's ({', '.join(federation.groups)}).",
            fix="Name the right column with --group-column.",
            where=where,
        )
    table, skipped = new_to(prepared.table, table)
    if not table.pairs:
        raise DataError(
            "the run's own data hold all of these pairs.", fix="Give pairs that training has not seen.", where=where
        )
    return table, skipped
