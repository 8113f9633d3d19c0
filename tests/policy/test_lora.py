"""Where a LoRA sits, on models with and without experts."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from fedvpa.algorithms.client.text_client import AdapterSetting
from fedvpa.algorithms.feddpo import FedDPO
from fedvpa.algorithms.policy_method import server_rules
from fedvpa.core.errors import ConfigError
from fedvpa.models.locate import ModelSource
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.lora import adapt, adapts_experts, covered_weights, weights_to_cover
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import PolicyTokenizer
from policy_fixtures import make_tokenizer, tiny_config

SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MOE: dict[str, Any] = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2_moe": Qwen2MoeConfig(**SHAPE, **MOE, shared_expert_intermediate_size=20),
    "qwen3_moe": Qwen3MoeConfig(**SHAPE, **MOE),
    "mixtral": MixtralConfig(**SHAPE, num_local_experts=3, num_experts_per_tok=2),
}
ATTENTION = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
EXPERTS = {"mlp.experts", "mlp.experts.base_layer"}
"""Both of their parameters: PEFT wraps one around the other."""
WANTED = {
    "llama": ATTENTION | {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
    "qwen2_moe": ATTENTION | EXPERTS | {f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")},
    "qwen3_moe": ATTENTION | EXPERTS,
    "mixtral": ATTENTION | EXPERTS,
    "gpt_oss": ATTENTION | EXPERTS,
}


def base_of(family: str) -> Any:
    torch.manual_seed(3)
    if family == "gpt_oss":
        positions = {"original_max_position_embeddings": 16, "factor": 2.0, "rope_type": "yarn", "rope_theta": 10000.0}
        config = GptOssConfig(
            **SHAPE, head_dim=6, num_local_experts=3, num_experts_per_tok=2,
            max_position_embeddings=32, rope_parameters=positions,
        )  # fmt: skip
        return AutoModelForCausalLM.from_config(config).eval()
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[family])).eval()


def adapted(base: Any, dropout: float = 0.0) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return adapt(base, PolicyConfig(lora_rank=2, lora_alpha=4, lora_dropout=dropout)).eval()


def layers_of(model: Any) -> set[str]:
    """Where a LoRA sits in the first layer."""
    names = [name for name, weight in model.named_parameters() if weight.requires_grad and ".layers.0." in name]
    return {name.partition(".layers.0.")[2].partition(".lora_")[0] for name in names}


@pytest.mark.unit
@pytest.mark.parametrize("family", WANTED)
def test_a_lora_sits_on_every_linear_layer_and_expert_and_on_no_router(
    family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = base_of(family)
    whole = weights_to_cover(base)
    model = adapted(base)
    assert layers_of(model) == WANTED[family]
    assert covered_weights(model) == whole
    assert capsys.readouterr().err == ""
    assert adapts_experts(model) == (family != "llama")


@pytest.mark.equivalence
@pytest.mark.parametrize("family", ["qwen2_moe", "qwen3_moe"])
def test_experts_learn_can_be_switched_off_and_come_back_from_a_file(family: str, tmp_path: Path) -> None:
    base = base_of(family)
    fresh, tokens = copy.deepcopy(base), torch.tensor([[5, 7, 11, 13, 17]])
    before = base(tokens).logits.detach()
    model = adapted(base)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "experts" in name and "lora_B" in name:
                weight.normal_()
    after = model(tokens).logits
    assert float((after.detach() - before).abs().max()) > 1e-3
    with model.disable_adapter():
        assert model(tokens).logits.equal(before)
    after.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert PeftModel.from_pretrained(fresh, tmp_path).eval()(tokens).logits.equal(after)


@pytest.mark.unit
def test_under_dropout_experts_are_left_out_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    base = base_of("qwen2_moe")
    whole = weights_to_cover(base)
    model = adapted(base, 0.1)
    assert layers_of(model) == WANTED["qwen2_moe"] - EXPERTS
    share = covered_weights(model) / whole
    assert 0.3 < share < 0.7
    assert f"LoRA sits on {share:.0%} of the weights" in capsys.readouterr().err


@pytest.mark.unit
def test_what_peft_cannot_adapt_is_one_message() -> None:
    config = DeepseekV3Config(
        **{**SHAPE, "num_key_value_heads": 4}, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
        first_k_dense_replace=1, n_group=2, topk_group=1, q_lora_rank=6, kv_lora_rank=6, qk_rope_head_dim=4,
        v_head_dim=6, qk_nope_head_dim=6,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"PEFT cannot put a LoRA.*policy\.lora_dropout=0"):
        adapted(AutoModelForCausalLM.from_config(config), 0.1)


@pytest.mark.unit
def test_the_exact_average_of_feddpo_refuses_experts(tmp_path: Path) -> None:
    tokenizer = PolicyTokenizer.of(make_tokenizer(), 30)
    policy = Policy(adapted(base_of("qwen3_moe")), None, tokenizer, ModelSource("tiny", tmp_path))
    config = tiny_config(tmp_path, feddpo={"averaging": "svd"})
    with pytest.raises(ConfigError, match=r"policy\.feddpo\.averaging=svd.*mixture of experts"):
        FedDPO(config, server_rules(config, 1)).init(AdapterSetting.of(policy), 0)
