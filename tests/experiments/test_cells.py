"""Cells: one name for one thing, files where earlier versions left them, and gathered from what is there."""

import hashlib
import json
from pathlib import Path

import pytest

import fedvpa
from fedvpa.core.files import write_json
from fedvpa.evaluation.outcomes import Outcome, save_outcomes
from fedvpa.experiments.cells import Cell, identity_of
from fedvpa.experiments.policy_cells import gather_policies, policy_cells
from fedvpa.experiments.policy_training import outcomes_path, step_path
from fedvpa.experiments.selector_cells import conflict_scores_path, data_identity, scores_path, selector_cells
from fedvpa.runs.config import RunConfig, read_config

ONE = {"clients": [7], "seeds": 1, "first_seed": 3}


def digest(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()


@pytest.mark.unit
def test_files_of_a_selector_cell_have_the_names_that_earlier_comparisons_gave_them(tmp_path: Path) -> None:
    (cell,) = selector_cells(RunConfig(), methods=["global"], holdout=None, out=tmp_path, **ONE)
    values = RunConfig().with_clients(7).with_seed(3).with_method("global").model_dump(mode="json")
    name = f"global-7-3-{digest(fedvpa.__version__, values, hashlib.sha256().hexdigest())}"
    assert (cell.name, cell.label) == (name, "global, N = 7, seed 3")
    assert scores_path(cell) == tmp_path / "cells" / f"{name}.jsonl"
    assert conflict_scores_path(cell) == tmp_path / "cells" / f"{name}.conflicting.jsonl"
    assert cell.record == tmp_path / "cells" / f"{name}.json"


@pytest.mark.unit
@pytest.mark.parametrize(("method", "trained_as"), [("oracle", "oracle"), ("feddpo", "global")])
def test_files_of_a_policy_cell_have_the_names_that_earlier_comparisons_gave_them(
    method: str, trained_as: str, tmp_path: Path
) -> None:
    (cell,) = policy_cells(RunConfig(), methods=[method], out=tmp_path, **ONE)
    values = RunConfig().with_clients(7).with_seed(3).with_method(trained_as).model_dump(mode="json")
    folder = tmp_path / "policies" / f"{method}-7-3-{digest(fedvpa.__version__, method, values)}"
    assert cell.label == f"{method}, N = 7, seed 3"
    assert outcomes_path(cell) == folder / "outcomes.jsonl"
    assert step_path(cell, 2) == folder / "path-2.jsonl"
    assert cell.record == folder / "seconds.json"


@pytest.mark.unit
def test_a_cell_is_done_when_its_time_is_written(tmp_path: Path) -> None:
    cell = Cell("policy", "global", RunConfig(), identity_of(), tmp_path)
    assert not cell.is_done
    cell.finish(1.5, policies={"": {"steps": 3}})
    assert cell.is_done
    assert cell.seconds == 1.5
    assert json.loads(cell.record.read_text()) == {"seconds": 1.5, "policies": {"": {"steps": 3}}}


@pytest.mark.unit
def test_a_cell_does_not_outlive_its_data(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "group": "x"}
    config = read_config(None, ["data.source=table", f"data.path={path}"])
    identities = set()
    for changed in ({}, {"group": "y"}, {"chosen": "c"}, {"user_id": "u"}):
        path.write_text(json.dumps(row | changed) + "\n")
        identities.add(data_identity(config, None))
    holdout = tmp_path / "holdout.jsonl"
    for text in ("1", "2"):
        holdout.write_text(text)
        identities.add(data_identity(config, holdout))
    assert len(identities) == 6
    names = {
        selector_cells(config.with_clients(3), methods=["global"], holdout=held, out=tmp_path, **ONE)[0].name
        for held in (None, holdout)
    }
    assert len(names) == 2


@pytest.mark.unit
def test_policies_of_several_sizes_are_compared_and_the_first_size_shows_how_one_switches(tmp_path: Path) -> None:
    cells = policy_cells(RunConfig(), methods=["fedvpa_gp"], clients=[3, 5], seeds=1, first_seed=0, out=tmp_path)
    for cell in cells:
        size = cell.config.partition.clients

        def outcome(preference: str, utility: float, size: int = size) -> Outcome:
            return Outcome("fedvpa_gp", size, 0, preference, "u", True, "p", "a", "b", 1.0, utility, 0.0, True, True, 1)

        save_outcomes(outcomes_path(cell), [outcome("helpful", 1.0), outcome("harmless", 2.0)])
        for step in range(5):
            moved = [outcome("helpful", float(size * step)), outcome("harmless", float(-size * step))]
            save_outcomes(step_path(cell, step), moved)
        write_json(cell.record, {"seconds": 1.0, "policies": {}})
    found = gather_policies(cells)
    assert [row.n_clients for row in found.win_rates.summary] == [3, 5]
    assert found.switching is not None
    curve = found.switching.to_dict()
    assert curve["n_clients"] == 3
    assert curve["preferences"]["helpful"]["utility"] == [0.0, 3.0, 6.0, 9.0, 12.0]
