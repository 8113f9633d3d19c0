from dataclasses import dataclass

import pytest

from evaluation.policies import outcome
from fedvpa.core.errors import ConfigError
from fedvpa.evaluation.intervals import Bootstrap, Estimate
from fedvpa.evaluation.summaries import (
    Condition,
    JsonResult,
    bootstrap_as_json,
    by_condition,
    by_seed,
    check_level,
    ends_of,
    method_ends_of,
    method_order,
    value_of,
)

pytestmark = pytest.mark.unit


@dataclass(frozen=True, slots=True)
class Inner(JsonResult):
    ends: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Outer(JsonResult):
    name: str
    inner: dict[str, Inner]
    estimates: tuple[Estimate, ...]
    unknown: Estimate | None


def test_a_result_becomes_plain_json_in_the_order_of_its_fields():
    result = Outer(
        "m",
        {"a": Inner((0.25, 0.5)), "b": Inner(None)},
        (Estimate(1.0, (0.0, 2.0)), Estimate(3.0, None, (2.0, 4.0))),
        None,
    )
    assert result.to_dict() == {
        "name": "m",
        "inner": {"a": {"ends": [0.25, 0.5]}, "b": {"ends": None}},
        "estimates": [
            {"mean": 1.0, "ci95": [0.0, 2.0], "method_ci95": None},
            {"mean": 3.0, "ci95": None, "method_ci95": [2.0, 4.0]},
        ],
        "unknown": None,
    }
    assert list(result.to_dict()) == ["name", "inner", "estimates", "unknown"]


def test_what_is_not_known_has_neither_value_nor_interval():
    assert (value_of(None), ends_of(None), method_ends_of(None)) == (None, None, None)
    assert method_ends_of(Estimate(0.5, None, (0.1, 0.9))) == (0.1, 0.9)
    assert (value_of(Estimate(0.5, (0.25, 0.75))), ends_of(Estimate(0.5, (0.25, 0.75)))) == (0.5, (0.25, 0.75))


def test_only_intervals_at_95_percent_go_under_their_keys():
    check_level(Bootstrap())
    with pytest.raises(ConfigError, match=r"level 0\.9 cannot be written under ci95"):
        check_level(Bootstrap(level=0.9))
    assert bootstrap_as_json(Bootstrap(2003, seed=5)) == {"resamples": 2003, "seed": 5}


def test_records_are_grouped_in_the_order_of_the_tables_and_keep_their_own_within():
    records = [
        outcome(method=method, n_clients=size, seed=seed)
        for method, size, seed in (
            ("oracle", 5, 2),
            ("b", 7, 0),
            ("bayes", 5, 0),
            ("a", 5, 1),
            ("global", 5, 0),
            ("a", 5, 0),
        )
    ]
    grouped = by_condition(records)
    names = [("global", 5), ("a", 5), ("oracle", 5), ("bayes", 5), ("b", 7)]
    assert list(grouped) == [Condition(*name) for name in names]
    assert [record.seed for record in grouped[Condition("a", 5)]] == [1, 0]
    assert list(by_seed(records)) == [0, 1, 2]
    assert sorted(["oracle", "zeta", "local", "informed", "global", "alpha"], key=method_order) == [
        "global",
        "local",
        "alpha",
        "zeta",
        "informed",
        "oracle",
    ]
