"""The policies of a run directory, judged: of a run that a user aligned, and of a cell of a comparison alike.

Three steps, each kept: policies are trained and saved, their answers are sampled, a judge compares them. What fails or
changes later never costs what came before: another judge, rubric or number of prompts is judged anew from the same
policies and, where they are the same, the same answers.

``policy/`` gets ``answers.jsonl`` (see :mod:`fedvpa.experiments.answers`), ``outcomes.jsonl`` with a line for each
duel, ``path-N.jsonl`` of the same kind where a path leads from one preference to another, and last of all
``judging.json``, which says what judged them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedvpa.alignment.prompts import evaluation_prompts
from fedvpa.alignment.stage1 import Stage1, Users
from fedvpa.core.config import flat
from fedvpa.core.content import content_hash, hash_files
from fedvpa.core.errors import RunError
from fedvpa.core.files import read_own_object, write_json
from fedvpa.core.identity import digest
from fedvpa.core.progress import say, track
from fedvpa.core.version import __version__
from fedvpa.data.schema import Text
from fedvpa.evaluation.judges.base import Judge
from fedvpa.evaluation.outcomes import Outcome, load_outcomes, save_outcomes
from fedvpa.experiments.answers import BASE, Answers, whole_blocks
from fedvpa.experiments.contests import PATH_STEPS, Contest, Served, contests, left_out, path, path_ends, why_no_path
from fedvpa.experiments.duels import answered, judged
from fedvpa.experiments.judge_pairs import accuracy_of
from fedvpa.policy.files import read_policy, read_preferences
from fedvpa.policy.policy import Policy, load_policy
from fedvpa.policy.preference import PROTOTYPE
from fedvpa.policy.sampling import Sampling
from fedvpa.policy.templates import with_base
from fedvpa.rewards.held_out_files import is_judge, judge_content
from fedvpa.rewards.objective_names import STYLES
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.identity import base_content, model_content, prompts_content
from fedvpa.runs.policies import read_policy_metrics
from fedvpa.runs.stage1 import open_stage1
from fedvpa.runs.tastes import own_tastes
from fedvpa.selector.posterior import single
from fedvpa.styles.simulation import FILE
from fedvpa.world.users import find_population

VERDICTS = "verdicts.jsonl"
"""The file of a comparison, or of a run, that keeps what a paid judge said."""

JUDGING = "judging.json"
"""Written last, so that its presence says that the outcomes are whole."""

UNJUDGED = ("policy.judging.max_calls", "policy.judging.missing_limit")
"""Keys that stop judging, and change no verdict."""


@dataclass(frozen=True, repr=False)
class Candidate:
    """What is judged in a run directory.

    Attributes:
        run: The run.
        config: Of the run, with stage 2 as its policies were trained, and judging as it is asked for.
        served: The policies and their users.
        prompts: Unseen prompts, in whole blocks of answers.
        along: Whether the path from one preference to another is judged as well.
    """

    run: RunFolder
    config: RunConfig
    served: Served
    prompts: Sequence[Text]
    along: bool

    @property
    def count(self) -> int:
        """How many of the prompts are judged."""
        return min(self.config.policy.judging.prompts, len(self.prompts))

    def contests(self) -> tuple[list[Contest], list[list[Contest]]]:
        """The contests, and those at each step of the path."""
        count = len(self.prompts)
        return contests(self.served, count), path(self.served, count) if self.along else []


@dataclass(frozen=True)
class Judged:
    """What was judged.

    Attributes:
        outcomes: Of all contests.
        path: Share of the way → outcomes there; empty without a path.
        rising: The preference at the end of the path.
        notes: What there is none of, and why, in sentences.
        accuracy: Of a judge that was trained on labelled pairs: preference → its accuracy on held-out ones, as JSON.
    """

    outcomes: Sequence[Outcome]
    path: Mapping[float, Sequence[Outcome]] = field(default_factory=dict)
    rising: str | None = None
    notes: tuple[str, ...] = ()
    accuracy: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def open_candidate(run: RunFolder, config: RunConfig, *, along: bool) -> Candidate:
    """The policies of a run and the users that they serve; no language model is loaded.

    Args:
        run: A run directory with both stages.
        config: Of the run, with judging as it is asked for; says where data and language models are now.
        along: Whether the path from one preference to another is judged as well.

    Raises:
        RunError: If it holds no policy, or its data are not those that it was trained on.
        DataError: If there is no prompt that no training has seen.
    """
    metrics = read_policy_metrics(run)
    stage = open_stage1(run, config)
    prompts = evaluation_prompts(stage, whole_blocks(config.policy.judging.prompts))
    return Candidate(run, config, _served(run, stage, metrics, config), prompts, along)


def sample_answers(candidate: Candidate, policies: Mapping[str, Policy] | None = None) -> None:
    """Sample the answers that are not kept yet.

    Args:
        candidate: Who answers.
        policies: By name, if they are in memory; else they are loaded when they are needed.
    """
    book = _book(candidate, policies)
    whole, steps = candidate.contests()
    asked = [one for step in (whole, *steps) for one in step]
    book.of(BASE, None, "base")
    for one in track(asked, f"{candidate.served.method}: answers", len(asked), unit="sets"):
        book.of(one.policy, one.z, *one.stream)


def judge_policies(candidate: Candidate, judge: Judge) -> None:
    """Judge the answers, which are sampled first where they are not kept, and keep the outcomes.

    Raises:
        InputError: If the judge cannot judge them.
        JudgeError: If it is out of order, or too many verdicts are missing; what was judged before is kept then.
    """
    rules, served = candidate.config.policy.judging, candidate.served
    whole, steps = candidate.contests()
    book = _book(candidate, None)
    found = [answered(one, book, candidate.count) for step in (whole, *steps) for one in step]
    outcomes = judged(served, found, judge, rules.missing_limit)
    saved = candidate.run.policy / JUDGING
    saved.unlink(missing_ok=True)
    ends = path_ends(served) if steps else ()
    _save(candidate.run, outcomes[: len(whole)], outcomes[len(whole) :], len(ends))
    missing_path = why_no_path(served) if candidate.along else None
    notes = [*left_out(served), *([f"No switching curve: {missing_path}"] if missing_path else [])]
    write_json(
        saved,
        {
            "identity": judging_identity(candidate.run, candidate.config, along=candidate.along),
            "judge": judge.name,
            "settings": rules.model_dump(mode="json"),
            "prompts": candidate.count,
            "path": list(ends),
            "notes": notes,
            "accuracy": accuracy_of(judge),
        },
    )


def _save(run: RunFolder, whole: Sequence[Sequence[Outcome]], along: Sequence[Sequence[Outcome]], ends: int) -> None:
    """Write the outcomes of all contests, and those of the path, which has ``ends`` contests at each step."""
    save_outcomes(outcomes_path(run), [one for own in whole for one in own])
    for step in range(PATH_STEPS):
        step_path(run, step).unlink(missing_ok=True)
        if along:
            there = along[step * ends : (step + 1) * ends]
            save_outcomes(step_path(run, step), [one for own in there for one in own])


def is_judged(run: RunFolder, config: RunConfig, *, along: bool) -> bool:
    """Whether the policies of a run were judged as ``config`` asks for."""
    saved = run.policy / JUDGING
    if not saved.is_file() or not (run.policy / "metrics.json").is_file():
        return False
    return bool(read_own_object(saved).get("identity") == judging_identity(run, config, along=along))


def read_judged(run: RunFolder) -> Judged:
    """What :func:`judge_policies` kept."""
    notes = read_own_object(run.policy / JUDGING)
    ends = notes["path"]
    shares = {step / (PATH_STEPS - 1): step_path(run, step) for step in range(PATH_STEPS if ends else 0)}
    return Judged(
        load_outcomes(outcomes_path(run)),
        {share: load_outcomes(file) for share, file in shares.items()},
        ends[1] if ends else None,
        tuple(notes["notes"]),
        notes.get("accuracy", {}),
    )


def judging_identity(run: RunFolder, config: RunConfig, *, along: bool) -> str:
    """Names what the outcomes depend on: the policies, the judge with its settings and models, and the prompts."""
    rules = config.policy.judging
    settings = {f"policy.judging.{key}": value for key, value in flat(rules.model_dump(mode="json"))}
    parts = {key: value for key, value in settings.items() if key not in UNJUDGED}
    models = {key: model_content(value) for key, value in parts.items() if _is_model(value)}
    models |= {key: judge_content(Path(value).expanduser()) for key, value in parts.items() if _is_judge(value)}
    simulation = Path(str(rules.settings.get("path", ""))).expanduser() / FILE
    if config.judge_name == STYLES and simulation.is_file():
        models["policy.judging.settings.path"] = content_hash(simulation)
    models["policy.judging.prompt_file"] = prompts_content(rules.prompt_file)
    policies = hash_files(run.policy.rglob("*.safetensors"))
    judge = {"judge": config.judge_name, "along": str(along), "policies": policies, "version": __version__}
    return digest({**parts, **models, **judge})


def outcomes_path(run: RunFolder) -> Path:
    """Where the duels of a run's policies are kept."""
    return run.policy / "outcomes.jsonl"


def step_path(run: RunFolder, step: int) -> Path:
    """Where the duels at one step of the way from one preference to another are kept; not there without one."""
    return run.policy / f"path-{step}.jsonl"


def _is_model(value: str) -> bool:
    """Whether a setting of a judge names a model folder, whose content counts."""
    return bool(value) and (Path(value).expanduser() / "config.json").is_file()


def _is_judge(value: str) -> bool:
    """Whether a setting of a judge names the folder of a trained judge, whose content counts."""
    return bool(value) and is_judge(Path(value).expanduser())


def _served(run: RunFolder, stage: Stage1, metrics: Mapping[str, Any], config: RunConfig) -> Served:
    names = tuple(metrics["policies"])
    personal = read_policy(run.policy / names[0])["conditioner"] is not None
    nobody = not (stage.seen.ids or stage.unseen.ids)
    return Served(
        method=metrics["method"],
        n_clients=len(stage.seen.ids) or run.clients_trained(),
        seed=stage.seed,
        policies=names,
        personal=personal,
        seen=_stand_ins(run, stage) if personal and nobody else stage.seen,
        unseen=stage.unseen,
        latents=read_preferences(run.policy),
        groups=() if nobody or stage.groups else _groups_of_pairs(stage, config),
        tastes=own_tastes(config, (*stage.seen.ids, *stage.unseen.ids)),
    )


def _groups_of_pairs(stage: Stage1, config: RunConfig) -> tuple[str, ...]:
    """The groups that the data name, whoever holds them; none where the run's texts are not there."""
    if stage.world:
        return tuple(sorted(utility.name for utility in find_population(config.data.population).utilities))
    return tuple(stage.pairs.table.groups()) if stage.has_text else ()


def _stand_ins(run: RunFolder, stage: Stage1) -> Users:
    """Where a run's users are on other machines, its prototypes answer in their place, in turn.

    Raises:
        RunError: If the method has none.
    """
    if not stage.algorithm.has_prototypes:
        raise RunError(
            f"knows no z that its policy could be judged at: its users are on other machines, and {stage.method!r} has "
            "no prototypes.",
            fix="Judge answers for users on their own machines: fedvpa generate RUN --preference @pairs.jsonl.",
            where=str(run),
        )
    z = stage.selector.prototypes
    say(f"the users of {run} are on other machines: its policy is judged at each of its {len(z)} prototypes in turn")
    names = tuple(f"{PROTOTYPE}{number}" for number in range(len(z)))
    return Users(names, (None,) * len(z), single(z, torch.zeros_like(z)))


def _book(candidate: Candidate, policies: Mapping[str, Policy] | None) -> Answers:
    run, config, names = candidate.run, candidate.config, candidate.served.policies
    rules, limits = config.policy.judging, config.policy.candidates
    shape = f"{base_content(config)} {config.policy.precision}"
    contents = {name: f"{shape} {hash_files(_files(run.policy / name))}" for name in names}
    sampling = Sampling(rules.temperature, rules.top_p, limits.max_new_tokens, limits.batch)
    limit = read_policy(run.policy / names[0])["max_prompt_tokens"]
    opened = dict(policies or {})

    def policy_of(name: str) -> Policy:
        real = names[0] if name == BASE else name
        if real not in opened:
            opened.clear()  # one at a time: each holds its base model
            here = with_base(config.policy, config.features)
            opened[real] = load_policy(run.policy / real, here, device=config.features.device).eval()
        return opened[real]

    return Answers(
        candidate.prompts,
        sampling,
        config.seed,
        contents | {BASE: f"{shape} {limit}"},
        policy_of,
        run.policy / "answers.jsonl",
    )


def _files(folder: Path) -> list[Path]:
    """What decides the answers of a policy, beside its base model."""
    return [*folder.glob("*.safetensors"), folder / "adapter_config.json", folder / "policy.json"]
