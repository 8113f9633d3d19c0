"""Cells that train a policy on top of a selector: their duels, and what all of them say together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedvpa.algorithms.registry import METHODS
from fedvpa.core.identity import digest
from fedvpa.core.progress import say
from fedvpa.core.version import __version__
from fedvpa.evaluation.judge_bias import bias_warnings
from fedvpa.evaluation.outcomes import Outcome, load_outcomes
from fedvpa.evaluation.samples import SideBySide, side_by_side
from fedvpa.evaluation.switching import switching
from fedvpa.evaluation.win_rates import policy_comparison
from fedvpa.experiments.cells import Cell, settings_of
from fedvpa.experiments.duels import PATH_STEPS
from fedvpa.experiments.methods import OURS
from fedvpa.experiments.policy_training import outcomes_path, run_policy_cell, step_path
from fedvpa.experiments.processes import run_all
from fedvpa.experiments.results import PoliciesComparison
from fedvpa.runs.config import RunConfig
from fedvpa.runs.identity import policy_content, policy_settings, selector_content, selector_settings

SAMPLES = 4
"""Prompts that are shown side by side."""


def policy_cells(
    config: RunConfig, *, methods: Sequence[str], clients: Sequence[int], seeds: int, first_seed: int, out: Path
) -> list[Cell]:
    """One cell for each method, number of clients and seed; the methods of one seed next to each other.

    Methods whose clients train policies need no selector, only the pairs of a run: that of ``global``.
    """
    content, cells = selector_content(config) | policy_content(config), []
    for setting in settings_of(config, clients, seeds, first_seed):
        for method in methods:
            run = setting.with_method(method if method in METHODS else "global")
            parts = selector_settings(run) | policy_settings(run) | content
            identity = digest({**parts, "trained by": method, "version": __version__})
            cells.append(Cell("policy", method, run, identity, out))
    return cells


def run_policies(cells: Sequence[Cell], jobs: int | None) -> PoliciesComparison:
    """Run the cells that are not finished, and gather all.

    Args:
        cells: Of one comparison, all of its policy stage.
        jobs: As of :func:`fedvpa.experiments.processes.run_all`.
    """
    run_all(run_policy_cell, [cell for cell in cells if not cell.is_done], jobs, label=lambda cell: cell.label)
    gathered = gather_policies(cells)
    for warning in bias_warnings([judge.to_dict() for judge in gathered.win_rates.judges]):
        say(warning)
    return gathered


def gather_policies(cells: Sequence[Cell]) -> PoliciesComparison:
    """What the finished cells say; switching is that of the first size."""
    outcomes: list[Outcome] = []
    path: dict[float, list[Outcome]] = defaultdict(list)
    seconds = {}
    for cell in cells:
        found = load_outcomes(outcomes_path(cell))
        outcomes += found
        seconds[(cell.method, found[0].n_clients, cell.config.seed)] = cell.seconds
        if cell.method == OURS and cell.config.partition.clients == cells[0].config.partition.clients:
            for step in range(PATH_STEPS):
                if step_path(cell, step).is_file():
                    path[step / (PATH_STEPS - 1)] += load_outcomes(step_path(cell, step))
    curve = switching(path) if path else None
    same_users = cells[0].config.partition.kind == "natural"
    compared = policy_comparison(outcomes, seconds, same_users=same_users)
    return PoliciesComparison(compared, curve, _samples(path) if path else ())


def _samples(path: Mapping[float, Sequence[Outcome]]) -> tuple[SideBySide, ...]:
    """The first prompts, answered along the path from one preference to the other."""
    first = path[min(path)]
    shown = list(dict.fromkeys(outcome.prompt for outcome in first if outcome.seed == first[0].seed))[:SAMPLES]
    return tuple(side_by_side({f"z at {share:.0%}": path[share] for share in path}, shown))
