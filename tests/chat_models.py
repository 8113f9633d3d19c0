"""Tokenizers whose tokens are pieces of real text, and chat templates of the kinds that models come with."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
_TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
_HEADER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TEMPLATES = {
    "chatml": "{% for m in messages %}" + _TURN + "{% endfor %}" + _HEADER,
    "trimmed": "{% for m in messages %}"
    + _TURN.replace("m['content']", "m['content'] | trim")
    + "{% endfor %}"
    + _HEADER,
    "dated": "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}"
    "{% for m in messages %}" + _TURN + "{% endfor %}" + _HEADER,
    # The generation prompt opens a thought, which finished turns do not have.
    "think": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    "{% if m['role'] == 'assistant' %}{{ (m['content'].split('</think>') | last).lstrip('\n') }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}"
    "{% if enable_thinking is not defined or enable_thinking %}{{ '<think>\n' }}{% endif %}{% endif %}",
    # No system turns; user and assistant alternate.
    "turns": "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}" + _TURN + "{% endfor %}" + _HEADER,
    # System turns are left out without a word.
    "deaf": "{% for m in messages %}{% if m['role'] != 'system' %}" + _TURN + "{% endif %}{% endfor %}" + _HEADER,
    # No control token ends a turn: the next header does.
    "transcript": "{% for m in messages %}{{ '\n\n' + ('Human' if m['role'] == 'user' else 'Assistant') + ': ' }}"
    "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}",
    "broken": "{% for m in messages %}{{ m['content'] + none }}{% endfor %}",
}
TEXTS = [
    "How do I bake the bread?",
    "To bake the bread: start slowly. Use warm water. Let it rest.",
    "I would rather not say. Please ask somebody else.",
    "user assistant system Human Assistant Today is think",
]


def byte_level(
    template: str | None = "chatml", *, bos: bool = False, extra: tuple[str, ...] = (), end: str = END
) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as of Qwen or Llama 3; ``bos`` puts <|pad|> in front of every text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380, special_tokens=[PAD, START, END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(TEXTS, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(single=f"{PAD} $A", special_tokens=[(PAD, 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=end, pad_token=PAD, bos_token=PAD if bos else None
    )
    if extra:
        fast.add_tokens(list(extra))
    fast.chat_template = None if template is None else TEMPLATES[template]
    return fast


def metaspace(template: str | None = "chatml", *, unigram: bool = False) -> PreTrainedTokenizerFast:
    """Pieces that begin with ▁ where a space was, which is put in front of every text, as of Llama 2 or Gemma."""
    backend = Tokenizer(models.Unigram() if unigram else models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = sorted({letter for text in TEXTS for letter in text} | set("<|>_\n▁"))
    kind = trainers.UnigramTrainer if unigram else trainers.BpeTrainer
    options = {"unk_token": "<unk>"} if unigram else {}
    trainer = kind(
        vocab_size=160,
        special_tokens=["<unk>", PAD, START, END],
        initial_alphabet=alphabet,
        show_progress=False,
        **options,
    )
    backend.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=PAD, unk_token="<unk>")
    fast.chat_template = None if template is None else TEMPLATES[template]
    return fast


def save_chat_model(folder: Path, template: str | None = "chatml", **options: bool) -> Path:
    """A tiny Llama with random weights and a byte-level tokenizer."""
    tokenizer = byte_level(template, **options)
    torch.manual_seed(11)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
