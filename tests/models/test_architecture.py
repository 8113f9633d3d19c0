"""What a configuration says about a model: its kind, its positions, its attention window."""

from __future__ import annotations

import pytest
from transformers import AutoModel, BertConfig, GemmaConfig, Qwen2Config, RobertaConfig, T5Config, ViTConfig

from fedvpa.core.errors import ModelError
from fedvpa.models.architecture import attention_window, kind_of, position_limit


@pytest.mark.unit
@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (Qwen2Config(), "causal"),
        (GemmaConfig(), "causal"),
        (BertConfig(), "encoder"),
        (RobertaConfig(), "encoder"),
        (BertConfig(is_decoder=True), "causal"),
    ],
)
def test_the_architecture_decides_the_kind(settings, kind):
    assert kind_of(settings) == kind


@pytest.mark.unit
@pytest.mark.parametrize(("settings", "reason"), [(T5Config(), "encoder-decoder"), (ViTConfig(), "neither")])
def test_an_undecidable_architecture_is_an_error(settings, reason):
    with pytest.raises(ModelError, match=reason):
        kind_of(settings)


@pytest.mark.unit
def test_attention_windows():
    assert attention_window(Qwen2Config()) is None
    assert attention_window(Qwen2Config(use_sliding_window=True, sliding_window=37)) == 37
    assert attention_window(BertConfig()) is None


@pytest.mark.unit
def test_position_tables_that_start_behind_their_padding_row_are_shorter(tokenizer_of):
    sizes = {
        "vocab_size": 101,
        "hidden_size": 8,
        "intermediate_size": 11,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    tokenizer = tokenizer_of("bert")
    roberta = AutoModel.from_config(RobertaConfig(**sizes, max_position_embeddings=31, pad_token_id=1))
    bert = AutoModel.from_config(BertConfig(**sizes, max_position_embeddings=31))
    assert position_limit(roberta, tokenizer) == 29
    assert position_limit(bert, tokenizer) == 31
    tokenizer.model_max_length = 23
    assert position_limit(bert, tokenizer) == 23
