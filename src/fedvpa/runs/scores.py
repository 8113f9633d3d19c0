"""What is measured on a trained selector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fedvpa.algorithms import make
from fedvpa.data.partition import Partition
from fedvpa.evaluation.accuracy import control_scores, infer_clients, score_clients
from fedvpa.evaluation.intervals import estimate
from fedvpa.evaluation.latents import diagnose
from fedvpa.evaluation.scores import SWAPPED_Z, ClientScore, control_name, control_of
from fedvpa.evaluation.units import ClientSample
from fedvpa.runs.config import RunConfig
from fedvpa.runs.fit import Trained
from fedvpa.runs.prepare import Prepared, conflicting


def run_scores(config: RunConfig, prepared: Prepared, done: Trained, by_group: bool) -> list[ClientScore]:
    """Seen and unseen clients, and the controls of methods with a latent."""
    federation = prepared.federation
    seen, unseen = federation.partition.seen, federation.partition.unseen
    method, seed = config.method, config.seed
    scores = score_clients(done.selector, federation, seen, done.posterior, method=method, seed=seed)
    if unseen:
        theirs = infer_clients(done.selector, federation, unseen, by_group=by_group)
        scores += score_clients(done.selector, federation, unseen, theirs, method=method, seed=seed)
    if make(method, config.method_config).personal and len(seen) > 1:
        scores += control_scores(done.selector, federation, seen, done.posterior, method=method, seed=seed)
    return scores


def conflict_scores(config: RunConfig, prepared: Prepared, done: Trained) -> list[ClientScore]:
    """The method, and its control with another group's z, on the test pairs that the world's groups disagree on.

    On these a z of the other group must do worse than chance. Empty where utilities are unknown or z is not inferred;
    clients without such a pair have no score.
    """
    personal = make(config.method, config.method_config).personal
    disagreed = conflicting(config, prepared.table) if personal else None
    if disagreed is None:
        return []
    seen = [replace(client, test=client.test[disagreed[client.test]]) for client in prepared.federation.partition.seen]
    federation = replace(prepared.federation, partition=Partition(tuple(seen)))
    method, seed = config.method, config.seed
    own = score_clients(done.selector, federation, seen, done.posterior, method=method, seed=seed)
    controls = control_scores(done.selector, federation, seen, done.posterior, method=method, seed=seed)
    return own + [score for score in controls if score.method == control_name(method, SWAPPED_Z)]


def conflict_summary(scores: Sequence[ClientScore]) -> list[dict[str, Any]]:
    """``method``, ``control`` (None for the method itself), ``n_clients``, ``mean`` and ``ci95`` for each of them."""
    cells: dict[tuple[str, int], list[ClientScore]] = {}
    for score in scores:
        cells.setdefault((score.method, score.n_clients), []).append(score)
    rows = []
    for (name, n_clients), found in cells.items():
        method, control = control_of(name)
        sample = ClientSample.of(found)
        value = estimate(sample) if sample is not None else None
        rows.append(
            {
                "method": method,
                "control": control,
                "n_clients": n_clients,
                "mean": value.value if value else None,
                "ci95": list(value.interval) if value and value.interval else None,
            }
        )
    return rows


def latents(prepared: Prepared, done: Trained) -> dict[str, Any] | None:
    """Diagnostics of the clients' posteriors; None where the method has no latent."""
    if done.selector.inference.method in ("none", "ridge", "vote"):
        return None
    mean, log_var = done.posterior.gaussian()
    groups = [client.group for client in prepared.federation.partition.seen]
    prototypes = done.selector.prototypes
    nearest = torch.cdist(mean, prototypes).argmin(-1)
    return diagnose(
        mean.double().numpy(),
        log_var.double().numpy(),
        None if any(group is None for group in groups) else [str(group) for group in groups],
        prototypes.double().numpy(),
        nearest.tolist(),
    ).to_dict()
