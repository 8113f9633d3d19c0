"""Cells: one name for one thing, files where earlier versions left them, and gathered from what is there."""

import json
import shutil
from pathlib import Path

import pytest

from fedvpa.core.files import write_json
from fedvpa.evaluation.outcomes import Outcome, load_outcomes, save_outcomes
from fedvpa.experiments.cells import Cell
from fedvpa.experiments.judging import outcomes_path, step_path
from fedvpa.experiments.policy_cells import gather_policies, policy_cells
from fedvpa.experiments.policy_training import run_of
from fedvpa.experiments.selector_cells import conflict_scores_path, scores_path, selector_cells
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.world import backbone_path

ONE = {"clients": [7], "seeds": 1, "first_seed": 3}


def names_of(config: RunConfig, out: Path, holdout: Path | None = None) -> tuple[str, str]:
    """The names of one selector cell and one policy cell."""
    (selector,) = selector_cells(config, methods=["global"], holdout=holdout, out=out, **ONE)
    (policy,) = policy_cells(config, methods=["global"], out=out, **ONE)
    return selector.name, policy.name


@pytest.mark.unit
def test_files_of_a_cell_lie_where_their_names_say(tmp_path: Path) -> None:
    (cell,) = selector_cells(RunConfig(), methods=["global"], holdout=None, out=tmp_path, **ONE)
    assert (cell.name, cell.label) == (f"global-7-3-{cell.identity}", "global, N = 7, seed 3")
    assert scores_path(cell) == tmp_path / "cells" / f"{cell.name}.jsonl"
    assert conflict_scores_path(cell) == tmp_path / "cells" / f"{cell.name}.conflicting.jsonl"
    assert cell.record == tmp_path / "cells" / f"{cell.name}.json"
    trained_as = {}
    for method in ("oracle", "feddpo", "global"):
        (policy,) = policy_cells(RunConfig(), methods=[method], out=tmp_path, **ONE)
        assert policy.label == f"{method}, N = 7, seed 3"
        assert policy.folder == tmp_path / "policies" / f"{method}-7-3-{policy.identity}"
        trained_as[policy.identity] = policy.config.method
    assert list(trained_as.values()) == ["oracle", "global", "global"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("override", "selector_changes", "policy_changes"),
    [
        ("server.rounds=3", True, True),
        ("variational.orthogonal_weight=0.123", True, True),
        ("data.flip=0.123", True, True),
        ("policy.beta=0.123", False, True),
        ("policy.candidates.temperature=0.123", False, True),
        ("policy.judging.prompts=7", False, False),
        ("policy.judging.temperature=0.2", False, False),
        ("policy.checkpoint_every=3", False, False),
        ("engine.workers=3", False, False),
        ("features.cache_dir=elsewhere", False, False),
    ],
)
def test_a_cell_is_known_by_what_decides_what_it_trains(
    override: str, selector_changes: bool, policy_changes: bool, tmp_path: Path
) -> None:
    before, after = names_of(RunConfig(), tmp_path), names_of(read_config(None, [override]), tmp_path)
    assert [one != other for one, other in zip(before, after, strict=True)] == [selector_changes, policy_changes]


@pytest.mark.unit
def test_another_release_runs_its_own_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names_of(RunConfig(), tmp_path)
    monkeypatch.setattr("fedvpa.runs.identity.__version__", "0.0")
    assert not set(names_of(RunConfig(), tmp_path)) & set(before)


@pytest.mark.unit
def test_a_cell_is_known_by_the_content_of_its_pairs(tmp_path: Path) -> None:
    path, row = tmp_path / "pairs.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b", "group": "x"}
    config = read_config(None, ["data.source=table", f"data.path={path}", "features.model=bundled"])
    found = []
    flipped = {"chosen": "b", "rejected": "a"}
    for changed in ({}, flipped, {"group": "y"}, {"chosen": "c"}, {"user_id": "u"}, {"weight": 2.0}):
        path.write_text(json.dumps(row | changed) + "\n")
        found.append(names_of(config, tmp_path))
    assert [len(set(names)) for names in zip(*found, strict=True)] == [6, 6]
    moved = path.rename(tmp_path / "moved.jsonl")
    elsewhere = read_config(None, ["data.source=table", f"data.path={moved}", "features.model=bundled"])
    assert names_of(elsewhere, tmp_path) == found[-1]


@pytest.mark.unit
def test_a_cell_is_known_by_the_content_of_its_holdout_file_or_folder(tmp_path: Path) -> None:
    path, holdout = tmp_path / "pairs.jsonl", tmp_path / "holdout"
    holdout.mkdir()
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "group": "x"}
    path.write_text(json.dumps(row) + "\n")
    config = read_config(None, ["data.source=table", f"data.path={path}", "features.model=bundled"])
    found = {names_of(config, tmp_path)[0]}
    for changed in ({}, {"chosen": "b", "rejected": "a"}):
        (holdout / "pairs.jsonl").write_text(json.dumps(row | changed) + "\n")
        found |= {names_of(config, tmp_path, held)[0] for held in (holdout, holdout / "pairs.jsonl")}
    assert len(found) == 3


@pytest.mark.unit
def test_a_cell_is_known_by_the_content_of_models_and_prompts(tmp_path: Path) -> None:
    model, prompts = shutil.copytree(backbone_path(), tmp_path / "model"), tmp_path / "prompts.txt"
    prompts.write_text("one ?\n")
    places = (f"policy.model={model}", f"policy.candidates.prompt_file={prompts}")
    config = read_config(None, places)
    found = [names_of(config, tmp_path)]
    prompts.write_text("two ?\n")
    found.append(names_of(config, tmp_path))
    told = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**told, "chat_template": "another"}))
    found.append(names_of(config, tmp_path))
    assert [len(set(names)) for names in zip(*found, strict=True)] == [1, 3]
    everything = read_config(None, [f"features.model={model}"])
    assert names_of(everything, tmp_path)[0] != found[0][0]


@pytest.mark.unit
def test_a_cell_is_done_when_its_time_is_written(tmp_path: Path) -> None:
    cell = Cell("policy", "global", RunConfig(), "some", tmp_path)
    assert not cell.is_done
    cell.finish(1.5, policies={"": {"steps": 3}})
    assert cell.is_done
    assert cell.seconds == 1.5
    assert json.loads(cell.record.read_text()) == {"seconds": 1.5, "policies": {"": {"steps": 3}}}


@pytest.mark.unit
def test_policies_of_several_sizes_are_compared_and_the_first_size_shows_how_one_switches(tmp_path: Path) -> None:
    cells = policy_cells(RunConfig(), methods=["fedvpa_gp"], clients=[3, 5], seeds=1, first_seed=0, out=tmp_path)
    for cell in cells:
        size, run = cell.config.partition.clients, run_of(cell)

        def outcome(preference: str, utility: float, size: int = size) -> Outcome:
            return Outcome("fedvpa_gp", size, 0, preference, "u", True, "p", "a", "b", 1.0, utility, 0.0, True, True, 1)

        save_outcomes(outcomes_path(run), [outcome("helpful", 1.0), outcome("harmless", 2.0)])
        for step in range(5):
            moved = [outcome("helpful", float(size * step)), outcome("harmless", float(-size * step))]
            save_outcomes(step_path(run, step), moved)
        said = {"path": ["harmless", "helpful"], "notes": ["something is missing"]}
        write_json(run.policy / "judging.json", said)
        write_json(cell.record, {"seconds": 1.0, "policies": {}})
    found = gather_policies(cells)
    assert [row.n_clients for row in found.win_rates.summary] == [3, 5]
    assert found.notes == ("something is missing",)
    assert found.switching is not None
    curve = found.switching.to_dict()
    assert (curve["n_clients"], curve["rising"]) == (3, "helpful")
    assert curve["preferences"]["helpful"]["utility"] == [0.0, 3.0, 6.0, 9.0, 12.0]
    assert curve["monotone"]
    assert [[answer.label for answer in sample.answers] for sample in found.samples] == [
        ["base", *(f"z at {share}%" for share in (0, 25, 50, 75, 100))]
    ]


@pytest.mark.unit
def test_a_path_that_leads_the_wrong_way_is_no_switch(tmp_path: Path) -> None:
    (cell,) = policy_cells(RunConfig(), methods=["fedvpa_gp"], out=tmp_path, **ONE)
    run = run_of(cell)
    for step in range(5):
        for_both = {"helpful": float(-step), "harmless": float(step)}
        save_outcomes(
            step_path(run, step),
            [
                Outcome("fedvpa_gp", 7, 3, name, "", True, f"p{n}", "a", "b", 1.0, utility, 0.0, None, None, 1)
                for name, utility in for_both.items()
                for n in range(5)
            ],
        )
    save_outcomes(outcomes_path(run), load_outcomes(step_path(run, 0)))
    write_json(run.policy / "judging.json", {"path": ["harmless", "helpful"], "notes": []})
    write_json(cell.record, {"seconds": 1.0, "policies": {}})
    curve = gather_policies([cell]).switching
    assert curve is not None
    assert curve.rising == "helpful"
    assert not curve.monotone
    assert not any(path.switches for path in curve.preferences.values())
