"""Ablations, unseen users by pairs given, users × prompts: by hand from made-up scores."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluation.made_scores import by_hand, score
from fedvpa.evaluation.ablations import ablation_rows
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.evaluation.four_way import NO_SEEN_PROMPTS, NO_UNSEEN_PROMPTS, NO_UNSEEN_USERS, four_way_rows
from fedvpa.evaluation.group_rows import group_rows
from fedvpa.evaluation.holm import holm
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.report.protocol_tables import below_global, protocol_tables
from fedvpa.evaluation.report.tables import table_text
from fedvpa.evaluation.scores import SWAPPED_Z, ClientScore, control_name
from fedvpa.evaluation.shot_rows import shot_rows

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2000)


def with_variants(make_scores) -> list[ClientScore]:
    """Two variants of ``fedvpa_gp``: one 10 points worse for each client, one the same."""
    scores = make_scores(seeds=(0, 1), holdout=False)
    own = [one for one in scores if one.method == "fedvpa_gp"]
    worse = [replace(one, method="− mixture", correct=one.correct - 4) for one in own]
    return [*scores, *worse, *(replace(one, method="published") for one in own)]


def test_a_variant_is_compared_with_its_method_alone(make_scores):
    scores = with_variants(make_scores)
    rows = ablation_rows(scores, "fedvpa_gp", ["− mixture", "published"], BOOTSTRAP)
    assert [(row.first, row.second) for row in rows] == [("published", "fedvpa_gp"), ("− mixture", "fedvpa_gp")]
    same, worse = rows
    assert (same.mean, same.p_value) == (0, 1)
    assert worse.mean == pytest.approx(-4 / 41)
    assert (worse.clients, worse.seeds) == (22, (0, 1))
    assert [row.p_holm for row in rows] == pytest.approx(holm([row.p_value for row in rows]))
    table = comparison(scores, {}, BOOTSTRAP, variants=["− mixture", "published"])
    assert {row.method for row in table.summary} > {"− mixture", "published"}
    assert not {"− mixture", "published"} & {name for row in table.differences for name in (row.first, row.second)}
    assert table.differences == comparison(make_scores(seeds=(0, 1), holdout=False), {}, BOOTSTRAP).differences


def shots_of(correct: dict[str, tuple[float, ...]], count: int) -> list[ClientScore]:
    return [
        score(method, f"u{place}", right, seen=False)
        for method, all_right in correct.items()
        for place, right in enumerate(all_right)
    ] + [score("m", "seen", count % 10)]


def test_methods_stand_against_global_at_each_number_of_pairs_and_yardsticks_claim_nothing():
    plan = {
        1: {"global": (5, 6, 5, 7), "m": (4, 4, 5, 4), "oracle": (9, 9, 8, 9)},
        4: {"global": (5, 6, 5, 7), "m": (7, 8, 6, 9), "oracle": (9, 9, 8, 9)},
    }
    rows = shot_rows({count: shots_of(correct, count) for count, correct in plan.items()}, BOOTSTRAP)
    assert [(row.method, row.context_pairs, row.clients) for row in rows] == [
        (method, count, 4) for count in (1, 4) for method in ("global", "m", "oracle")
    ]
    by_name = {(row.method, row.context_pairs): row for row in rows}
    one, four = by_name["m", 1], by_name["m", 4]
    assert one.difference is not None
    assert four.difference is not None
    assert (one.mean, one.difference.value) == (pytest.approx(0.425), pytest.approx(-0.15))
    assert four.difference.value == pytest.approx(0.175)
    assert [one.p_holm, four.p_holm] == pytest.approx(holm([one.p_value, four.p_value]))
    assert by_name["global", 1].difference is None
    oracle = by_name["oracle", 1]
    assert oracle.p_value is not None
    assert oracle.p_holm is None, "a yardstick is no claim"
    written = [row.to_dict() for row in rows]
    assert below_global(written).startswith("No method is below global at any number")
    worse = [{**row, "p_holm": 0.01} if row["method"] == "m" else row for row in written]
    assert below_global(worse) == "Below global after Holm's correction (of these trained models): m with 1 (N = 2)."


def test_each_group_stands_against_global_on_its_own():
    more = [score(method, "w", right, group="b") for method, right in (("global", 3), ("m", 5), ("oracle", 9))]
    rows = group_rows([*by_hand(), *more, score(control_name("m", SWAPPED_Z), "x", 1)], BOOTSTRAP)
    found = {(row.group, row.method): row for row in rows}
    assert set(found) == {(group, method) for group in "ab" for method in ("global", "m", "oracle")}
    minority, majority = found["a", "m"], found["b", "m"]
    assert minority.difference is not None
    assert majority.difference is not None
    assert (minority.clients, minority.mean, minority.difference.value) == (1, 0.8, pytest.approx(0.3))
    assert (majority.clients, majority.mean, majority.difference.value) == (2, 0.55, pytest.approx(0.15))
    assert [minority.p_holm, majority.p_holm] == pytest.approx(holm([minority.p_value, majority.p_value]))
    assert found["a", "oracle"].p_holm is None
    [table] = protocol_tables({"groups": [row.to_dict() for row in rows]})
    assert table.printed, "groups differ in size"
    assert table.brief is not None
    assert table.brief.header == ("N", "method", "a, 1 users", "b, 2 users")
    assert table.brief.rows[1] == ("2", "m", "0.800 (+0.300)", "0.550 (+0.150)")
    even = protocol_tables({"groups": [row.to_dict() for row in group_rows(by_hand(), BOOTSTRAP)]})
    assert not even[0].printed
    assert group_rows([one for one in by_hand() if one.group == "a"], BOOTSTRAP) == ()


def test_four_cells_say_how_many_they_are_and_why_one_is_empty():
    scores = by_hand()
    rows = four_way_rows({"unseen": scores, "seen": [score("m", "x", 3)]}, True, BOOTSTRAP)
    found = {(row.method, row.users, row.prompts): row for row in rows}
    assert len(rows) == 4 * 3
    assert (found["m", "seen", "unseen"].mean, found["m", "seen", "unseen"].clients) == (0.7, 2)
    assert (found["m", "unseen", "unseen"].mean, found["m", "unseen", "unseen"].pairs) == (0.6, 10)
    assert (found["m", "seen", "seen"].mean, found["m", "seen", "seen"].pairs) == (0.3, 10)
    assert found["m", "unseen", "seen"].empty == NO_SEEN_PROMPTS
    assert found["m", "seen", "seen"].empty is None
    alone = four_way_rows({"seen": [one for one in scores if one.seen], "unseen": []}, False, BOOTSTRAP)
    reasons = {(row.users, row.prompts): row.empty for row in alone if row.method == "m"}
    assert reasons == {
        ("seen", "seen"): None,
        ("seen", "unseen"): NO_UNSEEN_PROMPTS,
        ("unseen", "seen"): NO_UNSEEN_USERS,
        ("unseen", "unseen"): NO_UNSEEN_USERS,
    }


def test_the_tables_stand_below_the_summary(make_scores):
    scores = with_variants(make_scores)
    written = comparison(scores, {}, BOOTSTRAP, variants=["− mixture", "published"]).to_dict()
    assert protocol_tables(written) == []
    written["ablations"] = [row.to_dict() for row in ablation_rows(scores, "fedvpa_gp", ["− mixture"], BOOTSTRAP)]
    given = shots_of({"global": (5, 6), "m": (7, 9)}, 1)
    written["shots"] = [row.to_dict() for row in shot_rows({1: given, 3: given}, BOOTSTRAP)]
    written["four_way"] = [row.to_dict() for row in four_way_rows({"unseen": by_hand(), "seen": []}, True, BOOTSTRAP)]
    titles = [one.title for one in protocol_tables(written)]
    text = table_text(written, 140)
    assert [text.index(title) for title in titles] == sorted(text.index(title) for title in titles)
    assert "0.800 (+0.250)" in text
    assert "seen users, seen prompts: empty (no test pair" in " ".join(text.split())
    for one in protocol_tables(written):
        assert all(len(row) == len(one.table.header) for row in one.table.rows)
