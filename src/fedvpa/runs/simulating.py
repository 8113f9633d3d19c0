"""``fedvpa simulate``: samples of a model, users who label pairs of them, and the files that other verbs read.

The folder holds ``settings.json`` (what was asked for; written first), ``samples.jsonl`` (one prompt and its samples a
line; ``samples.partial`` until all are there), the table ``pairs.jsonl``, ``simulation.json`` beside it (who the users
are; written last), and the prompts that make no pairs: ``prompts/align.jsonl`` and ``prompts/judge.jsonl``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedvpa.core.errors import RunError
from fedvpa.core.files import read_own_lines, read_own_object, write_json, write_text
from fedvpa.core.identity import Parts, differences
from fedvpa.core.options import option
from fedvpa.core.progress import say
from fedvpa.core.version import __version__
from fedvpa.data.schema import Text
from fedvpa.models.locate import ModelSource
from fedvpa.policy.base_samples import BaseSamples, sample_base
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.partial_samples import PartialSamples
from fedvpa.policy.policy import new_policy
from fedvpa.policy.sampling import Sampling
from fedvpa.styles.config import SimulationConfig
from fedvpa.styles.pairs import StylePair, agreement, bayes_accuracy, by_group, user_pairs
from fedvpa.styles.prompts import PromptParts
from fedvpa.styles.simulation import FILE, TABLE, Simulation
from fedvpa.styles.standard import Standard
from fedvpa.styles.users import Population, make_users
from fedvpa.styles.utility import scaled

SETTINGS, SAMPLES, ALIGN, JUDGE = "settings.json", "samples.jsonl", "prompts/align.jsonl", "prompts/judge.jsonl"
"""Names of files in the folder."""

SAMPLED = ("model", "prompts", "samples", "temperature", "top_p", "max_new_tokens", "pair_prompts", "seed", "precision")
"""The parts that decide the samples; the others decide users and labels."""

CONTENT = {"model": "another model", "prompts": "other prompts", "weights": "other weights of the population"}
"""Part → what its change is called."""


@dataclass(frozen=True)
class Asked:
    """A simulation as it is asked for.

    Attributes:
        config: Users, pairs and samples.
        population: Where the users come from.
        prompts: All prompts, as the model is asked.
        prompts_file: Their file, for messages.
        source: The model.
        precision: In which it is sampled.
    """

    config: SimulationConfig
    population: Population
    prompts: Sequence[Text]
    prompts_file: str
    source: ModelSource
    precision: str

    def parts(self) -> Parts:
        """What decides the result, in words or as hashes."""
        settings = {key: str(value) for key, value in self.config.model_dump(mode="json").items()}
        weights = {"groups": self.population.groups, "mean": self.population.mean}
        return settings | {
            "users": self.population.name,
            "weights": _hash(json.dumps(weights, default=dict, sort_keys=True)),
            "model": f"{self.source.content()} {self.source.tokenizer_hash()} {self.source.loading.quantization or ''}",
            "prompts": _hash(repr(list(self.prompts))),
            "precision": self.precision,
            "version of fedvpa": __version__,
        }


def check_place(out: Path, asked: Asked) -> bool:
    """Whether the folder holds this simulation already; keeps what is asked for in an empty one.

    Raises:
        RunError: If it holds another simulation, or something else.
    """
    saved = out / SETTINGS
    now = asked.parts()
    if not saved.is_file():
        held = [name for name in (TABLE, FILE, SAMPLES) if (out / name).exists()]
        if held:
            raise RunError(f"holds {held[0]} of something else.", fix="Choose another folder.", where=str(out))
        write_json(saved, dict(now))
        return False
    changed = list(differences(read_own_object(saved), now, CONTENT))
    if changed:
        reuse = option("samples_from", str(out))
        raise RunError(
            f"holds another simulation: {'; '.join(changed)}.",
            fix=f"Choose another folder. Where only users or labels differ, {reuse} takes the samples of this one.",
            where=str(out),
        )
    return (out / FILE).is_file()


def take_samples(out: Path, other: Path, asked: Asked) -> None:
    """Copy the samples of another simulation that sampled the same.

    Raises:
        RunError: If it is none, is not finished, or sampled something else.
    """
    if not ((other / SETTINGS).is_file() and (other / SAMPLES).is_file()):
        raise RunError(
            "holds no samples of a simulation.", fix="Give the folder of one that has them.", where=str(other)
        )
    then, now = (
        {name: parts.get(name, "") for name in SAMPLED} for parts in (read_own_object(other / SETTINGS), asked.parts())
    )
    changed = list(differences(then, now, CONTENT))
    if changed:
        raise RunError(
            f"has other samples than are asked for: {'; '.join(changed)}.", fix="Ask for the same.", where=str(other)
        )
    write_text(out / SAMPLES, (other / SAMPLES).read_text(encoding="utf-8"))


def sampled(
    out: Path, asked: Asked, policy: PolicyConfig, prompts: Sequence[Text], batch: int, device: str
) -> BaseSamples:
    """The samples of the prompts that make pairs, drawn where they are not kept.

    Args:
        out: The folder.
        asked: What is asked for.
        policy: How the model is loaded, where it is asked.
        prompts: Those that make pairs.
        batch: Responses sampled at once.
        device: Where to put the model.

    Raises:
        InputError: If the model cannot be asked.
    """
    config, path = asked.config, out / SAMPLES
    if not path.is_file():
        say(f"{len(prompts)} prompts, {config.samples} samples of each, from {asked.source.name}")
        sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens, batch)
        kept = PartialSamples(out / "samples.partial")
        model = new_policy(policy, asked.source.name, None, config.seed, device=device)
        drawn = sample_base(model, prompts, config.samples, sampling, config.seed, kept)
        _write_lines(path, map(_sample_line, prompts, drawn.texts, drawn.tokens, drawn.ended))
        kept.remove()
    found = read_own_lines(path)
    return BaseSamples(*([line[name] for line in found] for name in ("samples", "tokens", "ended")))


def label(out: Path, asked: Asked, parts: PromptParts[Text], samples: BaseSamples) -> Simulation:
    """Draw users and their pairs, and write the table and what stands beside it.

    Args:
        out: The folder.
        asked: What is asked for.
        parts: The prompts.
        samples: Of those that make pairs.

    Raises:
        ConfigError: If the population weighs what does not vary.
        DataError: If there are too few pairs of samples that differ.
    """
    config, texts = asked.config, samples.texts
    standard = Standard.of(texts)
    standard.check_varies(asked.population.weighed, f"The population {asked.population.name!r}")
    scale = partial(scaled, samples=texts, standard=standard)
    users = make_users(asked.population, config.clients + config.unseen, config.seed, scale)
    names = [repr(prompt) for prompt in parts.pairs]
    draw = partial(
        user_pairs, count=config.pairs, names=names, samples=texts, standard=standard, seed=config.seed,
        temperature=config.label_temperature,
    )  # fmt: skip
    pairs = [pair for user in users for pair in draw(user)]
    _write_lines(out / TABLE, (_row(pair, parts.pairs[pair.prompt], texts[pair.prompt]) for pair in pairs))
    for name, own in ((ALIGN, parts.align), (JUDGE, parts.judge)):
        _write_lines(out / name, ({"prompt": _plain(prompt)} for prompt in own))
    groups = {name: scale(weights) for name, weights in asked.population.groups.items()}
    notes = _notes(asked, parts, samples, pairs)
    simulation = Simulation(asked.population.name, groups, users, standard, config.label_temperature, notes)
    simulation.save(out)
    return simulation


def _notes(
    asked: Asked, parts: PromptParts[Text], samples: BaseSamples, pairs: Sequence[StylePair]
) -> Mapping[str, Any]:
    config = asked.config
    return {
        "fedvpa": __version__,
        "model": {"name": asked.source.label, "content": asked.source.content()},
        "seed": config.seed,
        "clients": config.clients,
        "unseen": config.unseen,
        "pairs_per_user": config.pairs,
        "prompts": {"pairs": len(parts.pairs), "align": len(parts.align), "judge": len(parts.judge)},
        "sampling": {
            "samples": config.samples,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_new_tokens": config.max_new_tokens,
            "ended": samples.ended_share,
        },
        "bayes_accuracy": bayes_accuracy(pairs),
        "agreement": agreement(pairs),
        "bayes_accuracy_by_group": {name: bayes_accuracy(own) for name, own in by_group(pairs).items()},
    }


def _row(pair: StylePair, prompt: Text, samples: Sequence[str]) -> dict[str, Any]:
    """A line of the table, in the columns that every table has."""
    chosen, rejected = samples[pair.chosen], samples[pair.rejected]
    answer = (lambda text: text) if isinstance(prompt, str) else (lambda text: [{"role": "assistant", "content": text}])
    group = {} if pair.user.group is None else {"group": pair.user.group}
    return {
        "prompt": _plain(prompt), "chosen": answer(chosen), "rejected": answer(rejected), "user_id": pair.user.user_id,
        **group,
    }  # fmt: skip


def _sample_line(prompt: Text, texts: list[str], tokens: list[int], ended: list[bool]) -> dict[str, Any]:
    return {"prompt": _plain(prompt), "samples": texts, "tokens": tokens, "ended": ended}


def _plain(prompt: Text) -> Any:
    return prompt if isinstance(prompt, str) else [{"role": one.role, "content": one.content} for one in prompt]


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
