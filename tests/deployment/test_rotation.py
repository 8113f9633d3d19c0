"""The rotation of the features in a deployment: made of what nodes add up, and the same as on one machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.core.errors import DataError, FedvpaError, RunError
from fedvpa.engines.federation import federate
from fedvpa.features.standardise import Standardiser
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.selector.rotation import contributors
from fedvpa.selector.selector import Selector
from tests_shared import replay

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.deployment import server as deployment
from fedvpa.engines.flower import rotation
from fedvpa.engines.flower.records import arrays
from here_grid import SETTING, HereGrid, given, task

DIMENSION = make_federation().dimension
SETTINGS = {**SETTING.model_dump(), "engine": {"cohort": 4, "workers": 1}, "seed": 5}
CONFIG = RunConfig.parse({**SETTINGS, "selector": {**SETTINGS["selector"], "rotation": DIMENSION - 1}})


@pytest.fixture(autouse=True)
def _task():
    with task():
        yield


class Rotating(HereGrid):
    """Two nodes, with faults of the second exchange.

    Attributes:
        asked: What each request of it asked for.
        mute: The nodes that do not answer it.
        stop: After so many requests of the rounds the server is stopped.
        forget: The one of these requests before which its node loses what Flower kept for it.
    """

    def __init__(self, folder: Path, mute: tuple[int, ...] = (), stop: int = 99, forget: int = 99) -> None:
        super().__init__(folder)
        self.mute, self.stop, self.forget = mute, stop, forget
        self.asked: list[tuple[str, ...]] = []
        self.trains = self.sent_rotations = 0

    def _push(self, message):
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        if kind == "query.rotation":
            self.asked.append(rotation.unpack_question(message.content)[1])
        self.faults = {node: "silent"} if kind == "query.rotation" and node in self.mute else {}
        if kind == "train":
            self.trains += 1
            self.sent_rotations += "rotation" in message.content.array_records["scaling"].to_torch_state_dict()
            if self.trains > self.stop:
                raise KeyboardInterrupt
            if self.trains == self.forget:
                self.contexts.pop(node, None)
        try:
            return super()._push(message)
        except FedvpaError as error:
            from flwr.app import Error, Message

            name = f"{self.sent}-{node}"
            self.replies[name] = Message(Error(2, str(error)), reply_to=message)
            return name


def here():
    """The same clients on one machine."""
    federation = make_federation()
    return federate(federation.store, federation.partition, rms=True, rotation=DIMENSION - 1)


@pytest.mark.equivalence
def test_nodes_give_the_rotation_and_the_selector_of_one_machine(tmp_path: Path):
    grid, out = Rotating(tmp_path / "a"), tmp_path / "out"
    deployment.serve(grid, CONFIG, given(out))
    selector, federation = Selector.from_pretrained(out), here()
    assert selector.scaling.rotation.shape == (DIMENSION, DIMENSION - 1)
    np.testing.assert_allclose(selector.scaling.rotation, federation.scaling.rotation, atol=1e-5)
    assert sorted(name for names in grid.asked for name in names) == list(contributors(federation.client_ids))
    assert grid.sent_rotations == 2 < grid.trains, "each node is sent it once"
    algorithm = make(CONFIG.method, CONFIG.method_config)
    want = algorithm.selector(replay(algorithm, federation, CONFIG.seed, RunFolder.open(out).lines()))
    for name in ("head.base", "head.personal", "prototypes"):
        torch.testing.assert_close(selector.params[name], want.params[name], rtol=1e-4, atol=1e-5)


@pytest.mark.equivalence
def test_a_server_that_is_started_again_goes_on_with_the_same_rotation(tmp_path: Path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    deployment.serve(Rotating(tmp_path / "a"), CONFIG, given(whole))
    with pytest.raises(KeyboardInterrupt):
        deployment.serve(Rotating(tmp_path / "b", stop=5), CONFIG, given(halves))
    again = Rotating(tmp_path / "b")
    deployment.serve(again, CONFIG, given(halves))
    assert not again.asked, "the rotation is not asked for again"
    one, two = (Selector.from_pretrained(out) for out in (whole, halves))
    np.testing.assert_array_equal(one.scaling.rotation, two.scaling.rotation)
    for name, leaf in one.params.items():
        assert torch.equal(leaf, two.params[name]), name
    (halves / "checkpoints" / "rotation.safetensors").unlink()
    with pytest.raises(RunError, match=r"rotation\.safetensors"):
        deployment.serve(Rotating(tmp_path / "b"), CONFIG, given(halves))


@pytest.mark.unit
def test_a_node_that_has_lost_the_rotation_misses_a_round_and_is_sent_it_again(tmp_path: Path, capsys):
    grid, out = Rotating(tmp_path / "a", forget=5), tmp_path / "out"
    deployment.serve(grid, CONFIG, given(out, quorum=0.1))
    assert "the node has lost the rotation of the features" in capsys.readouterr().err
    dropped = [bool(line["dropped"]) for line in RunFolder.open(out).lines()]
    assert any(dropped)
    assert not any(dropped[dropped.index(True) + 2 :])
    assert grid.sent_rotations > 2


@pytest.mark.unit
def test_nodes_that_do_not_send_their_part_are_left_out_or_stop_the_run(tmp_path: Path, capsys):
    out = tmp_path / "out"
    deployment.serve(Rotating(tmp_path / "a", mute=(1,)), CONFIG, given(out))
    err = capsys.readouterr().err
    assert "the rotation of the features is made without client-1, client-3, client-5: no answer" in err
    federation = make_federation()
    moment = replace(federation).second_moment(["client-0", "client-2", "client-4"])
    basis = Selector.from_pretrained(out).scaling.rotation.astype(np.float64)
    turned = basis.T @ moment @ basis
    np.testing.assert_allclose(turned, np.diag(turned.diagonal()), atol=1e-5 * moment.trace())
    with pytest.raises(FedvpaError, match=r"3 of 6 clients sent what the rotation .* quorum is 90%"):
        deployment.serve(Rotating(tmp_path / "b", mute=(1,)), CONFIG, given(tmp_path / "other", quorum=0.9))


@pytest.mark.unit
def test_what_is_no_second_moment_is_refused():
    moment = np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T
    np.testing.assert_array_equal(rotation.unpack_moment(rotation.pack_moment(moment), 3), moment)
    with pytest.raises(DataError, match="none of 4 dimensions"):
        rotation.unpack_moment(rotation.pack_moment(moment), 4)
    for broken in (-np.eye(3), np.eye(3) * np.nan):
        with pytest.raises(DataError, match="not finite, or has a negative square"):
            rotation.unpack_moment(rotation.pack_moment(broken), 3)
    with pytest.raises(DataError, match="another version"):
        rotation.unpack_moment(type(rotation.pack_moment(moment))({"other": arrays({"upper": torch.zeros(6)})}), 3)
    standardiser = Standardiser(np.arange(3.0), np.ones(3))
    back, names = rotation.unpack_question(rotation.pack_question(standardiser, ("ä/b", "c")))
    assert names == ("ä/b", "c")
    np.testing.assert_array_equal(back.mean, standardiser.mean)
