"""Drawing token by token gives what ``generate`` gives, whatever is computed together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    Lfm2Config,
    PreTrainedConfig,
    Qwen2Config,
)

from fedvpa.policy import buffer, decoding, prefill
from fedvpa.policy.buffer import Buffer
from fedvpa.policy.decoding import decoding_obstacle
from fedvpa.policy.policy import Policy
from fedvpa.policy.sampling import Sampling
from fedvpa.policy.sharing import sharing_obstacle
from policy_fixtures import EOS, SMALL, VOCABULARY, latents, make_policy, make_tokenizer, prompts_and_responses

KINDS = (None, "soft_prefix", "additive")
DRAWN = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=13, batch=64)
FAMILIES: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**SMALL),
    "gemma2": Gemma2Config(**SMALL, head_dim=6, query_pre_attn_scalar=6, sliding_window=9),
    "gpt2": GPT2Config(vocab_size=len(VOCABULARY), n_embd=24, n_layer=2, n_head=4, n_positions=97, eos_token_id=2),
    "bloom": BloomConfig(vocab_size=len(VOCABULARY), hidden_size=24, n_layer=2, n_head=4, eos_token_id=2),
    "lfm2": Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
}


def drawn(policy: Policy, prompts: list, z: torch.Tensor | None, how: Sampling = DRAWN) -> list[list[int]]:
    return [row.tolist() for row in policy.sample(prompts, z, how, 3, "a")]


def by_generate(policy: Policy, *given: object) -> list[list[int]]:
    with pytest.MonkeyPatch.context() as during:
        during.setattr(decoding, "decoding_obstacle", lambda _: "asked for")
        return drawn(policy, *given)


def some(policy: Policy) -> tuple[list, torch.Tensor | None]:
    """Six prompts three times each, the middle one under another z."""
    prompts = [prompt for prompt in prompts_and_responses(6)[0] for _ in range(3)]
    if policy.conditioner is None:
        return prompts, None
    return prompts, latents(2).repeat(9, 1)


@pytest.mark.equivalence
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_those_of_generate_token_for_token(policies, kind, temperature):
    policy = policies[kind]
    prompts, z = some(policy)
    how = Sampling(temperature=temperature, max_new_tokens=13)
    assert decoding_obstacle(policy) == ""
    found = drawn(policy, prompts, z, how)
    assert found == by_generate(policy, prompts, z, how)
    assert temperature == 0 or len({len(row) for row in found}) > 2, "rows that end early and late"
    assert all(EOS not in row[:-1] for row in found)


@pytest.mark.equivalence
@pytest.mark.parametrize("kind", KINDS)
def test_samples_depend_neither_on_the_batch_nor_on_the_order(policies, kind, monkeypatch):
    policy = policies[kind]
    prompts, z = some(policy)
    expected = drawn(policy, prompts, z)
    monkeypatch.setattr(buffer, "ROOM", 2)
    monkeypatch.setattr(decoding, "GONE", 0.01)
    how = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=13, batch=5)
    assert drawn(policy, prompts, z, how) == expected
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    moved = drawn(policy, [prompts[row] for row in order], None if z is None else z[torch.from_numpy(order)])
    assert moved == [expected[row] for row in order]


@pytest.mark.unit
def test_a_prompt_is_computed_once_for_all_its_samples(policies, monkeypatch):
    policy = policies["soft_prefix"]
    rows: list[int] = []
    ordinary = prefill.next_logits

    def watched(policy, cache, attention, positions, **inputs):
        rows.append(len(attention))
        return ordinary(policy, cache, attention, positions, **inputs)

    decoding_obstacle(policy)
    for module in (decoding, prefill):
        monkeypatch.setattr(module, "next_logits", watched)
    prompts, _ = prompts_and_responses(1)
    monkeypatch.setattr(decoding, "GONE", 0.01)
    found = drawn(policy, prompts * 6, latents(2).repeat_interleave(3, 0))
    assert rows[:2] == [2, 6]
    assert rows[1:] == [sum(len(row) > step for row in found) for step in range(1, len(rows))], "those that go on"


@pytest.mark.unit
def test_a_buffer_is_the_cache_that_it_stands_for():
    keys, values = torch.randn(2, 5, 3, 7, 2, generator=torch.Generator().manual_seed(0)).unbind(0)
    found = Buffer(keys[:, :, :4], values[:, :, :4])
    for stop in (5, 6, 7):
        found.update(keys[:, :, stop - 1 : stop], values[:, :, stop - 1 : stop])
        assert found.get_seq_length() == stop
        assert found.keys.equal(keys[:, :, :stop])
        assert found.values.equal(values[:, :, :stop])
    found.keep(torch.tensor([4, 1]))
    assert found.keys.equal(keys[[4, 1]])


@pytest.mark.unit
@pytest.mark.parametrize("room", [1, 64])
def test_rows_of_a_buffer_come_and_go(room, monkeypatch):
    """Row = (first token, tokens): what a row holds is known from its name and place, whatever moved."""
    monkeypatch.setattr(buffer, "ROOM", room)
    step = 0

    def states(*rows: float, tokens: int = 1) -> torch.Tensor:
        places = torch.arange(step + 1 - tokens, step + 1) / 1000
        return (torch.tensor(rows)[:, None] + places)[:, None, :, None].expand(-1, 3, -1, 2).clone()

    step = 4
    found = Buffer(states(1, 2, 3, tokens=5), -states(1, 2, 3, tokens=5))
    names = [1, 2, 3]

    def further() -> None:
        nonlocal step
        step += 1
        keys, values = found.update(states(*names), -states(*names))
        expected = states(*names, tokens=keys.shape[-2])
        real = keys != 0
        assert torch.equal(keys[real], expected[real])
        assert torch.equal(values, -keys)
        assert real[:, 0, -1, 0].all()
        assert found.get_seq_length() == keys.shape[-2]

    further()
    found.remove([0])
    names = [3, 2]
    further()
    found.join(states(4, 5, tokens=2), -states(4, 5, tokens=2))
    names += [4, 5]
    assert (found.keys[2:, :, :-2] == 0).all(), "places without a token are finite"
    further()
    found.trim(3)
    further()
    found.join(states(6, tokens=9), -states(6, tokens=9))  # longer than all that are there
    names += [6]
    assert found.get_seq_length() == 9
    further()
    found.remove([0, 2, 4])
    names = [5, 2]
    further()


def policy_of(family: str, folder: Path) -> Policy:
    torch.manual_seed(17)
    AutoModelForCausalLM.from_config(FAMILIES[family]).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return make_policy(folder, None)


@pytest.mark.equivalence
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("family", "decodes", "shares"),
    [
        ("qwen2", True, True),
        ("gemma2", True, True),
        ("gpt2", True, True),
        ("bloom", True, False),
        ("lfm2", False, False),
    ],
)
def test_other_architectures_decode_or_say_why_not(family, decodes, shares, tmp_path, capsys):
    policy = policy_of(family, tmp_path)
    prompts, z = some(policy)
    found = drawn(policy, prompts, z)
    assert found == by_generate(policy, prompts, z)
    said = capsys.readouterr().err
    assert (decoding_obstacle(policy) == "") is decodes is ("left to transformers' generate" not in said)
    assert capsys.readouterr().err == "", "said once"
    assert (sharing_obstacle(policy) == "") is shares
