"""A tiny random causal model in a standard folder, policies on it, and candidates with a selector made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedvpa.alignment.candidates import Candidates
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.examples import Examples
from fedvpa.policy.policy import Policy, new_policy
from fedvpa.policy.rows import Ids
from fedvpa.runs.presets import BUNDLED_MODEL
from fedvpa.selector.config import InferenceConfig, SelectorConfig
from fedvpa.selector.selector import Selector

WORDS = [f"w{number}" for number in range(53)]
VOCABULARY = {token: row for row, token in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", "user", "assistant", *WORDS])}
PAD, BOS, EOS = 0, 1, 2
CHAT_TEMPLATE = (
    "<bos>{% for message in messages %} {{ message['role'] }} {{ message['content'] }} <eos>{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)
LATENT, TOKENS = 3, 5
SMALL: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 24,
    "intermediate_size": 29,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 97,
    "initializer_range": 0.3,  # large, so that a wrong mask or position shows
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
"""A decoder of any family with grouped heads."""


def make_tokenizer(*, chat: bool = True, bos: bool = True) -> PreTrainedTokenizerFast:
    """PolicyTokenizer separated by spaces, <bos> in front."""
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def save_model(folder: Path, seed: int = 17) -> Path:
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**SMALL)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base model."""
    return save_model(tmp_path_factory.mktemp("base"))


def tiny_config(folder: Path, **values: Any) -> PolicyConfig:
    small = {
        "model": str(folder),
        "prefix_tokens": TOKENS,
        "lora_rank": 2,
        "lora_alpha": 4,
        "beta": 1.0,
        "sft_weight": 40.0,
        "language_weight": 100.0,
        "lr": 3e-3,
        "conditioner_lr": 2e-2,
        "steps": 6,
        "batch": 4,
        "candidates": {"max_new_tokens": 11, "prompts": 7, "samples": 3},
    }
    return PolicyConfig.parse({**small, **values})


def world_config(**values: Any) -> PolicyConfig:
    """Stage 2 of the bundled language model, as a run on the bundled world has it."""
    return PolicyConfig.parse({**BUNDLED_MODEL["policy"], **values})


@torch.no_grad()
def disturb(policy: Policy, seed: int = 0, scale: float = 0.3) -> Policy:
    """Trained weights as noise: a fresh LoRA does nothing, so nothing about it could be seen."""
    generator = torch.Generator().manual_seed(seed)
    for weight in policy.trained().values():
        weight.add_(scale * torch.randn(weight.shape, generator=generator))
    return policy


def make_policy(folder: Path, kind: str | None = "soft_prefix", *, noise: bool = True, **values: Any) -> Policy:
    if kind is not None:
        values["conditioning"] = kind
    policy = new_policy(tiny_config(folder, **values), str(folder), None if kind is None else LATENT, 3, device="cpu")
    return (disturb(policy) if noise else policy).eval()


@pytest.fixture(scope="session")
def policies(base_folder: Path) -> dict[str | None, Policy]:
    """Policies with noise for weights, by conditioning; to read only."""
    return {kind: make_policy(base_folder, kind) for kind in (None, "gated_lora", "soft_prefix", "additive")}


def ids(*tokens: int) -> Ids:
    return np.asarray(tokens, dtype=np.int32)


def random_ids(rng: np.random.Generator, length: int) -> Ids:
    return rng.integers(6, len(VOCABULARY), size=length).astype(np.int32)


def random_prompt(rng: np.random.Generator, length: int) -> Ids:
    """<bos> and so many words."""
    return np.append(ids(BOS), random_ids(rng, length))


def prompts_and_responses(count: int, seed: int = 0) -> tuple[list[Ids], list[Ids]]:
    """Rows whose lengths all differ, each response ended."""
    rng = np.random.default_rng(seed)
    prompts = [random_prompt(rng, 2 + 3 * number % 11) for number in range(count)]
    responses = [np.append(random_ids(rng, 1 + 5 * number % 7), EOS).astype(np.int32) for number in range(count)]
    return prompts, responses


def latents(count: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))


def make_selector(prototypes: list[list[float]], personal: list[list[float]], base: list[float]) -> Selector:
    """r(h; z) = base·h + zᵀ·personal·h, on raw features."""
    config = SelectorConfig(latent=len(prototypes[0]), prototypes=len(prototypes), normalise="none")
    params = {
        "head.base": torch.tensor(base),
        "head.personal": torch.tensor(personal),
        "prototypes": torch.tensor(prototypes),
    }
    even = torch.full((len(prototypes),), 1 / len(prototypes)).log()
    return Selector(config, InferenceConfig(), params, even, torch.tensor(1.0))


def make_candidates(features: torch.Tensor, distinct: torch.Tensor | None = None) -> Candidates:
    """Candidates whose tokens name (prompt, response) and whose reference log-probabilities are −1 and −0.01."""
    p, samples, _ = features.shape
    responses = [[ids(6 + row, 20 + place, EOS)[: 2 + place % 2] for place in range(samples)] for row in range(p)]
    reference = [
        [np.where(np.arange(len(tokens)) % 2 == 0, -1.0, -0.01).astype(np.float32) for tokens in group]
        for group in responses
    ]
    keep = torch.ones(p, samples, dtype=torch.bool) if distinct is None else distinct
    return Candidates([ids(40 + row) for row in range(p)], responses, features, reference, keep)


def make_examples(count: int, *, with_z: bool = True, seed: int = 0) -> Examples:
    """Random examples of unequal length; about half of all tokens are sure ones."""
    rng = np.random.default_rng(seed)
    prompts = [random_prompt(rng, int(rng.integers(1, 9))) for _ in range(count)]
    chosen, rejected = (
        [np.append(random_ids(rng, int(rng.integers(1, 8))), EOS).astype(np.int32) for _ in range(count)]
        for _ in range(2)
    )
    sure = [
        (rng.random(len(good)) < 0.5, rng.random(len(bad)) < 0.5) for good, bad in zip(chosen, rejected, strict=True)
    ]
    return Examples(
        prompts,
        chosen,
        rejected,
        -30 * torch.from_numpy(rng.random((count, 2)).astype(np.float32)),
        sure,
        latents(count) if with_z else None,
        torch.arange(count) % 2,
    )
