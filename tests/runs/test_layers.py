"""``features.layer=auto``: the layers that tell choices best, by pairs that do not test."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fedvpa.api.export import export_flower
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError, DataError
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.data.schema import Pair, PairTable
from fedvpa.features.config import FeatureConfig
from fedvpa.runs import layers as module
from fedvpa.runs.config import read_config
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.layers import candidate_layers, choose, resolved
from fedvpa.runs.prepare import prepare
from fedvpa.selector.layer_score import FoldedPairs
from fedvpa.selector.selector import Selector
from run_fixtures import TINY

AUTO = (*TINY, "features.layer=auto")


@pytest.mark.unit
def test_candidates_are_spread_from_the_embeddings_to_the_last_layer():
    assert candidate_layers(3) == (0, 1, 2, -1)
    assert candidate_layers(8) == (*range(8), -1)
    assert candidate_layers(30) == (0, 4, 8, 11, 15, 19, 22, 26, -1)


def made(count: int = 400) -> tuple[dict[int, np.ndarray], FoldedPairs]:
    """Layer 1 knows half of what decides, layer 4 the other half, the others nothing."""
    rng = np.random.default_rng(3)
    truth = rng.standard_normal((count, 2))
    truth *= np.where(truth.sum(1, keepdims=True) * 2 + rng.logistic(size=(count, 1)) < 0, -1, 1)
    noise = {layer: rng.standard_normal((count, 2)).astype(np.float32) for layer in (0, 1, 4, -1)}
    blocks = {layer: block.copy() for layer, block in noise.items()}
    blocks[1][:, 0], blocks[4][:, 1] = 1.2 * truth[:, 0], truth[:, 1]
    return blocks, FoldedPairs(rng.integers(7, size=count), np.arange(count) % 5, np.ones(count))


@pytest.mark.unit
def test_layers_that_add_something_are_put_together_and_noise_is_not():
    blocks, pairs = made()
    choice = choose(blocks, np.zeros((400, 0), np.float32), pairs)
    assert choice.layers == (1, 4)
    assert [len(one.layers) for one in choice.tried] == [1] * 4 + [2] * 3 + [3] * 2
    again = choose(dict(reversed(blocks.items())), np.zeros((400, 0), np.float32), pairs)
    assert again.layers == choice.layers


@pytest.mark.unit
def test_surface_features_stand_beside_every_candidate():
    blocks, pairs = made()
    with_it, without = (
        choose(blocks, part, pairs).tried for part in (4 * blocks[4][:, 1:], np.zeros((400, 0), np.float32))
    )
    for one, other in zip(with_it[:4], without[:4], strict=True):
        assert one.layers == other.layers
        known = one.layers == (4,)
        assert (one.log_likelihood - other.log_likelihood > 0.02) == (not known)


@pytest.mark.unit
def test_pairs_that_test_and_clients_that_do_not_train_decide_nothing(monkeypatch):
    rows = np.arange(30)
    clients = tuple(
        ClientRows(f"c{n}", None, n < 2, rows[9 * n :][:4], rows[9 * n + 4 :][:2], rows[9 * n + 6 :][:3])
        for n in range(3)
    )
    found, users = module._rows(Partition(clients))
    assert sorted(found.tolist()) == [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14]
    assert len(set(users[found < 9])) == len(set(users[found > 8])) == 1
    monkeypatch.setattr(module, "MOST_PAIRS", 8)
    some, _ = module._rows(Partition(clients))
    assert some.tolist() == found.tolist()[:8]
    assert module._rows(Partition((replace(clients[0], seen=False),)))[0].size == 0


@pytest.mark.unit
def test_pairs_that_are_set_aside_to_test_decide_nothing(tmp_path, monkeypatch):
    rows = [
        {
            "prompt": f"How do I bake {n} loaves?",
            "chosen": f"Thank you {user}.",
            "rejected": "No.",
            "user_id": f"u{user}",
        }
        for user in range(4)
        for n in range(17)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []

    def record(features, table, clients, *, rms):
        asked.append(clients)
        return features.model_copy(update={"layer": 0})

    monkeypatch.setattr("fedvpa.runs.prepare.resolved", record)
    given = ("data.source=table", f"data.path={file}", "features.model=bundled", "features.layer=auto")
    prepared = prepare(read_config(None, given), aside=0.4)
    (clients,) = asked
    aside = prepared.aside
    assert sum(map(len, aside.values())) > 3
    for client in clients.clients:
        assert not set(client.train.tolist()) & set(aside[client.client_id].tolist())
    assert prepared.features.layer == 0


@pytest.mark.unit
def test_a_prompt_is_in_one_fold_unless_there_are_too_few():
    def folds(prompts: int) -> tuple[FoldedPairs, list[str]]:
        names = [f"prompt {n % prompts}" for n in range(120)]
        table = PairTable(tuple(Pair(name, f"a {n}", f"b {n}") for n, name in enumerate(names)))
        return module._folded(table, np.zeros(120, np.int64), "prompt"), names

    many, names = folds(40)
    assert len(set(zip(names, many.fold.tolist(), strict=True))) == 40
    assert np.bincount(many.fold).tolist() == [24] * 5
    few, _ = folds(1)
    assert np.bincount(few.fold).tolist() == [24] * 5


@pytest.mark.unit
def test_other_steps_than_training_need_the_layers(tmp_path, federation):
    with pytest.raises(
        ConfigError, match=r"'features\.layer'.*auto is chosen where a run is trained.*features\.layer="
    ):
        _ = FeatureConfig(layer="auto").layers
    empty = Partition(tuple(replace(one, train=one.train[:0]) for one in federation.partition.clients))
    with pytest.raises(DataError, match=r"0 training pairs are too few to choose layers by.*features\.layer=-1"):
        resolved(FeatureConfig(model="bundled", layer="auto"), PairTable(()), empty, rms=True)
    config = read_config(None, ["features.layer=auto", "data.source=table", "data.path=x", "features.model=bundled"])
    with pytest.raises(ConfigError, match="auto is chosen where a run is trained"):
        export_flower(config, tmp_path / "app", out=tmp_path / "out", nodes=2)


@pytest.mark.end_to_end
def test_a_run_names_what_was_chosen_and_a_second_one_asks_the_cache(tmp_path, capsys, monkeypatch):
    train(read_config(None, AUTO), tmp_path / "run")
    err = capsys.readouterr().err
    features = RunFolder.open(tmp_path / "run").config().features
    assert features.layer != "auto"
    assert set(features.layers) <= {0, 1, 2, -1}
    shown = features.layer if isinstance(features.layer, int) else list(features.layer)
    assert f"features.layer={shown}\n" in err
    assert err.count("← chosen") == 1
    assert all(f"  layer {layer} " in err for layer in (0, 1, 2, -1))
    blocks = Selector.from_pretrained(tmp_path / "run").scaling.blocks
    assert len(blocks) == len(features.layers)
    monkeypatch.setattr(module, "choose", lambda *_: pytest.fail("it was chosen again"))
    assert prepare(read_config(None, AUTO)).features == features
