"""Surface features: counted by hand, behind those of the language model, and left out of the reward."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedvpa.alignment.stage1 import reward_of
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.data.schema import Message, Pair, PairTable
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract, load_features
from fedvpa.features.responses import features_of
from fedvpa.features.surface import SURFACE, surface_of
from fedvpa.policy.config import PolicyConfig
from fedvpa.runs.config import read_config
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.prepare import check_features
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector
from run_fixtures import TINY

TEXT = "Why not? Try this... it costs $1.50.\n\n- bread\n 2) butter\n3.5 pounds\nReally?!\n*bold* and -5"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "expected"),
    # Sentence ends: not? this... 1.50. Really?!; list items: "- bread" and "2) butter".
    [
        ("log_length", math.log(len(TEXT))),
        ("sentences", math.log(5)),
        ("questions", math.log(3)),
        ("list_items", math.log(3)),
    ],
)
def test_each_is_counted_by_hand(name, expected):
    assert surface_of([TEXT, ""], [name])[:, 0] == pytest.approx([expected, 0.0])


@pytest.mark.unit
def test_differences_of_log_length_are_log_ratios_also_of_messages_and_other_scripts():
    long, short = (Message("user", "abcd"), Message("assistant", "efgh")), (Message("assistant", "abcde"),)
    values = surface_of([long, short], ["log_length"])
    assert values[0, 0] - values[1, 0] == pytest.approx(math.log((4 + 2 + 4) / 5))
    assert surface_of(["好吗？好。"], ["sentences", "questions"])[0] == pytest.approx([math.log(3), math.log(2)])
    assert surface_of([], tuple(SURFACE)).shape == (0, len(SURFACE))


@pytest.mark.unit
def test_they_stand_behind_the_features_whether_these_are_cached_or_not(model_folder, table, tmp_path):
    plain = FeatureConfig(model=str(model_folder("qwen2")), layer=(1, 2), storage="float32", cache_dir=tmp_path)
    config = plain.model_copy(update={"surface": ("questions", "log_length")})
    backbone = load_backbone(config)
    cached, direct = load_features(table, config), extract(table, backbone, config)
    assert config.widths(cached.chosen.shape[1]) == plain.widths(48) == (24, 24)
    without = load_features(table, plain)
    for side, texts in (("chosen", [p.chosen for p in table.pairs]), ("rejected", [p.rejected for p in table.pairs])):
        expected = surface_of(texts, config.surface)
        for store in (cached, direct):
            rows = np.asarray(getattr(store, side))
            assert rows.shape == getattr(store, side).shape == (len(table), 50)
            np.testing.assert_allclose(rows[:, :48], np.asarray(getattr(without, side)), atol=1e-5)
            np.testing.assert_array_equal(rows[:, 48:], expected)
            np.testing.assert_array_equal(getattr(store, side)[[3, 1]], rows[[3, 1]])
    pair = table.pairs[3]
    np.testing.assert_allclose(
        features_of([pair.prompt] * 2, [pair.chosen, pair.rejected], backbone, config),
        np.stack([np.asarray(direct.chosen)[3], np.asarray(direct.rejected)[3]]),
        atol=1e-5,
    )


@pytest.mark.unit
def test_the_whole_text_is_counted_where_the_model_reads_a_part(model_folder, table):
    config = FeatureConfig(model=str(model_folder("qwen2")), max_response_tokens=1, surface=("log_length",))
    pairs = PairTable((Pair("w1", "w2 w3 w4", "w5"),))
    store = extract(pairs, load_backbone(config), config)
    assert store.differences()[0, -1] == pytest.approx(math.log(8 / 2), abs=1e-3)


@pytest.mark.unit
def test_what_is_none_or_named_twice_is_one_message():
    assert read_config(None, ["features.surface=[log_length]"]).features.surface == ("log_length",)
    with pytest.raises(ConfigError, match=r"'features\.surface.*smell"):
        read_config(None, ["features.surface=[smell]"])
    with pytest.raises(ConfigError, match=r"'features\.surface'.*log_length is named twice"):
        read_config(None, ["features.surface=[log_length, log_length]"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("surface") / "run"
    config = read_config(None, [*TINY, "features.layer=[1, -1]", "features.surface=[log_length]"])
    train(config, out)
    return RunFolder.open(out)


@pytest.mark.end_to_end
def test_a_trained_selector_infers_with_them_and_rewards_without_them(run, capsys):
    selector, config = Selector.from_pretrained(run.path), run.config()
    width = len(selector.scaling.standardiser.mean)
    assert selector.scaling.blocks == ((width - 1) // 2,) * 2
    assert json.loads(selector.feature_key)["surface"] == ["log_length"]
    raw = np.random.default_rng(0).standard_normal((2, 3, width)).astype(np.float32)
    longer = raw.copy()
    longer[..., -1] += 2
    posterior, one = selector.prior_mean(), torch.ones(3)

    def margins(chosen: Selector, first: np.ndarray, second: np.ndarray) -> torch.Tensor:
        return chosen.margins(posterior, Pairs(chosen.scale(first), chosen.scale(second), one, one))

    reward = reward_of(selector, config.features, config.policy)
    assert "leaves out the surface features (log_length), which z is inferred with" in capsys.readouterr().err
    assert margins(selector, longer[0], raw[0]).abs().min() > 0
    assert torch.equal(margins(reward, longer[0], raw[0]), torch.zeros(3))
    torch.testing.assert_close(margins(reward, longer[0], raw[1]), margins(reward, raw[0], raw[1]))
    asked = PolicyConfig.parse({"preferences": {"surface": True}})
    with_them = reward_of(selector, config.features, asked)
    assert "the policy learns them" in capsys.readouterr().err
    assert torch.equal(with_them.scale(longer), selector.scale(longer))
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((width, width)))[0].astype(np.float32)
    turned = replace(reward.scaling, rotation=rotation)
    torch.testing.assert_close(turned(longer), turned(raw))


@pytest.mark.unit
def test_a_selector_refuses_features_without_them(run):
    selector, features = Selector.from_pretrained(run.path), run.config().features
    check_features(features, selector)
    with pytest.raises(
        ModelError, match=r"surface = \['log_length'\].*None.*Leave features\.surface as the run has it"
    ):
        check_features(features.model_copy(update={"surface": ()}), selector)
    with pytest.raises(ModelError, match=r"layer = \[1, -1\].*Leave features\.layer"):
        check_features(features.model_copy(update={"layer": -1}), selector)
