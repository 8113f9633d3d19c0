"""Cells that train a selector: their scores, and what all of them say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedvpa.algorithms.registry import make
from fedvpa.core.config import UNSET
from fedvpa.core.identity import digest
from fedvpa.core.progress import say
from fedvpa.data.report import say_report
from fedvpa.evaluation.accuracy import score_clients
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.evaluation.privacy_rows import privacy_rows
from fedvpa.evaluation.scores import ClientScore, load_scores, save_scores
from fedvpa.evaluation.summaries import BAYES, GLOBAL, OWN_WINS
from fedvpa.experiments.bayes_cells import bayes_cells, gather_bayes, run_bayes
from fedvpa.experiments.cells import NO_VIEWS, Cell, Views, settings_of
from fedvpa.experiments.population import check_population
from fedvpa.experiments.processes import run_all
from fedvpa.experiments.results import SelectorComparison
from fedvpa.experiments.views import (
    gather_views,
    named_after,
    save_own_wins,
    save_views,
    scores_path,
    shot_scores,
    variants_of,
)
from fedvpa.runs.config import RunConfig
from fedvpa.runs.fit import check_groups, fit
from fedvpa.runs.identity import pairs_content, selector_content, selector_settings
from fedvpa.runs.prepare import prepare, prepare_holdout, say_features
from fedvpa.runs.scores import conflict_rows, conflict_scores, item_names, run_scores


def selector_cells(
    config: RunConfig,
    *,
    methods: Sequence[str],
    clients: Sequence[int],
    seeds: int,
    first_seed: int,
    holdout: Path | None,
    out: Path,
    variants: Mapping[str, RunConfig] | None = None,
    views: Views = NO_VIEWS,
) -> list[Cell]:
    """One cell for each method or variant, number of clients and seed; arguments as of :func:`fedvpa.compare`."""
    content = selector_content(config) | {"holdout": UNSET if holdout is None else _holdout_content(config, holdout)}
    content |= views.parts()
    # The row of own wins trains nothing; its run only names the data.
    runs = [(name, "", config.with_method(GLOBAL if name == OWN_WINS else name)) for name in methods]
    runs += [(name, config.method, run) for name, run in (variants or {}).items()]
    settings = [settings_of(run, clients, seeds, first_seed) for *_, run in runs]
    cells = []
    for across in zip(*settings, strict=True):
        for (name, of, _), run in zip(runs, across, strict=True):
            identity = digest(selector_settings(run) | content)
            cells.append(Cell("selector", name, run, identity, out, holdout, views, of))
    return cells


def _holdout_content(config: RunConfig, holdout: Path) -> str:
    """The content of the pairs that nobody trains on, whatever file or folder holds them."""
    data = config.data.model_copy(update={"path": str(holdout), "split": ""})
    return pairs_content(config.model_copy(update={"data": data}))


def run_selectors(cells: Sequence[Cell], jobs: int | None) -> SelectorComparison:
    """Run the cells that are not finished, and gather all.

    Args:
        cells: Of one comparison, all of its selector stage.
        jobs: As of :func:`fedvpa.experiments.processes.run_all`.

    Raises:
        InputError: If the data cannot be used; nothing has run then.
    """
    missing = [cell for cell in cells if not cell.is_done]
    _prepare_data(missing)
    known = [cell for cell in bayes_cells(cells) if not cell.is_done]
    run_all(run_selector_cell, [*missing, *known], jobs, label=lambda cell: cell.label)
    return gather_selectors(cells)


def _prepare_data(cells: Sequence[Cell]) -> None:
    """Leave features in the cache, so that no two processes extract the same, and raise what is wrong with the data."""
    settings = {(c.config.partition.clients, c.config.seed, str(c.config.features)): c for c in cells}
    configs = {(cell.config.method, str(cell.config.method_config)): cell.config for cell in cells}
    algorithms = [make(config.method, config.method_config) for config in configs.values()]
    seen_features: set[str] = set()
    check_population([cell.config for cell in settings.values()])
    for place, cell in enumerate(settings.values()):
        prepared = prepare(cell.config)
        if not place:
            say(str(prepared.held_out))
            say_report(prepared.table.report)
            say_features(prepared.features)
        for algorithm in algorithms:
            check_groups(algorithm, prepared)
        if cell.holdout is not None:
            config = cell.config.model_copy(update={"features": prepared.features})
            held = prepare_holdout(config, cell.holdout, prepared.table, prepared.federation.scaling)
            if not place:
                say_report(held.report, str(cell.holdout))
        seen_features.add(str(cell.config.features))
        if cell.config.data.source != "world" and len(seen_features) == len({key[2] for key in settings}):
            return


def conflict_scores_path(cell: Cell) -> Path:
    """Where its scores on the pairs that groups disagree on are kept."""
    return cell.folder / f"{cell.name}.conflicting.jsonl"


def run_selector_cell(cell: Cell) -> None:
    """Train, score, and keep the scores of one run; of a row that trains nothing, score what is known."""
    if cell.method == BAYES:
        found = run_bayes(cell)
        save_scores(scores_path(cell), found.scores)
        expected = {"expected": found.expected, "unseen_expected": found.unseen_expected}
        cell.finish(0.0, n_clients=found.n_clients, **expected)
        return
    config = cell.config.model_copy(update={"engine": cell.config.engine.model_copy(update={"workers": 1})})
    prepared = prepare(config, aside=config.partition.test_fraction if cell.views.four_way else 0.0)
    notes = {"data": prepared.table.report.to_dict(), "held_out": prepared.held_out.to_dict()}
    if cell.method == OWN_WINS:
        save_own_wins(cell, prepared)
        cell.finish(0.0, **notes)
        return
    config = config.model_copy(update={"features": prepared.features})
    done = fit(config, prepared)
    if done.privacy is not None:
        notes["privacy"] = dict(done.privacy)
    scores = run_scores(config, prepared, done)
    if cell.holdout is not None and done.seen.posterior is not None:
        held = prepare_holdout(config, cell.holdout, prepared.table, prepared.federation.scaling)
        seen = prepared.federation.partition.seen
        further = score_clients(
            done.selector,
            prepared.federation,
            seen,
            done.seen.posterior,
            method=config.method,
            seed=config.seed,
            holdout=held.pairs,
            items=item_names(prepared),
        )
        notes["holdout_data"] = held.report.to_dict()
        scores = further + [score for score in scores if not score.seen or score.method != config.method]
    save_scores(scores_path(cell), named_after(cell, scores))
    save_scores(conflict_scores_path(cell), named_after(cell, conflict_scores(config, prepared, done)))
    save_views(cell, config, prepared, done)
    cell.finish(done.seconds, **notes)


def gather_selectors(cells: Sequence[Cell]) -> SelectorComparison:
    """What the finished cells say; their scores are left in ``scores.jsonl``."""
    same_users, known = cells[0].config.same_users, bayes_cells(cells)
    scores: list[ClientScore] = []
    disagreed: list[ClientScore] = []
    seconds, spent = {}, {}
    for cell in cells:
        found = load_scores(scores_path(cell))
        scores += found
        if cell.method != OWN_WINS:
            disagreed += load_scores(conflict_scores_path(cell))
        run = (cell.method, found[0].n_clients, cell.config.seed)
        seconds[run], spent[run] = cell.seconds, cell.notes.get("privacy")
    known = [cell for cell in known if cell.is_done]  # comparisons of earlier releases have none
    scores += [score for cell in known for score in load_scores(scores_path(cell))]
    save_scores(cells[0].out / "scores.jsonl", scores)
    data = {name: value for name, value in cells[0].notes.items() if name in ("data", "holdout_data")}
    return SelectorComparison(
        comparison(scores, seconds, same_users=same_users, variants=variants_of(cells)),
        conflict_rows(disagreed, same_users=same_users),
        {"data": None, **data},
        gather_bayes(known, scores, same_users=same_users),
        gather_views(cells, scores, same_users=same_users),
        privacy_rows(spent),
    )


def few_shot(config: RunConfig, shots: Sequence[int]) -> dict[int, list[ClientScore]]:
    """Scores of unseen clients by the number of labelled pairs that they give."""
    prepared = prepare(config)
    return shot_scores(config, prepared, fit(config, prepared), shots)
