"""Tiny bases of three families, tied and untied, with tokenizers that stock transformers reads as we do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2Tokenizer,
)

from chat_models import END, PAD, START, TEMPLATES
from fedvpa.policy.policy import Policy
from policy_fixtures import SMALL, make_policy, make_tokenizer

FAMILIES = ("llama", "qwen2", "gemma2")
SHARED = 3.0
"""What embeddings have in common: states of trained models share a direction, and those of random ones do not."""
CONVERSATIONS = [
    [{"role": "user", "content": "w3 w5 w7"}],
    [
        {"role": "user", "content": "w1 w2 w9"},
        {"role": "assistant", "content": "w4 w4"},
        {"role": "user", "content": "w50 w21 w22 w23 w3"},
    ],
]
LONGEST = 7


def config_of(family: str, *, tied: bool) -> PreTrainedConfig:
    values = {**SMALL, "tie_word_embeddings": tied}
    match family:
        case "llama":
            return LlamaConfig(**values)
        case "qwen2":
            tokenizer = qwen_tokenizer()
            special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
            return Qwen2Config(**{**values, **special, "bos_token_id": None, "vocab_size": 300})
    return Gemma2Config(**values, head_dim=6, query_pre_attn_scalar=6, sliding_window=9)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Bytes and a few merges under Qwen's own class, which AutoTokenizer puts in place of any generic one."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: place for place, letter in enumerate(letters)}
    made = Qwen2Tokenizer(vocab=vocabulary, merges=[], eos_token=END, pad_token=PAD, unk_token=None)
    made.add_special_tokens({"additional_special_tokens": [START]})
    made.chat_template = TEMPLATES["chatml"]
    return made


@pytest.fixture(scope="session")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a tiny base; made once."""
    made: dict[tuple[str, bool, float], Path] = {}

    def make(family: str, *, tied: bool, shared: float = 0.0) -> Path:
        if (family, tied, shared) not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{tied}")
            torch.manual_seed(17)
            model = AutoModelForCausalLM.from_config(config_of(family, tied=tied))
            with torch.no_grad():
                model.get_input_embeddings().weight[:, :3] += shared
            model.save_pretrained(folder)
            (qwen_tokenizer() if family == "qwen2" else make_tokenizer()).save_pretrained(folder)
            made[family, tied, shared] = folder
        return made[family, tied, shared]

    return make


def policy_on(folder: Path, kind: str | None, **values: Any) -> Policy:
    """A policy with noise for weights, asked with conversations."""
    return make_policy(folder, kind, template="chat", **values)


def stock_answers(folder: Path, model: Any = None, **template: Any) -> list[str]:
    """Greedy answers of stock transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = model or AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for conversation in CONVERSATIONS:
        inputs = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True, **template
        )
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=LONGEST)
        found.append(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return found


def our_answers(policy: Policy, z: torch.Tensor | None) -> list[str]:
    return policy.generate(CONVERSATIONS, preference=z, temperature=0, max_new_tokens=LONGEST)
