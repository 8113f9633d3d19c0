from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import run_fixtures
from command_line import fedvpa
from fedvpa.api.align import align
from fedvpa.api.train import resume, train
from fedvpa.cli.main import _joined
from fedvpa.core.errors import ConfigError
from fedvpa.runs.config import read_config

ROOT = Path(__file__).parents[2]
TINY = [*run_fixtures.TINY, "partition.clients=4", "partition.unseen=2", "server.rounds=6"]
SHORT_POLICY = ["policy.steps=2", "policy.batch=3", "policy.micro_batch=2", "policy.precision=float32"]
SHORT_POLICY += [entry for entry in run_fixtures.TINY_POLICY if "check=" in entry or "guard" in entry]
SHORT_POLICY += [
    entry for entry in run_fixtures.TINY_POLICY if entry.startswith(("policy.candidates", "policy.evaluate"))
]
PAIR = {"prompt": "how do i plan a picnic ?", "chosen": "bring a rug .", "rejected": "no .", "group": "a"}


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(read_config(None, TINY), out)
    return out


@pytest.mark.end_to_end
def test_a_run_directory_holds_what_others_read(run: Path):
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {
        "config.yaml", "environment.json", "history.jsonl", "metrics.json", "scores.jsonl", "selector/config.json",
        "selector/selector.safetensors", "clients/clients.safetensors", "checkpoints/last.safetensors",
    } <= files  # fmt: skip
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(6))
    assert {"losses", "seconds", "uplink_bytes", "downlink_bytes", "cohort", "dropped"} < lines[0].keys()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["summary"][0]["mean"] == pytest.approx(metrics["rows"][0]["accuracy"])
    assert {row["method"] for row in metrics["controls"]}
    assert metrics["latents"]["clients"] == 4


@pytest.mark.equivalence
def test_a_signal_saves_and_resume_ends_where_the_whole_run_did(run: Path, tmp_path: Path):
    out = tmp_path / "stopped"
    code = (
        "import os, signal, fedvpa.engines.training as t\n"
        "import fedvpa.runs.fit as a\n"
        "real = t.rounds\n"
        "def rounds(*args, **named):\n"
        "    for state, line in real(*args, **named):\n"
        "        if line['round'] == 2: os.kill(os.getpid(), signal.SIGINT)\n"
        "        yield state, line\n"
        "a.rounds = rounds\n"
        "from fedvpa.cli.main import main; main()\n"
    )
    command = [sys.executable, "-c", code, "train", *TINY, "--out", str(out)]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stopped.returncode == 130
    assert "go on with: fedvpa train --resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (out / "metrics.json").exists()
    resume(out)
    for name in ("selector/selector.safetensors", "clients/clients.safetensors", "scores.jsonl"):
        assert (out / name).read_bytes() == (run / name).read_bytes(), name


@pytest.mark.end_to_end
def test_personalize_evaluate_and_report(run: Path, tmp_path: Path):
    from fedvpa.world.generate import generate_world
    from fedvpa.world.users import POPULATIONS

    name = POPULATIONS[0].name if not isinstance(POPULATIONS, dict) else next(iter(POPULATIONS))
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected, "group": pair.group}
        for pair in generate_world(name, 2, 5, 77)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = fedvpa("personalize", str(run), "--pairs", str(pairs), "--json")
    assert found.returncode == 0, found.stderr
    user = json.loads(found.stdout)
    assert sum(user["responsibilities"]) == pytest.approx(1.0, abs=1e-5)
    assert len(user["mean"]) == 13
    assert user["pairs"] == 10
    found = fedvpa("evaluate", str(run), "--pairs", str(pairs), "--json")
    assert found.returncode == 0, found.stderr
    assert 0.0 <= json.loads(found.stdout)["accuracy"] <= 1.0
    found = fedvpa("report", str(run))
    assert found.returncode == 0, found.stderr
    assert "<html" in (run / "report.html").read_text()


@pytest.mark.end_to_end
def test_compare_writes_the_contract_and_reuses_finished_cells(tmp_path: Path):
    out = tmp_path / "compare"
    arguments = [
        "compare",
        *TINY[:1],
        *TINY[2:],
        "--methods",
        "global,oracle,fedvpa_gp",
        "--clients",
        "4",
        "--seeds",
        "2",
        "--jobs",
        "1",
    ]
    found = fedvpa(*arguments, "--out", str(out), "--json")
    assert found.returncode == 0, found.stderr
    compared = json.loads((out / "comparison.json").read_text())
    assert json.loads(found.stdout) == compared
    assert {(row["method"], row["n_clients"], row["seed"]) for row in compared["rows"]} == {
        (method, 4, seed) for method in ("global", "oracle", "fedvpa_gp", "bayes") for seed in (0, 1)
    }
    for key in ("accuracy", "groups", "holdout_accuracy", "holdout_groups", "seconds"):
        assert key in compared["rows"][0]
    again = fedvpa(*arguments, "--out", str(out), "--json")
    assert "runs in" not in again.stderr
    assert json.loads(again.stdout) == compared


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path: Path, *more: str) -> list[str]:
    return ["train", "data.source=table", f"data.path={path}", "features.model=bundled", "partition.kind=group", *more]


def wrong(tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    """Name → arguments, and what the message has to say."""
    lfs = tmp_path / "lfs.jsonl.gz"
    lfs.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 875191\n")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(PAIR).encode() * 50)[:60])
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(PAIR) + "\n{\n")
    same = write(tmp_path / "same.jsonl", [PAIR, PAIR | {"rejected": PAIR["chosen"]}])
    other = write(tmp_path / "other.jsonl", [{"prompt": "a", "better": "b", "rejected": "c"}])
    few = write(tmp_path / "few.jsonl", [PAIR | {"prompt": f"{number} ?"} for number in range(4)])
    empty = tmp_path / "model"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.yaml").write_text("# schema_version: 99\n")
    return {
        "lfs": (table(lfs), "LFS"),
        "gzip": (table(cut), "cut.jsonl.gz"),
        "json": (table(broken), "broken.jsonl:2"),
        "strict": ([*table(same), "--strict"], "same.jsonl:2"),
        "column": (table(other), "--map"),
        "few": (table(few, "partition.clients=3"), "pairs"),
        "shares": (table(few, "partition.shares.b=1"), "b"),
        "missing": (table(tmp_path / "nowhere.jsonl"), "nowhere.jsonl"),
        "key": (["train", "server.round=3"], "Did you mean 'rounds'?"),
        "value": (["train", "server.rounds=many"], "server.rounds"),
        "method": (["train", "method=fedvpa_pg"], "Did you mean 'fedvpa_gp'?"),
        "override": (["train", "rounds"], "key.path=value"),
        "model": (["train", *TINY, f"features.model={empty}"], "model"),
        "schema": (["train", "--resume", str(old)], "99"),
        "no run": (["report", str(empty)], "metrics.json"),
        "head": (["train", "method=fedem", "selector.head=residual", *TINY], "linear in z"),
        "engine": (["train", *TINY, "--engine", "flour"], "engine.name"),
        "clients": (["compare", "--clients", "ten"], "10,50,100"),
        "shots": (["compare", *TINY, "--shots", "1,2,", "--clients", "4"], "--shots '1,2,'"),
        "variants": (["compare", *TINY, "--clients", "4", "--variants", str(few)], "few.jsonl: is not YAML"),
        "protocol": (["compare", *TINY, "--clients", "4", "--protocol", "fourway"], "Did you mean 'four-way'?"),
        "holdout": (["compare", *TINY, "--clients", "4", "--holdout", str(few)], "unseen"),
    }


CASES = ("lfs", "gzip", "json", "strict", "column", "few", "shares", "missing", "key", "value", "method", "override",
         "model", "schema", "no run", "head", "engine", "clients", "shots", "variants", "protocol",
         "holdout")  # fmt: skip


@pytest.mark.end_to_end
@pytest.mark.parametrize("case", CASES)
def test_wrong_input_gets_one_message_exit_code_2_and_leaves_nothing(case: str, tmp_path: Path):
    cases = wrong(tmp_path)
    assert set(cases) == set(CASES)
    arguments, said = cases[case]
    out = tmp_path / "out"
    if arguments[0] != "report":
        arguments = [*arguments, "--out", str(out)]
    code, _, message = fedvpa(*arguments)
    assert code == 2, message
    assert said in message
    assert "Traceback" not in message
    assert not (out / "config.yaml").exists()


@pytest.mark.end_to_end
def test_the_engine_is_a_flag(tmp_path: Path):
    small = ["method=global", "data.pairs_per_user=10", "partition.clients=4", "server.rounds=1", "local.steps=1"]
    found = fedvpa("train", *small, "engine.name=flower", "--engine", "loop", "--out", str(tmp_path / "run"))
    assert found.returncode == 0, found.stderr
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["engine"]["name"] == "loop"


@pytest.mark.end_to_end
@pytest.mark.parametrize("verb", ["train", "compare"])
def test_what_an_engine_lacks_is_said_in_one_line_before_anything_is_done(verb: str, tmp_path: Path, monkeypatch):
    from fedvpa.engines.flower import simulation

    monkeypatch.setattr(simulation, "find_spec", lambda name: None)
    stopped = fedvpa(verb, "--engine", "flower", "--out", tmp_path / "out")
    assert stopped.returncode == 2
    (line,) = stopped.stderr.splitlines()
    assert line.startswith("fedvpa: engine.name=flower needs flwr and ray, not installed here. pip install")
    assert not (tmp_path / "out").exists()


@pytest.mark.end_to_end
def test_an_engine_that_fails_is_said_in_one_line(tmp_path: Path, monkeypatch):
    ray = pytest.importorskip("ray", reason="fedvpa[flower] is not installed")

    def fails(**_):
        raise RuntimeError("no memory\nfor the object store")

    monkeypatch.setattr(ray, "init", fails)
    stopped = fedvpa("train", *TINY, "--engine", "flower", "--out", tmp_path / "out")
    assert stopped.returncode == 1
    line = stopped.stderr.splitlines()[-1]  # after what was said of the data
    assert line.startswith("fedvpa: Ray, which runs Flower's simulation, did not start (no memory). Check free memory")


@pytest.mark.end_to_end
def test_an_earlier_run_is_not_overwritten(run: Path):
    before = (run / "metrics.json").read_bytes()
    found = fedvpa("train", *TINY, "--out", str(run))
    assert found.returncode == 2
    assert "--overwrite" in found.stderr
    assert (run / "metrics.json").read_bytes() == before


def test_a_dry_run_says_why_a_run_would_be_refused_and_writes_nothing(tmp_path: Path):
    rows = [PAIR | {"user_id": f"u{number % 7}", "prompt": f"plan {number % 3}"} for number in range(60)]
    given = ["data.source=table", f"data.path={write(tmp_path / 'pairs.jsonl', rows)}", "partition.test_fraction=1e-9"]
    found = fedvpa("train", *given, "--dry-run", "--json", "--out", str(tmp_path / "run"))
    assert found.returncode == 2
    told = json.loads(found.stdout)
    assert told["survey"]["users"] == 7
    assert "leave none to test on" in told["problem"]
    assert not (tmp_path / "run").exists()


@pytest.mark.end_to_end
@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_runs(path: Path, tmp_path: Path):
    tiny = [
        "partition.clients=4", "server.rounds=3", "local.steps=2", "engine.workers=1", "partition.unseen=2",
        "selector.encoder.pair_widths=[8]", "selector.encoder.set_widths=[]",
    ]  # fmt: skip
    given = yaml.safe_load(path.read_text())
    source = given["data"]["source"]
    if "layer" in given.get("features", {}):
        tiny.append("features.layer=[0,2,3]")  # those of the bundled model, which has fewer
    rows = [
        PAIR
        | {"prompt": f"how do i plan {number} ?", "objective": ("helpful", "harmless")[number % 2], "group": None}
        | {"user_id": f"u{number % 7}", "split": "test" if number % 5 == 0 else "train"}
        for number in range(60)
    ]
    if source == "world":
        tiny.append("data.pairs_per_user=10")
    elif source == "table":
        tiny += [f"data.path={write(tmp_path / 'pairs.jsonl', rows)}", "features.model=bundled"]
    else:
        tiny += [f"data.path={transcripts(tmp_path / 'hh', rows)}", "features.model=bundled"]
    config = read_config(path, tiny)
    metrics = train(config, tmp_path / "run")
    assert 0.0 <= metrics.comparison.summary[0].mean <= 1.0
    if path.stem.startswith("align_"):
        found = align(tmp_path / "run", overrides=SHORT_POLICY)
        assert found.policies[""].notes["steps"] == 2
        assert found.policies[""].notes["pairs"]["kept"] >= 2
        adapter = json.loads((tmp_path / "run" / "policy" / "adapter_config.json").read_text())
        assert (adapter["r"], adapter["lora_dropout"]) == (config.policy.lora_rank, config.policy.lora_dropout)


def transcripts(root: Path, rows: list[dict[str, str]]) -> Path:
    """The rows in the layout of HH-RLHF."""
    for subset, objective in (("helpful-base", "helpful"), ("harmless-base", "harmless")):
        lines = [
            {side: f"\n\nHuman: {row['prompt']}\n\nAssistant: {row[side]}" for side in ("chosen", "rejected")}
            for row in rows
            if row["objective"] == objective
        ]
        for split, part in (("train", lines[:24]), ("test", lines[24:])):
            (root / subset).mkdir(parents=True, exist_ok=True)
            write(root / subset / f"{split}.jsonl", part)
    return root


@pytest.mark.end_to_end
def test_doctor_and_version():
    found = fedvpa("doctor", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["ok"] is True
    assert fedvpa("--version").stdout.strip()
    module = subprocess.run([sys.executable, "-m", "fedvpa", "--version"], capture_output=True, text=True, check=True)
    assert module.stdout == fedvpa("--version").stdout


@pytest.mark.end_to_end
def test_import_is_light():
    code = "import fedvpa, sys; assert 'torch' not in sys.modules; fedvpa.Selector; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.unit
@pytest.mark.parametrize(("verb", "options", "shared"), [
    ("train", {}, True), ("simulate", {}, True), ("evaluate", {"policy": True}, True),
    ("evaluate", {"policy": False}, False), ("generate", {}, False),
])  # fmt: skip
def test_what_several_processes_do_together(verb, options, shared, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("fedvpa.core.processes.joined", lambda: "joined")
    if shared:
        assert _joined(verb, options) == "joined"
        return
    with pytest.raises(ConfigError, match=f"fedvpa {verb} was started in 2 processes.*simulate, evaluate --policy"):
        _joined(verb, options)
