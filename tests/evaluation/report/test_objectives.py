"""Figures and table of trainings towards several objectives, and the figure of fronts."""

import json

import numpy as np
import pytest

from evaluation.made_scores import by_hand
from evaluation.policies import objective_lines
from fedvpa.core.errors import DataError
from fedvpa.core.files import write_json, write_text
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.evaluation.fronts import summarise_front
from fedvpa.evaluation.hypervolume import Front
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.report.build import objective_histories, reward_figures, stage2_figures, write_report
from fedvpa.evaluation.report.front_figure import front_figure
from fedvpa.evaluation.report.objectives import objectives_figure, objectives_text, reward_curves_figure
from fedvpa.evaluation.report.style import figure_bytes

pytestmark = pytest.mark.unit


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}


def test_every_panel_shows_what_the_history_tells():
    shown = panels(objectives_figure(objective_lines()))
    assert list(shown) == [
        "Rewards",
        "Weights of the objectives",
        "How clients differ",
        "Distance to the base policy",
        "Traffic",
    ]
    helpful, harmless = shown["Rewards"].lines
    assert helpful.get_ydata().tolist() == [-1, 0, 1, 2]
    assert harmless.get_label() == "world:harmless (roughness 2.00)"
    assert [line.get_label() for line in shown["How clients differ"].lines[:2]] == [
        "disagreement of λ",
        "steps at a vertex",
    ]
    assert shown["Traffic"].lines[1].get_ydata()[-1] == pytest.approx(80e-6)
    assert figure_bytes(objectives_figure(objective_lines()), "svg") == figure_bytes(
        objectives_figure(objective_lines()), "svg"
    )


def test_a_yardstick_that_tells_of_no_weights_has_no_panel_for_them():
    told = ("round", "reward", "uplink", "downlink")
    lines = [{key: value for key, value in line.items() if key.startswith(told)} for line in objective_lines()]
    assert list(panels(objectives_figure(lines))) == ["Rewards", "Traffic"]
    with pytest.raises(DataError, match="tells of no objectives"):
        objectives_figure([{"round": 1, "loss": 0.3}])


def test_methods_are_drawn_in_one_panel_for_each_objective():
    other = [{**line, "reward.after.world:helpful": 5.0} for line in objective_lines()]
    shown = panels(reward_curves_figure({"firm": [objective_lines(), other], "scalar": [objective_lines(3)]}))
    assert list(shown) == ["world:helpful", "world:harmless"]
    firm, scalar = shown["world:helpful"].lines
    assert firm.get_ydata().tolist() == [2.0, 2.5, 3.0, 3.5]
    assert len(scalar.get_ydata()) == 3
    assert len(shown["world:helpful"].collections) == 1  # a band over two runs, none over one


def test_the_table_has_a_row_for_each_objective():
    text = objectives_text({"": objective_lines(), "other": [{"round": 1, "loss": 0.1}]})
    rows = [dict(zip(text.header, row, strict=True)) for row in text.rows]
    assert [row["objective"] for row in rows] == ["world:helpful", "world:harmless"]
    assert [row["policy for"] for row in rows] == ["all users", ""]
    assert (rows[0]["reward at first"], rows[0]["at last"]) == ("-1.00", "2.00")
    assert rows[0]["steps at a vertex"] == "12%"
    assert rows[1]["roughness"] == "2.00"
    assert rows[0]["drift"] == "–"


def test_the_page_of_a_run_has_them(tmp_path):
    compared = comparison(by_hand(), {}).to_dict()
    lines = "".join(f"{json.dumps(line)}\n" for line in objective_lines())
    write_text(tmp_path / "policy" / "history.jsonl", lines)
    policy = {"method": "firm", "policies": {"": {"rounds": 4}}}
    write_json(tmp_path / "policy" / "metrics.json", policy)
    histories = objective_histories(tmp_path, policy)
    figures = stage2_figures(tmp_path, policy)
    assert list(figures) == ["objectives_policy"]
    page = write_report(tmp_path, "title", "command", compared, figures, policy=policy, histories=histories).read_text()
    assert "<h2>Several objectives</h2>" in page
    assert "world:harmless" in page
    assert "Selector prefers it" not in page
    assert (tmp_path / "figures" / "objectives_policy.png").is_file()
    assert reward_figures({}) == {}
    assert list(reward_figures({"firm": list(histories.values())})) == ["rewards_by_round"]


def test_fronts_are_lines_in_the_order_of_the_preference():
    gains = np.array([[1.0, 2.0], [3.0, 0.5], [2.0, 1.0]])
    noise = np.random.default_rng(0).normal(size=(2, 1, 11, 2))
    front = Front(gains[None, :, None] + noise, np.zeros((2, 11, 2)))
    summary = summarise_front("firm", front, ((0, 1), (1, 0), (0.5, 0.5)), ("a", "b"), Bootstrap(resamples=2000))
    figure = front_figure([summary.to_dict(), {**summary.to_dict(), "method": "soups"}])
    (axes,) = figure.axes
    line = next(line for line in axes.lines if len(line.get_xdata()) == 3)
    expected = front.gains.mean(0)[[0, 2, 1]]
    assert np.allclose(np.stack([line.get_xdata(), line.get_ydata()], axis=1), expected)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert f"firm: {summary.hypervolume.value:.2f}" in labels
    with pytest.raises(DataError, match="0 fronts under 0 objectives cannot span a plane"):
        front_figure([])
