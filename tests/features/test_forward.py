"""Every way of computing features against one plain forward per response, written here without padding or masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedvpa.core.errors import ModelError
from fedvpa.features import forward as forward_module
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract
from fedvpa.features.forward import check_causal, separate, shared, sharing_obstacle
from fedvpa.features.reader import Reader
from fedvpa.features.tokens import Row
from fedvpa.models.tokens import Frame

WINDOW = 31


def plain(backbone, prompt: str, response: str) -> np.ndarray:
    """The definition: the whole sequence alone, mean of the last states over the response's tokens."""
    tokenizer = backbone.tokenizer
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    middle = tokenizer(response, add_special_tokens=False)["input_ids"]
    if backbone.kind == "encoder":
        ids = [3, *before, 4, *middle, 4]
        types = [0] * (len(before) + 2) + [1] * (len(middle) + 1)
        start, extra = len(before) + 2, {"token_type_ids": torch.tensor([types])}
    else:
        front = [1] if tokenizer("a")["input_ids"][0] == 1 else []
        ids, start, extra = [*front, *before, *middle], len(front) + len(before), {}
    with torch.inference_mode():
        states = backbone.model(input_ids=torch.tensor([ids]), **extra).last_hidden_state[0]
    return states[start : start + len(middle)].mean(dim=0).numpy()


def expected(backbone, table):
    return (
        np.stack([plain(backbone, pair.prompt, pair.chosen) for pair in table.pairs]),
        np.stack([plain(backbone, pair.prompt, pair.rejected) for pair in table.pairs]),
    )


@pytest.mark.equivalence
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2", "gpt2", "bert"])
@pytest.mark.parametrize("tokens_per_batch", [1, 97, 4096])
def test_features_equal_one_plain_forward_per_response(model_folder, table, family, tokens_per_batch):
    config = FeatureConfig(model=str(model_folder(family)), storage="float32", tokens_per_batch=tokens_per_batch)
    backbone = load_backbone(config)
    result = extract(table, backbone, config)
    chosen, rejected = expected(backbone, table)
    np.testing.assert_allclose(result.chosen, chosen, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.rejected, rejected, rtol=0, atol=1e-4)
    assert np.abs(chosen - rejected).max() > 0.1


@pytest.mark.unit
@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt2"])
def test_decoders_with_full_attention_share_every_prompt(model_folder, table, family):
    config = FeatureConfig(model=str(model_folder(family)))
    reader = Reader.of(load_backbone(config), config)
    work = reader.plan(reader.read(table.pairs))
    assert work.sharing.all()
    assert (work.texts >= 0).all()
    assert reader.facts.obstacle == ""


@pytest.mark.unit
def test_pairs_beyond_the_attention_window_are_computed_apart_and_reported(model_folder, table):
    config = FeatureConfig(model=str(model_folder("gemma2")), storage="float32")
    backbone = load_backbone(config)
    reader = Reader.of(backbone, config)
    read = reader.read(table.pairs)
    longest = np.array([row.longest for row in read.rows])
    work = reader.plan(read)
    for row, sharing in zip(work.rows, work.sharing, strict=True):
        assert sharing == (row.longest <= WINDOW)
        assert sharing or not len(row.rejected)
    assert 0 < work.sharing.sum() < len(work)
    report = extract(table, backbone, config).report
    assert f"{int((longest > WINDOW).sum())} pairs" in report.obstacle
    assert report.pairs_sharing_prompt == int((longest <= WINDOW).sum())


@pytest.mark.unit
def test_the_window_rule_is_needed(model_folder, table):
    """Sharing a prompt beyond the window gives other features: what the rule protects from."""
    backbone = load_backbone(FeatureConfig(model=str(model_folder("gemma2"))))
    reader = Reader.of(backbone, FeatureConfig())
    longest = [max(reader.read(table.pairs).rows, key=lambda row: row.longest)]
    assert (shared(backbone, longest) - separate(backbone, reader.frame, longest)).abs().max() > 1e-2


@pytest.mark.unit
def test_an_encoder_never_shares(model_folder):
    assert "bidirectional" in sharing_obstacle(load_backbone(FeatureConfig(model=str(model_folder("bert")))))


@pytest.mark.unit
@pytest.mark.parametrize("broken", ["mask", "positions", "error"])
def test_the_probe_finds_models_that_ignore_mask_or_positions(model_folder, table, monkeypatch, broken):
    """A model that ignores what sharing needs is found out, and its features are right all the same."""
    config = FeatureConfig(model=str(model_folder("qwen2")), storage="float32")
    backbone = load_backbone(config)
    obey = type(backbone.model).forward

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, use_cache=None):
        custom = attention_mask is not None and attention_mask.ndim == 4
        if custom and broken == "error":
            raise ValueError("Attention mask should be 2D")
        if custom and broken == "mask":
            attention_mask = None
        return obey(
            self,
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=use_cache,
            position_ids=None if broken == "positions" else position_ids,
        )

    monkeypatch.setattr(type(backbone.model), "forward", forward)
    result = extract(table, backbone, config)
    assert result.report.pairs_sharing_prompt == 0
    assert ("rejects" if broken == "error" else "changes the features") in result.report.obstacle
    monkeypatch.undo()
    np.testing.assert_allclose(result.rejected, expected(backbone, table)[1], rtol=0, atol=1e-4)


@pytest.mark.unit
def test_a_bidirectional_model_that_counts_as_decoder_is_refused(model_folder):
    backbone = load_backbone(FeatureConfig(model=str(model_folder("bert"))))
    with pytest.raises(ModelError, match="later tokens"):
        check_causal(replace(backbone, kind="causal"))
    check_causal(load_backbone(FeatureConfig(model=str(model_folder("qwen2")))))


@pytest.mark.unit
def test_layer_chooses_the_hidden_states(model_folder, table):
    """Layer 0 is the embeddings: their mean over the response needs no forward pass."""
    config = FeatureConfig(model=str(model_folder("qwen2")), layer=0, storage="float32")
    backbone = load_backbone(config)
    result = extract(table, backbone, config)
    ids = torch.tensor(backbone.tokenizer(table.pairs[3].rejected, add_special_tokens=False)["input_ids"])
    by_hand = backbone.model.get_input_embeddings()(ids).mean(dim=0)
    np.testing.assert_allclose(result.rejected[3], by_hand.detach().numpy(), rtol=0, atol=1e-6)
    last = extract(table, replace(backbone, layers=(3,)), config)
    np.testing.assert_allclose(last.chosen, extract(table, replace(backbone, layers=(-1,)), config).chosen, atol=1e-6)


@pytest.mark.unit
def test_means_are_taken_in_float32(model_folder):
    """bfloat16 keeps 8 bits: a mean over many tokens taken in it would be off by more than the states' own rounding."""
    states = torch.full((1, 257, 2), 1.0, dtype=torch.bfloat16)
    weights = torch.full((1, 1, 257), 1 / 257)
    assert forward_module._pool(states, weights).dtype == torch.float32
    torch.testing.assert_close(forward_module._pool(states, weights), torch.ones(1, 1, 2))


@pytest.mark.equivalence
def test_bfloat16_stays_close_to_float32(model_folder, table):
    exact = FeatureConfig(model=str(model_folder("llama")), storage="float32")
    rough = exact.model_copy(update={"dtype": "bfloat16"})
    first = extract(table, load_backbone(exact), exact)
    second = extract(table, load_backbone(rough), rough)
    assert 0 < np.abs(first.chosen - second.chosen).max() < 0.2
    assert second.report.pairs_sharing_prompt == len(table)


@pytest.mark.unit
def test_padding_and_neighbours_change_nothing(model_folder):
    backbone = load_backbone(FeatureConfig(model=str(model_folder("qwen2"))))
    short = Row(*(np.array(ids, np.int32) for ids in ([11, 12], [13], [14, 15, 16])))
    long = Row(*(np.arange(7, 7 + size, dtype=np.int32) for size in (19, 17, 23)))
    torch.testing.assert_close(shared(backbone, [short, long])[:1], shared(backbone, [short]), atol=1e-5, rtol=0)


@pytest.mark.unit
def test_a_row_of_one_response_gives_what_it_gives_in_a_pair(model_folder):
    backbone = load_backbone(FeatureConfig(model=str(model_folder("qwen2"))))
    pair = Row(*(np.array(ids, np.int32) for ids in ([11, 12], [13], [14, 15, 16])))
    alone = Row(pair.prefix, pair.rejected, pair.rejected[:0])
    for found in (shared(backbone, [alone, pair]), separate(backbone, Frame(), [alone, pair])):
        torch.testing.assert_close(found[0, 0], found[1, 1], atol=1e-5, rtol=0)
        assert not found[0, 1].any()
