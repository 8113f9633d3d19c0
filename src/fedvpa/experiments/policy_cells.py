"""Cells that train a policy on top of a selector: judged once all are trained, and what all of them say together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedvpa.core.errors import InputError, JudgeError
from fedvpa.core.identity import digest
from fedvpa.core.progress import track
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.experiments.cells import Cell, settings_of
from fedvpa.experiments.judging import VERDICTS, is_judged, judge_policies, read_judged
from fedvpa.experiments.methods import selector_of
from fedvpa.experiments.policies_compared import compare_judged, say_bias
from fedvpa.experiments.policy_training import candidate_of, run_of, run_policy_cell, shows_path
from fedvpa.experiments.processes import named, run_all
from fedvpa.experiments.results import PoliciesComparison
from fedvpa.models.device import places_of
from fedvpa.runs.config import RunConfig
from fedvpa.runs.identity import policy_content, policy_settings, selector_content, selector_settings


def policy_cells(
    config: RunConfig, *, methods: Sequence[str], clients: Sequence[int], seeds: int, first_seed: int, out: Path
) -> list[Cell]:
    """One cell for each method, number of clients and seed; the methods of one seed next to each other."""
    content, cells = selector_content(config) | policy_content(config), []
    for setting in settings_of(config, clients, seeds, first_seed):
        for method in methods:
            run = setting.with_method(selector_of(method))
            parts = selector_settings(run) | policy_settings(run) | content
            identity = digest(parts | {"trained by": method})
            cells.append(Cell("policy", method, run, identity, out))
    return cells


def run_policies(cells: Sequence[Cell], jobs: int | None) -> PoliciesComparison:
    """Train and answer the cells that are not finished, judge those that were not judged so, and gather all.

    Judging comes when all policies are trained and kept, in this process, with one judge for all cells.

    Args:
        cells: Of one comparison, all of its policy stage.
        jobs: As of :func:`fedvpa.experiments.processes.run_all`: by default one for each GPU, or core where there is
            no GPU.

    Raises:
        JudgeError: If the judge gives no verdicts, or too few; the policies and their answers are kept.
    """
    missing = [cell for cell in cells if not was_judged(cell)]
    places = places_of(cells[0].config.features.device)
    run_all(run_policy_cell, missing, jobs, label=lambda cell: cell.label, places=places)
    if missing:
        config, out = missing[0].config, missing[0].out
        rules = config.policy.judging
        judge = make_judge(config.judge_name, rules.settings, out / VERDICTS, rules.max_calls)
        for cell in track(missing, "judging", len(missing), unit="runs"):
            try:
                judge_policies(candidate_of(cell), judge)
            except (InputError, JudgeError) as error:
                raise named(error, cell.label) from error
    gathered = gather_policies(cells)
    say_bias(gathered)
    return gathered


def was_judged(cell: Cell) -> bool:
    """Whether a cell is finished, and its policies were judged as its configuration asks for."""
    return cell.is_done and is_judged(run_of(cell), cell.config, along=shows_path(cell))


def gather_policies(cells: Sequence[Cell]) -> PoliciesComparison:
    """What the finished cells say; switching is that of the first size."""
    found = [read_judged(run_of(cell)) for cell in cells]
    first = cells[0].config.partition.clients
    shown = [own for cell, own in zip(cells, found, strict=True) if cell.config.partition.clients == first]
    timed = [(own, cell.seconds) for cell, own in zip(cells, found, strict=True)]
    return compare_judged(timed, shown, same_users=cells[0].config.same_users)
