"""A run that was stopped and resumed equals one that never was; what cannot be resumed says why."""

import json
import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command_line import Done, fedvpa
from fedvpa.algorithms.fedeb import EmpiricalBayes
from fedvpa.algorithms.server.aggregation import Averaged
from fedvpa.algorithms.server.evidence import EvidenceState
from fedvpa.api import train as training
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.engines import checkpoint
from fedvpa.engines.checkpoint import load_checkpoint
from fedvpa.runs import fit as runs_fit
from fedvpa.runs.config import RunConfig, dump, read_config
from fedvpa.selector.selector import Selector
from fedvpa.world import backbone_path

TENSORS = (
    "selector/selector.safetensors",
    "clients/clients.safetensors",
    "clients/users.safetensors",
    "checkpoints/last.safetensors",
)


def stop_after(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """Fail in the round after ``rounds`` of them, as a kill would."""
    ordinary = runs_fit.rounds

    def failing(*arguments, **named):
        for state, line in ordinary(*arguments, **named):
            if line["round"] == rounds:
                raise KeyboardInterrupt
            yield state, line

    monkeypatch.setattr(runs_fit, "rounds", failing)


def history(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def same_run(first: Path, second: Path) -> None:
    for name in TENSORS:
        ours, theirs = load_file(first / name), load_file(second / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in ours if key != "evidence" or not ours[key].isnan().any())
    assert history(first) == history(second)
    assert (first / "scores.jsonl").read_text() == (second / "scores.jsonl").read_text()


@pytest.fixture
def killed(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run killed in its fourth round, one round after its last checkpoint."""
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            training.train(tiny, tmp_path / "killed")
    return tmp_path / "killed"


@pytest.mark.equivalence
@pytest.mark.parametrize(
    ("engine", "method"), [("loop", "fedvpa_gp"), ("vectorised", "fedvpa_gp"), ("vectorised", "fedbiscuit")]
)
def test_resumed_equals_uninterrupted(
    engine: str, method: str, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.model_copy(update={"engine": tiny.engine.model_copy(update={"name": engine}), "method": method})
    metrics = training.train(config, tmp_path / "whole")
    assert (metrics.latents is None) == (method == "fedbiscuit")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            training.train(config, tmp_path / "stopped")
    assert len(history(tmp_path / "stopped")) == 3
    training.resume(tmp_path / "stopped")
    same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.unit
def test_half_a_line_of_history_is_dropped(killed: Path, finished: Path) -> None:
    with (killed / "history.jsonl").open("a") as file:
        file.write('{"round": 3, "los')
    training.resume(killed)
    same_run(finished, killed)


@pytest.mark.unit
def test_history_shorter_than_the_checkpoint_is_an_error(killed: Path) -> None:
    first = (killed / "history.jsonl").read_text().splitlines()[0]
    (killed / "history.jsonl").write_text(first + "\n")
    with pytest.raises(RunError, match="history"):
        training.resume(killed)


@pytest.mark.unit
def test_an_edited_configuration_is_an_error(killed: Path) -> None:
    path = killed / "config.yaml"
    path.write_text(path.read_text().replace("rounds: 5", "rounds: 17"))
    with pytest.raises(RunError, match=r"server\.rounds"):
        training.resume(killed)


@pytest.mark.unit
def test_other_data_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}", "user_id": f"u{i % 3}"} for i in range(31)
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = (
        "data.source=table",
        f"data.path={data}",
        "features.model=bundled",
        "partition.kind=natural",
        "server.rounds=3",
    )
    config = read_config(None, (*values, "engine.checkpoint_every=1"))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            training.train(config, tmp_path / "run")
    monkeypatch.setattr("fedvpa.runs.prepare.load_features", lambda *_: pytest.fail("features were extracted"))
    flipped = {"chosen": rows[5]["rejected"], "rejected": rows[5]["chosen"]}
    for changed in ({"chosen": "something else"}, flipped, {"weight": 2.0}):
        data.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:5], rows[5] | changed, *rows[6:]]))
        with pytest.raises(RunError, match="was trained with other pairs or labels, so going on"):
            training.resume(tmp_path / "run")


@pytest.mark.unit
def test_another_language_model_is_an_error_before_features_are_extracted(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(backbone_path(), tmp_path / "model")
    config = tiny.model_copy(update={"features": tiny.features.model_copy(update={"model": str(model)})})
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            training.train(config, tmp_path / "run")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-5}))
    monkeypatch.setattr("fedvpa.runs.prepare.load_features", lambda *_: pytest.fail("features were extracted"))
    with pytest.raises(RunError, match=r"another language model of the features \(features\.model\), so going on"):
        training.resume(tmp_path / "run")


@pytest.mark.unit
def test_a_checkpoint_of_another_version_names_both(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedvpa.runs.identity.__version__", "0.0")
    with pytest.raises(RunError, match=r"was trained with version of fedvpa = [0-9.]+ \(now 0\.0\), so going on"):
        training.resume(killed)


@pytest.mark.unit
def test_a_checkpoint_of_an_earlier_release_says_what_is_not_checked(
    killed: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, meta = checkpoint.load_checkpoint(killed / "checkpoints" / "last.safetensors", EmpiricalBayes)
    del meta["content"]
    checkpoint.save_checkpoint(killed / "checkpoints" / "last.safetensors", state, meta)
    training.resume(killed)
    assert "whether its language model is the same cannot be checked" in capsys.readouterr().err
    same_run(finished, killed)


@pytest.mark.unit
def test_overwriting_leaves_nothing_to_resume_by_mistake(
    finished: Path, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    stop_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        training.train(tiny.with_seed(19), out, overwrite=True)
    assert not (out / "metrics.json").exists()
    with pytest.raises(RunError, match="checkpoint"):
        training.resume(out)


@pytest.mark.unit
def test_overwriting_spares_what_no_run_wrote(finished: Path, tiny: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "notes.txt").write_text("mine")
    training.train(tiny, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.unit
def test_a_run_is_not_overwritten_unasked(finished: Path, tiny: RunConfig) -> None:
    before = (finished / "metrics.json").read_bytes()
    with pytest.raises(RunError, match="overwrite=True"):
        training.train(tiny, finished)
    assert (finished / "metrics.json").read_bytes() == before


@pytest.mark.unit
def test_a_method_that_cannot_be_made_leaves_no_run(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = tiny.model_dump() | {"method": "fedem"}
    values["selector"]["head"] = "residual"
    monkeypatch.setattr("fedvpa.runs.prepare.load", lambda *_: pytest.fail("the data were read first"))
    with pytest.raises(ConfigError, match="residual"):
        training.train(RunConfig.parse(values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.unit
@pytest.mark.parametrize("name", ["config.yaml", "selector/config.json", "checkpoints/last.safetensors"])
def test_another_schema_version_is_an_error(name: str, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    content = (out / name).read_bytes()
    changed = re.sub(rb'(schema_version\\?"?: )\d', rb"\g<1>7", content)
    assert changed != content
    (out / name).write_bytes(changed)
    read = (lambda: Selector.from_pretrained(out / "selector")) if "selector" in name else lambda: training.resume(out)
    with pytest.raises(RunError, match="schema version 7"):
        read()


@pytest.mark.unit
def test_a_failure_inside_the_write_leaves_the_checkpoint_whole(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    shutil.copy(finished / "checkpoints" / "last.safetensors", path)
    state, meta = checkpoint.load_checkpoint(path, EmpiricalBayes)
    before = path.read_bytes()

    def full(tensors, target, metadata):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedvpa.core.tensors.save_file", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_checkpoint(path, state, meta)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.unit
def test_a_damaged_checkpoint_names_the_previous_one(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    path = out / "checkpoints" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-17])
    with pytest.raises(RunError, match=r"last\.safetensors\.previous"):
        training.resume(out)
    shutil.move(path.with_name("last.safetensors.previous"), path)
    training.resume(out)
    same_run(finished, out)


@pytest.mark.unit
def test_training_works_in_a_thread_which_cannot_handle_signals(tiny: RunConfig, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(training.train, tiny, tmp_path / "run").result().rounds == 5


def stopped_by(number: signal.Signals, after: int, *arguments: object) -> Done:
    """What the command line says that gets a signal in the round after ``after`` of them."""
    ordinary = runs_fit.rounds

    def rounds(*given, **named):
        for state, line in ordinary(*given, **named):
            if line["round"] == after:
                os.kill(os.getpid(), number)
            yield state, line

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_fit, "rounds", rounds)
        return fedvpa(*arguments)


@pytest.mark.end_to_end
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_round_and_says_how_to_go_on(
    number: signal.Signals, tiny: RunConfig, finished: Path, tmp_path: Path
) -> None:
    out, config = tmp_path / "run", tmp_path / "config.yaml"
    config.write_text(dump(tiny))
    stopped = stopped_by(number, 2, "train", "--config", config, "--out", out)
    assert stopped.returncode == 128 + number
    assert f"{number.name}: stopped after round 3 of 5" in stopped.stderr
    assert f"fedvpa train --resume {out}" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    training.resume(out)
    same_run(finished, out)


@pytest.mark.equivalence
@pytest.mark.parametrize(("threads", "workers"), [(2, 1), (1, 3)])
def test_threads_and_workers_of_the_run_are_set_again(
    threads: int, workers: int, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine with other cores: the sums of a cohort depend on the workers, and kernels on their threads."""
    free = tiny.model_copy(update={"engine": tiny.engine.model_copy(update={"workers": 0})})
    fixed = tiny.model_copy(update={"engine": tiny.engine.model_copy(update={"workers": workers})})
    out, config = tmp_path / "run", tmp_path / "config.yaml"
    config.write_text(dump(free))
    torch.set_num_threads(threads)
    with monkeypatch.context() as patch:
        patch.setattr(runs_fit, "default_workers", lambda: workers)
        stopped = stopped_by(signal.SIGINT, 2, "train", "--config", config, "--out", out)
    assert stopped.returncode == 130, stopped.stderr
    training.train(fixed, tmp_path / "whole")
    torch.set_num_threads(3 - threads)
    training.resume(out)
    assert torch.get_num_threads() == threads
    same_run(tmp_path / "whole", out)
    recorded = checkpoint.load_checkpoint(out / "checkpoints" / "last.safetensors", EmpiricalBayes)[1]["compute"]
    assert (recorded["threads"], recorded["workers"]) == (threads, workers)
    assert recorded["processor"] == json.loads((out / "environment.json").read_text())["processor"]


@pytest.mark.unit
def test_another_processor_is_said(killed: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("fedvpa.core.compute.processor_name", lambda: "another kind")
    training.resume(killed)
    assert "was made on another kind of processor" in capsys.readouterr().err


@pytest.mark.unit
def test_a_selector_is_loaded_from_its_run_or_its_folder(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(finished.parent))
    for place in (finished, str(finished / "selector"), f"~/{finished.name}"):
        selector = Selector.from_pretrained(place)
        assert selector.prototypes.shape[1] == 13
    assert len(repr(selector)) < 700
    with pytest.raises(RunError, match="Give a finished run"):
        Selector.from_pretrained(finished / "policy")


@pytest.mark.unit
@pytest.mark.parametrize(("method", "kind"), [("fedem", EvidenceState), ("fedeb", EmpiricalBayes)])
def test_a_finished_run_goes_on_to_more_rounds(method: str, kind: type, tiny: RunConfig, tmp_path: Path) -> None:
    tiny = tiny.with_method(method)
    finished = training.train(tiny, tmp_path / "finished").run
    run = shutil.copytree(finished, tmp_path / "run")
    result = training.resume(run, rounds=8)
    assert result.rounds == 8
    assert [line["round"] for line in history(run)] == list(range(8))
    assert history(run)[:5] == history(finished)
    assert read_config(run / "config.yaml").server.rounds == 8
    state, meta = load_checkpoint(run / "checkpoints" / "last.safetensors", kind)
    assert (state.server.round, meta["config"]["server"]["rounds"]) == (8, 8)
    if isinstance(state.server, Averaged):
        # The mean of the last half of the rounds holds nothing of the rounds that were the last ones of five.
        assert state.server.averaged == 3
    whole = training.train(runs_fit.with_rounds(tiny, 8), tmp_path / "whole")
    cohorts = [[line["cohort"] for line in history(path)] for path in (run, whole.run)]
    assert cohorts[0] == cohorts[1]
    with pytest.raises(ConfigError, match="has 8 rounds, and 8 are asked for"):
        training.resume(run, rounds=8)


@pytest.mark.unit
def test_going_on_to_more_rounds_survives_a_kill(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            training.resume(killed, rounds=8)
    assert read_config(killed / "config.yaml").server.rounds == 8
    assert training.resume(killed, rounds=8).rounds == 8


@pytest.mark.unit
def test_a_policy_keeps_the_selector_that_it_was_aligned_with(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "policy").mkdir()
    before = (run / "config.yaml").read_text()
    with pytest.raises(RunError, match="holds a policy that was aligned with its selector as it is"):
        training.resume(run, rounds=8)
    assert (run / "config.yaml").read_text() == before
    assert history(run) == history(finished)
