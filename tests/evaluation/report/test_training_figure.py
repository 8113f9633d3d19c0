import pytest

from fedvpa.core.errors import DataError
from fedvpa.evaluation.report.training_figure import training_figure

pytestmark = pytest.mark.unit


def test_the_training_figure_has_a_panel_per_loss_and_adds_up_the_time():
    figure = training_figure([1, 2, 3], {"kl": [3.0, 2.0, 1.0]}, [0.5, 0.25, 0.25])
    kl, time = figure.axes
    assert kl.lines[0].get_ydata().tolist() == [3.0, 2.0, 1.0]
    assert time.lines[0].get_ydata().tolist() == [0.5, 0.75, 1.0]
    assert figure.get_suptitle() == "Training: 3 rounds, 1.0 s"


def test_losses_that_do_not_fit_the_rounds_are_refused():
    with pytest.raises(DataError, match="kl has 1 values for 2 rounds"):
        training_figure([1, 2], {"kl": [1.0]}, [1.0, 1.0])
