"""What a population costs: size of a checkpoint, time to save and to load it, and time per round.

The state is that of FedVPA-GP after many rounds. It is *filled*, not trained: cohorts are those that a run draws, and
each of their clients keeps what it would keep of such a round (its weights of the prior's components), with random
numbers in it. Then some rounds are trained from it, by turns with a small population in the
same state. Prints JSON.

    python benchmarks/population.py                          # 100,000 clients beside 1,000, 500 rounds, cohort 100
    python benchmarks/population.py --every-client 60000     # a checkpoint in which so many clients have taken part
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _machine import machine_facts
from fedvpa.algorithms.base import FeatureSetting
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.fedvpa_gp import FedVPAGP
from fedvpa.algorithms.server.mixture_state import MixtureState
from fedvpa.core.tree import Tree
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation
from fedvpa.engines.sampling import draw_cohort, identities
from fedvpa.engines.training import TrainState, rounds, start
from scale_clients import DIMENSION, federation

SEED = 0


def filled(algorithm: FedVPAGP, held: Federation, cohort: int, count: int) -> TrainState:
    """A state as after ``count`` rounds, with random numbers in place of what training finds."""
    known, hashed = held.client_ids, identities(held.client_ids)
    server, private = start(algorithm, held, SEED).server, dict[str, Tree]()
    for round_ in range(count):
        names = draw_cohort(known, hashed, cohort, SEED, round_)
        server = met(algorithm, server, private, names)
    return TrainState(replace(server, round=count), private)


def met(algorithm: FedVPAGP, server: MixtureState, private: dict[str, Tree], names: Sequence[str]) -> MixtureState:
    """What server and clients keep of one round with these clients."""
    count, latent = server.params["prototypes"].shape
    for name in names:
        received = {"prior.keys": torch.arange(count)}
        private[name] = algorithm.store_private(private.get(name, {}), {"logits": torch.randn(count)}, received)
    moments = {"share": torch.rand(count), "first": torch.randn(count, latent), "second": 9 + torch.rand(count, latent)}
    return replace(server, moments=moments)


def checkpoint(path: Path, state: TrainState, repeats: int = 3) -> dict[str, Any]:
    """Save, replace and load a state."""
    saved = [seconds(lambda: save_checkpoint(path, state, {})) for _ in range(repeats)]
    loaded = [seconds(lambda: load_checkpoint(path, MixtureState)) for _ in range(repeats)]
    again, _ = load_checkpoint(path, MixtureState)
    same = all(
        torch.equal(leaf, again.private[name][part])
        for name, own in state.private.items()
        for part, leaf in own.items()
    )
    return {
        "clients_with_state": len(state.private),
        "bytes": path.stat().st_size,
        "save_seconds": saved,
        "load_seconds": loaded,
        "came_back_bit_for_bit": same and list(again.private) == list(state.private),
    }


def seconds(work: Callable[[], object]) -> dict[str, float]:
    """Wall-clock time of some work, and processor time: where others use the machine, only the second is its cost."""
    wall, own = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "processor": time.process_time() - own}


def by_turns(runs: Sequence[Iterator[tuple[TrainState, dict[str, Any]]]], count: int) -> list[list[float]]:
    """Processor seconds of ``count`` rounds of each run, one round of each at a time."""
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(count):
        for mine, run in zip(found, runs, strict=True):
            mine.append(seconds(lambda: next(run))["processor"])  # noqa: B023
    return found


def main() -> None:
    """Measure the checkpoint of the large population, then rounds of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--timed", type=int, default=30, help="rounds that are trained for their time")
    parser.add_argument("--every-client", type=int, default=0, metavar="N")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    algorithm = FedVPAGP(MethodConfig.parse({"server": {"rounds": options.rounds + options.timed}}))
    found: dict[str, Any] = {"machine": machine_facts(), "setting": vars(options)}
    engine = EngineConfig(workers=1, cohort=options.cohort)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.every_client:
            found["every_client"] = checkpoint(folder / "every.safetensors", everybody(algorithm, options.every_client))
            print(json.dumps(found, indent=2))
            return
        holders = [federation(folder, clients) for clients in options.clients]
        states = [filled(algorithm, held, options.cohort, options.rounds) for held in holders]
        found["checkpoint"] = checkpoint(folder / "last.safetensors", states[-1])
        runs = [rounds(algorithm, held, engine, SEED, state) for held, state in zip(holders, states, strict=True)]
        taken = by_turns(runs, options.timed)
    found["processor_ms_per_round"] = {
        str(clients): {
            "median": 1e3 * statistics.median(mine[3:]),
            "p10_p90": [1e3 * float(np.quantile(mine[3:], q)) for q in (0.1, 0.9)],
        }
        for clients, mine in zip(options.clients, taken, strict=True)
    }
    print(json.dumps(found, indent=2))


def everybody(algorithm: FedVPAGP, clients: int) -> TrainState:
    """A state in which each client has taken part."""
    server, private = algorithm.init(FeatureSetting(DIMENSION), SEED), dict[str, Tree]()
    server = met(algorithm, server, private, [f"client-{number}" for number in range(clients)])
    return TrainState(server, private)


if __name__ == "__main__":
    main()
