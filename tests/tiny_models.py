"""Tiny random models and their tokenizers in standard folders, as fixtures for the tests of models and features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

WORDS = [f"w{number}" for number in range(89)]
SPECIAL = ["<pad>", "<bos>", "<eos>", "[CLS]", "[SEP]", "<unk>", "a"]
VOCABULARY = {token: row for row, token in enumerate([*SPECIAL, *WORDS])}
CHAT_TEMPLATE = (
    "<bos>{% for message in messages %} {{ message['role'] }} {{ message['content'] }} <eos>{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)
DECODER = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 24,
    "intermediate_size": 29,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 211,
    "initializer_range": 0.3,  # large, so that a wrong mask or position shows
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 31


def config_of(family: str) -> PreTrainedConfig:
    match family:
        case "qwen2":
            return Qwen2Config(**DECODER)
        case "llama":
            return LlamaConfig(**DECODER)
        case "gemma2":
            return Gemma2Config(**DECODER, head_dim=6, query_pre_attn_scalar=6, sliding_window=WINDOW)
        case "gpt2":
            return GPT2Config(vocab_size=len(VOCABULARY), n_embd=24, n_layer=2, n_head=4, n_positions=211)
        case "bert":
            return BertConfig(
                vocab_size=len(VOCABULARY),
                hidden_size=24,
                intermediate_size=29,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=61,
                initializer_range=0.3,
            )
    raise AssertionError(family)


def make_tokenizer(family: str, *, chat: bool = False) -> PreTrainedTokenizerFast:
    """Words separated by spaces; llama and gemma2 put <bos> in front, bert puts [CLS] and [SEP] around."""
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if family in {"llama", "gemma2"}:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B:1", special_tokens=[("<bos>", 1)]
        )
    if family == "bert":
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[..., PreTrainedTokenizerFast]:
    return make_tokenizer


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a tiny random model; made once per family."""
    made: dict[tuple[str, bool], Path] = {}

    def make(family: str, *, chat: bool = False) -> Path:
        if (family, chat) not in made:
            folder = tmp_path_factory.mktemp(family)
            torch.manual_seed(17)
            AutoModel.from_config(config_of(family)).save_pretrained(folder)
            make_tokenizer(family, chat=chat).save_pretrained(folder)
            made[family, chat] = folder
        return made[family, chat]

    return make
