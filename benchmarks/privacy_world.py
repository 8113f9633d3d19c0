"""What differential privacy costs on the bundled world: accuracy at a given ε beside the same training without noise.

    gap closed = (accuracy − global) / (oracle − global)

with ``global`` and ``oracle`` without noise, on the same users, means over seeds. A round's seconds are beside those
without noise. Coins and noise come from the seed, so that a figure can be repeated: a simulation.

    python benchmarks/privacy_world.py                                # the settings of CELLS, five seeds
    python benchmarks/privacy_world.py --cell 1000,100,50,3,1e-4 --methods fedem fedeb --seeds 5
    python benchmarks/privacy_world.py --write                        # also into the table that `privacy plan` quotes

One JSON object is printed; stderr says how far it is. N = 10,000 takes most of the time and 6 GB.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from _machine import machine_facts
from fedvpa.api.train import train
from fedvpa.core.files import write_text
from fedvpa.core.progress import say
from fedvpa.privacy.measured import TABLE, Measured, measurements
from fedvpa.runs.config import RunConfig, read_config

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "world_two_groups.yaml"

METHODS = ("fedem",)
YARDSTICKS = ("global", "oracle")


@dataclass(frozen=True)
class Cell:
    """One setting.

    Attributes:
        clients: N.
        cohort: The expected number of users of a round.
        rounds: T.
        epsilon: ``epsilon_released``.
        delta: δ; None for N^−1.1.
    """

    clients: int
    cohort: int
    rounds: int
    epsilon: float
    delta: float | None = None

    @classmethod
    def read(cls, text: str) -> Cell:
        """``CLIENTS,COHORT,ROUNDS,EPSILON`` with ``,DELTA`` behind it, or without."""
        clients, cohort, rounds, epsilon, *delta = text.split(",")
        return cls(int(clients), int(cohort), int(rounds), float(epsilon), float(delta[0]) if delta else None)

    @property
    def plain(self) -> list[str]:
        """The federation, as overrides."""
        return [
            f"partition.clients={self.clients}",
            f"engine.cohort={self.cohort}",
            f"server.rounds={self.rounds}",
            "engine.checkpoint_every=0",
        ]

    @property
    def private(self) -> list[str]:
        """The same with noise."""
        delta = [] if self.delta is None else [f"privacy.delta={self.delta}"]
        own = [f"privacy.epsilon={self.epsilon}", "privacy.seeded=true", "selector.rotation=none", *delta]
        return [*self.plain, *own]


CELLS = (
    Cell(1000, 100, 50, 3.0, 1e-4),
    Cell(1000, 100, 50, 1.0, 1e-4),
    Cell(100, 50, 50, 8.0),
    Cell(10_000, 100, 50, 1.0),
)


@dataclass(frozen=True)
class Trained:
    """One training: accuracy on the users' test pairs, seconds of a round, and what it says of its noise."""

    accuracy: float
    seconds: float
    privacy: Mapping[str, Any] | None


def trained(config: RunConfig) -> Trained:
    """Train in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, Path(folder) / "run")
    assert result.accuracy is not None
    return Trained(result.accuracy, result.seconds / max(result.rounds, 1), result.privacy)


def measure(
    cell: Cell, methods: Sequence[str], seeds: Sequence[int], path: Path | None = CONFIG, more: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """A row for each method: what :class:`~fedvpa.privacy.measured.Measured` has, and all that it is made from.

    Args:
        cell: The setting.
        methods: Methods.
        seeds: Of users, training, coins and noise.
        path: The configuration under it.
        more: Overrides for every training.
    """
    found: dict[str, list[Trained]] = {}
    for seed in seeds:
        own = [f"seed={seed}", f"data.seed={seed}", *more]
        for name in YARDSTICKS:
            found.setdefault(name, []).append(trained(read_config(path, [*cell.plain, f"method={name}", *own])))
        for name in methods:
            for kind, settings in (("plain", cell.plain), ("private", cell.private)):
                config = read_config(path, [*settings, f"method={name}", *own])
                found.setdefault(f"{name} {kind}", []).append(trained(config))
        said = {name: f"{some[-1].accuracy:.4f}" for name, some in found.items()}
        say(f"{cell}, seed {seed}: {said}")
    return [_row(cell, name, found) for name in methods]


def _row(cell: Cell, method: str, found: Mapping[str, Sequence[Trained]]) -> dict[str, Any]:
    worst, best = (np.array([one.accuracy for one in found[name]]) for name in YARDSTICKS)
    gaps, kinds = {}, {kind: found[f"{method} {kind}"] for kind in ("plain", "private")}
    for kind, some in kinds.items():
        accuracy = np.array([one.accuracy for one in some])
        gaps[kind] = {
            "mean": float((accuracy.mean() - worst.mean()) / (best.mean() - worst.mean())),
            "each": ((accuracy - worst) / (best - worst)).tolist(),
            "accuracy": accuracy.tolist(),
            "seconds": float(np.median([one.seconds for one in some])),
        }
    promised = kinds["private"][0].privacy
    assert promised is not None
    row = Measured(
        method,
        cell.clients,
        cell.cohort,
        cell.rounds,
        promised["epsilon_released"],
        promised["delta"],
        promised["noise_multiplier"],
        len(worst),
        gaps["private"]["mean"],
        gaps["plain"]["mean"],
        gaps["private"]["seconds"],
        gaps["plain"]["seconds"],
    )
    yardsticks = {"global": worst.tolist(), "oracle": best.tolist()}
    return {"row": asdict(row), "gaps": gaps, **yardsticks, "privacy": dict(promised)}


def write(rows: Sequence[Measured], path: Path = TABLE) -> None:
    """Add rows to the table, in place of those of the same setting."""
    kept = {_setting(row): row for row in (*measurements(path), *rows)}
    table = [asdict(kept[name]) for name in sorted(kept)]
    write_text(path, json.dumps({"rows": table}, indent=1) + "\n")


def _setting(row: Measured) -> tuple[Any, ...]:
    return row.method, row.clients, row.cohort, row.rounds, round(row.epsilon, 2), row.delta


def main() -> None:
    """Train, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", action="append", help="CLIENTS,COHORT,ROUNDS,EPSILON[,DELTA]; may be repeated.")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", nargs="+", default=[], help="KEY.PATH=VALUE for every training.")
    parser.add_argument("--write", action="store_true", help="Also into the table of `fedvpa privacy plan`.")
    options = parser.parse_args()
    cells = CELLS if options.cell is None else [Cell.read(text) for text in options.cell]
    found = []
    for cell in cells:
        found += measure(cell, options.methods, range(options.seeds), more=options.set)
        if options.write:
            write([Measured(**one["row"]) for one in found])
    print(json.dumps({"machine": machine_facts(), "rows": found}, indent=2))


if __name__ == "__main__":
    main()
