"""The table of imbalance: proportions as settings, and each group's numbers on the clients of that group."""

from pathlib import Path

import pytest

from benchmarks.test_small_runs import load
from fedvpa.core.errors import ConfigError
from fedvpa.data.load import load as load_pairs
from fedvpa.data.partition import partition
from fedvpa.evaluation.scores import ClientScore
from fedvpa.runs.config import read_config
from run_fixtures import TINY

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return load("imbalance", monkeypatch)


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["natural", "group"])
def test_a_proportion_is_that_of_the_seen_clients(module, kind):
    config = read_config(
        None, [f"partition.kind={kind}", "partition.clients=10", "partition.unseen=4", "data.users=30"]
    )
    groups = module.groups_of(config)
    assert groups == ("harmless", "helpful")
    for proportion, counts in (("80/20", (8, 2)), ("10/90", (1, 9))):
        run = module.with_proportion(config, groups, proportion)
        found = partition(load_pairs(run.resolved_data()), run.partition, 0)
        assert tuple(sum(client.group == name for client in found.seen) for name in groups) == counts
        assert tuple(sum(client.group == name for client in found.unseen) for name in groups) == (2, 2)


@pytest.mark.unit
def test_what_is_no_proportion_of_two_groups_is_refused(module):
    config = read_config(None, ["data.population=four-groups"])
    with pytest.raises(ConfigError, match="the data have 4"):
        module.groups_of(config)
    for wrong in ("80", "80/0", "a/b", "1/2/3"):
        with pytest.raises(ConfigError, match="no proportion"):
            module.with_proportion(config, ("a", "b"), wrong)


def score(method, client, group, correct, seen=True):
    return ClientScore(method, 3, 0, client, group, seen, correct, 10)


@pytest.mark.unit
def test_each_group_is_measured_on_its_own_clients(module):
    right = {"global": (8, 8, 4), "m": (8, 7, 6), "informed": (9, 9, 8)}
    scores = [
        score(method, client, group, value)
        for method, values in right.items()
        for client, group, value in zip(("c0", "c1", "c2"), ("a", "a", "b"), values, strict=True)
    ]
    scores += [score("m:swapped_z", "c0", "a", 1), *(score(method, "new", "b", 5, seen=False) for method in right)]
    rows = {(row["method"], row["seen"]): row for row in module.rows_of(scores, ("a", "b"), "67/33", same_users=True)}
    assert set(rows) == {(method, seen) for method in right for seen in (True, False)}
    own = rows["m", True]
    assert own["all"]["accuracy"]["mean"] == pytest.approx(0.7)
    assert [own[group]["accuracy"]["mean"] for group in ("a", "b")] == pytest.approx([0.75, 0.6])
    assert [own[group]["above_global"]["mean"] for group in ("a", "b")] == pytest.approx([-0.05, 0.2])
    assert own["all"]["of_informed"]["mean"] == pytest.approx((0.7 - 2 / 3) / (26 / 30 - 2 / 3))
    assert own["b"]["of_informed"]["mean"] == pytest.approx(0.2 / 0.4)
    assert rows["global", True]["b"]["above_global"] is None
    assert rows["m", False]["a"] is None
    lines = module.table_of(list(rows.values()), ("a", "b")).splitlines()
    assert lines[0] == "| a / b | N | clients | method | all | a | a − global | b | b − global | of informed |"
    assert len(lines) == 2 + len(rows)
    assert any("| m |" in line and "0.200" in line for line in lines)


@pytest.mark.end_to_end
def test_every_proportion_is_compared(module, tmp_path):
    config = read_config(None, [*TINY, "partition.clients=5"])
    rows, _ = module.imbalance(config, tmp_path, ["60/40"], methods=("global",), clients=(5,), seeds=1, jobs=1)
    assert {(row["method"], row["seen"]) for row in rows} >= {("global", True), ("global", False)}
    assert all(0 <= row["all"]["accuracy"]["mean"] <= 1 for row in rows)
    assert (tmp_path / "60-40" / "comparison.json").is_file()
