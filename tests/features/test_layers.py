"""Features of several layers: side by side, from one forward pass, under keys of their own."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.features import forward as forward_module
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract, load_features
from fedvpa.features.forward import check_causal, dimension, sharing_obstacle
from fedvpa.features.identity import cache_key
from fedvpa.models.locate import locate
from fedvpa.runs.config import read_config


def config_of(folder, layer, **more) -> FeatureConfig:
    return FeatureConfig(model=str(folder), layer=layer, storage="float32", **more)


@pytest.mark.equivalence
@pytest.mark.parametrize(("family", "layers"), [("qwen2", (0, 2, -1)), ("gemma2", (3, 1)), ("bert", (0, 2))])
def test_several_layers_are_each_of_them_side_by_side(model_folder, table, family, layers):
    """Decoders share the prompt, or compute it twice beyond the window; encoders never share."""
    config = config_of(model_folder(family), layers)
    backbone = load_backbone(config)
    together = extract(table, backbone, config)
    assert together.chosen.shape == (len(table), 24 * len(layers))
    assert dimension(backbone) == 24 * len(layers)
    assert config.widths(24 * len(layers)) == (24,) * len(layers)
    for place, layer in enumerate(layers):
        alone = extract(table, replace(backbone, layers=(layer,)), config)
        columns = slice(24 * place, 24 * (place + 1))
        np.testing.assert_allclose(together.chosen[:, columns], alone.chosen, atol=1e-5)
        np.testing.assert_allclose(together.rejected[:, columns], alone.rejected, atol=1e-5)
        assert together.report.pairs_sharing_prompt == alone.report.pairs_sharing_prompt


@pytest.mark.unit
def test_one_forward_pass_gives_all_layers(model_folder, table, monkeypatch):
    config = config_of(model_folder("qwen2"), (0, 1, 3))
    backbone = load_backbone(config)
    calls, whole = [], type(backbone.model).forward
    monkeypatch.setattr(
        type(backbone.model), "forward", lambda *args, **given: calls.append(1) or whole(*args, **given)
    )
    extract(table, backbone, config)
    several = len(calls)
    calls.clear()
    extract(table, replace(backbone, layers=(1,)), config)
    assert several == len(calls) > 0


@pytest.mark.unit
def test_a_layer_with_large_states_does_not_hide_that_sharing_changes_another(model_folder, monkeypatch):
    """States of 1e6 beside a wrong position in ordinary ones: the layers are compared one by one."""
    backbone = load_backbone(config_of(model_folder("qwen2"), (0, 3)))
    assert sharing_obstacle(backbone) == ""
    whole = forward_module._states

    def states(given, **inputs):
        first, last = whole(given, **{name: value for name, value in inputs.items() if name != "position_ids"})
        return [1e6 * first, last]

    monkeypatch.setattr(forward_module, "_states", states)
    assert "changes the features" in sharing_obstacle(backbone)


@pytest.mark.unit
def test_that_one_layer_sees_the_future_is_found_beside_one_that_does_not(model_folder):
    backbone = load_backbone(config_of(model_folder("bert"), (0, 2)))
    with pytest.raises(ModelError, match="later tokens"):
        check_causal(replace(backbone, kind="causal"))


@pytest.mark.unit
def test_keys_know_the_layers_and_those_of_one_layer_are_as_before(model_folder, table, tmp_path):
    source = locate(str(model_folder("qwen2")))
    keys = {
        json.dumps(cache_key(config_of(model_folder("qwen2"), layer), source)["layer"])
        for layer in (-1, 1, (1,), (1, 2), (2, 1))
    }
    assert keys == {"-1", "1", "[1, 2]", "[2, 1]"}
    config = config_of(model_folder("qwen2"), (1, 2), cache_dir=tmp_path)
    first, again = load_features(table, config), load_features(table, config)
    np.testing.assert_array_equal(first.chosen, again.chosen)
    assert again.chosen.shape[1] == 48
    alone = load_features(table, config.model_copy(update={"layer": 2}))
    np.testing.assert_allclose(again.chosen[:, 24:], alone.chosen, atol=1e-5)


@pytest.mark.unit
def test_layers_come_from_files_and_the_command_line(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("features: {layer: [0, 2, -1]}\n")
    assert read_config(file).features.layers == (0, 2, -1)
    assert read_config(file, ["features.layer=[4]"]).features.layer == 4
    assert read_config(None, ["features.layer=[0, 12,30]"]).features.layer == (0, 12, 30)
    assert read_config(None).features.layers == (-1,)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("given", "problem"),
    [("[]", "names no layers"), ("middle", "names no layers"), ("[1, 1]", "named twice"), ("1.5", "names no layers")],
)
def test_what_names_no_layers_is_one_message(given, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        read_config(None, [f"features.layer={given}"])
    assert "features.layer" in str(caught.value)


@pytest.mark.unit
def test_a_layer_that_the_model_lacks_or_that_is_named_in_two_ways_is_one_message(model_folder):
    with pytest.raises(ConfigError, match=r"'features.layer' = \[0, 4\]: .* no layer 4: .* 0 \(embeddings\) to 3"):
        load_backbone(config_of(model_folder("qwen2"), (0, 4)))
    with pytest.raises(ConfigError, match="3 and -1 are the same layer"):
        load_backbone(config_of(model_folder("qwen2"), (3, -1)))
