"""The report of a folder: which figures it gets, and the page that is written into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure

from fedvpa.core.errors import DataError, RunError
from fedvpa.core.files import read_own_lines, read_own_object, read_own_text
from fedvpa.evaluation.accuracy_results import FewShotPoint
from fedvpa.evaluation.latents import LatentReport
from fedvpa.evaluation.objective_curves import Lines, objectives_of
from fedvpa.evaluation.report.accuracy_figures import accuracy_figure, few_shot_figure, gap_figure
from fedvpa.evaluation.report.findings import accuracy_sentences, joined, policy_sentences, stage2_sentences
from fedvpa.evaluation.report.latent_figure import latent_figure
from fedvpa.evaluation.report.objectives import objectives_figure, objectives_text, reward_curves_figure
from fedvpa.evaluation.report.page import Report, ReportFigure, embedded, save_report
from fedvpa.evaluation.report.policy_figures import pareto_figure, switching_figure, win_rate_figure
from fedvpa.evaluation.report.stage2 import validation_figure
from fedvpa.evaluation.report.style import save_figure
from fedvpa.evaluation.report.training_figure import training_figure
from fedvpa.evaluation.samples import LabelledAnswer, SideBySide
from fedvpa.evaluation.summaries import ORACLE

Figures = dict[str, tuple[Callable[[], Figure], str]]
"""Name → what draws it, and its caption. What lacks the numbers for it raises DataError, which says what they are."""


def write_report(
    folder: Path,
    title: str,
    command: str,
    compared: Mapping[str, Any],
    figures: Figures,
    notes: Sequence[str] = (),
    *,
    policy: Mapping[str, Any] | None = None,
    histories: Mapping[str, Lines] | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> Path:
    """Save each figure as PNG, and all of them in one page; it says which are left out, and why.

    Args:
        folder: Of the run or comparison; gets ``report.html`` and ``figures/``.
        title: Of the page.
        command: The commands that make the run or comparison again, one a line.
        compared: What ``comparison.json`` or ``metrics.json`` holds.
        figures: Those that the page should have.
        notes: Further sentences for the page.
        policy: What ``policy/metrics.json`` of a run holds; None without stage 2.
        histories: Name of a policy → its history, of those that were trained towards several objectives.
        configuration: The settings that were really run; by default those of ``config.yaml``.

    Returns:
        The page.
    """
    embeddings, left_out = list[ReportFigure](), list[str]()
    for name, (draw, caption) in figures.items():
        heading = name.replace("_", " ").capitalize()
        try:
            figure = draw()
        except DataError as error:
            left_out.append(f"The figure “{heading}” is left out: {error}")
            continue
        save_figure(figure, folder / "figures" / f"{name}.png")
        embeddings.append(embedded(heading, figure, caption))
    page = Report(
        title=title,
        lead=joined([*accuracy_sentences(compared), *policy_sentences(compared), *stage2_sentences(policy or {})]),
        command=command,
        comparison=compared,
        figures=embeddings,
        latents=_latents(compared),
        policies=compared if compared.get("policy_summary") else None,
        stage2=policy,
        steps=_steps(folder, policy or {}),
        objectives=objectives_text(histories or {}),
        audit=_json(folder / "audit.json") or None,
        configuration=yaml_mapping(folder / "config.yaml") if configuration is None else configuration,
        environment=_json(folder / "environment.json"),
        notes=[*notes, *compared.get("policy_notes", []), *left_out],
        samples=[
            SideBySide(sample["prompt"], tuple(LabelledAnswer(**answer) for answer in sample["answers"]))
            for sample in compared.get("policy_samples", [])
        ],
    )
    save_report(folder / "report.html", page)
    return folder / "report.html"


def accuracy_figures(compared: Mapping[str, Any]) -> Figures:
    """The pictures of stage 1."""
    figures: Figures = {}
    sizes = sorted({row["n_clients"] for row in compared["summary"]})
    for size in sizes:
        caption = (
            "Accuracy on held-out pairs of the clients' own, mean over clients, with 95% intervals of these trained "
            "models; the table above has those of the method. A coin gets half of the pairs right."
        )
        figures[f"accuracy_{size}_clients"] = (partial(accuracy_figure, compared, size, compared.get("bayes")), caption)
    methods = {row["method"] for row in compared["summary"]}
    known = [row for row in compared["summary"] if row["gap_closed"] is not None]
    if {"global", "oracle"} < methods and any(row["method"] not in ("global", "oracle", "bayes") for row in known):
        figures["gap_closed"] = (partial(gap_figure, compared), "0 is one global model, 1 is one model per true group.")
    return figures


def policy_figures(compared: Mapping[str, Any]) -> Figures:
    """The pictures of stage 2; none where policies were not compared."""
    figures: Figures = {}
    for size in sorted({row["n_clients"] for row in compared.get("policy_summary", [])}):
        figures[f"win_rates_{size}_clients"] = (
            partial(win_rate_figure, compared, size),
            "Answers to prompts that no training saw, judged under each preference with the users' own z.",
        )
        figures[f"pareto_{size}_clients"] = (
            partial(pareto_figure, compared, size),
            "Utility gained over the base policy under both preferences; a monolithic policy has to trade them.",
        )
    if "switching" in compared:
        figures["switching"] = (
            partial(switching_figure, compared["switching"]),
            "One policy; z moves in a straight line from one preference to the other.",
        )
    return figures


def new_user_figures(compared: Mapping[str, Any]) -> Figures:
    """The latents of the clients, and what new users gain by the pairs they give; where a comparison has kept them."""
    figures: Figures = {}
    if "latent_map" in compared:
        found = compared["latent_map"]
        means, prototypes = (np.array(found[name], dtype=np.float64) for name in ("means", "prototypes"))
        figures["latent_map"] = (
            partial(latent_figure, means, found["groups"], prototypes),
            f"{found['caption']} Training never read the groups that colour them.",
        )
    if "few_shot" in compared:
        oracle = {
            row["method"]: row["unseen_mean"]
            for row in compared["summary"]
            if row["method"] == ORACLE and row["unseen_mean"] is not None
        }
        curve = [FewShotPoint(**point) for point in compared["few_shot"]]
        figures["few_shot"] = (
            partial(few_shot_figure, curve, oracle),
            "Users that training never saw, by the number of labelled pairs they give.",
        )
    return figures


def _steps(folder: Path, policy: Mapping[str, Any]) -> dict[str, Lines]:
    """Name of a policy that its run's selector trained → the lines of its history."""
    paths = {
        name: folder / "policy" / f"history{f'-{name}' if name else ''}.jsonl"
        for name, notes in policy.get("policies", {}).items()
        if "stopped" in notes
    }
    return {name: json_lines(path) for name, path in paths.items() if path.is_file()}


def stage2_figures(folder: Path, policy: Mapping[str, Any]) -> Figures:
    """The looks at validation prompts of each policy of a run; none of a policy that has none, as FedDPO's."""
    figures: Figures = {}
    for name, notes in policy.get("policies", {}).items():
        path = folder / "policy" / f"history{f'-{name}' if name else ''}.jsonl"
        if "stopped" in notes and path.is_file():
            figures[f"validation_{name or 'policy'}"] = (
                partial(validation_figure, json_lines(path), notes["stopped"]),
                "The weights of the look that is marked were kept.",
            )
    for name, lines in objective_histories(folder, policy).items():
        figures[f"objectives_{name or 'policy'}"] = (
            partial(objectives_figure, lines),
            "Rewards are those of the samples that clients train on. Disagreement: the mean distance of a client's "
            "weights λ from the cohort's mean. At a vertex one objective has all the weight.",
        )
    return figures


def objective_histories(folder: Path, policy: Mapping[str, Any]) -> dict[str, Lines]:
    """Name → history of those policies of a run that were trained towards several objectives."""
    found: dict[str, Lines] = {}
    for name in policy.get("policies", {}):
        path = folder / "policy" / f"history{f'-{name}' if name else ''}.jsonl"
        lines = json_lines(path) if path.is_file() else []
        if objectives_of(lines):
            found[name] = lines
    return found


def reward_figures(histories: Mapping[str, Sequence[Lines]]) -> Figures:
    """The reward curves of a comparison's methods; none where none was trained towards several objectives.

    Args:
        histories: Method → the history of each of its runs.
    """
    if not histories:
        return {}
    caption = "Mean reward of the samples that clients train on; bands are from the lowest to the highest run."
    return {"rewards_by_round": (partial(reward_curves_figure, histories), caption)}


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one on each line."""
    return read_own_lines(path)


def history_figures(folder: Path) -> Figures:
    """The losses over the rounds of a run; none for a comparison."""
    path = folder / "history.jsonl"
    if not path.is_file():
        return {}
    lines = [line for line in json_lines(path) if line["losses"]]
    if not lines:
        return {}
    names = sorted(set.intersection(*(set(line["losses"]) for line in lines)))
    losses = {name: [line["losses"][name] for line in lines] for name in names}
    rounds, seconds = [line["round"] for line in lines], [line["seconds"] for line in lines]
    return {
        "training": (
            partial(training_figure, rounds, losses, seconds),
            "Mean losses of the cohort's last local step, and the time of the rounds.",
        )
    }


def _latents(compared: Mapping[str, Any]) -> dict[str, LatentReport]:
    """The diagnostics of a run, with their alarms; a comparison has none."""
    found = compared.get("latents")
    return {} if found is None else {compared["method"]: LatentReport(**found | {"alarms": tuple(found["alarms"])})}


def yaml_mapping(path: Path) -> dict[str, Any]:
    """What a YAML file that this library wrote holds; empty without the file.

    Raises:
        RunError: If it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(read_own_text(path))
    except yaml.YAMLError as error:
        raise RunError(f"is damaged: it is no YAML ({error}).", fix="Restore it.", where=str(path)) from error
    if not isinstance(found, dict):
        raise RunError("is damaged: it holds no keys and values.", fix="Restore it.", where=str(path))
    return found


def _json(path: Path) -> dict[str, Any]:
    return read_own_object(path) if path.is_file() else {}
