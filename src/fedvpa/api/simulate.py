"""``fedvpa simulate``: users whose taste is exact, on real text of any model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.files import output_folder, user_path
from fedvpa.core.processes import lead
from fedvpa.core.progress import say
from fedvpa.styles.config import DEFAULT_POPULATION

if TYPE_CHECKING:
    from fedvpa.policy.config import PolicyConfig, Precision
    from fedvpa.runs.simulating import Asked
    from fedvpa.styles.config import SimulationConfig
    from fedvpa.styles.simulation import Simulation


@dataclass(frozen=True)
class SimulateResult:
    """A simulated table.

    Attributes:
        out: The folder.
        table: The labelled pairs, as ``data.path`` of the source ``table``.
        align_prompts: Prompts that make no pairs, for ``policy.candidates.prompt_file``.
        judge_prompts: Further ones, for ``policy.judging.prompt_file``.
        users: Group → how many users; of individuals under the name of the population.
        pairs: All labelled pairs.
        bayes_accuracy: What whoever knows the utilities gets right, on average over draws of these pairs' labels.
        bayes_accuracy_by_group: The same for each group.
        agreement: The share of the labels that are as the utilities order them.
        ended: The share of samples that end before ``max_new_tokens``.
        properties: Property → ``mean``, ``deviation``, ``within_prompt``, ``differing`` of the samples.
        groups: Group → property → weight, in units of utility; empty of individuals.
        next: Commands that read the table.
    """

    out: Path
    table: Path
    align_prompts: Path
    judge_prompts: Path
    users: Mapping[str, int]
    pairs: int
    bayes_accuracy: float
    bayes_accuracy_by_group: Mapping[str, float]
    agreement: float
    ended: float
    properties: Mapping[str, Mapping[str, float]]
    groups: Mapping[str, Mapping[str, float]]
    next: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        places = ("out", "table", "align_prompts", "judge_prompts")
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {name: str(plain[name]) for name in places} | {"next": list(self.next)}


def simulate(
    model: str,
    prompts: str | PathLike[str],
    out: str | PathLike[str],
    *,
    users: str = DEFAULT_POPULATION,
    clients: int = 10,
    unseen: int = 0,
    pairs: int = 200,
    samples: int = 4,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int = 128,
    label_temperature: float = 1.0,
    pair_prompts: int | None = None,
    seed: int = 0,
    samples_from: str | PathLike[str] | None = None,
    batch: int = 64,
    loading: Mapping[str, Any] | None = None,
    precision: Precision = "auto",
    device: str = "auto",
) -> SimulateResult:
    """Sample a model, draw users with known utilities, and write their labelled pairs as an ordinary table.

    A call that was stopped goes on when it is made again; a finished one is read and not made again.

    Args:
        model: A folder, a ``.gguf`` file or a hub id of a causal language model.
        prompts: A file of prompts; see :func:`fedvpa.data.prompt_files.read_prompts`.
        out: The folder to write.
        users: A population of ``fedvpa.styles.users.POPULATIONS``, or a YAML file of one.
        clients: Users who train.
        unseen: Further users, for ``partition.unseen``.
        pairs: Pairs of each user.
        samples: Samples of each prompt.
        temperature: Of the samples.
        top_p: Nucleus of the samples.
        max_new_tokens: Longest sample.
        label_temperature: Of the labels, in units of utility: lower is less noisy.
        pair_prompts: How many prompts make pairs; the others align and judge policies. None for six in ten.
        seed: Names every draw.
        samples_from: The folder of another simulation, whose samples are taken instead of new ones.
        batch: Responses sampled at once.
        loading: How the model is fetched and loaded, such as ``{"revision": "main"}``; see
            :class:`~fedvpa.models.loading_config.LoadingConfig`.
        precision: Of the model: ``auto`` is bfloat16 on a GPU and float32 elsewhere.
        device: ``auto`` (a GPU if there is one), or any torch device.

    Raises:
        ConfigError: For a number out of range, an unknown population, or one that weighs what does not vary.
        DataError: If the prompts cannot be read, or are too few.
        ModelError: If the model cannot be loaded or asked.
        RunError: If the folder holds something else, or another program writes to it.

    Of several processes that a launcher started (:mod:`fedvpa.core.processes`), the first one simulates, and the others
    help with the samples; all return the same result.
    """
    given = {
        "users": users, "clients": clients, "unseen": unseen, "pairs": pairs, "samples": samples,
        "temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens,
        "label_temperature": label_temperature, "pair_prompts": pair_prompts, "seed": seed,
    }  # fmt: skip
    files = (user_path(prompts), Path(out), None if samples_from is None else user_path(samples_from))
    return lead(lambda: _simulate(model, *files, given, batch, loading, precision, device))


def _simulate(
    model: str,
    prompts: Path,
    out: Path,
    samples_from: Path | None,
    given: Mapping[str, Any],
    batch: int,
    loading: Mapping[str, Any] | None,
    precision: Precision,
    device: str,
) -> SimulateResult:
    """The work of :func:`simulate`; ``given`` are the settings of :class:`~fedvpa.styles.config.SimulationConfig`."""
    from fedvpa.runs.folder import RunFolder
    from fedvpa.runs.simulating import SAMPLES, check_place, label, sampled, take_samples
    from fedvpa.styles.config import SimulationConfig
    from fedvpa.styles.prompts import split_prompts
    from fedvpa.styles.simulation import Simulation

    config, folder = SimulationConfig.parse(given), output_folder(out, "a simulation")
    policy = _policy_config(config, precision, loading)
    asked = _asked(config, policy, model, prompts, device)
    parts = split_prompts(asked.prompts, config, asked.prompts_file)
    with RunFolder(folder).locked():
        if check_place(folder, asked):
            say(f"{folder} holds this simulation already")
            return _result(folder, asked, Simulation.load(folder))
        if samples_from is not None and not (folder / SAMPLES).is_file():
            take_samples(folder, samples_from, asked)
        drawn = sampled(folder, asked, policy, parts.pairs, batch, device)
        return _result(folder, asked, label(folder, asked, parts, drawn))


def _policy_config(config: SimulationConfig, precision: Precision, loading: Mapping[str, Any] | None) -> PolicyConfig:
    """How the model is loaded and asked: as stage 2 loads and asks its base policy."""
    from fedvpa.policy.config import PolicyConfig

    candidates = {"max_new_tokens": config.max_new_tokens}
    return PolicyConfig.parse({"precision": precision, "candidates": candidates, "loading": dict(loading or {})})


def _asked(config: SimulationConfig, policy: PolicyConfig, model: str, prompts: Path, device: str) -> Asked:
    """What is asked for; the model is located and its tokenizer read, and its weights are not loaded."""
    from fedvpa.data.prompt_files import read_prompts
    from fedvpa.models.device import resolve_device, resolve_dtype
    from fedvpa.models.load import open_tokenizer
    from fedvpa.models.loading_config import DEFAULT
    from fedvpa.models.locate import locate
    from fedvpa.policy.base_samples import as_asked
    from fedvpa.runs.simulating import Asked
    from fedvpa.styles.users import find_population

    population, texts, source = (
        find_population(config.users),
        read_prompts(prompts),
        locate(model, policy.loading or DEFAULT),
    )
    asked = as_asked(texts, chat=bool(open_tokenizer(source).chat_template))
    dtype = str(resolve_dtype(policy.precision, resolve_device(device)))
    return Asked(config, population, asked, str(prompts), source, dtype)


def _result(folder: Path, asked: Asked, simulation: Simulation) -> SimulateResult:
    from collections import Counter

    from fedvpa.runs.simulating import ALIGN, JUDGE
    from fedvpa.styles.simulation import TABLE

    notes = simulation.notes
    return SimulateResult(
        out=folder,
        table=folder / TABLE,
        align_prompts=folder / ALIGN,
        judge_prompts=folder / JUDGE,
        users=dict(Counter(user.group or simulation.population for user in simulation.users)),
        pairs=len(simulation.users) * asked.config.pairs,
        bayes_accuracy=notes["bayes_accuracy"],
        bayes_accuracy_by_group=notes["bayes_accuracy_by_group"],
        agreement=notes["agreement"],
        ended=notes["sampling"]["ended"],
        properties=simulation.standard.to_dict()["properties"],
        groups=simulation.groups,
        next=_next(folder, asked),
    )


def _next(folder: Path, asked: Asked) -> list[str]:
    """The commands that compare methods on the table, align a policy on other prompts, and judge it on others again."""
    from fedvpa.runs.simulating import ALIGN, JUDGE
    from fedvpa.styles.simulation import TABLE

    def words(*given: str) -> str:
        return " ".join(map(shlex.quote, given))

    config, run = asked.config, words(str(folder / "run"))
    data = words("data.source=table", f"data.path={folder / TABLE}", f"features.model={asked.source.name}")
    data += f" partition.clients={config.clients}" + (f" partition.unseen={config.unseen}" if config.unseen else "")
    stage2 = words(
        f"policy.candidates.prompt_file={folder / ALIGN}",
        f"policy.candidates.max_new_tokens={config.max_new_tokens}",
        f"policy.candidates.temperature={config.temperature:g}",
        "policy.judging.judge=styles",
        f"policy.judging.settings.path={folder}",
        f"policy.judging.prompt_file={folder / JUDGE}",
    )
    return [
        f"fedvpa compare {data} --out {words(str(folder / 'table'))}",
        f"fedvpa train {data} {stage2} --out {run}",
        f"fedvpa align {run}",
        f"fedvpa evaluate {run} --policy",
    ]
