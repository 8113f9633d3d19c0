import json

import pytest

from evaluation.policies import made_up
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.win_rates import policy_comparison

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2003, seed=3)

ROW_KEYS = (
    "method", "n_clients", "seed", "win_rates", "utilities", "parsed", "missing", "outcomes", "unseen_win_rates",
    "unseen_utilities", "unseen_parsed", "unseen_missing", "unseen_outcomes", "seconds",
)  # fmt: skip
USER_KEYS = ("preferences", "worse_axis", "oracle_share")
PREFERENCE_KEYS = (
    "win_rate", "ci95", "method_ci95", "length_controlled", "utility", "utility_ci95", "utility_method_ci95",
    "base_utility", "utility_gain", "utility_gain_ci95", "utility_gain_method_ci95", "parsed", "parsed_ci95",
    "parsed_method_ci95", "base_parsed", "tokens", "missing", "ties", "flipped", "outcomes", "prompts", "users",
)  # fmt: skip
DIFFERENCE_KEYS = (
    "n_clients", "preference", "first", "second", "mean", "ci95", "method_ci95", "p_value", "prompts", "seeds",
    "p_holm", "method_p_value", "method_p_holm",
)  # fmt: skip


@pytest.fixture(scope="module")
def compared():
    return policy_comparison(made_up(prompts=17, unseen=("fedvpa_gp",)), {}, bootstrap=BOOTSTRAP)


def test_the_file_has_the_documented_keys_in_their_order(compared):
    written = compared.to_dict()
    assert tuple(written) == (
        "policy_bootstrap",
        "policy_rows",
        "policy_summary",
        "policy_differences",
        "policy_judges",
    )
    assert written["policy_bootstrap"] == {"resamples": 2003, "seed": 3}
    assert all(tuple(row) == ROW_KEYS for row in written["policy_rows"])
    assert all(tuple(row) == DIFFERENCE_KEYS for row in written["policy_differences"])
    for row in written["policy_summary"]:
        assert tuple(row) == ("method", "n_clients", "seeds", *USER_KEYS, "unseen")
        assert all(tuple(found) == PREFERENCE_KEYS for found in row["preferences"].values())
        assert all(tuple(share) == ("mean", "ci95", "method_ci95") for share in row["oracle_share"].values())
    (unseen,) = [row["unseen"] for row in written["policy_summary"] if row["unseen"] is not None]
    assert tuple(unseen) == USER_KEYS
    assert json.loads(json.dumps(written, allow_nan=False)) == written


def test_the_attributes_are_the_keys(compared):
    written = compared.to_dict()
    for summary, row in zip(compared.summary, written["policy_summary"], strict=True):
        helpful = summary.preferences["helpful"]
        assert (helpful.win_rate, list(helpful.ci95)) == tuple(
            row["preferences"]["helpful"][key] for key in ("win_rate", "ci95")
        )
        assert summary.worse_axis == row["worse_axis"]
    first = compared.differences[0]
    assert (first.first, first.mean, first.p_holm) == tuple(
        written["policy_differences"][0][key] for key in ("first", "mean", "p_holm")
    )
