"""Greedy answers of every export under stock transformers and stock PEFT are those of the policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedvpa.exports import baked
from fedvpa.exports.adapters import write_adapter
from fedvpa.exports.baked import write_baked
from fedvpa.exports.guides import About, embeds_guide
from fedvpa.exports.merged import write_merged
from fedvpa.policy.base import quiet_peft
from policy_fixtures import latents

from .conftest import CONVERSATIONS, FAMILIES, LONGEST, SHARED, our_answers, policy_on, stock_answers

pytestmark = pytest.mark.equivalence
Z = {"helpful": latents(1, 1)[0], "harmless": latents(1, 2)[0]}
BOTH = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
ALL = pytest.mark.parametrize("family", FAMILIES)


@BOTH
@ALL
def test_a_gated_lora_at_one_z_is_an_ordinary_adapter_and_a_plain_model(
    base_of: Callable[..., Path], tmp_path: Path, family: str, tied: bool
) -> None:
    base = base_of(family, tied=tied)
    policy = policy_on(base, "gated_lora")
    expected = {name: our_answers(policy, z) for name, z in Z.items()}
    assert expected["helpful"] != expected["harmless"]
    write_adapter(policy, Z["helpful"], tmp_path / "adapter")
    with quiet_peft():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    assert stock_answers(base, model) == expected["helpful"]
    (tmp_path / "merged").mkdir()
    write_merged(policy_on(base, "gated_lora"), Z["harmless"], tmp_path / "merged", {})
    assert stock_answers(tmp_path / "merged") == expected["harmless"]


@pytest.mark.parametrize(
    ("family", "tied", "shares"), [("llama", True, True), ("gemma2", True, False), ("qwen2", False, False)]
)
def test_an_additive_z_is_in_the_embeddings_and_the_head_stays_as_it_is_where_that_changes_nothing(
    base_of: Callable[..., Path], tmp_path: Path, family: str, tied: bool, shares: bool
) -> None:
    policy, z = policy_on(base_of(family, tied=tied), "additive"), Z["harmless"]
    expected = our_answers(policy, z)
    asked = policy.layout.rows(policy.tokenizer.prompts(["w3 w5 w7"]))
    with torch.no_grad(), policy.listening(z[None]):
        logits = policy.model(inputs_embeds=policy.embed(asked, z[None])).logits.log_softmax(-1)
    write_merged(policy, z, tmp_path, {})
    assert stock_answers(tmp_path) == expected
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.tie_word_embeddings is shares
    with torch.no_grad():
        torch.testing.assert_close(model(asked.ids).logits.log_softmax(-1), logits, atol=1e-4, rtol=1e-4)


def test_a_policy_without_z_is_merged_as_it_is(base_of: Callable[..., Path], tmp_path: Path) -> None:
    policy = policy_on(base_of("llama", tied=False), None)
    expected = our_answers(policy, None)
    write_merged(policy, None, tmp_path, {})
    assert stock_answers(tmp_path) == expected
    assert {path.name for path in tmp_path.iterdir()} == {
        *("chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("qwen2", True), ("gemma2", False)])
def test_profile_tokens_are_followed_and_never_said(
    base_of: Callable[..., Path], tmp_path: Path, family: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baked, "TEXTS", 16)
    policy = policy_on(base_of(family, tied=tied, shared=SHARED), "soft_prefix")
    policy.conditioner.placement = "inserted"
    with torch.no_grad():
        policy.conditioner.map.weight.mul_(2)
    expected = {name: our_answers(policy, z) for name, z in Z.items()}
    write_baked(policy, {name: z.tolist() for name, z in Z.items()}, tmp_path)
    assert expected["helpful"] != expected["harmless"]
    assert {name: stock_answers(tmp_path, profile=name) for name in Z} == expected
    if family == "llama":
        assert stock_answers(tmp_path) == expected["helpful"], "the first one is the default"
        with pytest.raises(Exception, match=r"There is no such profile\. Known: helpful, harmless"):
            stock_answers(tmp_path, profile="other")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    own = [token for text, token in tokenizer.get_added_vocab().items() if text.startswith("<|profile:")]
    assert sorted(model.generation_config.suppress_tokens) == sorted(own)
    assert len(own) == 2 * policy.conditioner.tokens
    said = sampled(model, tokenizer)
    assert len(said) >= 10_000
    assert not set(said) & set(own)
    if family == "llama":
        with torch.no_grad():
            model.lm_head.weight[own] = 0
        assert set(sampled(model, tokenizer)) & set(own), "a row of zeros would be said"


def sampled(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that a server samples which knows no list of tokens to leave out."""
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "w3 w5 w7"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    torch.manual_seed(0)
    model.generation_config.suppress_tokens = None
    longest = {"max_new_tokens": 20, "min_new_tokens": 20, "temperature": 1.0}
    found = model.generate(**inputs, do_sample=True, num_return_sequences=500, **longest)
    return found[:, inputs["input_ids"].shape[1] :].flatten().tolist()


@pytest.mark.parametrize("placement", ["added", "inserted"])
def test_the_guide_of_a_model_that_takes_embeddings_runs(
    base_of: Callable[..., Path], tmp_path: Path, placement: str
) -> None:
    policy = policy_on(base_of("llama", tied=False), "soft_prefix")
    policy.conditioner.placement = placement
    expected = [our_answers(policy, z) for z in Z.values()]
    write_merged(policy, None, tmp_path, {name: z.tolist() for name, z in Z.items()})
    about = About(str(tmp_path), "", ["<eos>"], [], 0.7, True, "")
    text = embeds_guide(about, list(Z), placement, policy.conditioner.tokens, policy.layout.heads)
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    options = {"do_sample": False, "max_new_tokens": LONGEST}
    found = [[names["answer"](one, names["profiles"][name], **options) for one in CONVERSATIONS] for name in Z]
    assert found == expected
    assert expected[0] != expected[1]
    assert load_file(tmp_path / "z_conditioner.safetensors").keys() == {"map.weight", "map.bias"}
