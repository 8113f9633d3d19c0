"""Which figures a report gets: those whose numbers are there; of every other it says what is missing."""

from dataclasses import replace

import pytest

from evaluation.made_scores import by_hand
from evaluation.policies import made_up
from fedvpa.core.errors import DataError
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.report.build import policy_figures, write_report
from fedvpa.evaluation.win_rates import policy_comparison

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def judged_without_utilities():
    """A comparison by a judge that knows no utilities, as an endpoint."""
    found = [replace(o, utility=None, base_utility=None) for o in made_up(prompts=11)]
    return policy_comparison(found, {}, bootstrap=Bootstrap(resamples=2000)).to_dict()


def test_a_figure_that_lacks_its_numbers_is_left_out_and_the_page_says_why(judged_without_utilities, tmp_path):
    compared = judged_without_utilities | {"policy_notes": ["No path: one preference."]}
    figures = policy_figures(compared)
    assert list(figures) == ["win_rates_7_clients", "pareto_7_clients"]
    page = write_report(tmp_path, "title", "command", comparison(by_hand(), {}).to_dict() | compared, figures)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["win_rates_7_clients.png"]
    text = page.read_text()
    assert "The figure “Pareto 7 clients” is left out: at N = 7 0 preferences with utilities" in text
    assert "Judge at least two preferences with a judge that knows utilities." in text
    assert "No path: one preference." in text


def test_another_failure_of_a_figure_is_no_missing_number(tmp_path):
    def broken():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_report(tmp_path, "title", "command", {}, {"some": (broken, "caption")})
    figures = policy_figures({"policy_summary": [{"n_clients": 5, "worse_axis": None}]})
    with pytest.raises(DataError, match="no win rate at N = 5"):
        figures["win_rates_5_clients"][0]()
