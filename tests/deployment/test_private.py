"""A deployment under differential privacy, on nodes in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SIZES, make_federation
from fedvpa.core.errors import ConfigError, FedvpaError, ModelError, RunError
from fedvpa.runs.config import RunConfig, dump, read_config
from fedvpa.selector.selector import Selector

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.api.export import export_flower
from fedvpa.deployment import server as deployment
from fedvpa.deployment.node import node_config
from fedvpa.deployment.noise import check_deployed, scaling_without_users
from fedvpa.deployment.release import _for_nodes
from fedvpa.engines.flower.records import Introduction, tree_of, unpack_introduction
from fedvpa.engines.flower.roster import Roster
from fedvpa.features.standardise import Moments
from fedvpa.privacy.keyed import Key
from here_grid import SETTING, HereGrid, given, share, task
from run_fixtures import TINY

FIXED = SETTING.model_dump()
SELECTOR = {**FIXED["selector"], "rotation": "none"}
VALUES = {**FIXED, "selector": SELECTOR, "engine": {"cohort": 4, "workers": 1}, "seed": 5, "method": "fedem"}
CONFIG = RunConfig.parse({**VALUES, "privacy": {"noise_multiplier": 0.8}})


@pytest.fixture(autouse=True)
def _task():
    with task():
        yield


class Private(HereGrid):
    """Two nodes of a run with noise, and what they sent and were sent.

    Attributes:
        stop: After so many messages the server is stopped.
        sent_up: The content of every answer.
        sent_down: The content of every message.
    """

    def __init__(self, folder: Path, stop: int = 9999) -> None:
        super().__init__(folder, method="fedem")
        self.nodes = {number: replace(node, private=True) for number, node in self.nodes.items()}
        self.stop, self.sent_up, self.sent_down = stop, [], []

    def _push(self, message):
        if self.sent >= self.stop:
            raise KeyboardInterrupt
        self.sent_down.append(message.content)
        name = super()._push(message)
        if name in self.replies and not self.replies[name].has_error():
            self.sent_up.append(self.replies[name].content)
        return name


def history(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{**line, "seconds": 0} for line in lines]


@pytest.mark.equivalence
def test_a_private_server_that_is_stopped_ends_where_it_would_have_with_the_same_key(tmp_path: Path, capsys):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    with pytest.raises(KeyboardInterrupt):
        deployment.serve(Private(tmp_path / "b", stop=9), CONFIG, given(halves))
    rounds = len(history(halves))
    assert 0 < rounds < 6
    key = halves / "checkpoints" / "privacy.key"
    for name in ("privacy.key", "members.json"):
        assert (halves / "checkpoints" / name).stat().st_mode & 0o077 == 0
    kept = key.read_bytes()
    # Another server with the same key, that was never stopped.
    monkey = pytest.MonkeyPatch()
    from fedvpa.privacy.keyed import Key

    monkey.setattr(Key, "new", classmethod(lambda cls: cls(kept)))
    deployment.serve(Private(tmp_path / "a"), CONFIG, given(whole))
    monkey.undo()
    grid = Private(tmp_path / "b")
    deployment.serve(grid, CONFIG, given(halves))
    assert key.read_bytes() == kept
    one, two = (Selector.from_pretrained(out / "selector") for out in (whole, halves))
    for name, leaf in one.params.items():
        assert torch.equal(leaf, two.params[name]), name
    assert history(whole) == history(halves)
    found = json.loads((halves / "metrics.json").read_text())["privacy"]
    assert (found["rounds"], found["clients"], found["rate"], found["seeded"]) == (6, 6, 4 / 6, False)
    assert found["epsilon_released"] < found["epsilon_server"]
    said = capsys.readouterr().err
    assert "round 6 of 6: 4 or so asked" in said
    assert "privacy: ε = " in said
    assert "client-" not in said
    for line in history(halves):
        assert not line["cohort"] + line["dropped"] + line["rejected"]
        assert "client-" not in json.dumps(line)
    for file in (*halves.rglob("*"), *(tmp_path / "b").rglob("*")):
        if file.is_file() and file != key:
            assert kept not in file.read_bytes(), file
            assert kept.hex().encode() not in file.read_bytes(), file
    key.unlink()
    with pytest.raises(RunError, match="noise and cohorts follow from it"):
        deployment.serve(Private(tmp_path / "b"), CONFIG, given(halves))


@pytest.mark.unit
def test_nodes_send_no_moments_and_no_numbers_of_pairs_and_no_weights(tmp_path: Path):
    grid = Private(tmp_path / "a")
    deployment.serve(grid, CONFIG, given(tmp_path / "out"))
    introductions = [unpack_introduction(one) for one in grid.sent_up if "moments" in one.array_records]
    assert {name: count for one in introductions for name, count in one.clients.items()} == {
        f"client-{number}": 1 for number in range(6)
    }
    dimension = make_federation().store.chosen.shape[1]
    for one in introductions:
        assert (one.moments.count, len(one.moments.sum)) == (0, dimension)
        assert not one.moments.sum.any()
        assert not one.moments.sum_of_squares.any()
    updates = [one for one in grid.sent_up if "sums" in one.array_records]
    assert updates
    for update in updates:
        sums = tree_of(update.array_records["sums"])
        weights = {name: float(leaf) for name, leaf in sums.items() if name.split(".", 1)[1] == "weight"}
        assert all(weight == int(weight) <= 3 for weight in weights.values()), "one for each user, whatever they hold"
        assert not any("loss" in name for name in sums)
    selector = Selector.from_pretrained(tmp_path / "out")
    assert not selector.scaling.standardiser.mean.any()
    assert (selector.scaling.standardiser.scale == 1).all()


@pytest.mark.unit
def test_a_node_that_is_private_trains_for_no_server_without_noise_and_turns_nothing(tmp_path: Path):
    for rotation, reason in (("none", "does not say how long an update may be"), (3, "asks for second moments")):
        grid = Private(tmp_path / f"{rotation}")
        grid.nodes[0] = replace(grid.nodes[0], private=False)
        config = RunConfig.parse({**VALUES, "selector": {**SELECTOR, "rotation": rotation}})
        with pytest.raises(FedvpaError, match=reason):
            deployment.serve(grid, config, given(tmp_path / f"out {rotation}"))


@pytest.mark.unit
def test_users_who_come_later_join_the_next_training(tmp_path: Path, capsys):
    out, grid = tmp_path / "out", Private(tmp_path / "a", stop=9)
    with pytest.raises(KeyboardInterrupt):
        deployment.serve(grid, CONFIG, given(out))
    again = Private(tmp_path / "a")
    federation = make_federation((*SIZES, 4, 5))
    late = replace(again.nodes[0], holder=share(federation, 0))
    again.nodes[0] = late
    deployment.serve(again, CONFIG, given(out))
    said = capsys.readouterr().err
    assert "users who came after the training began: 1." in said
    assert "joined:" not in said
    asked = [json.loads(str(one["task"]["clients"])) for one in again.sent_down if "shared" in one.array_records]
    assert {name for names in asked for name in names} <= {f"client-{number}" for number in range(6)}
    assert json.loads((out / "metrics.json").read_text())["privacy"]["clients"] == 6


@pytest.mark.unit
def test_messages_and_bytes_tell_nothing_of_who_was_silent(tmp_path: Path, capsys, monkeypatch):
    key = next(key for key in map(Key.of_seed, range(99)) if always_some_of_node_0(key))
    monkeypatch.setattr(Key, "new", classmethod(lambda cls: key))
    lines = {}
    for fault in (False, True):
        out = tmp_path / f"out {fault}"
        grid = late_fault(tmp_path) if fault else Private(tmp_path / "whole")
        deployment.serve(grid, CONFIG, given(out, quorum=0.01))
        lines[fault] = [(line["uplink_bytes"], line["downlink_bytes"], line["dropped"]) for line in history(out)]
    said = capsys.readouterr().err
    assert "some of those asked dropped out (an error: out of memory)" in said
    assert "client-" not in said
    assert lines[False] == lines[True]


def always_some_of_node_0(key: Key) -> bool:
    """Whether each round asks a client that answers; without any the quorum stops the run."""
    rate = 4 / 6
    return all((key.uniform(round_, [f"client-{number}" for number in (0, 2, 4)]) < rate).any() for round_ in range(6))


def late_fault(folder: Path) -> HereGrid:
    """Node 1 introduces itself, and answers no request to train."""
    grid = Private(folder / "late")
    push = grid._push

    def faulty(message):
        grid.faults = {1: "error"} if message.metadata.message_type == "train" else {}
        return push(message)

    grid._push = faulty
    return grid


@pytest.mark.unit
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["privacy.seeded=true"], "every node of a deployment has the seed"),
        (["privacy.canaries=5"], "canaries"),
        (["method=fedeb"], "fedeb learns little or nothing from noised sums"),
        (["privacy.scaling=private"], "which nodes do not send"),
        (["selector.rotation=8"], "follows from users' pairs"),
        (["method=fedbiscuit"], "each by itself"),
        (["method=vpl"], "asks all clients at once"),
    ],
)
def test_what_cannot_be_private_is_not_exported_and_not_served(overrides: list[str], reason: str, tmp_path: Path):
    config = read_config(None, ["privacy.noise_multiplier=1", *overrides])
    with pytest.raises(ConfigError, match=reason):
        export_flower(config, tmp_path / "app", out=tmp_path / "out")
    assert not (tmp_path / "app").exists()
    with pytest.raises(ConfigError, match=reason):
        check_deployed(config)


@pytest.mark.unit
def test_a_policy_that_clients_train_is_refused_with_noise_on_every_machine(tmp_path: Path):
    config = read_config(None, ["privacy.noise_multiplier=1"])
    with pytest.raises(ConfigError, match="nodes of a deployment would send adapters of 'feddpo' without noise"):
        export_flower(config, tmp_path / "app", out=tmp_path / "out", method="feddpo")
    with pytest.raises(ConfigError, match="without noise, which is there in simulations alone"):
        deployment.serve(HereGrid(tmp_path / "a"), CONFIG, given(tmp_path / "out"), "feddpo")
    assert not (tmp_path / "app").exists()


@pytest.mark.unit
def test_an_exported_app_has_the_section_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(None, ["privacy.epsilon=3", "privacy.public_pairs=public.jsonl"])
    app = export_flower(config, tmp_path / "app", out=tmp_path / "out").app
    kept = read_config(app / "fedvpa_app" / "run.yaml")
    assert kept.privacy.epsilon == 3
    assert kept.privacy.public_pairs == tmp_path / "public.jsonl", "found from wherever the server starts"
    assert not list(app.rglob("*.key"))
    assert node_config(kept, "pairs.jsonl").privacy.on
    assert str(tmp_path) not in dump(_for_nodes(kept)), "a release names no place of the server's"


@pytest.mark.unit
def test_secure_aggregation_says_no_number_of_nodes_under_noise():
    from fedvpa.engines.flower.secure_server import _too_few

    said = [_too_few(2, 2, 2, hidden=True), _too_few(7, 3, 5, hidden=True)]
    assert all(said)
    assert not any(digit in one.replace("adds up 3 at least", "") for one in said for digit in "0123456789")
    assert "7 nodes" in _too_few(7, 3, 5, hidden=False)


@pytest.mark.unit
def test_the_server_scales_by_public_pairs_if_it_reads_as_the_nodes_do(tmp_path: Path):
    from fedvpa.runs.prepare import feature_key, pinned

    public = tmp_path / "public.jsonl"
    rows = [{"prompt": "Tell me.", "chosen": f"It is {a} of {b}.", "rejected": f"{b}, not {a}!"} for a, b in WORDS]
    public.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny = read_config(None, TINY)
    values = {**tiny.model_dump(), "privacy": {"epsilon": 3, "public_pairs": str(public)}}
    values["selector"] = {**values["selector"], "rotation": 4}
    config = RunConfig.parse(values)
    key = feature_key(pinned(config.features))

    def roster(reads: dict) -> Roster:
        return Roster(None, {0: Introduction({"a": 1}, Moments.zero(128), json.dumps(reads))}, Moments.zero(128))

    found = scaling_without_users(config, roster(key))
    scaling = found.scaling
    assert len(found.spectrum) == 4
    assert scaling.dimension == 4
    assert scaling.standardiser.mean.any()
    assert np.isfinite(scaling.rotation).all()
    with pytest.raises(ModelError, match="model = "):
        scaling_without_users(config, roster({**key, "model": "sha256:other"}))


WORDS = [("the door", "wood"), ("a lamp", "glass"), ("the road", "stone"), ("a coat", "wool"), ("the boat", "tin")]
