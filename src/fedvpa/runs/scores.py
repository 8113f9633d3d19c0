"""What is measured on a trained selector."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedvpa.algorithms.registry import make
from fedvpa.core.progress import say
from fedvpa.data.partition import Partition
from fedvpa.data.schema import PairTable
from fedvpa.data.splits import unit_names
from fedvpa.evaluation.accuracy import control_scores, score_clients
from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.intervals import estimate
from fedvpa.evaluation.latents import LatentReport, diagnose
from fedvpa.evaluation.scores import SWAPPED_Z, ClientScore, control_name, control_of, item_name
from fedvpa.evaluation.student import Interval
from fedvpa.evaluation.summaries import SHARE, JsonResult, ends_of, method_ends_of, value_of
from fedvpa.runs.config import RunConfig
from fedvpa.runs.fit import Trained
from fedvpa.runs.prepare import Prepared
from fedvpa.runs.truth import margins, truth_of


def run_scores(config: RunConfig, prepared: Prepared, done: Trained) -> list[ClientScore]:
    """Seen and unseen clients, and the controls of methods with a latent."""
    federation, items = prepared.federation, item_names(prepared)
    method, seed = config.method, config.seed
    scores: list[ClientScore] = []
    for users, clients in ((done.seen, federation.partition.seen), (done.unseen, federation.partition.unseen)):
        if users.posterior is not None:
            posterior = users.posterior
            scores += score_clients(
                done.selector, federation, clients, posterior, method=method, seed=seed, items=items
            )
    seen = federation.partition.seen
    if make(method, config.method_config).personal and len(seen) > 1 and done.seen.posterior is not None:
        posterior = done.seen.posterior
        scores += control_scores(done.selector, federation, seen, posterior, method=method, seed=seed, items=items)
    return scores


def item_names(prepared: Prepared) -> list[str]:
    """What each pair is about, for intervals: the unit that is held out as a whole, by its short name."""
    rule = prepared.federation.partition.rule
    return [item_name(name) for name in unit_names(prepared.table.pairs, "prompt" if rule is None else rule.unit)]


def conflict_scores(config: RunConfig, prepared: Prepared, done: Trained) -> list[ClientScore]:
    """The method, and its control with another group's z, on the test pairs that groups disagree on.

    On these a z of the other group must do worse than chance. Empty where utilities are unknown or z is not inferred;
    clients without such a pair have no score.
    """
    personal = make(config.method, config.method_config).personal
    disagreed = conflicting(config, prepared.table) if personal else None
    if disagreed is None or done.seen.posterior is None:
        return []
    seen = [replace(client, test=client.test[disagreed[client.test]]) for client in prepared.federation.partition.seen]
    federation = replace(prepared.federation, partition=Partition(tuple(seen)))
    method, seed, items = config.method, config.seed, item_names(prepared)
    own = score_clients(done.selector, federation, seen, done.seen.posterior, method=method, seed=seed, items=items)
    controls = control_scores(
        done.selector, federation, seen, done.seen.posterior, method=method, seed=seed, items=items
    )
    return own + [score for score in controls if score.method == control_name(method, SWAPPED_Z)]


@dataclass(frozen=True, slots=True)
class ConflictRow(JsonResult):
    """Accuracy on the test pairs that groups order in different ways.

    Attributes:
        method: The method.
        control: The control of it; None for the method itself.
        n_clients: How many clients trained.
        mean: Mean over clients.
        ci95: Its interval, of these trained models.
        method_ci95: Its interval over training seeds too; None with a single seed.
    """

    method: str
    control: str | None
    n_clients: int
    mean: float | None
    ci95: Interval | None
    method_ci95: Interval | None


def conflict_rows(scores: Iterable[ClientScore], *, same_users: bool = False) -> tuple[ConflictRow, ...]:
    """One row for each method and control at each number of clients.

    Args:
        scores: As of :func:`conflict_scores`.
        same_users: As of :func:`fedvpa.evaluation.accuracy_tables.comparison`.
    """
    cells: dict[tuple[str, int], list[ClientScore]] = {}
    for score in scores:
        cells.setdefault((score.method, score.n_clients), []).append(score)
    rows = []
    for (name, n_clients), scored in cells.items():
        method, control = control_of(name)
        sample = ClientSample.of(scored, same_users=same_users)
        value = estimate(sample, bounds=SHARE) if sample is not None else None
        ends = ends_of(value), method_ends_of(value)
        rows.append(ConflictRow(method, control, n_clients, value_of(value), *ends))
    return tuple(rows)


def latents(config: RunConfig, done: Trained) -> LatentReport | None:
    """Diagnostics of the clients' posteriors; None where the method has no latent."""
    if done.seen.posterior is None or not done.selector.way.latent:
        return None
    mean, log_var = done.seen.posterior.gaussian()
    groups = done.seen.groups
    prototypes = done.selector.prototypes
    nearest = torch.cdist(mean, prototypes).argmin(-1)
    return diagnose(
        mean.double().numpy(),
        log_var.double().numpy(),
        None if any(group is None for group in groups) else [str(group) for group in groups],
        prototypes.double().numpy(),
        nearest.tolist(),
        typical=make(config.method, config.method_config).has_prototypes,
    )


def say_alarms(alarms: Iterable[str], method: str) -> None:
    """Print what is alarming about the latents of a run, a line each, on stderr."""
    for alarm in alarms:
        say(f"ALARM: the latents of {method}: {alarm}")


def conflicting(config: RunConfig, table: PairTable) -> NDArray[np.bool_] | None:
    """Which pairs groups order in different ways; None where the utilities of groups are not known."""
    truth = truth_of(config)
    if truth is None or not truth.groups:
        return None
    gaps = np.array([margins(truth.of_group, name, table.pairs) for name in truth.groups])
    return np.asarray((gaps.max(axis=0) > 0) & (gaps.min(axis=0) < 0))
