"""What secure aggregation costs a round: seconds and bytes beside the plain one, and the protocol alone by nodes.

The rounds are those of a method's default configuration on the bundled world, with one client on each of ten nodes of
Flower's simulation (Ray): plain, with secure aggregation, with three of the ten nodes falling silent after they dealt
shares, and with secure aggregation and noise, of the server and of the nodes. They take turns in one simulation, from
the same state; the first round of each is left out. Bytes are what was sent; a plain round's are of float32. Then the
protocol alone, in this process: seconds of one node and of the server, and bytes of one node, for an update of so many
values, with as many nodes falling silent as may; and seconds of one node for its noise. Needs ``fedvpa[flower]``.

    python benchmarks/secure_aggregation.py --rounds 8 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from _machine import machine_facts
from fedvpa.algorithms.registry import make
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation
from fedvpa.engines.flower.secure_server import SecureCohort, secured
from fedvpa.engines.flower.simulation import simulate
from fedvpa.engines.private import Privacy, Terms
from fedvpa.engines.runner import CohortResult, CohortRunner, CohortTask
from fedvpa.engines.training import rounds, start
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.discrete_gaussian import discrete_gaussian
from fedvpa.privacy.keyed import Key
from fedvpa.privacy.quantised import Words
from fedvpa.privacy.secure_sum import Secrets, dealt, masked, opened, unmasked
from fedvpa.privacy.thresholds import threshold_of
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.prepare import prepare

NODES, SILENT = 10, 3
TERMS = Terms(1.0, 1.0, float(NODES), NODES, 1000, 0.01)
NOISES = {
    f"noise of the {who}": Privacy(PrivacyConfig(noise_multiplier=1.0, noise=setting), TERMS, Key.new())
    for who, setting in (("server", "server"), ("nodes", "clients"))
}
"""Noise in which everybody takes part in every round."""

LIMITS = ["server.clip_norm=1.0", "server.max_weight=40"]


@dataclass
class Dropping:
    """A cohort whose first clients fall silent after they dealt shares."""

    secure: SecureCohort

    def __call__(self, task: CohortTask) -> CohortResult:
        """One round."""
        return self.secure(replace(task, reporting=task.cohort[SILENT:]))

    @property
    def uplink_bytes(self) -> int:
        """Of the last cohort."""
        return self.secure.uplink_bytes

    @property
    def downlink_bytes(self) -> int:
        """Of the last cohort."""
        return self.secure.downlink_bytes


def trained(config: RunConfig, federation: Federation, name: str, run: CohortRunner) -> list[dict[str, Any]]:
    """The lines of history of a run, with the bytes that were sent: where there is noise they say others."""
    algorithm = make(config.method, config.method_config)
    engine = EngineConfig(name="flower", cohort=NODES, secure_aggregation=name != "plain")
    state, found = start(algorithm, federation, config.seed), []
    for _, line in rounds(algorithm, federation, engine, config.seed, state, run, privacy=NOISES.get(name)):
        if name in NOISES:
            assert isinstance(run, SecureCohort)
            down = line["downlink_bytes"] + run.downlink_bytes  # the former without keys and shares
            line = {**line, "uplink_bytes": run.uplink_bytes, "downlink_bytes": down}
        found.append(line)
    return found[1:]


def compared(config: RunConfig, repeats: int) -> dict[str, dict[str, Any]]:
    """The three ways of a round, in turn."""
    federation = prepare(config).federation
    algorithm = make(config.method, config.method_config)
    found: dict[str, list[dict[str, Any]]] = {}
    with simulate(algorithm, federation, "fp32") as plain:
        secure = secured(plain, EngineConfig(name="flower", secure_aggregation=True))
        assert isinstance(secure, SecureCohort)
        ways: dict[str, CohortRunner] = {"plain": plain, "secure": secure, "three drop out": Dropping(secure)}
        ways |= dict.fromkeys(NOISES, secure)
        for _ in range(repeats):
            for name, run in ways.items():
                found.setdefault(name, []).extend(trained(config, federation, name, run))
    dropped = {len(line["dropped"]) for line in found["three drop out"]}
    assert dropped == {SILENT}, "the round completes without them"
    return {name: summary(lines) for name, lines in found.items()}


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians, and the quartiles of the seconds."""
    seconds = sorted(line["seconds"] for line in lines)
    return {
        "rounds": len(lines),
        "seconds": round(statistics.median(seconds), 4),
        "seconds_quartiles": [round(float(value), 4) for value in np.quantile(seconds, [0.25, 0.75])],
        "uplink_bytes": int(statistics.median(line["uplink_bytes"] for line in lines)),
        "downlink_bytes": int(statistics.median(line["downlink_bytes"] for line in lines)),
    }


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def protocol(nodes: int, size: int) -> dict[str, Any]:
    """The protocol alone, as many nodes falling silent after they dealt shares as may."""
    threshold = threshold_of(nodes, 2 / 3)
    begun = {node: timed(Secrets.new) for node in range(nodes)}
    secrets = {node: own for node, (_, own) in begun.items()}
    keys = {node: own.public for node, own in secrets.items()}
    deals = {node: timed(lambda node=node: dealt(node, secrets[node], keys, threshold)) for node in keys}
    words = Words(np.zeros(size, np.uint32), np.zeros(0, np.uint64))
    sent, hides = range(nodes - threshold, nodes), dict[int, tuple[float, Words]]()
    held = {}
    for node in sent:
        for_it = {other: deal[0][node] for other, (_, deal) in deals.items() if other != node}
        opening, shares = timed(lambda node=node, for_it=for_it: opened(node, secrets[node], keys, for_it))
        held[node] = {**shares, node: deals[node][1][1]}
        masking, hidden = timed(lambda node=node: masked(words, node, secrets[node], keys))
        hides[node] = opening + masking, hidden
    seeds = {node: [held[holder][node].seed for holder in sent] for node in sent}
    mask_keys = {node: [held[holder][node].mask_key for holder in sent] for node in keys.keys() - set(sent)}
    server, total = timed(lambda: unmasked({node: one for node, (_, one) in hides.items()}, keys, seeds, mask_keys))
    assert not total.narrow.any()
    sealed = sum(map(len, deals[0][1][0].values()))
    return {
        "nodes": nodes,
        "values": size,
        "silent": nodes - threshold,
        "node_seconds": round(statistics.median(deals[node][0] + hides[node][0] for node in sent), 4),
        "server_seconds": round(server, 4),
        "node_noise_seconds": round(timed(lambda: discrete_gaussian(1 << 20, size, os.urandom))[0], 4),
        "node_key_and_share_bytes": 2 * sealed + nodes * (33 + 33 + 32 + 34),
        "node_vector_bytes": 4 * size,
    }


def main() -> None:
    """Run both parts and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["fedeb", "fedvpa_gp"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--nodes", nargs="*", type=int, default=[10, 30, 100])
    parser.add_argument("--values", nargs="*", type=int, default=[10_000, 1_000_000])
    parser.add_argument("overrides", nargs="*", help="KEY.PATH=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine_facts()}
    for method in options.methods:
        size = [f"data.users={NODES}", f"server.rounds={options.rounds}", *LIMITS, *options.overrides]
        ways = compared(read_config(None, [f"method={method}", *size]), options.repeats)
        plain = ways["plain"]
        for way in ways.values():
            total = [one["uplink_bytes"] + one["downlink_bytes"] for one in (way, plain)]
            way["bytes_over_plain"] = round(total[0] / total[1], 2)
            way["uplink_over_plain"] = round(way["uplink_bytes"] / plain["uplink_bytes"], 2)
            way["seconds_over_plain"] = round(way["seconds"] / plain["seconds"], 2)
        found[method] = ways
    found["protocol"] = [
        protocol(nodes, size) for nodes in options.nodes for size in options.values if nodes * math.sqrt(size) < 5e4
    ]
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
