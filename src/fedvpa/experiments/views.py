"""What a selector cell is scored on beside the test pairs of its clients, and the tables of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fedvpa.algorithms.base import placed_by_group
from fedvpa.algorithms.registry import make
from fedvpa.alignment.stage1 import Users
from fedvpa.data.familiar import by_familiarity
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.data.splits import Ints
from fedvpa.evaluation.ablations import ablation_rows
from fedvpa.evaluation.accuracy import infer_clients, score_clients
from fedvpa.evaluation.four_way import Kind, four_way_rows
from fedvpa.evaluation.group_rows import group_rows
from fedvpa.evaluation.own_wins import own_wins_scores
from fedvpa.evaluation.pooled import load_pooled, pooled_rows, pooled_scores, save_pooled
from fedvpa.evaluation.scores import ClientScore, load_scores, save_scores
from fedvpa.evaluation.shot_rows import shot_rows
from fedvpa.evaluation.summaries import OWN_WINS, JsonResult
from fedvpa.experiments.cells import Cell
from fedvpa.runs.config import RunConfig
from fedvpa.runs.fit import Trained
from fedvpa.runs.prepare import Prepared
from fedvpa.runs.scores import item_names

POOLED = "pooled"

PROMPTS: tuple[Kind, ...] = ("seen", "unseen")


def scores_path(cell: Cell, view: str = "") -> Path:
    """Where the scores of a cell are kept, or those of one of its views."""
    return cell.folder / (f"{cell.name}.{view}.jsonl" if view else f"{cell.name}.jsonl")


def named_after(cell: Cell, scores: Iterable[ClientScore]) -> list[ClientScore]:
    """Scores under the name of the cell's row, which for a variant is not that of its method."""
    method = cell.config.method
    return [replace(score, method=cell.method + score.method.removeprefix(method)) for score in scores]


def variants_of(cells: Sequence[Cell]) -> dict[str, str]:
    """The names of the rows that are variants, and the row that each is a variant of."""
    return {cell.method: cell.variant_of for cell in cells if cell.variant_of}


def save_views(cell: Cell, config: RunConfig, prepared: Prepared, done: Trained) -> None:
    """Score a finished training on each view of the cell, and pooled over true groups where there are several."""
    seen, groups = prepared.federation.partition.seen, {client.group for client in prepared.federation.partition.seen}
    if done.seen.posterior is not None and len(groups - {None}) > 1:
        pooled = pooled_scores(
            done.selector,
            prepared.federation,
            seen,
            done.seen.posterior,
            method=cell.method,
            seed=config.seed,
            items=item_names(prepared),
        )
        save_pooled(scores_path(cell, POOLED), pooled)
    if cell.views.shots:
        for count, scores in shot_scores(config, prepared, done, cell.views.shots).items():
            save_scores(scores_path(cell, f"shots-{count}"), named_after(cell, scores))
    if cell.views.four_way:
        for prompts, rows in zip(PROMPTS, _familiarity(prepared), strict=True):
            scores = [
                score
                for users, clients in _users(prepared, done)
                for score in _scores_on(rows, users, clients, config, prepared, done)
            ]
            save_scores(scores_path(cell, f"{prompts}-prompts"), named_after(cell, scores))


def save_own_wins(cell: Cell, prepared: Prepared) -> None:
    """The row that reads no text, on the test pairs and on each view of the cell; shots are not for it."""
    partition, items, size = prepared.federation.partition, item_names(prepared), len(prepared.federation.client_ids)
    told = {"n_clients": size, "seed": cell.config.seed}
    save_scores(scores_path(cell), own_wins_scores(prepared.table.pairs, partition.clients, items, **told))
    if cell.views.four_way:
        for prompts, rows in zip(PROMPTS, _familiarity(prepared), strict=True):
            clients = [replace(client, test=rows[client.client_id]) for client in partition.clients]
            found = own_wins_scores(prepared.table.pairs, clients, items, **told)
            save_scores(scores_path(cell, f"{prompts}-prompts"), found)


def shot_scores(
    config: RunConfig, prepared: Prepared, done: Trained, shots: Sequence[int]
) -> dict[int, list[ClientScore]]:
    """Scores of unseen clients by the number of labelled pairs that they give; only of those that have so many."""
    algorithm, federation, items = make(config.method, config.method_config), prepared.federation, item_names(prepared)
    found: dict[int, list[ClientScore]] = {}
    for count in shots:
        unseen = [client for client in federation.partition.unseen if len(client.train) >= count]
        if not unseen:
            found[count] = []
            continue
        by_group = placed_by_group(algorithm)
        posterior = infer_clients(done.selector, federation, unseen, by_group=by_group, shots=count)
        found[count] = score_clients(
            done.selector, federation, unseen, posterior, method=config.method, seed=config.seed, items=items
        )
    return found


def gather_views(
    cells: Sequence[Cell], scores: Sequence[ClientScore], *, same_users: bool
) -> dict[str, tuple[JsonResult, ...]]:
    """The tables that were asked for, and that of groups where there are several, by their keys in ``comparison.json``.

    Args:
        cells: Finished ones of one comparison.
        scores: Of all of them on the test pairs of their clients.
        same_users: As of :func:`fedvpa.evaluation.accuracy_tables.comparison`.
    """
    found: dict[str, tuple[JsonResult, ...]] = {}
    views, variants = cells[0].views, variants_of(cells)
    groups = group_rows(scores, same_users=same_users)
    if groups:
        found["groups"] = groups
    trained = [cell for cell in cells if cell.method != OWN_WINS]
    if groups and all(scores_path(cell, POOLED).is_file() for cell in trained):
        pooled = [score for cell in trained for score in load_pooled(scores_path(cell, POOLED))]
        found["pooled"] = pooled_rows(pooled, same_users=same_users)
        found["pooled_groups"] = group_rows(pooled, same_users=same_users)
    if variants:
        found["ablations"] = ablation_rows(scores, next(iter(variants.values())), variants, same_users=same_users)
    if views.shots:
        by_count = {count: _load(trained, f"shots-{count}") for count in views.shots}
        found["shots"] = shot_rows(by_count, same_users=same_users)
    if views.four_way:
        by_prompts = {prompts: _load(cells, f"{prompts}-prompts") for prompts in PROMPTS}
        unseen_users = cells[0].config.partition.unseen > 0
        found["four_way"] = four_way_rows(by_prompts, unseen_users, same_users=same_users)
    return found


def _load(cells: Sequence[Cell], view: str) -> list[ClientScore]:
    return [score for cell in cells for score in load_scores(scores_path(cell, view))]


def _familiarity(prepared: Prepared) -> tuple[dict[str, Ints], dict[str, Ints]]:
    return by_familiarity(prepared.table, prepared.federation.partition, prepared.aside)


def _users(prepared: Prepared, done: Trained) -> list[tuple[Users, tuple[ClientRows, ...]]]:
    partition = prepared.federation.partition
    return [(done.seen, partition.seen), (done.unseen, partition.unseen)]


def _scores_on(
    rows: dict[str, Ints],
    users: Users,
    clients: Sequence[ClientRows],
    config: RunConfig,
    prepared: Prepared,
    done: Trained,
) -> list[ClientScore]:
    """Scores of users on other test rows than their own."""
    if users.posterior is None:
        return []
    others = [replace(client, test=rows[client.client_id]) for client in clients]
    federation = replace(prepared.federation, partition=Partition(tuple(others)))
    scores = score_clients(
        done.selector,
        federation,
        others,
        users.posterior,
        method=config.method,
        seed=config.seed,
        items=item_names(prepared),
    )
    size = len(prepared.federation.client_ids)
    return [replace(score, n_clients=size) for score in scores]
