"""One user out of a run directory: byte for byte, file for file, and with everybody else as before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command_line import fedvpa
from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.api.evaluate import evaluate
from fedvpa.api.forget import forget
from fedvpa.api.train import resume
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.data.schema import Pair
from fedvpa.engines.checkpoint import load_checkpoint, load_clients, save_checkpoint, save_clients
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.evaluation.outcomes import Outcome, load_outcomes, save_outcomes
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.forgetting import Holdings, Removal
from fedvpa.runs.held import content_hash, prompt_hash
from fedvpa.runs.stage1 import open_pairs
from fedvpa.runs.users import load_users
from fedvpa.serving.keys import Keys
from fedvpa.serving.profile_store import Inference, ProfileStore, StoredPair
from own_table import USERS, pairs_of, write_rows
from tests_shared import config

GONE, OTHER = "user-17", "user-23"
ONE = {"rounds": 1}
PAIRS = [pair for pair in pairs_of(USERS, 7, 5) if pair.user_id in (GONE, OTHER)]


def outcome(user: str, prompt: str) -> Outcome:
    told = ("a", "b", 1.0, None, None, None, None, 1)
    return Outcome("fedeb", USERS, 0, "someone", user, True, prompt, *told)


@pytest.fixture(scope="module")
def kept(own_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that may hold something of a user; to read only."""
    run = shutil.copytree(own_run, tmp_path_factory.mktemp("kept") / "run")
    names = [client.client_id for client in load_users(RunFolder(run).users).partition.clients]
    policy, checkpoints = run / "policy", run / "checkpoints"
    policy.mkdir()
    own = {pair.user_id: pair.prompt for pair in PAIRS}
    save_outcomes(policy / "outcomes.jsonl", [outcome(name, "w1") for name in names] + [outcome(OTHER, own[GONE])])
    save_outcomes(policy / "path-0.jsonl", [outcome(GONE, "w1"), outcome(OTHER, own[OTHER])])
    (policy / "judging.json").write_text(json.dumps({"settings": {"prompt_file": None}}))
    (policy / "answers.jsonl").write_text(json.dumps({"key": "k", "answers": []}) + "\n")
    samples = [{"prompt": own[GONE], "answers": []}, {"prompt": own[OTHER], "answers": []}]
    (policy / "metrics.json").write_text(json.dumps({"policy_samples": samples}))
    line = {"round": 1, "cohort": [GONE, OTHER], "dropped": [], "rejected": [GONE]}
    (policy / "history.jsonl").write_text(json.dumps(line) + "\n")
    private = {name: {"shares": torch.tensor([float(number), 2.0])} for number, name in enumerate(names)}
    save_clients(run / "clients" / "clients.safetensors", private)
    shutil.copy(checkpoints / "last.safetensors", checkpoints / "last.safetensors.previous")
    save_clients(checkpoints / "policy.safetensors", private)
    (checkpoints / "refresh-1.safetensors").write_bytes(b"samples")
    (run / "clients" / ".users.safetensors.x.tmp").write_bytes(GONE.encode())
    (run / "audit.json").write_text(json.dumps({"schema_version": 1, "user": GONE}))
    (run / "report.html").write_text(GONE)
    (run / "figures").mkdir()
    (run / "figures" / "map.png").write_bytes(GONE.encode())
    return run


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kept, tmp_path / "run")


def contents(run: Path) -> dict[str, bytes]:
    files = (path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


@pytest.mark.end_to_end
def test_no_file_holds_the_id_and_everybody_else_is_as_before(run: Path, tmp_path: Path, capsys):
    before, names = load_users(RunFolder(run).users), contents(run)
    scores = (run / "scores.jsonl").read_text().splitlines()
    new = write_rows(tmp_path / "new.jsonl", [pair for pair in pairs_of(USERS, 9, 99) if pair.user_id == OTHER])
    scored = evaluate(run, new)
    told = forget(run, user=GONE)
    assert sum(GONE.encode() in content for content in names.values()) > 9
    for name, content in contents(run).items():
        assert GONE.encode() not in content, name
    assert not [path for path in run.rglob("*") if GONE in path.name or path.suffix == ".tmp"]
    after = load_users(RunFolder(run).users)
    assert GONE not in after.seen.ids + after.unseen.ids
    assert len(after.partition.clients) == USERS - 1
    for name in (*after.seen.ids, *after.unseen.ids):
        assert torch.equal(after.z_of(name), before.z_of(name)), name
    assert (run / "scores.jsonl").read_text().splitlines() == [line for line in scores if f'"{GONE}"' not in line]
    assert evaluate(run, new).to_dict() == scored.to_dict()
    assert load_clients(run / "clients" / "clients.safetensors")[OTHER]["shares"].tolist() == [
        load_clients(run / "checkpoints" / "policy.safetensors")[OTHER]["shares"][0].item(),
        2.0,
    ]
    assert after.held is not None
    for pair in PAIRS:
        assert (content_hash(pair) in after.held.groups) == (pair.user_id == OTHER)
    own = {prompt_hash(pair.prompt) for pair in PAIRS if pair.user_id == GONE}
    left = {prompt_hash(one.prompt) for one in load_outcomes(run / "policy" / "outcomes.jsonl")}
    assert not left & (own - {row.prompt for row in after.held.rows})
    hashes = b"".join(load_file(RunFolder(run).users)[f"held.{name}"].numpy().tobytes() for name in ("keys", "rows"))
    gone = [content_hash(pair) for pair in PAIRS if pair.user_id == GONE]
    assert not any(value.to_bytes(8, "little", signed=True) in hashes for value in gone)
    with pytest.raises(RunError, match=r"so its rounds cannot go on\. Train another run"):
        resume(run)
    with pytest.raises(RunError, match="which rows of its data its users hold"):
        open_pairs(RunFolder(run), RunFolder(run).config())
    assert "cannot be taken" not in capsys.readouterr().err
    assert told.privacy is None
    assert "only training again without the user takes it out" in told.kept[0]


@pytest.mark.end_to_end
def test_a_dry_run_names_the_files_that_change_and_changes_none(run: Path):
    before = contents(run)
    planned = forget(run, user=GONE, dry_run=True)
    assert contents(run) == before
    done = forget(run, user=GONE)
    assert done.removed == planned.removed
    after = contents(run)
    changed = {name for name, content in before.items() if after.get(name) != content}
    named = {name: name for name in before} | {"figures/map.png": "figures"}
    assert {named[name] for name in changed} == set(planned.removed)
    assert after.keys() - before.keys() == {"forgotten.json"}
    assert json.loads((run / "forgotten.json").read_text()) == {"schema_version": 1}


def stopping_before(number: int, plain: Callable[[Holdings, str], list[Removal]]) -> Callable[..., list[Removal]]:
    """``removals`` of which that number is never carried out."""

    def stop() -> None:
        raise KeyboardInterrupt

    def removals(self: Holdings, user: str) -> list[Removal]:
        return [replace(one, carry_out=stop) if row == number else one for row, one in enumerate(plain(self, user))]

    return removals


@pytest.mark.end_to_end
def test_a_removal_that_is_killed_leaves_each_file_old_or_new_and_is_finished_by_the_same_call(kept, tmp_path):
    whole = shutil.copytree(kept, tmp_path / "whole")
    count = len(Holdings(RunFolder(whole), RunFolder(whole).config()).removals(GONE))
    forget(whole, user=GONE)
    old, new = contents(kept), contents(whole)
    for stop in (1, count - 1):
        run = shutil.copytree(kept, tmp_path / f"stopped-{stop}")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Holdings, "removals", stopping_before(stop, Holdings.removals))
            with pytest.raises(KeyboardInterrupt):
                forget(run, user=GONE)
        for name, content in contents(run).items():
            assert content in (old.get(name), new.get(name)), name
        with pytest.raises(RunError, match="rounds cannot go on"):
            resume(run)
        forget(run, user=GONE)
        assert contents(run) == new
        with pytest.raises(RunError, match="holds nothing of a user 'user-17'"):
            forget(run, user=GONE)


@pytest.mark.unit
def test_an_unknown_user_is_an_error_that_names_near_ones(kept: Path):
    with pytest.raises(RunError, match=r"nothing of a user 'user-171'\. Did you mean '[^?]*user-17'"):
        forget(kept, user="user-171")
    with pytest.raises(RunError, match=r"It knows 'user-0', 'user-1', 'user-10', .* and 30 more\."):
        forget(kept, user="Zoë")
    with pytest.raises(ConfigError, match="Neither a run and"):
        forget(user=GONE)
    with pytest.raises(ConfigError, match="Both"):
        forget(kept, user=GONE, state=kept)


@pytest.mark.unit
def test_a_profile_goes_too_and_one_that_took_no_part_in_training_goes_alone(run: Path):
    folder = RunFolder(run)
    stored = StoredPair(Pair("w1", "w2 w3", "w4"), b"features", "model")
    with closing(ProfileStore(folder.profiles)) as store:
        for name in (GONE, "newcomer", "another"):
            store.create(name, [stored], lambda pairs: Inference("selector", b"posterior", pairs))
    Keys(folder.keys).add("phone", "newcomer")
    Keys(folder.keys).add("desk")
    told = forget(run, user="newcomer")
    assert told.removed == {
        "profiles/profiles.sqlite3": "the profile: pairs and posterior",
        "profiles/keys.json": "the key 'phone'",
    }
    assert [key.name for key in Keys(folder.keys).all()] == ["desk"]
    assert not folder.forgotten.exists()
    assert "profiles/profiles.sqlite3" in forget(run, user=GONE).removed
    assert not any(name.encode() in content for content in contents(run).values() for name in ("newcomer", GONE))
    with closing(ProfileStore(folder.profiles)) as store:
        assert store.names() == ["another"]


@pytest.mark.unit
def test_the_state_of_a_node_is_cut_by_the_same_verb(tmp_path: Path):
    private = {name: {"shares": torch.rand(3)} for name in ("ana", "bo")}
    for round_ in (3, 4):
        save_clients(tmp_path / f"{round_}.safetensors", private)
    planned = forget(user="ana", state=tmp_path, dry_run=True)
    assert set(planned.removed) == {"3.safetensors", "4.safetensors"}
    assert "ana" in load_clients(tmp_path / "4.safetensors")
    forget(user="ana", state=tmp_path)
    for round_ in (3, 4):
        left = load_clients(tmp_path / f"{round_}.safetensors")
        assert list(left) == ["bo"]
        assert torch.equal(left["bo"]["shares"], private["bo"]["shares"])
        assert b"ana" not in (tmp_path / f"{round_}.safetensors").read_bytes()
    with pytest.raises(RunError, match="nothing of a user 'ana'"):
        forget(user="ana", state=tmp_path)
    with pytest.raises(RunError, match="is no folder"):
        forget(user="ana", state=tmp_path / "nowhere")


@pytest.mark.unit
def test_a_checkpoint_whose_state_names_the_user_throughout_goes_as_a_whole(tmp_path: Path):
    """The published exchange keeps posteriors of the last cohort on the server, by id."""
    federation, algorithm = (
        make_federation(),
        make("fedvpa_gp", config(server=ONE, variational={"prior": "posteriors"})),
    )
    state = start(algorithm, federation, 0)
    for reached, line in rounds(algorithm, federation, EngineConfig(name="loop"), 0, state):
        state, lines = reached, [line]
    run = RunFolder(tmp_path)
    run.config_file.write_text("# schema_version: 2\nmethod: fedvpa_gp\n")
    save_checkpoint(run.checkpoint, TrainState(state.server, state.private), {})
    run.history.write_text("".join(json.dumps(one) + "\n" for one in lines))
    gone = lines[0]["cohort"][0]
    run.members.write_text(json.dumps({"members": [gone, "late"]}))
    run.members.chmod(0o600)
    told = forget(tmp_path, user=gone)
    assert "the whole file" in told.removed["checkpoints/last.safetensors"]
    assert not run.checkpoint.exists()
    assert "history.jsonl" in told.removed
    assert not any(gone.encode() in content for content in contents(tmp_path).values())
    assert json.loads(run.members.read_text()) == {"members": ["late"]}
    assert run.members.stat().st_mode & 0o077 == 0


@pytest.mark.unit
def test_a_checkpoint_without_names_in_its_state_loses_the_private_state_alone(tmp_path: Path):
    federation, algorithm = make_federation(), make("fedvpa_gp", config(server=ONE))
    for reached, _ in rounds(algorithm, federation, EngineConfig(name="loop"), 0, start(algorithm, federation, 0)):
        state = reached
    save_checkpoint(tmp_path / "one.safetensors", state, {"note": 1})
    assert "client-3" in state.private
    forget(user="client-3", state=tmp_path)
    left, meta = load_checkpoint(tmp_path / "one.safetensors", algorithm.state_type)
    assert meta == {"note": 1}
    assert left.private.keys() == state.private.keys() - {"client-3"}
    for name, leaf in state.server.params.items():
        assert torch.equal(left.server.params[name], leaf)


@pytest.mark.end_to_end
def test_the_command_says_file_by_file_what_goes(run: Path):
    done = fedvpa("forget", str(run), "--user", GONE, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"would forget '{GONE}' in {run}\n")
    assert "  clients/users.safetensors " in done.stdout
    assert "only training again without the user takes it out" in done.stdout
    assert fedvpa("forget", str(run), "--user", "nobody").returncode == 2
