"""Sentences say what intervals say, and no more."""

import pytest

from fedvpa.evaluation.report.findings import accuracy_sentences, policy_sentences, stage2_sentences

pytestmark = pytest.mark.unit


def selectors(difference=None, ci95=(0.6, 0.8), method_ci95=None, seeds=(0,)):
    rows = [
        {"method": name, "n_clients": 7, "mean": 0.7, "ci95": ci95, "method_ci95": method_ci95, "seeds": seeds}
        for name in ("global", "fedvpa_gp")
    ]
    gain = {"n_clients": 7, "first": "fedvpa_gp", "second": "global", "mean": 0.031, "ci95": (0.01, 0.05)}
    gain |= {"p_holm": 0.01, "method_ci95": None, "method_p_holm": None} | (difference or {})
    return {"summary": rows, "differences": [gain] if difference else []}


def test_one_seed_speaks_of_these_models_and_says_so():
    (said,) = accuracy_sentences(selectors())
    assert "At N = 7, fedvpa_gp orders 70.0%" in said
    assert (
        "95% interval of these trained models: 60.0% to 80.0%; with one seed, nothing is said about the method" in said
    )
    assert said.endswith("better than chance.")


def test_several_seeds_speak_of_the_method():
    (said,) = accuracy_sentences(selectors(method_ci95=(0.45, 0.9), seeds=(0, 1, 2)))
    assert "95% interval of the method, over 3 training seeds: 45.0% to 90.0%" in said
    assert "not distinguishable from 50%, which is chance" in said
    assert "better" not in said


def test_worse_than_chance_and_no_interval_are_said():
    assert accuracy_sentences(selectors(ci95=(0.2, 0.4)))[0].endswith("worse than chance.")
    said = accuracy_sentences(selectors(ci95=None))[0]
    assert "too few to give an interval" in said
    assert "nothing can be said against 50%" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"p_holm": 0.04}, "a difference that survives Holm's correction"),
        ({"p_holm": 0.06}, "a difference that does not survive Holm's correction"),
        ({"p_holm": 0.9, "ci95": (-0.01, 0.05)}, "not distinguishable from no difference"),
        ({"method_p_holm": 0.7, "method_ci95": (-0.1, 0.2)}, "over training seeds too, 95% interval -10.0 to +20.0"),
        ({"method_p_holm": 0.7, "method_ci95": (-0.1, 0.2)}, "not distinguishable from no difference"),
    ],
)
def test_differences_from_global_claim_what_their_table_claims(change, words):
    (said,) = accuracy_sentences(selectors(change))
    assert "+3.1 points against one global model" in said
    assert words in said


def test_policies_are_compared_with_the_base_policy():
    judged = {"win_rate": 0.62, "ci95": (0.55, 0.7), "method_ci95": (0.48, 0.75), "prompts": 500}
    row = {"method": "fedvpa_gp", "n_clients": 7, "seeds": [0, 1], "preferences": {"helpful": judged}}
    (said,) = policy_sentences({"policy_summary": [row]})
    assert "Judged for helpful, answers of fedvpa_gp (N = 7) are preferred to the base policy's on 62.0% of 500" in said
    assert "not distinguishable from 50%" in said
    sure = row | {"seeds": [0], "preferences": {"helpful": judged | {"method_ci95": None}}}
    assert policy_sentences({"policy_summary": [sure]})[0].endswith("better than the base policy.")
    silent = row | {"preferences": {"helpful": judged | {"win_rate": None}}}
    assert policy_sentences({"policy_summary": [silent]}) == []


def test_a_selector_is_no_judge_of_its_own_policy():
    look = {"step": 40, "win_rate": 0.7, "error": 0.05}
    policy = {"method": "fedvpa_gp", "policies": {"": {"stopped": look}, "helpful": {"stopped": look | {"error": 0.2}}}}
    sure, unsure = stage2_sentences(policy)
    assert "The policy of fedvpa_gp stopped at step 40" in sure
    assert "70.0% ± 5.0% of the validation prompts (more often than not)" in sure
    assert "no judge has been asked" in sure
    assert "The policy for helpful" in unsure
    assert "not distinguishable from 50%" in unsure
    alone = {"method": "feddpo", "policies": {"": {"rounds": 3}}}
    assert stage2_sentences(alone) == ["The policy of feddpo was trained: no judge has been asked."]
    assert "no judge" not in "".join(stage2_sentences(policy | {"policy_summary": []}))
