"""What each choice of stage 2 is worth, on validation prompts: one change at a time. The defaults were chosen by this.

No evaluation prompt is answered. Stage 1 runs once per seed and change, then the policy is trained and answers those
prompts of the world's validation pool that did not choose its stopping step, for the seen users of each preference; the
exact judge compares with the base policy. Beside the win rates stands the share of answers that parse.

    python benchmarks/policy_choices.py --seeds 4
    python benchmarks/policy_choices.py --changes "default;no sft" --also "policy.beta=0.3 policy.sft_weight=10"
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _machine import machine_facts
from fedvpa.alignment.dpo_job import DPOJob
from fedvpa.alignment.job import train_in_memory
from fedvpa.alignment.prompts import public_prompts
from fedvpa.alignment.stage1 import ONE, Users
from fedvpa.core.progress import say
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.experiments.answers import BASE, Answers
from fedvpa.experiments.contests import Served, contests
from fedvpa.experiments.duels import answered
from fedvpa.experiments.duels import judged as judged_by
from fedvpa.experiments.processes import run_all
from fedvpa.policy.sampling import Sampling
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.fit import fit, stage1_of
from fedvpa.runs.prepare import prepare
from fedvpa.world.prompts import prompts

CHANGES = {
    "default": [],
    "no sft": ["policy.sft_weight=0"],
    "no language": ["policy.language_weight=0"],
    "beta 0.1": ["policy.beta=0.1"],
    "beta 0.3": ["policy.beta=0.3"],
    "additive": ["policy.conditioning=additive"],
    "one pair a latent": ["policy.preferences.pairs_per_latent=1", "policy.preferences.latents_per_prompt=4"],
    "margin 0": ["policy.preferences.margin=0"],
    "margin 1.5": ["policy.preferences.margin=1.5"],
    "no refresh": ["policy.refresh_every=0"],
    "refresh every 150": ["policy.refresh_every=150"],
    "900 prompts": ["policy.candidates.prompts=900"],
    "rank 8": ["policy.lora_rank=8", "policy.lora_alpha=16"],
    "last step": ["policy.evaluate_every=450"],
    "600 steps": ["policy.steps=600"],
}


def judged(config: RunConfig) -> dict[str, Any]:
    """Preference → win rate and share of answers that parse; and what chose the stopping step."""
    prepared = prepare(config)
    stage = stage1_of(config, prepared, fit(config, prepared))
    started = time.monotonic()
    policy, notes = train_in_memory(DPOJob(stage))
    seconds = time.monotonic() - started
    taken = set(public_prompts(stage)[1])
    held = [prompt.text for prompt in prompts("validation") if prompt.text not in taken]
    rules = config.policy.judging
    who = Served(stage.method, len(stage.seen.ids), stage.seed, (ONE,), True, stage.seen, Users((), (), None), {})
    limits = config.policy.candidates
    sampling = Sampling(rules.temperature, rules.top_p, limits.max_new_tokens, limits.batch)
    book = Answers(held, sampling, stage.seed, {ONE: "policy", BASE: "base"}, lambda _: policy)
    asked = [answered(contest, book, len(held)) for contest in contests(who, len(held))]
    found: dict[str, Any] = {"step": notes["stopped"]["step"], "seconds": seconds, "look": notes["stopped"]}
    for outcomes in judged_by(who, asked, make_judge("world"), rules.missing_limit):
        preference = outcomes[0].preference
        scores = [outcome.score for outcome in outcomes if outcome.score is not None]
        found[preference] = float(np.mean(scores))
        found[f"{preference} parsed"] = float(np.mean([bool(outcome.parsed) for outcome in outcomes]))
    return found


def summary(found: Mapping[tuple[str, int], Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Means and standard errors over seeds."""
    rows = [row for (change, _), row in sorted(found.items()) if change == name]
    told: dict[str, Any] = {"change": name, "seeds": len(rows), "steps": [row["step"] for row in rows]}
    for key in [key for key in rows[0] if key not in {"step", "look"}]:
        values = np.array([row[key] for row in rows])
        told[key] = round(float(values.mean()), 4)
        if len(values) > 1:
            told[f"{key} se"] = round(float(values.std(ddof=1) / len(values) ** 0.5), 4)
    return told


def main() -> None:
    """Run every change and print win rates as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent.parent / "configs/world_two_groups.yaml")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--changes", default="", help="names, separated by ';'; all by default")
    parser.add_argument("--also", action="append", default=[], help="another change: 'key=value key=value'")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    changes = {name: CHANGES[name] for name in filter(None, options.changes.split(";"))}
    changes |= {text: text.split() for text in options.also}
    cells = {
        (name, seed): read_config(options.config, [*options.overrides, *change])
        .with_clients(options.clients)
        .with_seed(seed)
        for name, change in (changes or CHANGES).items()
        for seed in range(options.first_seed, options.first_seed + options.seeds)
    }
    found = dict(zip(cells, run_all(judged, list(cells.values()), options.jobs, what="policies"), strict=True))
    for (name, seed), row in found.items():
        say(f"{name}, seed {seed}: " + json.dumps({key: value for key, value in row.items() if key != "look"}))
    rows = [summary(found, name) for name in changes or CHANGES]
    print(json.dumps({"machine": machine_facts() | {"threads": 1}, "rows": rows}, indent=2))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
