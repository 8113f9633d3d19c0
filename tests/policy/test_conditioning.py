"""How z enters, by hand, and that it costs the base nothing before anything is learned."""

from __future__ import annotations

import pytest
import torch

from fedvpa.core.errors import ConfigError
from fedvpa.policy.conditioning import Conditioner, gated_factors
from policy_fixtures import latents, make_policy, prompts_and_responses

WIDTH, LATENT, TOKENS = 5, 2, 3


def with_noise(kind: str = "soft_prefix", **values: str) -> Conditioner:
    conditioner = Conditioner(kind, LATENT, WIDTH, TOKENS, **values)
    torch.manual_seed(3)
    for weight in conditioner.parameters():
        torch.nn.init.normal_(weight)
    return conditioner


@pytest.mark.unit
def test_a_prefix_is_added_to_the_first_tokens_of_the_prompt_and_to_no_others() -> None:
    conditioner = with_noise()
    shown, z = torch.randn(3, 6, WIDTH), torch.randn(3, LATENT)
    first = torch.tensor([1, 0, 4])
    # The second prompt has two tokens behind its head; the third row ends before the prefix does.
    prompt = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]]).bool()
    found = conditioner.prefix(shown, first, prompt, z)
    made = (z @ conditioner.map.weight.T + conditioner.map.bias).view(3, TOKENS, WIDTH)
    expected = shown.clone()
    expected[0, 1:4] += made[0]
    expected[1, 0:2] += made[1, :2]
    expected[2, 4:6] += made[2, :2]
    torch.testing.assert_close(found, expected)
    assert conditioner.slots == 0


@pytest.mark.unit
def test_an_inserted_prefix_fills_the_places_that_rows_keep_for_it() -> None:
    conditioner = with_noise(placement="inserted")
    shown, z = torch.randn(2, 6, WIDTH), torch.randn(2, LATENT)
    found = conditioner.prefix(shown, torch.tensor([1, 2]), torch.ones(2, 6).bool(), z)
    made = (z @ conditioner.map.weight.T + conditioner.map.bias).view(2, TOKENS, WIDTH)
    torch.testing.assert_close(found[0], torch.cat([shown[0, :1], made[0], shown[0, 4:]]))
    torch.testing.assert_close(found[1], torch.cat([shown[1, :2], made[1], shown[1, 5:]]))
    assert conditioner.slots == TOKENS


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["gated_lora", "soft_prefix", "additive"])
def test_the_first_step_can_tell_one_z_from_another(base_folder, kind: str) -> None:
    """What the first gradient moves is not the same for every z, though nothing but the base speaks yet."""
    found = []
    prompts, responses = prompts_and_responses(2)
    for seed in (1, 2):
        policy = make_policy(base_folder, kind, noise=False)
        policy.log_probs(prompts, responses, latents(2, seed)).sum().backward()
        found.append({name: weight.grad for name, weight in policy.trained().items()})
    part = "lora_B" if kind == "gated_lora" else "conditioner.map.weight"
    names = [name for name in found[0] if part in name]
    assert names
    assert all(float((found[0][name] - found[1][name]).norm()) > 1e-4 for name in names)


@pytest.mark.unit
def test_gates_are_for_rows_that_are_kept_apart_and_end_with_what_they_are_for(base_folder) -> None:
    policy = make_policy(base_folder, "gated_lora")
    conditioner = policy.conditioner
    with policy.listening(latents(2)):
        assert conditioner.gates.shape == (2, conditioner.map.weight.shape[0])
        with pytest.raises(ConfigError, match=r"policy\.conditioning=soft_prefix"):
            gated_factors(policy.model)[0](torch.zeros(3, 24))
    assert conditioner.gates is None


@pytest.mark.unit
def test_folded_gates_are_those_of_the_z_and_no_other(base_folder) -> None:
    policy, z = make_policy(base_folder, "gated_lora"), latents(1)[0]
    before = [factor.weight.clone() for factor in gated_factors(policy.model)]
    gates = (1 + policy.conditioner.map.weight @ z).split([len(one) for one in before])
    policy.conditioner.fold(policy.model, z)
    for factor, old, own in zip(gated_factors(policy.model), before, gates, strict=True):
        torch.testing.assert_close(factor.weight, torch.diag(own) @ old)
