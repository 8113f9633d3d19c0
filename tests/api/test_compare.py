"""Cells: independent of the number of processes, kept while their data last, and ended with their parent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedvpa.api.compare import compare
from fedvpa.core.errors import ConfigError, DataError, FedvpaError, JudgeError
from fedvpa.core.files import write_json
from fedvpa.evaluation.outcomes import Outcome, save_outcomes
from fedvpa.experiments.policy_cells import compare_policies, policy_cells, run_policies
from fedvpa.experiments.processes import _named
from fedvpa.experiments.selector_cells import Cell, _data_hash
from fedvpa.runs.config import RunConfig, read_config, with_overrides

CALL = {"methods": ("global", "fedvpa_gp"), "clients": (5,), "seeds": 2}


def without_seconds(compared: dict[str, Any]) -> dict[str, Any]:
    return compared | {"rows": [row | {"seconds": None} for row in compared["rows"]]}


@pytest.fixture(scope="module")
def compared(tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("compare")
    return out, compare(tiny, out=out, jobs=1, **CALL)


@pytest.mark.equivalence
def test_the_number_of_processes_changes_nothing(
    tiny: RunConfig, compared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    again = compare(tiny, out=tmp_path, jobs=2, **CALL)
    assert without_seconds(again) == without_seconds(compared[1])


@pytest.mark.end_to_end
def test_finished_cells_are_read_not_run(
    tiny: RunConfig, compared: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, before = compared
    monkeypatch.setattr(
        "fedvpa.experiments.processes.run_all", lambda cells, jobs, run: pytest.fail("ran") if cells else None
    )
    assert compare(tiny, out=out, **CALL) == before


@pytest.mark.end_to_end
def test_conflicting_pairs_are_reported_with_another_groups_z(compared: tuple[Path, dict[str, Any]]) -> None:
    rows = {row["control"]: row for row in compared[1]["conflicting"]}
    assert rows.keys() == {None, "swapped_z"}
    assert all(row["method"] == "fedvpa_gp" and 0 <= row["mean"] <= 1 for row in rows.values())


@pytest.mark.unit
def test_a_cell_does_not_outlive_its_data(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "group": "x"}
    config = read_config(None, ["data.source=table", f"data.path={path}"])
    names = set()
    for changed in ({}, {"group": "y"}, {"chosen": "c"}, {"user_id": "u"}):
        path.write_text(json.dumps(row | changed) + "\n")
        names.add(Cell(config, None, tmp_path, _data_hash(config, None)).name)
    holdout = tmp_path / "holdout.jsonl"
    for text in ("1", "2"):
        holdout.write_text(text)
        names.add(Cell(config, holdout, tmp_path, _data_hash(config, holdout)).name)
    names.add(Cell(config.with_seed(3), None, tmp_path, _data_hash(config, None)).name)
    assert len(names) == 7


@pytest.mark.unit
def test_a_method_that_cannot_be_configured_so_is_refused_before_anything_runs(tiny: RunConfig, tmp_path: Path) -> None:
    residual = tiny.model_copy(update={"selector": tiny.selector.model_copy(update={"head": "residual"})})
    for run in (compare, compare_policies):
        with pytest.raises(ConfigError, match=r"head=residual is none\. Use .*bilinear\. Or leave fedbiscuit out"):
            run(residual, methods=["global", "fedbiscuit"], clients=[3], seeds=1, out=tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
def test_a_judge_that_cannot_be_is_refused_before_anything_runs(tiny: RunConfig, tmp_path: Path) -> None:
    judged = with_overrides(tiny, ["policy.judging.judge=openai-compatible", "policy.judging.settings.mode1=x"])
    with pytest.raises(ConfigError, match="mode1"):
        compare_policies(judged, clients=[3], seeds=1, out=tmp_path / "out", jobs=1)
    for run in (compare, compare_policies):
        with pytest.raises(ConfigError):
            run(tiny, methods=[], clients=[3], seeds=1, out=tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
def test_policies_of_several_sizes_are_compared_and_the_first_size_shows_how_one_switches(
    tiny: RunConfig, tmp_path: Path
) -> None:
    cells = policy_cells(tiny, methods=["fedvpa_gp"], clients=[3, 5], seeds=1, first_seed=0, out=tmp_path)
    for cell in cells:
        size = cell.config.partition.clients

        def told(preference: str, utility: float, size: int = size) -> Outcome:
            return Outcome("fedvpa_gp", size, 0, preference, "u", True, "p", "a", "b", 1.0, utility, 0.0, True, True, 1)

        both = [told("helpful", 1.0), told("harmless", 2.0)]
        save_outcomes(cell.folder / "outcomes.jsonl", both)
        for step in range(5):
            moved = [told("helpful", float(size * step)), told("harmless", float(-size * step))]
            save_outcomes(cell.folder / f"path-{step}.jsonl", moved)
        write_json(cell.seconds, {"seconds": 1.0, "policies": {}})
    found = run_policies(cells, jobs=1)
    assert [row["n_clients"] for row in found["policy_summary"]] == [3, 5]
    assert found["switching"]["n_clients"] == 3
    assert found["switching"]["preferences"]["helpful"]["utility"] == [0.0, 3.0, 6.0, 9.0, 12.0]


@pytest.mark.unit
def test_a_failed_run_names_itself(tmp_path: Path) -> None:
    cell = Cell(RunConfig().with_clients(7).with_seed(3), None, tmp_path, "")
    wrong = _named(DataError("is wrong.", fix="Mend it.", where="file:5"), cell)
    assert isinstance(wrong, DataError)
    assert str(wrong) == "fedvpa_gp, N = 7, seed 3: file:5: is wrong. Mend it."
    down = _named(JudgeError("gives no verdicts.", where="the judge"), cell)
    assert (str(down), down.exit_code) == ("fedvpa_gp, N = 7, seed 3: the judge: gives no verdicts.", 1)
    failed = _named(ZeroDivisionError("by zero"), cell)
    assert isinstance(failed, FedvpaError)
    assert failed.exit_code == 1
    assert str(failed) == "fedvpa_gp, N = 7, seed 3 failed: ZeroDivisionError: by zero"


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Any, seconds: float = 40.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.end_to_end
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads child processes from /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_comparison(number: signal.Signals, tiny: RunConfig, tmp_path: Path) -> None:
    values = tiny.model_dump(mode="json")
    values["server"]["rounds"] = 100_000
    write_json(tmp_path / "config.yaml", values)
    code = "from fedvpa.cli.main import main; main()"
    arguments = ["compare", "--config", "config.yaml", "--clients", "5", "--seeds", "1", "--jobs", "2", "--out", "out"]
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--methods", "global,fedvpa_gp"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert wait_until(lambda: parent.poll() is not None or len(workers_of(parent.pid)) == 2)
        workers = workers_of(parent.pid)
        time.sleep(1.0)
        parent.send_signal(number)
        assert parent.wait(timeout=20) != 0
        assert wait_until(lambda: not any(alive(worker) for worker in workers), 20)
    finally:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)
