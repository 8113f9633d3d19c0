"""What FIRM's choices are worth, on validation prompts of the bundled world. Its defaults there were chosen by this.

No test prompt is answered. Ten clients hold mixtures of topics (``partition.kind=topics``) and train as ``align`` does;
the policy then answers prompts of the world's validation pool, at the temperature of training, and the exact utilities
score the answers, beside the base policy's. D_λ is how far clients disagree in their weights of the objectives, D_θ how
far their changes point apart; both are means over rounds.

    python benchmarks/firm.py --runs "firm; mgda; firm firm.rho=0.5; firm firm.preference=0.8,0.2; fedcmoo"
    python benchmarks/firm.py --runs "firm firm.lr=3e-3; firm firm.optimizer=sgd firm.lr=0.6" --seeds 3 --jobs 2
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from _machine import machine_facts
from fedvpa.algorithms.policy_method import PolicyTask
from fedvpa.algorithms.registry import POLICY_METHODS
from fedvpa.alignment.federated_job import FederatedJob
from fedvpa.alignment.prompts import world_prompts
from fedvpa.core.progress import say
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.data.schema import Text
from fedvpa.evaluation.objective_curves import summarise_objectives
from fedvpa.experiments.processes import run_all
from fedvpa.policy.policy import Policy, new_policy
from fedvpa.policy.sampling import Sampling
from fedvpa.rewards.objective_names import default_objectives
from fedvpa.rewards.objectives import make_objectives
from fedvpa.runs.config import RunConfig, read_config

WORLD = (
    "data.source=world",
    "data.users=20",
    "data.pairs_per_user=50",
    "partition.kind=topics",
    "partition.clients=10",
)
PROMPTS, ANSWERS = 250, 2
"""Validation prompts, and answers to each."""

Run = tuple[str, RunConfig]
"""A method, and the settings of one training."""


def measured(run: Run) -> dict[str, Any]:
    """Rewards of the trained and the base policy, and how the training went."""
    torch.set_num_threads(1)
    method, config = run
    table = load(config.resolved_data())
    pairs = ClientPairs(table, partition(table, config.partition, config.seed)).policy_training()
    task = PolicyTask(config.policy, config.method_config, config.features, config.seed, config.data.population)
    texts = world_prompts("validation", PROMPTS, config.seed)
    base = new_policy(config.policy, config.features.model, None, config.seed)
    found: dict[str, Any] = {"base": rewards(base, texts, config), "began": time.process_time()}
    job = FederatedJob(method, task, pairs)
    lines = list(job.run())
    found["seconds"] = time.process_time() - found.pop("began")
    policy, _ = job.finish()
    told = summarise_objectives(lines)
    if told is None:
        raise SystemExit(f"{method} trains towards no objectives; choose one of {', '.join(POLICY_METHODS.names())}.")
    return found | {
        "rewards": rewards(policy, texts, config),
        "disagreement": told.disagreement,
        "drift": told.drift,
        "vertex": told.vertex,
        "kl": told.kl,
        "uplink_mb": told.uplink_bytes / 1e6,
        "roughness": {name: curve.roughness for name, curve in told.objectives.items()},
    }


def rewards(policy: Policy, texts: Sequence[Text], config: RunConfig) -> dict[str, float]:
    """Objective → the mean reward of the policy's answers."""
    asked = [text for text in texts for _ in range(ANSWERS)]
    sampling = Sampling(max_new_tokens=config.firm.max_new_tokens, batch=250)
    found = policy.sample(policy.tokenizer.prompts(asked), None, sampling, config.seed, "benchmark")
    items = [(text, policy.tokenizer.text(ids)) for text, ids in zip(asked, found, strict=True)]
    objectives = make_objectives(default_objectives(config.data.population, 0))
    return {one.name: float(np.mean([float(score) for score in one.score(items)])) for one in objectives}


def row(name: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, with standard errors of the rewards."""
    told: dict[str, Any] = {"run": name, "seeds": len(found)}
    for objective in found[0]["rewards"]:
        gains = np.array([one["rewards"][objective] - one["base"][objective] for one in found])
        told[objective] = round(float(np.mean([one["rewards"][objective] for one in found])), 3)
        told[f"{objective} gain"] = round(float(gains.mean()), 3)
        if len(found) > 1:
            told[f"{objective} gain se"] = round(float(gains.std(ddof=1) / len(gains) ** 0.5), 3)
        rough = [one["roughness"][objective] for one in found if one["roughness"][objective] is not None]
        told[f"{objective} roughness"] = round(float(np.mean(rough)), 3) if rough else None
    for key in ("disagreement", "drift", "vertex", "kl", "uplink_mb", "seconds"):
        values = [one[key] for one in found if one[key] is not None]
        told[key] = round(float(np.mean(values)), 4) if values else None
    return told


def main() -> None:
    """Train every run for every seed, and print what they reach as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="firm; mgda; scalar; fedcmoo", help="a method and its settings, by ';'")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="of all runs")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    names = [name.strip() for name in options.runs.split(";")]
    runs: list[Run] = []
    for name in names:
        method, *own = name.split()
        config = read_config(None, [*WORLD, *options.overrides, *own])
        runs += [(method, config.with_seed(seed)) for seed in seeds]
    found = run_all(measured, runs, options.jobs, what="trainings")
    rows = [row(name, found[place * len(seeds) :][: len(seeds)]) for place, name in enumerate(names)]
    for one in rows:
        say(json.dumps(one))
    print(json.dumps({"machine": machine_facts() | {"threads": 1}, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
