from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from fedvpa.alignment.latents import Latents
from fedvpa.alignment.loop import dpo_steps
from fedvpa.alignment.stopping import BestWeights, Validation, ValidationResult, margins_over_base, replaces_best
from fedvpa.policy.adapters import snapshot
from fedvpa.policy.dpo_trainer import DPOTrainer
from fedvpa.policy.policy import Policy
from fedvpa.selector.posterior import single
from policy_fixtures import PAD, make_candidates, make_examples, make_policy, make_selector, tiny_config

EXAMPLES = make_examples(11)


def result(rate: float, error: float = 0.02, step: int = 1) -> ValidationResult:
    return ValidationResult(step, rate, error, 0.0, 0.0, {})


@dataclass(frozen=True)
class ScriptedValidation:
    """A validation whose win rates are given."""

    rates: dict[int, float]

    refused: tuple[int, ...] = ()

    def start(self, config: Any) -> ValidationResult:
        return result(0.5, 0.0, step=0)

    def run(self, policy: Policy, config: Any, seed: int, *path: Any) -> ValidationResult:
        step = path[-1]
        return replace(result(self.rates[step], step=step), refused=f"no {step}" if step in self.refused else "")


@pytest.mark.unit
def test_a_later_result_stays_within_one_error_of_the_best():
    kept = BestWeights(result(0.55), {}, 0.6)
    assert replaces_best(result(0.581, error=0.02), kept)
    assert not replaces_best(result(0.579, error=0.02), kept)
    assert replaces_best(result(0.579, error=0.03), kept)
    # The base wins one half; what does not win more never replaces anything.
    assert not replaces_best(result(0.5, error=0.2), kept)
    assert replaces_best(result(0.501, error=0.0), BestWeights(result(0.5, 0.0, 0), {}, 0.0))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("rates", "winners"),
    [
        ({2: 0.51, 4: 0.6, 6: 0.59, 7: 0.55}, [2, 4, 6, 6]),
        # 0.579 is within 0.02 of the result before it, but not of the best.
        ({2: 0.6, 4: 0.59, 6: 0.579, 7: 0.65}, [2, 4, 4, 7]),
        ({2: 0.4, 4: 0.5, 6: 0.49, 7: 0.3}, [0, 0, 0, 0]),
    ],
)
def test_the_weights_of_the_right_step_are_kept(base_folder, rates, winners):
    config = tiny_config(base_folder, evaluate_every=2, steps=7)
    policy = make_policy(base_folder)
    weights, kept, validated = {0: snapshot(policy)}, None, {}
    for progress in dpo_steps(policy, DPOTrainer(policy, config, 0), EXAMPLES, ScriptedValidation(rates), config, 0):
        weights[progress.line["step"]] = snapshot(policy)
        kept = progress.best
        if "validation" in progress.line:
            validated[progress.line["step"]] = kept.result.step
    assert validated == dict(zip(rates, winners, strict=True))  # step 7 is validated because it is the last
    for step, wanted in weights.items():
        assert all(kept.weights[name].equal(value) for name, value in wanted.items()) == (step == winners[-1])


@pytest.mark.unit
def test_what_a_stopped_run_kept_is_beaten_or_stays(base_folder):
    config = tiny_config(base_folder, evaluate_every=3)
    for best, winner in ((0.9, 1), (0.2, 6)):  # the highest so far
        policy = make_policy(base_folder)
        before = BestWeights(result(0.3), snapshot(policy), best)
        told = ScriptedValidation({3: 0.51, 6: 0.51})
        *_, last = dpo_steps(policy, DPOTrainer(policy, config, 0), EXAMPLES, told, config, 0, best=before)
        assert last.best.result.step == winner


@pytest.mark.unit
def test_candidates_are_refreshed_every_so_many_steps_and_not_at_the_start(base_folder):
    config = tiny_config(base_folder, refresh_every=2)
    policy, asked, seen = make_policy(base_folder), [], []
    other = make_examples(5, seed=9)

    class Watched(DPOTrainer):
        def run(self, examples, steps):
            seen.append(len(examples))
            return super().run(examples, steps)

    def refresh(step: int):
        asked.append(step)
        return other

    list(
        dpo_steps(
            policy, Watched(policy, config, 0), EXAMPLES, ScriptedValidation({6: 0.5}), config, 0, refresh=refresh
        )
    )
    assert asked == [2, 4]
    assert seen == [11, 11, 5, 5, 5, 5]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("refused", "winner", "collapsed"), [((2, 4), 6, False), ((4, 6), 2, False), ((2, 4, 6), 0, True)]
)
def test_the_best_admissible_policy_is_kept_and_a_collapse_ends_with_the_base(base_folder, refused, winner, collapsed):
    config = tiny_config(base_folder, evaluate_every=2)
    policy = make_policy(base_folder)
    first, told = snapshot(policy), ScriptedValidation({2: 0.7, 4: 0.9, 6: 0.6}, refused)
    *_, last = dpo_steps(policy, DPOTrainer(policy, config, 0), EXAMPLES, told, config, 0)
    assert (last.best.result.step, last.best.collapsed) == (winner, collapsed)
    assert (last.best.looks, last.best.admissible) == (3, 3 - len(refused))
    assert last.best.refused == f"no {refused[-1]}"
    assert all(last.best.weights[name].equal(value) for name, value in first.items()) == collapsed


FEATURES = torch.zeros(5, 3, 2)
FEATURES[:, 1, 0], FEATURES[:, 2, 0] = 1.0, 2.0
"""Samples of the base policy worth 0, 1 and 2 at prototype 0, and 0, −1 and −2 at prototype 1."""


@pytest.fixture
def validation() -> Validation:
    selector = make_selector([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [0.0, 0.0])
    prototype = torch.tensor([0, 1, 0, 1, 0])
    z = selector.prototypes[prototype]
    latents = Latents(single(z, torch.full_like(z, -4.0)), z, prototype)

    def worth(found: list[np.ndarray]) -> torch.Tensor:
        # The policy's own samples are worth 1, 1, 3, 3 and −1 at prototype 0.
        values = torch.tensor([1.0, 1.0, 3.0, 3.0, -1.0])
        return torch.stack([values, torch.zeros(5)], 1)

    base = make_candidates(FEATURES)
    return Validation(base, latents, margins_over_base(selector, base, latents, worth), True)


@pytest.mark.unit
def test_validation_by_hand(base_folder, validation, monkeypatch):
    policy, config = make_policy(base_folder), tiny_config(base_folder)
    found = [np.arange(6, 6 + length, dtype=np.int32) for length in (2, 3, 5, 7, 11)]
    asked = []
    monkeypatch.setattr(
        Policy, "sample", lambda self, prompts, z, sampling, *path: asked.append((z, sampling, path)) or found
    )
    seen = validation.run(policy, config, 4, "name", 12)
    # Margins 0, 1 and 2: one win and a tie; at prototype 1 −1 the same; 3 wins all; −3 loses all; −1 loses all.
    rates = torch.tensor([0.5, 0.5, 1.0, 0.0, 0.0])
    assert seen.step == 12
    assert seen.win_rate == pytest.approx(0.4)
    assert seen.error == pytest.approx(float(rates.std()) / 5**0.5)
    assert seen.tokens == pytest.approx(28 / 5)
    assert seen.by_prototype["0"]["win_rate"] == pytest.approx(0.5)
    assert seen.by_prototype["1"]["tokens"] == pytest.approx(5.0)
    prompts = validation.prompts
    with torch.no_grad():
        ours = policy.log_probs(prompts, found, validation.latents.z)
    theirs = torch.tensor([float(part.sum()) for part in policy.reference_log_probs(prompts, found)])
    assert seen.kl == pytest.approx(float((ours - theirs).mean()), rel=1e-4)
    ((z, sampling, path),) = asked
    assert z.equal(validation.latents.z)
    assert sampling.max_new_tokens == config.candidates.max_new_tokens
    # Every look has the same draws, whatever its step.
    assert path == (4, "validation", "name")


@pytest.mark.unit
def test_validation_of_the_base_finds_no_drift(base_folder, validation):
    policy = make_policy(base_folder, None, noise=False)
    # Nor does a policy with a latent that nothing has trained.
    for seen in (
        replace(validation, with_z=False).run(policy, tiny_config(base_folder), 0, "", 3),
        validation.run(make_policy(base_folder, noise=False), tiny_config(base_folder), 0, "", 3),
        validation.start(tiny_config(base_folder)),
    ):
        assert seen.kl == pytest.approx(0.0, abs=1e-4)
    assert (seen.step, seen.win_rate, seen.error, seen.language) == (0, 0.5, 0.0, pytest.approx(-0.505))
    assert seen.distinct == seen.base_distinct > 0
    assert seen.refused == ""
    assert PAD not in validation.prompts[0]
