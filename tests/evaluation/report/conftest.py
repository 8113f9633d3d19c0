"""What the figures, the tables and the page are tested on."""

from dataclasses import replace

import pytest

from evaluation.policies import made_up, outcome
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.samples import side_by_side
from fedvpa.evaluation.scores import PRIOR_MEAN_Z, SWAPPED_Z, control_name
from fedvpa.evaluation.win_rates import policy_comparison

BOOTSTRAP = Bootstrap(resamples=2000)


@pytest.fixture(scope="session")
def compared(make_scores):
    scores = make_scores(sizes=(5, 11), seeds=(0, 1))
    own = [s for s in scores if s.method == "fedvpa_gp"]
    swapped = [replace(s, method=control_name("fedvpa_gp", SWAPPED_Z), correct=s.total - s.correct) for s in own]
    prior = [replace(s, method=control_name("fedvpa_gp", PRIOR_MEAN_Z), correct=s.total / 2) for s in own]
    return comparison(scores + swapped + prior, {("fedvpa_gp", 5, 0): 2.5}, BOOTSTRAP).to_dict()


@pytest.fixture(scope="session")
def outcomes():
    return made_up(sizes=(5, 7), prompts=29, unseen=("fedvpa_gp",))


@pytest.fixture(scope="session")
def policies(outcomes):
    return policy_comparison(outcomes, {("fedvpl", 7, 0): 2.0, ("fedvpl", 7, 1): 3.0}, bootstrap=BOOTSTRAP).to_dict()


@pytest.fixture(scope="session")
def samples():
    rows = [
        outcome(preference="helpful", response="<b>first</b>\nsecond", utility=1.25, base_utility=-0.5),
        outcome(preference="harmless", response="<b>first</b>\nsecond", utility=0.75, base_utility=0.1),
    ]
    return side_by_side({"z at 30%": rows}, ["p"])
