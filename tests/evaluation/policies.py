"""Outcomes of made-up policies."""

import numpy as np

from fedvpa.evaluation.outcomes import Outcome


def outcome(score=1.0, *, prompt="p", method="fedvpa_gp", seed=0, preference="helpful", user="", seen=True, **others):
    """An outcome worth its score, against a base worth nothing; anything can be set."""
    values = {
        "n_clients": 7,
        "response": "yes, and more",
        "base_response": "no",
        "utility": None if score is None else float(score),
        "base_utility": None if score is None else 0.0,
        "parsed": True,
        "base_parsed": True,
        "tokens": 3,
    }
    return Outcome(
        method=method,
        seed=seed,
        preference=preference,
        user_id=user,
        seen=seen,
        prompt=prompt,
        score=score,
        **values | others,
    )


LEVELS = {"global": (1.1, -0.4), "fedvpl": (0.8, 0.6), "fedvpa_gp": (1.0, 0.9), "oracle": (1.1, 1.0)}


def made_up(levels=LEVELS, sizes=(7,), seeds=(0, 1), prompts=43, users=5, unseen=()):
    """Policies whose utilities differ by their level; prompts and the base's answers are shared by all of them."""
    outcomes = []
    for n_clients in sizes:
        for seed in seeds:
            rng = np.random.default_rng([n_clients, seed])
            for position, preference in enumerate(("helpful", "harmless")):
                base = rng.normal(0, 1, prompts)
                for method, level in levels.items():
                    for seen in (True, False) if method in unseen else (True,):
                        own = level[position] + rng.normal(0, 0.8, prompts) - 0.2 * (not seen)
                        for number in range(prompts):
                            name = f"{'old' if seen else 'new'}{number % users}" if method.startswith("fedvp") else ""
                            outcomes.append(
                                outcome(
                                    float(own[number] > base[number]),
                                    prompt=f"prompt {number:03}",
                                    method=method,
                                    seed=seed,
                                    preference=preference,
                                    user=name,
                                    seen=seen,
                                    n_clients=n_clients,
                                    response="x" * (5 + number % 3),
                                    base_response="x" * 6,
                                    utility=own[number],
                                    base_utility=base[number],
                                    parsed=number % 13 != 0,
                                )
                            )
    return outcomes


def objective_lines(rounds=4):
    """The history of a training towards two objectives: one rises, the other jumps; no drift is told."""
    return [
        {
            "round": step + 1,
            "reward.before.world:helpful": step - 1.0,
            "reward.after.world:helpful": step - 1.0,
            "reward.before.world:harmless": 0.0,
            "reward.after.world:harmless": float(step % 2),
            "lambda.world:helpful": 0.5 + step / 10,
            "lambda.world:harmless": 0.5 - step / 10,
            "disagreement": (step + 1) / 10,
            "vertex": 0.5 * (step == 2),
            "kl": float(step),
            "uplink_bytes": 10,
            "downlink_bytes": 20,
        }
        for step in range(rounds)
    ]
