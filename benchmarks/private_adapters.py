"""What noise costs FedDPO on the bundled world: pairs of users who did not train that the policy orders as they did.

    reward of a response = log π(response | prompt) − log π_ref(response | prompt)

is what DPO trains (Rafailov et al., NeurIPS 2023), so a pair is ordered rightly where the chosen response has the
larger one; a policy that has learned nothing is at one half. The same clients, batches and rounds without noise, and
with the noise of each ε. Coins and noise come from the seed, so that a figure can be repeated: a simulation.

    python benchmarks/private_adapters.py
    python benchmarks/private_adapters.py --users 1000 --cohort 250 --rounds 20 --epsilon 8 3 1 --seeds 5

One JSON object is printed; stderr says how far it is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from _machine import machine_facts
from fedvpa.algorithms.client.client_examples import all_examples, client_examples
from fedvpa.algorithms.registry import POLICY_METHODS
from fedvpa.alignment.federated_job import fresh_policy, text_engine
from fedvpa.core.progress import say
from fedvpa.data.schema import Pair
from fedvpa.engines.private import Privacy
from fedvpa.engines.text_federation import TextFederation
from fedvpa.engines.training import rounds, start
from fedvpa.policy.policy import Policy
from fedvpa.privacy.accounting import epsilon_released
from fedvpa.privacy.keyed import Key
from fedvpa.runs.config import read_config
from fedvpa.runs.noise import terms_of
from fedvpa.runs.policy_noise import clips_of
from fedvpa.runs.policy_task import task_of_config
from fedvpa.world.generate import generate_world

METHOD = "feddpo"
TESTED = 40
"""Users who did not train."""


def pairs_of(population: str, users: int, pairs: int, seed: int) -> dict[str, list[Pair]]:
    """User → pairs, without what a policy does not read."""
    found: dict[str, list[Pair]] = {}
    for pair in generate_world(population, users, pairs, seed):
        found.setdefault(pair.user_id, []).append(Pair(pair.prompt, pair.chosen, pair.rejected, user_id=pair.user_id))
    return found


def accuracy(policy: Policy, pairs: Sequence[Pair]) -> float:
    """The share of pairs that the policy's reward orders as their user did, a tie one half."""
    known = client_examples(policy, pairs)
    chosen, rejected = (
        np.array([float(np.sum(part)) for part in policy.token_log_probs(known.prompts, rows, None)])
        for rows in (known.chosen, known.rejected)
    )
    margins = (chosen - rejected) - (known.reference[:, 0] - known.reference[:, 1]).numpy()
    return float(np.mean((margins > 0) + 0.5 * (margins == 0)))


def trained(options: argparse.Namespace, seed: int, epsilon: float | None) -> Mapping[str, Any]:
    """One training; ``epsilon`` None for no noise."""
    noised = [] if epsilon is None else [f"privacy.epsilon={epsilon}", "privacy.seeded=true"]
    shape = [f"policy.lora_rank={options.rank}", f"policy.lora_alpha={2 * options.rank}"]
    own = {"rounds": options.rounds, "cohort": options.cohort, "steps": options.steps, "batch": options.pairs}
    own["averaging"] = options.averaging
    settings = [f"policy.feddpo.{name}={value}" for name, value in own.items()]
    config = read_config(None, [f"seed={seed}", f"policy.lr={options.lr}", *shape, *settings, *noised])
    task, entry = task_of_config(config), POLICY_METHODS.get(METHOD)
    policy, algorithm = fresh_policy(task), entry.algorithm(task)
    everybody = pairs_of(options.population, options.users + TESTED, options.pairs, seed)
    names = list(everybody)
    held = all_examples(policy, {name: everybody[name] for name in names[: options.users]}, strict=False).data
    clients, engine = TextFederation.of(policy, held), text_engine(task.settings, options.cohort)
    privacy, terms = None, None
    if epsilon is not None:
        section = clips_of(config.privacy, task)
        terms = terms_of(section, engine, options.users, algorithm.rounds, entry.cohort_key)
        privacy = Privacy(section, terms, Key.of_seed(seed, "policy"))
    began, state = time.monotonic(), start(algorithm, clients, seed)
    for reached, line in rounds(algorithm, clients, engine, seed, state, privacy=privacy):
        state = reached
        say(f"seed {seed}, ε {epsilon}: round {line['round'] + 1} of {algorithm.rounds}, {line['seconds']:.0f} s")
    entry.settle(task, policy, state.server)
    tested = [pair for name in names[options.users :] for pair in everybody[name]]
    found: dict[str, Any] = {"seed": seed, "epsilon": epsilon, "accuracy": accuracy(policy.eval(), tested)}
    found |= {"pairs": len(tested), "weights": sum(leaf.numel() for leaf in state.server.params.values())}
    found["trained_weights"] = sum(np.prod(shape) for shape in algorithm.expected(state.server).deltas.values()).item()
    if terms is not None:
        rate, delta, noise = terms.rate, terms.delta, terms.noise_multiplier
        found |= {"delta": delta, "rate": rate, "noise_multiplier": noise}
        found["epsilon_released"] = epsilon_released(noise, rate, terms.rounds, delta)
    return {**found, "seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    """Train with and without noise, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--population", default="individuals")
    for name, default in (("users", 240), ("cohort", 60), ("rounds", 8), ("steps", 1), ("pairs", 16), ("rank", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--averaging", default="ffa", choices=("avg", "ffa"))
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--epsilon", type=float, nargs="*", default=[8.0])
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    rows = [trained(options, seed, one) for seed in range(options.seeds) for one in (None, *options.epsilon)]
    print(json.dumps({"machine": machine_facts(), "settings": vars(options), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
