"""The tokenizer of the bundled language model: Qwen2's byte-level BPE with the world's words as its vocabulary.

It is a genuine Qwen2 tokenizer because AutoTokenizer builds one for every Qwen2 folder, whatever tokenizer.json says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

from fedvpa.world.grammar import sentence_texts
from fedvpa.world.prompts import prompts

PAD, EOS = "<|pad|>", "<|endoftext|>"

MAX_POSITIONS = 256
"""Of the bundled model. Its longest prompt and response have 103 tokens together."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""No role markers: a prompt of the world ends by itself, so that chat and plain strings give the same tokens."""

# More merges than the world has, so that the trainer stops only when no pair of symbols is left.
_ALL_MERGES = 1_000_000


def build_tokenizer() -> Qwen2Tokenizer:
    """A tokenizer for which every word of the world is one token.

    Any text survives ``decode(encode(text))``. Encoding prompt and response apart gives the same tokens as encoding
    the chat that they make up, less the EOS at its end.
    """
    vocabulary, merges = _learn_merges()
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=EOS,  # Qwen2's own choice; bytes cover every text, so it never occurs.
        padding_side="left",
        model_max_length=MAX_POSITIONS,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _learn_merges() -> tuple[dict[str, int], Any]:
    """Byte-pair merges, until every piece of the world's texts is one token."""
    # Pieces are cut as AutoTokenizer will cut them.
    qwen = Qwen2Tokenizer(vocab={}, merges=[]).backend_tokenizer
    bare = Tokenizer(models.BPE())
    bare.normalizer, bare.pre_tokenizer = qwen.normalizer, qwen.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=_ALL_MERGES,
        min_frequency=1,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        special_tokens=[PAD, EOS],
        show_progress=False,
    )
    bare.train_from_iterator(_texts(), trainer)
    model = json.loads(bare.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _texts() -> Iterator[str]:
    """Prompts, and every sentence as it stands first in a response and later."""
    yield from (prompt.text for prompt in prompts())
    for text in sentence_texts():
        yield from (text, f" {text}")
