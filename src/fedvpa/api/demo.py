"""``fedvpa demo``: both stages on the bundled world, in minutes: methods, new users, policies, figures, one page."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fedvpa.api.compare import compare, write_result
from fedvpa.api.report import report
from fedvpa.core.files import user_path
from fedvpa.core.signals import interrupting
from fedvpa.evaluation.accuracy import infer_clients
from fedvpa.evaluation.accuracy_tables import few_shot_curve
from fedvpa.evaluation.report.accuracy_figures import ALL_CLIENTS
from fedvpa.evaluation.scores import ClientScore
from fedvpa.experiments.policy_cells import policy_cells, run_policies
from fedvpa.experiments.processes import run_all
from fedvpa.experiments.results import ComparisonResult
from fedvpa.experiments.selector_cells import few_shot
from fedvpa.runs.config import RunConfig
from fedvpa.runs.fit import fit
from fedvpa.runs.prepare import prepare
from fedvpa.world.accuracy import population_bayes_accuracy
from fedvpa.world.users import find_population, make_users

CLIENTS, UNSEEN, SEEDS = 20, 20, 3
SELECTORS = ("fedeb", "fedvpa_gp", "fedvpl", "global", "local", "informed", "oracle")
"""The methods that the demo compares: those of the paper and the yardsticks; ``fedvpa compare`` has more."""
POLICIES = ("fedeb", "global")
"""The methods whose policies the demo trains, on its first seed; ``fedvpa compare --stage policy`` trains them all."""
JUDGED_PROMPTS = 300
SHOTS = (1, 2, 4, 8, 16, 32)


def demo(
    out: str | os.PathLike[str] = Path("runs/demo"),
    *,
    seeds: int = SEEDS,
    clients: int = CLIENTS,
    jobs: int | None = None,
) -> ComparisonResult:
    """Compare seven methods on the ``two-groups`` world, align two of them, and write ``out/report.html``.

    Args:
        out: The folder; an earlier demo's report is replaced, its finished runs are reused.
        seeds: Number of seeds.
        clients: Number of seen clients.
        jobs: Processes; by default one per core, or one for each GPU where policies train. With 1 this process alone.

    Returns:
        What ``comparison.json`` holds, by stage.

    Raises:
        Interrupted: After SIGINT or SIGTERM; finished runs are kept.
    """
    with interrupting(f"the demo stopped. Its finished runs are kept in {out}, and the same command goes on."):
        return _demo(user_path(out), seeds, clients, jobs)


def _demo(out: Path, seeds: int, clients: int, jobs: int | None) -> ComparisonResult:
    config = RunConfig.parse(
        {
            "partition": {"kind": "natural", "unseen": UNSEEN},
            "policy": {"judging": {"prompts": JUDGED_PROMPTS}},
        }
    )
    selectors = compare(config, methods=SELECTORS, clients=[clients], seeds=seeds, out=out, jobs=jobs)
    shown = _shown(config.with_clients(clients), out, clients, seeds, jobs)
    cells = policy_cells(config, methods=POLICIES, clients=[clients], seeds=1, first_seed=0, out=out)
    result = replace(selectors, policies=run_policies(cells, jobs), page=shown)
    write_result(result)
    report(out)
    return result


def _shown(config: RunConfig, out: Path, clients: int, seeds: int, jobs: int | None) -> dict[str, Any]:
    """What the demo shows beside its comparison, as ``comparison.json`` keeps it for ``fedvpa report``."""
    curve = few_shot_curve(_shots(config, seeds, jobs))
    first = config.with_seed(0)
    prepared = prepare(first)
    federation, selector = prepared.federation, fit(first, prepared).selector
    seen = federation.partition.seen
    spread = infer_clients(selector.with_inference("laplace"), federation, seen)
    users = make_users(find_population("two-groups"), clients + UNSEEN, 0)
    command = ["fedvpa", "demo", "--out", str(out), "--clients", str(clients), "--seeds", str(seeds)]
    return {
        "title": "fedvpa demo: users who disagree",
        "command": shlex.join(command),
        "bayes": {ALL_CLIENTS: population_bayes_accuracy(users, first.data.temperature, first.data.flip)},
        "latent_map": {
            "means": spread.mean.tolist(),
            "groups": [str(client.group) for client in seen],
            "prototypes": selector.prototypes.tolist(),
            "caption": "Laplace posterior means of seed 0.",
        },
        "few_shot": [point.to_dict() for point in curve],
    }


def _shots(config: RunConfig, seeds: int, jobs: int | None) -> dict[int, list[ClientScore]]:
    runs = [
        config.with_seed(seed).with_method(method) for seed in range(seeds) for method in ("fedeb", "fedvpl", "local")
    ]
    found: dict[int, list[ClientScore]] = {count: [] for count in SHOTS}
    for scored in run_all(partial(few_shot, shots=SHOTS), runs, jobs):
        for count, scores in scored.items():
            found[count] += scores
    return found
