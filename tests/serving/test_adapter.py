"""A LoRA whose rows differ computes what PEFT's does, row by row, and leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import Linear
from transformers import AutoModelForCausalLM, Qwen2Config

from fedvpa.policy.policy import Policy
from fedvpa.serving.adapter import RowwiseAdapter, obstacle
from policy_fixtures import BOS, SMALL, latents, make_policy, make_tokenizer

TOKENS = torch.tensor([[BOS, 7, 11, 13], [BOS, 8, 12, 14], [BOS, 9, 13, 15]])


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Queries, keys and values with a bias, and the other layers without."""
    folder: Path = tmp_path_factory.mktemp("qwen2")
    torch.manual_seed(17)
    model = AutoModelForCausalLM.from_config(Qwen2Config(**SMALL))
    for name, weight in model.named_parameters():
        if name.endswith("proj.bias"):
            torch.nn.init.normal_(weight)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return make_policy(folder, "gated_lora")


def logits(policy: Policy, rows: slice = slice(None)) -> torch.Tensor:
    return policy.model(input_ids=TOKENS[rows]).logits


@pytest.mark.equivalence
@torch.no_grad()
def test_each_row_hears_its_own_gates_and_zero_is_the_base_model(policy, monkeypatch):
    z = latents(2)
    with policy.listening(z):
        expected = [logits(policy, slice(0, 2))]
    with policy.model.disable_adapter():
        expected.append(logits(policy, slice(2, 3)))
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    adapter = RowwiseAdapter(policy.model)
    gates = adapter.arranged(policy.conditioner.made(z))
    with adapter.gated(torch.cat([gates, torch.zeros_like(gates[:1])])):
        torch.testing.assert_close(logits(policy), torch.cat(expected))
    monkeypatch.setattr("fedvpa.serving.adapter.BLOCK", 5)
    with adapter.gated(torch.cat([gates, torch.zeros_like(gates[:1])])):
        torch.testing.assert_close(logits(policy), torch.cat(expected))
    with adapter.gated(None):
        torch.testing.assert_close(logits(policy)[2:], expected[1])
    adapter.detach()
    with policy.listening(z):
        assert torch.equal(logits(policy, slice(0, 2)), expected[0])
    assert all(torch.equal(weight, before[name]) for name, weight in policy.named_parameters())


@pytest.mark.unit
def test_layers_that_read_the_same_input_are_one_product_and_weights_lie_in_memory_once(policy):
    adapter = RowwiseAdapter(policy.model)
    groups = [[layer.module for layer in group.layers] for group in adapter._groups]
    names = {id(module): name.rpartition(".")[2] for name, module in policy.model.named_modules()}
    assert [[names[id(module)] for module in group] for group in groups] == [
        ["q_proj", "k_proj", "v_proj"],
        ["o_proj"],
        ["gate_proj", "up_proj"],
        ["down_proj"],
    ] * SMALL["num_hidden_layers"]
    for group in groups:
        places = {module.get_base_layer().weight.untyped_storage().data_ptr() for module in group}
        assert len(places) == 1
    adapter.detach()
    weights = [module.get_base_layer().weight for group in groups for module in group]
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == len(weights)


@pytest.mark.unit
def test_what_cannot_be_attached_is_named(policy):
    assert obstacle(policy.model) == ""
    assert obstacle(policy.model.get_base_model().lm_head) == "it has no LoRA"
    layer = next(module for module in policy.model.modules() if isinstance(module, Linear))
    layer.merge()
    assert obstacle(policy.model) == "its adapter is no ordinary LoRA"
    layer.unmerge()
