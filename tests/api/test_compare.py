"""The verb: independent of the number of processes, reusing what is there, refusing wrong input before any work."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from child_processes import PATIENCE_SECONDS, alive, children_of, python, reads_proc, wait_until
from fedvpa.api.compare import compare
from fedvpa.api.report import report
from fedvpa.core.errors import ConfigError, DataError, RunError
from fedvpa.core.files import write_json
from fedvpa.core.signals import Interrupted
from fedvpa.experiments.results import ComparisonResult
from fedvpa.runs.config import RunConfig, read_config, with_overrides

CALL: dict[str, Any] = {"methods": ("global", "fedvpa_gp"), "clients": (5,), "seeds": 2}


def without_seconds(result: ComparisonResult) -> dict[str, Any]:
    """What does not depend on the time it took, nor on the folder that its command names."""
    compared = result.to_dict()
    command = compared["command"].replace(str(result.out), "OUT")
    return compared | {"command": command, "rows": [row | {"seconds": None} for row in compared["rows"]]}


@pytest.fixture(scope="module")
def compared(tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> ComparisonResult:
    return compare(tiny, out=tmp_path_factory.mktemp("compare"), jobs=1, **CALL)


@pytest.mark.equivalence
def test_the_number_of_processes_changes_nothing(tiny: RunConfig, compared: ComparisonResult, tmp_path: Path) -> None:
    again = compare(tiny, out=str(tmp_path), jobs=2, **CALL)
    assert without_seconds(again) == without_seconds(compared)
    scores = [(folder / "scores.jsonl").read_bytes() for folder in (tmp_path, compared.out)]
    assert scores[0] == scores[1], "bit for bit"


@pytest.mark.end_to_end
def test_finished_cells_are_read_not_run(
    tiny: RunConfig, compared: ComparisonResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedvpa.experiments.selector_cells.run_selector_cell", lambda cell: pytest.fail("ran"))
    assert compare(tiny, out=compared.out, **CALL) == compared


@pytest.mark.end_to_end
def test_the_result_is_what_the_file_holds(compared: ComparisonResult) -> None:
    assert json.loads((compared.out / "comparison.json").read_text()) == compared.to_dict()
    assert len(repr(compared)) < 300
    assert compared.policies is None


@pytest.mark.end_to_end
def test_conflicting_pairs_are_reported_with_another_groups_z(compared: ComparisonResult) -> None:
    rows = {row.control: row for row in compared.selectors.conflicting}
    assert rows.keys() == {None, "swapped_z"}
    assert all(row.method == "fedvpa_gp" and 0 <= row.mean <= 1 for row in rows.values())


@pytest.mark.end_to_end
def test_who_knows_the_utilities_stands_beside_the_methods(compared: ComparisonResult) -> None:
    written = json.loads((compared.out / "comparison.json").read_text())
    assert [row["method"] for row in written["summary"]] == ["global", "fedvpa_gp", "bayes"]
    assert [(row["method"], row["base"]) for row in written["bayes_rows"]] == [
        ("global", "global"),
        ("fedvpa_gp", "global"),
        ("bayes", "global"),
    ]
    best = written["bayes_rows"][-1]
    assert best["way"]["mean"] == best["noiseless"]["mean"] == 1
    assert 0.7 < best["expected"] < 0.9
    assert {row["seconds"] for row in written["rows"] if row["method"] == "bayes"} == {None}
    assert not [row for row in written["differences"] if "bayes" in (row["first"], row["second"])]
    assert "Bayes" in (compared.out / "comparison.txt").read_text()


@pytest.mark.end_to_end
def test_variants_shots_and_the_four_way_protocol_are_tables_of_one_comparison(tiny: RunConfig, tmp_path: Path) -> None:
    file = tmp_path / "variants.yaml"
    file.write_text('"− mixture": {eb.components: 1}\n', encoding="utf-8")
    call: dict[str, Any] = {"methods": ["global", "informed"], "clients": [4], "seeds": 2, "jobs": 1}
    out = tmp_path / "out"
    found = compare(tiny, variants=file, shots=[1, 3], protocol="four-way", out=out, **call)
    written = json.loads((out / "comparison.json").read_text())
    rows = {"fedeb", "global", "informed", "− mixture"}
    assert {row["method"] for row in written["summary"]} == rows | {"bayes"}
    assert [(row["first"], row["second"]) for row in written["ablations"]] == [("− mixture", "fedeb")]
    assert {(row["method"], row["context_pairs"]) for row in written["shots"]} == {(m, n) for m in rows for n in (1, 3)}
    assert all(row["clients"] == 6 for row in written["shots"]), "three unseen users in each of two seeds"
    assert {row["method"] for row in written["four_way"]} == rows
    unknown = {
        row["method"]: row for row in written["four_way"] if (row["users"], row["prompts"]) == ("seen", "unseen")
    }
    means = {row["method"]: row["mean"] for row in written["summary"]}
    assert all(row["mean"] == means[name] for name, row in unknown.items()), "what is held out is on unseen prompts"
    assert {row["method"] for row in written["pooled"]} == rows
    assert {row["group"] for row in written["pooled_groups"]} == {"harmless", "helpful"}
    assert "--variants" in written["command"]
    assert "--protocol four-way" in written["command"]
    text = (out / "comparison.txt").read_text()
    assert "Variants of fedeb" in text
    assert len(list(out.glob("cells/_*.shots-1.jsonl"))) == 2, "a name that any file may have"
    again = compare(tiny, variants=file, shots=[1, 3], protocol="four-way", out=out, **call)
    assert again == found
    report(out)
    page = (out / "report.html").read_text()
    assert "Seen and unseen users on seen and unseen prompts" in page


SMALLEST: dict[str, Any] = {"clients": [3], "seeds": 1, "jobs": 1}


@pytest.mark.unit
@pytest.mark.end_to_end
def test_what_noise_costs_is_a_table_of_the_comparison(tiny: RunConfig, tmp_path: Path) -> None:
    file = tmp_path / "variants.yaml"
    noise = "{selector.rotation: none, privacy: {noise_multiplier: 3, delta: 0.01, seeded: true}}"
    file.write_text(f'"fedem, noised": {noise}\n', encoding="utf-8")
    out, config = tmp_path / "out", with_overrides(tiny, ["method=fedem", "server.rounds=2"])
    compare(config, methods=["fedem"], variants=file, clients=[4], seeds=1, jobs=1, out=out)
    written = json.loads((out / "comparison.json").read_text())
    (row,) = written["privacy_rows"]
    cells = [json.loads(path.read_text())["privacy"] for path in out.glob("cells/fedem_noised-*.json")]
    assert (row["method"], row["n_clients"], row["seeds"], row["releases"]) == ("fedem, noised", 4, [0], 2)
    assert (row["unit"], row["relation"], row["seeded"]) == ("user", "add or remove one user", True)
    assert (row["noise_multiplier"], row["delta"]) == (3, 0.01)
    for name in ("epsilon_released", "epsilon_server"):
        assert row[name] == max(cell[name] for cell in cells) > 0
    assert len(cells) == 1
    report(out)
    for text in ((out / "comparison.txt").read_text(), (out / "report.html").read_text()):
        assert "Privacy, of one run" in text
        assert f"{row['epsilon_server']:.3g}" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stage": "policies"}, "no stage 'policies'. Did you mean 'policy'"),
        ({"methods": []}, "No method"),
        ({"methods": [], "stage": "policy"}, "No method"),
        ({"methods": ["fedvpa_pg"]}, "no method 'fedvpa_pg'. .*fedvpa_gp"),
        ({"methods": ["local"], "stage": "policy"}, "no method 'local' with a policy"),
        ({"methods": ["finetune"], "stage": "policy"}, "no method 'finetune' with a policy"),
        ({"methods": ["global", "global"]}, "'global' is given twice"),
        ({"clients": []}, "nothing to compare"),
        ({"clients": [3, 3]}, "given twice"),
        ({"clients": [0]}, "clients = 0"),
        ({"seeds": 0}, "nothing to compare"),
        ({"first_seed": -1}, "first_seed = -1"),
        ({"jobs": 0}, "jobs = 0"),
        ({"holdout": "pairs.jsonl", "stage": "policy"}, "hold-out is for the selector stage"),
        ({"protocol": "four-ways"}, "no protocol 'four-ways'. Did you mean 'four-way'"),
        ({"shots": [1], "stage": "policy"}, "shots is for the selector stage"),
        ({"shots": [0]}, r"shots is \[0\]"),
        ({"shots": [1], "methods": ["local"]}, "compares each method with 'global'"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(
    changed: dict[str, Any], message: str, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedvpa.api.compare._check_machinery", lambda *_: pytest.fail("something was loaded"))
    with pytest.raises(ConfigError, match=message):
        compare(tiny, out=tmp_path / "out", **{**SMALLEST, **changed})
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
def test_a_holdout_that_cannot_be_is_refused_before_anything_runs(tiny: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"partition\.unseen"):
        compare(tiny, holdout=tmp_path, out=tmp_path / "out", **SMALLEST)
    real = read_config(None, ["data.source=table", f"data.path={tmp_path / 'pairs.jsonl'}", "features.model=bundled"])
    with pytest.raises(DataError, match=r"nowhere\.jsonl: There is no such file"):
        compare(real, holdout=tmp_path / "nowhere.jsonl", out=tmp_path / "out", **SMALLEST)


@pytest.mark.unit
def test_a_method_that_cannot_be_configured_so_is_refused_before_anything_runs(tiny: RunConfig, tmp_path: Path) -> None:
    residual = tiny.model_copy(update={"selector": tiny.selector.model_copy(update={"head": "residual"})})
    for stage in ("selector", "policy"):
        with pytest.raises(ConfigError, match=r"head=residual is none\. Use .*bilinear\. Or leave fedbiscuit out"):
            compare(residual, stage=stage, methods=["global", "fedbiscuit"], out=tmp_path / "out", **SMALLEST)
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
def test_a_judge_that_cannot_be_is_refused_before_anything_runs(tiny: RunConfig, tmp_path: Path) -> None:
    judged = with_overrides(tiny, ["policy.judging.judge=openai-compatible", "policy.judging.settings.mode1=x"])
    with pytest.raises(ConfigError, match="mode1"):
        compare(judged, stage="policy", out=tmp_path / "out", **SMALLEST)
    assert not (tmp_path / "out").exists()


@pytest.mark.end_to_end
def test_ctrl_c_here_keeps_what_is_finished(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedvpa.experiments import selector_cells

    run = selector_cells.run_selector_cell

    def second_never_ends(cell: Any) -> None:
        if cell.method == "fedvpa_gp":
            os.kill(os.getpid(), signal.SIGINT)
        run(cell)

    call = {"methods": ("global", "fedvpa_gp"), "out": tmp_path, **SMALLEST}
    monkeypatch.setattr(selector_cells, "run_selector_cell", second_never_ends)
    with pytest.raises(Interrupted, match=r"SIGINT: .* kept in .* same command goes on") as stopped:
        compare(tiny, **call)
    assert stopped.value.exit_code == 130
    assert [path.name.split("-")[0] for path in tmp_path.glob("cells/*[0-9a-f].json")] == ["global"]
    monkeypatch.setattr(selector_cells, "run_selector_cell", run)
    assert {row.method for row in compare(tiny, **call).selectors.accuracy.rows} == {"global", "fedvpa_gp", "bayes"}


@pytest.mark.end_to_end
@reads_proc
def test_no_process_outlives_the_comparison(tiny: RunConfig, tmp_path: Path) -> None:
    values = tiny.model_dump(mode="json")
    values["server"]["rounds"] = 100_000
    write_json(tmp_path / "config.yaml", values)
    code = "from fedvpa.cli.main import main; main()"
    arguments = ["compare", "--config", "config.yaml", "--clients", "5", "--seeds", "1", "--jobs", "2", "--out", "out"]
    with python("-c", code, *arguments, "--methods", "global,fedvpa_gp", cwd=tmp_path) as parent:
        # Two processes that run cells, and multiprocessing's own.
        assert wait_until(lambda: parent.poll() is not None or len(children_of(parent.pid)) == 3)
        children = children_of(parent.pid)
        parent.send_signal(signal.SIGTERM)
        _, err = parent.communicate(timeout=PATIENCE_SECONDS)
        assert wait_until(lambda: not any(alive(child) for child in children))
    assert parent.returncode == 128 + signal.SIGTERM
    assert err.splitlines()[-1] == (
        "fedvpa: SIGTERM: the comparison stopped. Its finished runs are kept in out, and the same command goes on."
    )
    assert "Traceback" not in err


@pytest.mark.unit
def test_a_run_is_not_overwritten_by_a_comparison(tiny: RunConfig, finished: Path) -> None:
    before = (finished / "config.yaml").read_bytes()
    with pytest.raises(RunError, match=r"holds a run, whose files the comparison would replace\. Choose another"):
        compare(tiny, methods=["global"], clients=[4], seeds=1, out=finished)
    assert (finished / "config.yaml").read_bytes() == before
