"""Reproduce the bundled language model: ``python -m fedvpa.world.build_backbone --out DIR``.

A small Qwen2 causal language model learns the world's responses from scratch, from a neutral mix: every combination of
attributes is equally likely, whatever the prompt. It never sees a prompt of the validation or test pool, nor any
preference. The script prints one JSON object on stdout: what it measured on test prompts at temperature 1.

A second, small loss keeps the attributes linearly readable from the mean of the last hidden states over a response, as
they are in large pretrained models but not, by themselves, in one of a million parameters: that mean, projected on six
fixed directions, has to equal the features φ of the response.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from fedvpa.core.errors import FedvpaError
from fedvpa.core.files import replacing, write_text
from fedvpa.core.progress import say, track
from fedvpa.core.seeds import entropy, numpy_generator, torch_generator
from fedvpa.world.corpus import TRAITS, Batch, corpus_batches
from fedvpa.world.generate import draw_prompt
from fedvpa.world.grammar import Failure, Parsed, parse
from fedvpa.world.tokenizer import MAX_POSITIONS, build_tokenizer


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the language model is made.

    Every number was chosen by us: sizes that fit 4 MB, and enough examples to pass ``parsed_share`` with room to spare.

    Attributes:
        hidden: Width. Also the number of features per response.
        intermediate: Width inside an MLP.
        layers: Number of layers.
        heads: Attention heads; half as many key-value heads.
        examples: Training examples, each drawn once.
        batch: Examples per step.
        learning_rate: Peak of the one-cycle schedule of AdamW (0.9, 0.98).
        warmup: Share of steps in which the learning rate rises.
        init: Standard deviation of the initial weights.
        attribute_weight: Weight of the loss that keeps attributes linearly readable.
        sharpness: Factor on the logits after training, folded into the last norm. A small model leaks a little
            probability to thousands of wrong words; equal alternatives stay equal.
        seed: Names every draw.
        test_samples: Responses sampled at temperature 1, to prompts of the test pool.
        parsed_share: Least share of them that has to be inside the grammar.
        max_tokens: Longest sample. The grammar's longest response has 86 tokens.
    """

    hidden: int = 128
    intermediate: int = 384
    layers: int = 3
    heads: int = 4
    examples: int = 112_000
    batch: int = 16
    learning_rate: float = 3e-3
    warmup: float = 0.05
    init: float = 0.05
    attribute_weight: float = 1.0
    sharpness: float = 1.25
    seed: int = 0
    test_samples: int = 2_000
    parsed_share: float = 0.99
    max_tokens: int = 112


def main() -> None:
    """Train, measure, and write the folder only if the samples parse."""
    arguments = argparse.ArgumentParser(description="Reproduce the bundled language model of fedvpa's world.")
    arguments.add_argument("--out", type=Path, required=True, help="the folder to write")
    arguments.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    recipe, tokenizer, start = Recipe(), build_tokenizer(), time.monotonic()
    model = train(recipe, tokenizer)
    seconds = time.monotonic() - start
    figures = {**measure(model, tokenizer, recipe), "train_seconds": round(seconds), "threads": given.threads}
    if figures["parsed_share"] < recipe.parsed_share:
        raise FedvpaError(
            f"Only {figures['parsed_share']:.2%} of the samples parse; {given.out} is left as it was. {figures}"
        )
    write_folder(given.out, model, tokenizer, recipe, figures)
    print(json.dumps(figures))


def train(recipe: Recipe, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """A trained model; bit for bit the same for the same recipe, machine and number of threads."""
    model = _new_model(recipe, tokenizer)
    steps = recipe.examples // recipe.batch
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=steps, pct_start=recipe.warmup, cycle_momentum=False
    )
    directions = _attribute_directions(recipe)
    batches = corpus_batches(tokenizer, examples=recipe.examples, batch=recipe.batch, seed=recipe.seed)
    for batch in track(batches, "train", steps, unit="examples", weight=recipe.batch):
        language, attribute = losses(model, batch, directions)
        (language + recipe.attribute_weight * attribute).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    say(f"last batch: language {language.item():.4f}, attributes {attribute.item():.4f}")
    with torch.no_grad():
        model.model.norm.weight.mul_(recipe.sharpness)
    return model.eval()


def losses(
    model: Qwen2ForCausalLM, batch: Batch, directions: Float[Tensor, "hidden traits"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The two losses of a batch.

    Args:
        model: In training mode.
        batch: Right-padded examples; causal attention never looks at the padding.
        directions: Orthonormal columns, one per feature.

    Returns:
        The mean negative log-likelihood of the response tokens and EOS; and the mean squared error of φ, read from the
        mean hidden state over the response tokens without EOS.
    """
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    predicting = batch.response[:, 1:]
    logits = model.lm_head(hidden[:, :-1][predicting])
    language = functional.cross_entropy(logits, batch.tokens[:, 1:][predicting])
    pooled = (hidden * batch.pooled[..., None]).sum(1) / batch.pooled.sum(1, keepdim=True)
    return language, functional.mse_loss(pooled @ directions, batch.features)


def measure(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, recipe: Recipe) -> dict[str, float]:
    """What samples at temperature 1 to held-out prompts are like: the share that parses, and the mean attributes."""
    rng = numpy_generator(recipe.seed, "backbone", "measure")
    questions = [draw_prompt(rng, "test").text for _ in range(recipe.test_samples)]
    answers = sample(model, tokenizer, questions, seed=recipe.seed, max_tokens=recipe.max_tokens)
    readings = [parse(question, answer) for question, answer in zip(questions, answers, strict=True)]
    inside = [reading.attributes for reading in readings if isinstance(reading, Parsed)]
    for reading in [reading for reading in readings if isinstance(reading, Failure)][:10]:
        say(f"outside the grammar: {reading.reason}: {reading.sentence!r}")
    means = (
        {name: float(np.mean([asdict(one)[name] for one in inside])) for name in asdict(inside[0])} if inside else {}
    )
    return {
        "samples": len(answers),
        "parsed_share": len(inside) / len(answers),
        "distinct_share": len(set(answers)) / len(answers),
        "mean_tokens": float(np.mean([len(ids) for ids in tokenizer(answers).input_ids])),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **{f"mean_{name}": round(value, 3) for name, value in means.items()},
    }


def sample(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    questions: list[str],
    *,
    seed: int,
    max_tokens: int,
    batch: int = 250,
) -> list[str]:
    """One response per question, at temperature 1 without truncation of the distribution."""
    answers: list[str] = []
    generate = cast(Any, model).generate  # transformers' type for its ``self`` leaves out transformers' models.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy(seed, "backbone", "sample") % 2**63)
        for first in range(0, len(questions), batch):
            encoded = tokenizer(questions[first : first + batch], return_tensors="pt", padding=True)
            tokens = generate(**encoded, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=max_tokens)
            new = tokens[:, encoded["input_ids"].shape[1] :]
            answers += tokenizer.batch_decode(new, skip_special_tokens=True)
    return answers


def write_folder(
    out: Path,
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    recipe: Recipe,
    figures: dict[str, float],
) -> None:
    """Write the Hugging Face folder, each file atomically, with the model card."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).iterdir()):
            with replacing(out / file.name) as temporary:
                shutil.copyfile(file, temporary)
    write_text(out / "README.md", _card(recipe, figures))


def _new_model(recipe: Recipe, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads // 2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=recipe.init,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy(recipe.seed, "backbone", "init") % 2**63)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=recipe.max_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model.train()


def _attribute_directions(recipe: Recipe) -> Float[Tensor, "hidden traits"]:
    draws = torch.randn(recipe.hidden, len(TRAITS), generator=torch_generator(recipe.seed, "backbone", "directions"))
    return torch.linalg.qr(draws).Q


def _card(recipe: Recipe, figures: dict[str, float]) -> str:
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in figures.items())
    settings = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in asdict(recipe).items())
    return CARD.format(settings=settings, rows=rows)


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [fedvpa, synthetic]
---

# The language model of fedvpa's bundled world

A Qwen2 causal language model trained from scratch on texts of a small grammar: questions about 240 goals, half of
them risky, and answers that comply or refuse, with 0 to 5 details, a caveat, warmth, formality and brevity. It is the
default frozen backbone of fedvpa and the base policy of its second stage. It knows no other text and is of no use
outside.

Prompt and response are encoded apart and put together; a response ends with EOS. The chat template adds no role
markers.

## How it was made

`python -m fedvpa.world.build_backbone --out DIR`: next-token loss on responses whose attributes are all equally likely,
plus a loss that keeps the attributes linearly readable from the mean of the last hidden states over a response. It saw
prompts of the training pool only, and no preferences. `sharpness` is a factor on the logits, folded into the last norm.

| setting | value |
|---|---|
{settings}

## What was measured

Samples at temperature 1, without truncation, to prompts of the test pool. `parsed share`: inside the grammar.

| figure | value |
|---|---|
{rows}
"""


if __name__ == "__main__":
    try:
        main()
    except FedvpaError as error:
        raise SystemExit(str(error)) from error
