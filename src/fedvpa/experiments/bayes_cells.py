"""Cells that train nothing: where utilities are known, whoever knows each user's is scored beside the methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fedvpa.core.identity import digest
from fedvpa.evaluation.bayes_rows import BayesRow, bayes_rows
from fedvpa.evaluation.scores import ClientScore
from fedvpa.evaluation.summaries import BAYES, GLOBAL
from fedvpa.experiments.cells import Cell
from fedvpa.runs.bayes import Bayes, bayes
from fedvpa.runs.identity import selector_content, selector_settings
from fedvpa.runs.prepare import prepare
from fedvpa.runs.truth import knows_users


def bayes_cells(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each number of clients and seed of a comparison; none where nobody knows the utilities.

    Args:
        cells: The selector cells of the comparison.
    """
    found: dict[tuple[int | None, int], Cell] = {}
    for cell in cells:
        if not knows_users(cell.config):
            continue
        config = cell.config.with_method(GLOBAL)  # the cell needs its data only
        identity = digest(selector_settings(config) | selector_content(config))
        own = Cell("selector", BAYES, config, identity, cell.out)
        found.setdefault((config.partition.clients, config.seed), own)
    return list(found.values())


def run_bayes(cell: Cell) -> Bayes:
    """Score the utilities of one cell's users."""
    return bayes(cell.config, prepare(cell.config))


def gather_bayes(cells: Sequence[Cell], scores: Iterable[ClientScore], *, same_users: bool) -> tuple[BayesRow, ...]:
    """What methods reach of the finished cells' accuracy.

    Args:
        cells: Those of :func:`bayes_cells`.
        scores: Of all methods and of ``bayes``.
        same_users: As of :func:`fedvpa.evaluation.accuracy_tables.comparison`.
    """
    by_size: dict[int, list[Cell]] = {}
    for cell in cells:
        by_size.setdefault(int(cell.notes["n_clients"]), []).append(cell)
    expected = {size: (_mean(own, "expected"), _mean(own, "unseen_expected")) for size, own in by_size.items()}
    return bayes_rows(scores, expected, same_users=same_users)


def _mean(cells: Iterable[Cell], name: str) -> float | None:
    known = [cell.notes[name] for cell in cells if cell.notes[name] is not None]
    return float(np.mean(known)) if known else None
