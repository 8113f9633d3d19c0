"""A language model of a few thousand weights as a GGUF file, written as llama.cpp's converter lays out a Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

HEADS, KEYS = 4, 2
LETTERS = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "Ġ", "Ċ", ".", *LETTERS, "he", "Ġa"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def tiny_llama() -> LlamaForCausalLM:
    """With tied embeddings, as small models have them."""
    torch.manual_seed(5)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=KEYS,
            max_position_embeddings=128,
            initializer_range=0.3,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
    ).eval()


def _rotated(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key as llama.cpp has them: the two halves of a head interleaved."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path, model: Any, *, kind: str = "F32", architecture: str = "llama", fields: dict[str, Any] | None = None
) -> Path:
    """Write a :func:`tiny_llama`; matrices as ``kind``, norms as they are."""
    gguf = pytest.importorskip("gguf", reason="the package gguf (extra fedvpa[gguf]) is not installed")
    writer, settings = gguf.GGUFWriter(path, architecture), model.config
    writer.add_name("tiny")
    writer.add_context_length(settings.max_position_embeddings)
    writer.add_embedding_length(settings.hidden_size)
    writer.add_block_count(settings.num_hidden_layers)
    writer.add_feed_forward_length(settings.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(settings.rms_norm_eps)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["h e", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, value in (fields or {}).items():
        (writer.add_uint16 if isinstance(value, int) else writer.add_string)(name, value)
    for name, weight in tensors(model):
        plain = kind == "F32" or weight.ndim == 1
        chosen = gguf.GGMLQuantizationType["F32" if plain else kind]
        writer.add_tensor(name, gguf.quantize(weight, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(model: Any) -> list[tuple[str, np.ndarray]]:
    """Its weights by their names in GGUF."""
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    own = {name: weight.numpy() for name, weight in model.state_dict().items()}
    found = [
        ("token_embd.weight", own["model.embed_tokens.weight"]),
        ("output_norm.weight", own["model.norm.weight"]),
    ]
    for layer in range(model.config.num_hidden_layers):
        for ours, theirs in names.items():
            weight = own[f"model.layers.{layer}.{ours}.weight"]
            heads = {"attn_q": HEADS, "attn_k": KEYS}.get(theirs)
            found.append((f"blk.{layer}.{theirs}.weight", weight if heads is None else _rotated(weight, heads)))
    return found
