import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from fedvpa.evaluation.comparison import comparison
from fedvpa.evaluation.latents import diagnose
from fedvpa.evaluation.report.page import (
    Report,
    controls_text,
    differences_text,
    embedded,
    figures,
    flat,
    render_report,
    save_report,
)
from fedvpa.evaluation.report.tables import summary_text
from fedvpa.evaluation.scores import PRIOR_MEAN_Z, SWAPPED_Z, control_name
from fedvpa.evaluation.statistics import Bootstrap

pytestmark = pytest.mark.unit

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Reads a page; complains about tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.links, self.tags = [], [], [], []
        self.feed(html)
        assert self.open == []
        self.tokenizer = re.sub(r"\s+", " ", " ".join(self.text))

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
def compared(make_scores):
    scores = make_scores(sizes=(5, 11), seeds=(0, 1))
    own = [s for s in scores if s.method == "fedvpa_gp"]
    swapped = [replace(s, method=control_name("fedvpa_gp", SWAPPED_Z), correct=s.total - s.correct) for s in own]
    prior = [replace(s, method=control_name("fedvpa_gp", PRIOR_MEAN_Z), correct=s.total / 2) for s in own]
    return comparison(scores + swapped + prior, {("fedvpa_gp", 5, 0): 2.5}, Bootstrap(resamples=2000))


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
        figures=[embedded("Gap closed", figures.gap_figure(compared), "By number of clients.")],
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
        assert cell in page.tokenizer
    for words in ("Two <groups> & their pairs", "The gap is closed.", "fedvpa demo --seed 3", "By number of clients."):
        assert words in page.tokenizer
    for words in ("data.pairs.train 40", "tau 1.0, 0.1", "holdout –", "torch 2.13", "Nothing was left out."):
        assert words in page.tokenizer
    assert "6 / 5" in page.tokenizer
    assert "2000 resamples" in page.tokenizer


def test_a_collapsed_method_is_named_at_the_top(report):
    page = Page(render_report(report))
    assert "Posterior collapse? fedvpl No latent dimension is active" in page.tokenizer
    assert "Posterior collapse? fedvpa_gp" not in page.tokenizer


def test_the_page_is_readable_on_a_phone_and_in_the_dark(report):
    html = render_report(report)
    assert 'name="viewport" content="width=device-width' in html
    assert "prefers-color-scheme: dark" in html
    assert html.startswith("<!doctype html>")


def test_an_empty_report_is_only_a_title():
    page = Page(render_report(Report("Nothing yet")))
    assert not {"table", "figure", "pre", "h2", "details"} & set(page.tags)
    assert page.tags.count("h1") == 1


def test_controls_stand_beside_what_is_expected_of_them(compared):
    rows = controls_text(compared).rows
    assert {row[2]: row[-1] for row in rows} == {"swapped z": "must fall", "prior mean z": "must be about global"}
    swapped = next(row for row in rows if row[:3] == ("11", "fedvpa_gp", "swapped z"))
    assert swapped[4].startswith("-0.5")


def test_a_star_marks_differences_that_survive_the_correction(compared):
    changed = {**compared, "differences": [{**compared["differences"][0], "p_holm": p} for p in (0.0004, 0.0499, 0.05)]}
    assert [row[-1] for row in differences_text(changed).rows] == ["< 0.001 *", "0.050 *", "0.050"]


def test_nested_sections_become_dotted_keys():
    assert flat({"a": {"b": 1, "c": {}}, "d": [], "e": "x"}) == [("a.b", "1"), ("a.c", "–"), ("d", "–"), ("e", "x")]


def test_saving_writes_the_page(report, tmp_path):
    save_report(tmp_path / "runs" / "report.html", report)
    assert (tmp_path / "runs" / "report.html").read_text(encoding="utf-8") == render_report(report)
