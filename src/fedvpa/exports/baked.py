"""Profiles as tokens: the soft prefix of each is put into the vocabulary, so that any server can follow it.

For policies whose prefix stands in places of its own (releases up to 0.4). Each profile has as many new tokens as the
prefix, whose embeddings are the prefix of its z, and the chat template writes those of the profile that it is asked
for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor

from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.core.files import storing
from fedvpa.data.schema import Message
from fedvpa.exports.merged import embedding_scale, merged_model, untie, write_model
from fedvpa.exports.reading import Reading, open_stock, template_of, write_tokenizer
from fedvpa.exports.unsaid import LEAST, check_unsaid, log_probability, silent_row, states_and_logits
from fedvpa.models.chat_template import ChatTemplate
from fedvpa.policy.conditioning import Conditioner
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.policy.sampling import Sampling

TEXTS = 64
"""Texts of the policy's own, for each profile, at whose tokens the head is measured. Chosen by us."""

VARIABLE = "profile"
"""The variable of the chat template that names the profile; ``chat_template_kwargs`` of a request sets it."""

Profiles = Mapping[str, Sequence[float]]


def check_bakeable(conditioner: Conditioner | None) -> Conditioner:
    """The conditioner, if tokens can stand for what it makes of z.

    Raises:
        ConfigError: If they cannot; names the export that fits.
    """
    if conditioner is not None and conditioner.kind == "soft_prefix" and conditioner.placement == "inserted":
        return conditioner
    others = {
        "gated_lora": "z is in its LoRA: use fedvpa export adapters, or fedvpa export merged",
        "additive": "z is added to every token: use fedvpa export merged",
        "soft_prefix": "its prefix is added to tokens of the prompt that are there: use fedvpa export merged",
        None: "it is the same for everybody: use fedvpa export merged",
    }
    raise ConfigError(
        "Profile tokens are for soft prefixes that stand in places of their own, as policies of releases up to 0.4 "
        f"have them. Of this policy {others[None if conditioner is None else conditioner.kind]}."
    )


def tokens_of(name: str, count: int) -> list[str]:
    """The spelling of a profile's tokens."""
    return [f"<|profile:{name}:{place}|>" for place in range(count)]


@torch.no_grad()
def write_baked(policy: Policy, profiles: Profiles, folder: Path) -> None:
    """Write a Hugging Face folder whose chat template has the variable ``profile``; the first one is its default.

    Args:
        policy: Uses it up.
        profiles: Name → z.
        folder: Where to; exists and is empty.

    Raises:
        ConfigError: If the policy has no inserted soft prefix.
        ModelError: If the stock tokenizer would give other tokens, or the model would say a profile token.
        StorageError: If it cannot be written.
    """
    conditioner = check_bakeable(policy.conditioner)
    write_tokenizer(Reading.of(policy), folder)
    template = template_of(folder)
    tokenizer = open_stock(folder, policy.source.loading)
    spelled = {name: tokens_of(name, conditioner.tokens) for name in profiles}
    every = [token for tokens in spelled.values() for token in tokens]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in every])
    if template is not None:
        heads = [tokenizer.decode(list(head)) for head in policy.layout.heads]
        tokenizer.chat_template = profile_template(template, spelled, heads)
    with storing(folder):
        tokenizer.save_pretrained(folder)
    ids = [int(token) for token in tokenizer.convert_tokens_to_ids(every)]
    latents = [torch.tensor(list(z)) for z in profiles.values()]
    prefixes = torch.cat([conditioner.map(z).view(conditioner.tokens, -1) for z in latents])
    _check_tokens(policy, folder, dict(zip(profiles, np.reshape(ids, (len(profiles), -1)), strict=True)))
    rows = [_own_text(policy, z) for z in latents]
    model = merged_model(policy, None)
    add_unsaid_tokens(model, ids, prefixes, rows)
    write_model(policy, model, folder, suppressed=ids)


def profile_template(template: str, spelled: Mapping[str, Sequence[str]], heads: Sequence[str]) -> str:
    """A chat template that puts the tokens of a profile behind the special tokens in front.

    Args:
        template: What writes the conversation.
        spelled: Profile → its tokens. The first one is taken where none is asked for.
        heads: Special tokens that a conversation may begin with, the longest first.
    """
    texts = json.dumps({name: "".join(tokens) for name, tokens in spelled.items()}, ensure_ascii=False)
    known, first = ", ".join(spelled), json.dumps(next(iter(spelled)), ensure_ascii=False)
    refusal = json.dumps(f"There is no such profile. Known: {known}", ensure_ascii=False)
    cases = [
        f"{{%- {'elif' if place else 'if'} written.startswith({json.dumps(head, ensure_ascii=False)}) -%}}"
        f"{{{{- written[:{len(head)}] + profile_tokens + written[{len(head)}:] -}}}}"
        for place, head in enumerate(heads)
    ]
    rest = "{{- profile_tokens + written -}}"
    body = "".join(cases) + (f"{{%- else -%}}{rest}{{%- endif -%}}" if cases else rest)
    return (
        f"{{%- set profile = {VARIABLE} | default({first}) %}}{{%- set profiles = {texts} %}}"
        f"{{%- if profile not in profiles %}}{{{{- raise_exception({refusal}) }}}}{{%- endif %}}"
        f"{{%- set profile_tokens = profiles[profile] %}}{{%- set written %}}\n"
        f"{template.removesuffix(chr(10))}{{%- endset -%}}{body}"
    )


@torch.no_grad()
def add_unsaid_tokens(model: Any, ids: Sequence[int], prefixes: Tensor, rows: Sequence[dict[str, Tensor]]) -> None:
    """Give a model tokens that it reads as given vectors and never says.

    A head that shares the embeddings' weights goes on sharing them if the vectors themselves have low logits in every
    measured state; else it becomes a layer of its own.

    Args:
        model: A causal language model.
        ids: The tokens; rows that a padded vocabulary has already are used.
        prefixes: What the embedding layer shall give for each, shape [tokens, hidden].
        rows: Inputs of the model at real texts.

    Raises:
        ModelError: If it would say one of them all the same.
    """
    states, logits = states_and_logits(model, rows)
    if max(ids) >= len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    shared = head.weight is embeddings.weight
    embeddings.weight[ids] = (prefixes / embedding_scale(model)).to(embeddings.weight)
    if not shared or log_probability(states_and_logits(model, rows)[1], ids) > -LEAST:
        untie(model)
        head.weight[ids] = silent_row(states, logits).to(head.weight)
    check_unsaid(states_and_logits(model, rows)[1], ids)


def _own_text(policy: Policy, z: Tensor) -> dict[str, Tensor]:
    """What the policy itself writes under a z: prompts of its own, and its answers to them, as inputs of its model."""
    tokenizer, frame = policy.tokenizer, policy.tokenizer.encoder.renderer.template.frame()
    how = Sampling(temperature=1.0, max_new_tokens=policy.sampling.max_new_tokens, batch=TEXTS)
    latents = z.expand(TEXTS, -1)
    opening = list(tokenizer.before) or [tokenizer.eos]
    start = np.asarray(opening, np.int32) if frame is None else tokenizer.encode(frame.opening)
    prompts, answers = [start] * TEXTS, policy.sample([start] * TEXTS, latents, how, 0, "own prompts")
    if frame is not None:
        asked = [(Message("user", tokenizer.text(ids) or "."),) for ids in answers]
        prompts = tokenizer.prompts(asked)
        answers = policy.sample(prompts, latents, how, 0, "own answers")
    rows = policy.layout.rows(prompts, answers).to(policy.device)
    return {"inputs_embeds": policy.embed(rows, latents), "attention_mask": rows.attention}


def _check_tokens(policy: Policy, folder: Path, ids: Mapping[str, Any]) -> None:
    """Whether the stock tokenizer puts a profile's tokens where the policy had the prefix.

    Raises:
        ModelError: If it does not.
    """
    tokenizer = open_stock(folder, policy.source.loading)
    if not tokenizer.chat_template:
        return
    asked = Message("user", "Is it a probe?")
    (prompt,) = policy.tokenizer.prompts([(asked,)])
    head = policy.layout.head(prompt)
    writer = {name: ChatTemplate(tokenizer, {VARIABLE: name}) for name in ids}
    for name, own in ids.items():
        written = writer[name].write((asked,), opened=True)
        found = tokenizer(written, add_special_tokens=False)["input_ids"]
        wanted: Ids = np.concatenate([prompt[:head], own, prompt[head:]])
        if not np.array_equal(found, wanted):
            raise ModelError(
                f"The tokenizer does not put the tokens of the profile {name!r} in front of the prompt.",
                fix="Use fedvpa export merged, whose model needs no token of its own.",
                where=str(policy.source.folder),
            )
