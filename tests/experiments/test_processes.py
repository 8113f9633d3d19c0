"""Work in processes: in order, on one thread, with errors that name it, and gone with whoever started it."""

import os
import pickle
import signal
from pathlib import Path

import pytest
import torch

import some_work
from child_processes import PATIENCE_SECONDS, alive, children_of, python, reads_proc, wait_until
from fedvpa.core.errors import ConfigError, DataError, FedvpaError, JudgeError
from fedvpa.experiments import processes, worker
from fedvpa.experiments.processes import named, run_all


@pytest.mark.unit
def test_one_job_is_this_process_on_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = run_all(some_work.place, [3, 1, 2], 1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    hears = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # a job in the background of a shell does not
    assert found == [some_work.Place(item, os.getpid(), 1, hears) for item in (3, 1, 2)]


@pytest.mark.end_to_end
def test_several_jobs_are_other_processes_and_results_keep_the_order_of_items() -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    found = run_all(some_work.place, list(range(7)), 2)
    assert [one.item for one in found] == list(range(7))
    assert {one.threads for one in found} == {1}
    assert os.getpid() not in {one.pid for one in found}
    assert len({one.pid for one in found}) <= 2
    assert not any(one.hears_ctrl_c for one in found), "Ctrl-C is the caller's"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    assert not any(alive(one.pid) for one in found)


@pytest.mark.end_to_end
def test_each_place_is_a_process_that_sees_its_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert set(run_all(some_work.gpus, list(range(6)), places=("3", "5"))) == {"3", "5"}
    assert set(run_all(some_work.gpus, [1, 2], 2, places=("",))) == {"3,5"}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"


@pytest.mark.unit
def test_jobs_are_one_for_each_place_or_one_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    assert processes.check_jobs(None) == 7
    assert processes.check_jobs(None, ("0", "1", "2")) == 3
    assert processes.check_jobs(5, ("0",)) == 5


@pytest.mark.unit
def test_nothing_to_do_starts_nothing_and_jobs_below_one_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all(some_work.place, [], 2) == []
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match="jobs = 0"):
        run_all(some_work.place, [1, 2], 0)


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("item", "kind", "message"),
    [
        ("odd", FedvpaError, r"^run odd failed: .*OddError: odd 3$"),
        ("dies", FedvpaError, r"exit code 7 .*__name__ == \"__main__\".*jobs=1"),
    ],
)
def test_an_error_in_a_process_is_raised_here_and_ends_all(item: str, kind: type[Exception], message: str) -> None:
    before = children_of(os.getpid())
    with pytest.raises(kind, match=message):
        run_all(some_work.fail, ["fine", item], 2, label="run {}".format)
    others = {pid for pid in children_of(os.getpid()) - before if not _is_tracker(pid)}
    assert not others, "every process is reaped"


def _is_tracker(pid: int) -> bool:
    """Whether it is multiprocessing's own, which lives as long as this process does."""
    return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.unit
def test_an_error_of_ours_comes_out_of_a_process_as_it_went_in() -> None:
    succeeded, error = pickle.loads(worker._answer(pickle.dumps((some_work.fail, "wrong")), b""))
    assert (succeeded, type(error), str(error)) == (False, DataError, "file:5: is wrong. Mend it.")


@pytest.mark.unit
def test_an_error_here_is_named_too_or_raised_as_it_is() -> None:
    with pytest.raises(DataError, match=r"^run wrong: file:5: is wrong\. Mend it\.$"):
        run_all(some_work.fail, ["wrong"], 1, label="run {}".format)
    with pytest.raises(some_work.OddError):
        run_all(some_work.fail, ["odd"], 1)


@pytest.mark.unit
def test_an_error_gets_the_name_of_its_item_and_keeps_its_kind() -> None:
    wrong = named(DataError("is wrong.", fix="Mend it.", where="file:5"), "global, N = 7, seed 3")
    assert isinstance(wrong, DataError)
    assert str(wrong) == "global, N = 7, seed 3: file:5: is wrong. Mend it."
    down = named(JudgeError("gives no verdicts.", where="the judge"), "global")
    assert (str(down), down.exit_code) == ("global: the judge: gives no verdicts.", 1)
    failed = named(ZeroDivisionError("by zero"), "global")
    assert (type(failed), failed.exit_code) == (FedvpaError, 1)
    assert str(failed) == "global failed: ZeroDivisionError: by zero"


HANG = """
import sys
from pathlib import Path
from fedvpa.core.signals import interrupting
from fedvpa.experiments import processes
import some_work

processes.GRACE_SECONDS = 0.5
folder = Path(sys.argv[1])
try:
    with interrupting("kept."):
        processes.run_all(some_work.hang, [folder, folder, folder], int(sys.argv[2]))
except Exception as error:
    print(error)
    sys.exit(error.exit_code)
"""


def pids_in(folder: Path, count: int) -> list[int]:
    assert wait_until(lambda: len(list(folder.glob("*.pid"))) == count)
    return [int(path.stem) for path in folder.glob("*.pid")]


@reads_proc
@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("number", "folder", "whole_group"),
    [
        (signal.SIGINT, "hears", True),  # what a terminal does
        (signal.SIGTERM, "deaf", False),
        (signal.SIGKILL, "deaf", False),
    ],
)
def test_processes_end_with_the_one_that_started_them(
    number: signal.Signals, folder: str, whole_group: bool, tmp_path: Path
) -> None:
    place = tmp_path / folder
    place.mkdir()
    with python("-c", HANG, str(place), "2") as parent:
        workers = pids_in(place, 2)
        (os.killpg if whole_group else os.kill)(parent.pid, number)
        out, err = parent.communicate(timeout=PATIENCE_SECONDS)
        assert wait_until(lambda: not any(alive(worker) for worker in workers))
    if number != signal.SIGKILL:
        assert parent.returncode == 128 + number
        assert out == f"{number.name}: kept.\n"
        assert err.splitlines() == ["3 runs in 2 processes", "ending the processes"], "and no traceback of a process"


@reads_proc
@pytest.mark.end_to_end
def test_ctrl_c_while_processes_start_ends_them_all(tmp_path: Path) -> None:
    with python("-c", HANG, str(tmp_path), "2") as parent:
        assert parent.stderr.readline() == "3 runs in 2 processes\n"
        os.killpg(parent.pid, signal.SIGINT)
        out, err = parent.communicate(timeout=PATIENCE_SECONDS)
        assert (parent.returncode, out) == (130, "SIGINT: kept.\n")
        assert "Traceback" not in err
        assert wait_until(lambda: not _others_of_group(parent.pid))


def _others_of_group(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, _, own, *_ = rest.split()
        if int(own) == group and state != "Z":
            found.append(int(name.split()[0]))
    return found


@reads_proc
@pytest.mark.end_to_end
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_work_in_this_process_at_once(number: signal.Signals, tmp_path: Path) -> None:
    with python("-c", HANG, str(tmp_path), "1") as parent:
        assert pids_in(tmp_path, 1) == [parent.pid], "one job is this process"
        os.kill(parent.pid, number)
        out, err = parent.communicate(timeout=PATIENCE_SECONDS)
    assert (parent.returncode, out) == (128 + number, f"{number.name}: kept.\n")
    assert err == "3 runs in this process\n"


STDIN = """
import some_work
from fedvpa.experiments import plugins, processes

processes.REGISTRIES = {"some": some_work.PLACE}
some_work.REGISTRY.register("far", some_work.Sorted)
print(processes.run_all(some_work.registered, [1, 2], 2))

class Mine(list):
    pass

some_work.REGISTRY.register("mine", Mine)
print(processes.run_all(some_work.registered, [1], 1))
try:
    processes.run_all(some_work.registered, [1, 2], 2)
except Exception as error:
    print(error)
"""


@pytest.mark.end_to_end
def test_a_program_on_standard_input_starts_processes_that_know_what_it_registered() -> None:
    with python("-", text=STDIN) as program:
        out, err = program.communicate(timeout=PATIENCE_SECONDS)
    assert program.returncode == 0, err
    far, here, refused = out.splitlines()
    assert far == str([["far", "list"], ["far", "list"]])
    assert here == str([["far", "list", "mine"]])
    assert refused.startswith("The sort 'mine' was registered by this program and cannot be sent to other processes")
    assert "jobs=1" in refused


@pytest.mark.unit
def test_the_processes_get_the_registries_of_fedvpa(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[object] = []

    def pack(places: tuple[str, ...]) -> bytes:
        packed.append(places)
        raise ConfigError("is enough.")

    monkeypatch.setattr(processes, "pack", pack)
    with pytest.raises(ConfigError, match="is enough"):
        run_all(some_work.place, [1, 2], 2)
    assert packed == [tuple(processes.REGISTRIES.values())]
