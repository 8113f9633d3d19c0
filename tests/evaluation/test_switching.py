from dataclasses import replace

import numpy as np
import pytest

from evaluation.policies import outcome
from fedvpa.core.errors import ConfigError, DataError
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.switching import switching

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2000)


def path(utilities, prompts=31, noise=0.1):
    """Preference → its mean utility at each step, as outcomes by step."""
    rng = np.random.default_rng(0)
    steps = np.linspace(0, 1, len(next(iter(utilities.values()))))
    return {
        float(step): [
            outcome(1.0, prompt=f"prompt {n}", preference=name, utility=means[k] + noise * rng.normal(), parsed=n > k)
            for name, means in utilities.items()
            for n in range(prompts)
        ]
        for k, step in enumerate(steps)
    }


def test_a_policy_that_switches_is_monotone():
    found = switching(path({"helpful": [0, 1, 2, 3], "harmless": [5, 4.5, 4, 1]}), bootstrap=BOOTSTRAP).to_dict()
    assert (found["method"], found["n_clients"], found["seeds"]) == ("fedvpa_gp", 7, [0])
    assert found["steps"] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert (found["rising"], found["monotone"]) == ("helpful", True)
    harmless = found["preferences"]["harmless"]
    assert harmless["direction"] == "falls"
    assert harmless["utility"] == pytest.approx([5, 4.5, 4, 1], abs=0.1)
    assert [d["mean"] for d in harmless["differences"]] == pytest.approx(np.diff(harmless["utility"]).tolist())
    assert harmless["change"]["mean"] == pytest.approx(-4, abs=0.1)
    assert all(low < value < high for (low, high), value in zip(harmless["ci95"], harmless["utility"], strict=True))
    assert harmless["switches"]
    assert found["preferences"]["helpful"]["switches"]
    assert harmless["parsed"] == pytest.approx([30 / 31, 29 / 31, 28 / 31, 27 / 31])


def test_a_step_back_beyond_its_interval_is_not_monotone():
    found = switching(path({"helpful": [0, 2, 1, 3], "harmless": [3, 2, 1, 0]}), bootstrap=BOOTSTRAP).to_dict()
    assert not found["preferences"]["helpful"]["monotone"]
    assert found["preferences"]["harmless"]["monotone"]
    assert not found["monotone"]
    noisy = switching(
        path({"helpful": [0, 2, 1.99, 3], "harmless": [3, 2, 1, 0]}, noise=0.5), bootstrap=BOOTSTRAP
    ).to_dict()
    assert noisy["monotone"]


def test_a_flat_path_does_not_switch_and_a_path_back_is_seen():
    flat = switching(path({"helpful": [1, 1, 1], "harmless": [2, 2, 2]}, noise=0.0), bootstrap=BOOTSTRAP).to_dict()
    assert flat["monotone"]
    assert not any(found["switches"] for found in flat["preferences"].values())
    back = switching(path({"helpful": [0, 1, 2], "harmless": [2, 1, 0]}), "harmless", BOOTSTRAP).to_dict()
    assert back["rising"] == "harmless"
    assert not any(found["monotone"] or found["switches"] for found in back["preferences"].values())


def test_paths_that_are_none_are_refused():
    good = path({"helpful": [0, 1], "harmless": [1, 0]})
    with pytest.raises(DataError, match="1 steps leads nowhere"):
        switching({0.0: good[0.0]})
    with pytest.raises(DataError, match="one policy"):
        switching(good | {1.0: [replace(o, method="global") for o in good[1.0]]})
    with pytest.raises(DataError, match="differ in 1 answers"):
        switching(good | {1.0: good[1.0][1:]})
    with pytest.raises(DataError, match=r"step 1\.0 was not judged under 'harmless'"):
        switching(good | {1.0: good[1.0][:31]})
    with pytest.raises(DataError, match="has no utility"):
        switching(good | {0.0: [replace(o, utility=None, base_utility=None) for o in good[0.0]]})
    with pytest.raises(ConfigError, match=r"'terse'.*\n?.*harmless, helpful"):
        switching(good, "terse")


def test_the_curve_has_the_documented_keys_and_attributes():
    curve = switching(path({"helpful": [0, 1, 2], "harmless": [2, 1, 0]}), bootstrap=BOOTSTRAP)
    written = curve.to_dict()
    assert tuple(written) == ("method", "n_clients", "seeds", "steps", "measure", "rising", "preferences", "monotone")
    keys = (
        "direction",
        "utility",
        "win_rates",
        "ci95",
        "method_ci95",
        "differences",
        "monotone",
        "change",
        "switches",
        "parsed",
        "prompts",
    )
    assert all(tuple(found) == keys for found in written["preferences"].values())
    helpful = curve.preferences["helpful"]
    assert list(helpful.utility) == written["preferences"]["helpful"]["utility"]
    assert written["preferences"]["helpful"]["change"] == {
        "mean": helpful.change.value,
        "ci95": list(helpful.change.interval),
        "method_ci95": None,
    }
    assert (curve.steps, curve.rising) == ((0.0, 0.5, 1.0), "helpful")


def judged_only(steps, scores):
    """The same answers under a judge that knows no utilities; preference → score at each step, or a list by prompt."""
    return {
        step: [
            replace(
                o,
                score=scores[o.preference][k]
                if np.isscalar(scores[o.preference][k])
                else scores[o.preference][k][n % 31],
                utility=None,
                base_utility=None,
                parsed=None,
                base_parsed=None,
            )
            for n, o in enumerate(outcomes)
        ]
        for k, (step, outcomes) in enumerate(steps.items())
    }


def test_a_judge_without_utilities_gives_a_curve_of_win_rates():
    steps = path({"helpful": [0, 0, 0], "harmless": [0, 0, 0]})
    mixed = [1.0] * 21 + [0.0] * 10
    found = switching(
        judged_only(steps, {"helpful": [0.0, mixed, 1.0], "harmless": [1.0, 0.5, 0.0]}), "helpful", BOOTSTRAP
    )
    assert found.measure == "win_rate"
    helpful, harmless = found.preferences["helpful"], found.preferences["harmless"]
    assert helpful.utility is None
    assert helpful.win_rates == pytest.approx((0, 21 / 31, 1))
    assert harmless.win_rates == (1, 0.5, 0)
    assert helpful.parsed == (None, None, None)
    assert helpful.change.value == 1
    assert harmless.change.value == -1
    assert helpful.monotone
    assert helpful.switches
    assert found.monotone
    low, high = helpful.ci95[1]
    assert 0 < low < 21 / 31 < high < 1
    assert helpful.ci95[0][0] == 0 < helpful.ci95[0][1]  # 31 losses do not show that no prompt can be won
    backwards = switching(
        judged_only(steps, {"helpful": [1.0, mixed, 0.0], "harmless": [0.0, 0.5, 1.0]}), "helpful", BOOTSTRAP
    )
    assert not backwards.monotone
    assert not any(found.switches for found in backwards.preferences.values())


def test_prompts_without_a_verdict_at_some_step_are_left_out_of_win_rates_and_counted():
    steps = judged_only(path({"helpful": [0, 0], "harmless": [0, 0]}), {"helpful": [0.0, 1.0], "harmless": [1.0, 0.0]})
    hole = [replace(o, score=None) if o.prompt in ("prompt 3", "prompt 5") else o for o in steps[1.0]]
    found = switching(steps | {1.0: hole}, bootstrap=BOOTSTRAP)
    assert [own.prompts for own in found.preferences.values()] == [29, 29]
    assert found.preferences["helpful"].win_rates == (0, 1)
    silent = [replace(o, score=None) if o.preference == "helpful" else o for o in steps[1.0]]
    with pytest.raises(DataError, match="no prompt has a verdict under 'helpful' at every step"):
        switching(steps | {1.0: silent}, bootstrap=BOOTSTRAP)
