"""z on the scale of what the embedding module gives, for the shapes of several families."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from fedvpa.policy.base import embedding_scale, new_conditioner
from fedvpa.policy.conditioning import ADDITIVE_STD
from fedvpa.policy.config import PolicyConfig

WIDTH, VOCABULARY, LATENT = 32, 311, 13
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 19,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 61,
    "pad_token_id": None,
}
FAMILIES: dict[str, tuple[PreTrainedConfig, float]] = {
    "llama": (LlamaConfig(**SHAPE), 1.0),
    "qwen2": (Qwen2Config(**SHAPE), 1.0),
    "gemma": (GemmaConfig(**SHAPE, head_dim=16), WIDTH**0.5),
    "gemma2": (Gemma2Config(**SHAPE, head_dim=16), WIDTH**0.5),
    "gemma3": (Gemma3TextConfig(**SHAPE, head_dim=16), WIDTH**0.5),
    "granite": (GraniteConfig(**SHAPE, embedding_multiplier=12.0), 1.0),  # it multiplies a prefix too, later
}
"""Family → its configuration, and what its embedding module multiplies the table by."""


def model_of(family: str) -> Any:
    torch.manual_seed(5)
    return AutoModelForCausalLM.from_config(FAMILIES[family][0])


@pytest.mark.unit
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_prefix_is_as_large_as_embedded_tokens(family: str) -> None:
    model, factor = model_of(family), FAMILIES[family][1]
    embed = model.get_input_embeddings()
    tokens = embed(torch.arange(VOCABULARY)).detach()
    scale = embedding_scale(embed)
    assert scale.width == WIDTH
    assert scale.std == pytest.approx(float(tokens.std()), rel=1e-4)
    assert scale.factor == pytest.approx(factor, rel=1e-4)
    torch.manual_seed(7)
    conditioner = new_conditioner(PolicyConfig(), model, LATENT)
    z = torch.nn.functional.normalize(torch.randn(97, LATENT), dim=1)
    # The bias and the part of z are as large as a token each.
    prefix = conditioner.map(z).detach()
    assert float(prefix.std()) == pytest.approx(2**0.5 * float(tokens.std()), rel=0.1)


@pytest.mark.unit
@pytest.mark.parametrize("family", FAMILIES)
def test_an_added_z_grows_as_the_embeddings_do(family: str) -> None:
    torch.manual_seed(7)
    conditioner = new_conditioner(PolicyConfig(conditioning="additive"), model_of(family), LATENT)
    assert float(conditioner.map.weight.detach().std()) == pytest.approx(ADDITIVE_STD * FAMILIES[family][1], rel=0.1)


@pytest.mark.unit
def test_of_a_large_vocabulary_a_sample_is_measured() -> None:
    torch.manual_seed(3)
    embed = torch.nn.Embedding(40_000, 3)
    assert embedding_scale(embed).std == pytest.approx(float(embed.weight.detach().std()), rel=0.02)


@pytest.mark.unit
def test_of_a_small_vocabulary_every_token_is_measured() -> None:
    embed = torch.nn.Embedding(53, 7)
    assert embedding_scale(embed).std == float(embed.weight.detach().std())
    assert embedding_scale(embed).factor == 1.0
