"""``fedvpa report``: figures and one self-contained page, from a run directory or a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from fedvpa.evaluation.latents import LatentReport
from fedvpa.evaluation.report.figures import accuracy_figure, gap_figure, training_figure
from fedvpa.evaluation.report.page import Report, ReportFigure, embedded, save_report
from fedvpa.evaluation.report.policy_figures import pareto_figure, switching_figure, win_rate_figure
from fedvpa.evaluation.report.style import save_figure
from fedvpa.evaluation.win_rates import Answer, SideBySide
from fedvpa.runs.folder import results_file


def report(folder: Path) -> Path:
    """Write ``report.html`` and ``figures/`` into a run directory or a comparison's folder.

    Raises:
        RunError: If it holds neither ``metrics.json`` nor ``comparison.json``.
    """
    compared = json.loads(results_file(folder).read_text(encoding="utf-8"))
    figures = _comparison_figures(compared) | policy_figures(compared) | _history_figures(folder)
    return write_report(folder, f"fedvpa: {folder.name}", f"fedvpa report {folder}", compared, figures)


def write_report(
    folder: Path,
    title: str,
    command: str,
    compared: Mapping[str, Any],
    figures: Mapping[str, tuple[Figure, str]],
    notes: Sequence[str] = (),
) -> Path:
    """Save each figure as PNG and all of them in one page."""
    embeddings: list[ReportFigure] = []
    for name, (figure, caption) in figures.items():
        save_figure(figure, folder / "figures" / f"{name}.png")
        embeddings.append(embedded(name.replace("_", " ").capitalize(), figure, caption))
    page = Report(
        title=title,
        command=command,
        comparison=compared,
        figures=embeddings,
        latents=_latents(compared),
        configuration=_yaml(folder / "config.yaml"),
        environment=_json(folder / "environment.json"),
        notes=notes,
        samples=[
            SideBySide(sample["prompt"], [Answer(**answer) for answer in sample["answers"]])
            for sample in compared.get("policy_samples", [])
        ],
    )
    save_report(folder / "report.html", page)
    return folder / "report.html"


def _comparison_figures(compared: Mapping[str, Any]) -> dict[str, tuple[Figure, str]]:
    figures = {}
    sizes = sorted({row["n_clients"] for row in compared["summary"]})
    for size in sizes:
        caption = "Mean over clients with 95% intervals (bootstrap over clients within seeds)."
        figures[f"accuracy_{size}_clients"] = (accuracy_figure(compared, size), caption)
    methods = {row["method"] for row in compared["summary"]}
    known = [row for row in compared["summary"] if row["gap_closed"] is not None]
    if {"global", "oracle"} < methods and any(row["method"] not in ("global", "oracle") for row in known):
        figures["gap_closed"] = (gap_figure(compared), "0 is one global model, 1 is one model per true group.")
    return figures


def policy_figures(compared: Mapping[str, Any]) -> dict[str, tuple[Figure, str]]:
    """The pictures of stage 2; none where policies were not compared."""
    figures = {}
    for size in sorted({row["n_clients"] for row in compared.get("policy_summary", [])}):
        figures[f"win_rates_{size}_clients"] = (
            win_rate_figure(compared, size),
            "Answers to prompts that no training saw, judged under each preference with the users' own z.",
        )
        figures[f"pareto_{size}_clients"] = (
            pareto_figure(compared, size),
            "Utility gained over the base policy under both preferences; a monolithic policy has to trade them.",
        )
    if "switching" in compared:
        figures["switching"] = (
            switching_figure(compared["switching"]),
            "One policy; z moves in a straight line from one preference to the other.",
        )
    return figures


def _history_figures(folder: Path) -> dict[str, tuple[Figure, str]]:
    path = folder / "history.jsonl"
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["losses"]]
    if not lines:
        return {}
    names = sorted(set.intersection(*(set(line["losses"]) for line in lines)))
    losses = {name: [line["losses"][name] for line in lines] for name in names}
    figure = training_figure([line["round"] for line in lines], losses, [line["seconds"] for line in lines])
    return {"training": (figure, "Mean losses of the cohort's last local step, and the time of the rounds.")}


def _latents(compared: Mapping[str, Any]) -> dict[str, LatentReport]:
    """The diagnostics of a run, with their alarms; a comparison has none."""
    found = compared.get("latents")
    return {} if found is None else {compared["method"]: LatentReport(**found | {"alarms": tuple(found["alarms"])})}


def _yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
