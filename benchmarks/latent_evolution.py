"""How the latents of users come apart by rounds: the paper's figure of latent evolution (arXiv 2605.30873).

A run is trained, and after some of its rounds z of every seen user is inferred from the user's own training pairs, by
the selector as it is then. Draws the users' posterior means, less their mean over users, at each of these rounds, all
in the plane of the first two principal components of the last one, coloured by true group, which training never saw.
A table says how well z tells
the groups apart (adjusted Rand index and silhouette), and the accuracy of the users' own test pairs.

    python benchmarks/latent_evolution.py --out runs/latents --config configs/world_two_groups.yaml method=fedvpa_gp
    python benchmarks/latent_evolution.py --out runs/hh --config configs/hh_objectives.yaml data.path=P features.model=M

The figure is of the first seed; the table has a mean over seeds, and the least and the greatest value.
``latents.json`` and ``latents.png`` are in the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from _machine import machine_facts
from fedvpa.core.errors import ConfigError
from fedvpa.core.files import write_json
from fedvpa.evaluation.report.latent_figure import draw_groups, principal_plane
from fedvpa.evaluation.report.style import FAINT, INK, light_frame, new_figure, save_figure
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.fit import SelectorJob, Trained
from fedvpa.runs.prepare import prepare
from fedvpa.runs.scores import latents, run_scores


@dataclass(frozen=True)
class Snapshot:
    """Users after a round.

    Attributes:
        round: How many rounds are over.
        means: Posterior means of the seen users; [n, k].
        groups: Their true groups.
        accuracy: Of their own test pairs, mean over users.
        ari: Adjusted Rand index of k-means on the means against the true groups.
        silhouette: Of the means under the true groups.
    """

    round: int
    means: np.ndarray
    groups: tuple[str, ...]
    accuracy: float
    ari: float | None
    silhouette: float | None


def snapshots(config: RunConfig, at: Sequence[int]) -> list[Snapshot]:
    """Train, and look at the users after each of the rounds ``at``; the last round is looked at anyway.

    Raises:
        ConfigError: If the method has no rounds or no latent.
    """
    prepared = prepare(config)
    job = SelectorJob(config, prepared)
    wanted = {number for number in at if number < job.total} | {job.total}
    found = []
    for _ in job.run():
        if job.done in wanted:
            found.append(_look(config, prepared, job.finish(0.0), job.done))
    if not found:
        raise ConfigError(f"{config.method!r} has no rounds.", fix="Choose another method: method=fedvpa_gp.")
    return found


def _look(config: RunConfig, prepared: Any, trained: Trained, done: int) -> Snapshot:
    report = latents(config, trained)
    if report is None or trained.seen.posterior is None:
        raise ConfigError(f"{config.method!r} has no latent.", fix="Choose another method: method=fedvpa_gp.")
    mean, _ = trained.seen.posterior.gaussian()
    seen = {client.client_id for client in prepared.federation.partition.seen}
    scores = [one for one in run_scores(config, prepared, trained) if one.method == config.method]
    own = [one.accuracy for one in scores if one.client_id in seen and one.accuracy is not None]
    groups = tuple(str(group) for group in trained.seen.groups)
    return Snapshot(done, mean.double().numpy(), groups, float(np.mean(own)), report.posterior_ari, report.silhouette)


def figure(found: Sequence[Snapshot]) -> Figure:
    """A panel for each snapshot, all with the same axes; the mean over users is in the middle of each."""
    last = found[-1].means
    basis, _ = principal_plane(last - last.mean(axis=0))
    places = [(one.means - one.means.mean(axis=0)) @ basis for one in found]
    shown = new_figure(2.5 * len(found), 3.1)
    panels = shown.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0]
    for panel, one, points in zip(panels, found, places, strict=True):
        draw_groups(panel, points, np.array(one.groups), size=26)
        panel.set_title(f"round {one.round}", fontsize=10, color=INK)
        said = "–" if one.ari is None else f"{one.ari:.2f}"
        panel.text(0.03, 0.97, f"ARI {said}", transform=panel.transAxes, fontsize=8.5, color=FAINT, va="top")
        light_frame(panel)
    panels[0].set_ylabel("component 2 of the last round", fontsize=8.5, color=INK)
    panels[len(found) // 2].set_xlabel("component 1 of the last round", fontsize=8.5, color=INK)
    handles, names = panels[0].get_legend_handles_labels()
    shown.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK)
    return shown


def table(found: Sequence[Sequence[Snapshot]]) -> list[dict[str, Any]]:
    """A row for each round looked at: means over seeds, with the least and the greatest value."""
    rows = []
    for together in zip(*found, strict=True):
        row: dict[str, Any] = {"round": together[0].round, "seeds": len(together)}
        for name in ("accuracy", "ari", "silhouette"):
            values = [value for value in (getattr(one, name) for one in together) if value is not None]
            row[name] = [float(np.mean(values)), min(values), max(values)] if values else None
        rows.append(row)
    return rows


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table in Markdown."""
    found = ["| rounds | accuracy | ARI of z | silhouette of z |", "|---|---|---|---|"]
    for row in rows:
        cells = [row[name] for name in ("accuracy", "ari", "silhouette")]
        shown = ["–" if cell is None else f"{cell[0]:.3f} ({cell[1]:.3f} to {cell[2]:.3f})" for cell in cells]
        found.append(f"| {row['round']} | {' | '.join(shown)} |")
    return found


def main() -> None:
    """Train every seed, write the figure and the table, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--rounds", default="1,2,5,10,25", help="after which rounds; the last is always looked at")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    config = read_config(options.config, options.overrides)
    at = [int(number) for number in options.rounds.split(",")]
    found = [snapshots(config.with_seed(seed), at) for seed in range(options.seeds)]
    rows = table(found)
    save_figure(figure(found[0]), options.out / "latents.png")
    write_json(options.out / "latents.json", {"machine": machine_facts(), "method": config.method, "rows": rows})
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    main()
