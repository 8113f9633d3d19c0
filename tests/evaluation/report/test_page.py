import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from fedvpa.evaluation.latents import diagnose
from fedvpa.evaluation.report.accuracy_figures import gap_figure
from fedvpa.evaluation.report.detail_tables import (
    controls_text,
    differences_text,
    policy_differences_text,
    samples_text,
)
from fedvpa.evaluation.report.page import Report, embedded, flat, render_report, save_report
from fedvpa.evaluation.report.policy_figures import win_rate_figure
from fedvpa.evaluation.report.tables import policy_summary_text, summary_text

pytestmark = pytest.mark.unit


VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Reads a page; complains about tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.links, self.tags = [], [], [], []
        self.feed(html)
        assert self.open == []
        self.words = re.sub(r"\s+", " ", " ".join(self.text))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def report(compared):
    rng = np.random.default_rng(0)
    means = rng.normal(0, 2, (11, 3))
    groups = ["a", "b"] * 5 + ["a"]
    return Report(
        title="Two <groups> & their pairs",
        lead="The gap is closed.",
        command="fedvpa demo --seed 3",
        comparison=compared,
        figures=[embedded("Gap closed", gap_figure(compared), "By number of clients.")],
        latents={
            "fedvpa_gp": diagnose(means, np.full((11, 3), -4.0), groups, np.eye(2, 3), [0, 1] * 5 + [0]),
            "fedvpl": diagnose(means / 100, np.zeros((11, 3)), groups),
        },
        configuration={"data": {"pairs": {"train": 40}}, "tau": [1.0, 0.1], "holdout": None},
        environment={"torch": "2.13"},
        notes=["Nothing was left out."],
    )


def test_the_page_loads_nothing_and_runs_nothing(report):
    html = render_report(report)
    page = Page(html)
    assert all(link.startswith("data:") for link in page.links)
    assert "script" not in page.tags
    assert "url(" not in html
    assert "@import" not in html
    assert page.tags.count("img") == 1


def test_the_page_says_everything_it_was_given(report, compared):
    page = Page(render_report(report))
    tables = (summary_text(compared), controls_text(compared), differences_text(compared))
    for cell in (cell for table in tables for row in table.rows for cell in row):
        assert cell in page.words
    for words in ("Two <groups> & their pairs", "The gap is closed.", "fedvpa demo --seed 3", "By number of clients."):
        assert words in page.words
    for words in ("data.pairs.train 40", "tau 1.0, 0.1", "holdout –", "torch 2.13", "Nothing was left out."):
        assert words in page.words
    assert "6 / 5" in page.words
    assert (
        "[95% interval of these trained models] ([95% interval of the method, over training seeds too])" in page.words
    )


def test_a_collapsed_method_is_named_at_the_top(report):
    page = Page(render_report(report))
    assert "Alarm: the latents of fedvpl No latent dimension is active" in page.words
    assert "Alarm: the latents of fedvpa_gp No latent dimension" not in page.words


def test_the_page_is_readable_on_a_phone_and_in_the_dark(report):
    html = render_report(report)
    assert 'name="viewport" content="width=device-width' in html
    assert "prefers-color-scheme: dark" in html
    assert html.startswith("<!doctype html>")


def test_an_empty_report_is_only_a_title():
    page = Page(render_report(Report("Nothing yet")))
    assert not {"table", "figure", "pre", "h2", "details"} & set(page.tags)
    assert page.tags.count("h1") == 1


def test_nested_sections_become_dotted_keys():
    assert flat({"a": {"b": 1, "c": {}}, "d": [], "e": "x"}) == [("a.b", "1"), ("a.c", "–"), ("d", "–"), ("e", "x")]


def test_saving_writes_the_page(report, tmp_path):
    save_report(tmp_path / "runs" / "report.html", report)
    assert (tmp_path / "runs" / "report.html").read_text(encoding="utf-8") == render_report(report)


def test_the_report_says_everything_about_policies(policies, samples):
    figure = embedded("Win rates", win_rate_figure(policies, 7), "Against the base policy.")
    page = Page(render_report(Report("Two", policies=policies, policy_figures=[figure], samples=samples)))
    assert page.tags.count("img") == 1
    tables = (policy_summary_text(policies), policy_differences_text(policies), samples_text(samples[0]))
    for cell in (cell for table in tables for row in table.rows for cell in row):
        assert " ".join(cell.split()) in page.words
    for heading in ("Policies", "Win rates", "Paired differences of win rates", "Answers side by side"):
        assert heading in page.words
    assert "[95% interval of these trained policies]" in page.words
    assert "b" not in page.tags  # what a model wrote is shown, never obeyed


def test_a_report_without_policies_does_not_mention_them():
    page = Page(render_report(Report("One", notes=["Nothing."])))
    assert "Policies" not in page.words
    assert "side by side" not in page.words
    assert "table" not in page.tags


def test_a_judge_that_names_a_place_is_loud_and_data_that_are_not_used_are_counted(policies, compared):
    judge = {"judge": "j", "duels": 40, "missing": 1, "ties": 30, "both_orders": 39, "flipped": 0.7, "first_seat": 0.8}
    finding = {
        "effect": "cut",
        "unit": "response",
        "reason": "longer than 256 tokens",
        "count": 7,
        "first": "a.jsonl:3",
    }
    told = {**compared, "data": {"read": 96, "used": 90, "findings": [finding]}}
    told["held_out"] = {"unit": "pair", "units": 80, "test_units": 17, "pairs": 90, "test_pairs": 19}
    judged = policies | {"policy_judges": [judge | {"position_biased": True}]}
    page = Page(render_report(Report("Three", comparison=told, policies=judged)))
    for words in (
        "Alarm: the judge WARNING: the judge 'j' decides by the place of an answer: 70.0%",
        "the answer shown first won 80.0% of the calls",
        "cut longer than 256 tokens 7 responses a.jsonl:3",
        "held out 17 of 80 units (by pair) test pairs 19 of 90 rows read 96 rows used 90",
    ):
        assert words in page.words
    quiet = Page(
        render_report(Report("Four", policies=policies | {"policy_judges": [judge | {"position_biased": False}]}))
    )
    assert "Alarm: the judge" not in quiet.words
    assert "70.0% of verdicts flipped" in quiet.words


def test_the_page_says_what_noise_promises(report, compared):
    assert "Privacy" not in Page(render_report(report)).words
    noise = {"noise_multiplier": 1.21, "rate": 0.1, "rounds": 50, "delta": 1e-4, "epsilon_released": 3.0}
    noise |= {"epsilon_server": 15.8, "unit": "user", "relation": "add or remove one user", "clip": {"all": 0.1}}
    noise |= {"seeded": False, "covered": "the selector", "not_covered": "the user's own z"}
    page = Page(render_report(replace(report, comparison={**compared, "privacy": noise})))
    for words in (
        "Privacy",
        "(epsilon_released) 3",
        "(epsilon_server) 15.8",
        "δ 0.0001",
        "not covered the user's own z",
    ):
        assert words in page.words
    assert "Simulation" not in page.words
    seeded = replace(report, comparison={**compared, "privacy": noise | {"seeded": True}})
    assert "Simulation: seeded noise" in Page(render_report(seeded)).words
