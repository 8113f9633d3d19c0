"""``fedvpa report``: figures and one self-contained page, from a run directory or a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from shlex import quote
from typing import Any

from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import read_own_object, user_path
from fedvpa.runs.folder import RunFolder


@dataclass(frozen=True)
class ReportResult:
    """A written report.

    Attributes:
        page: ``report.html``; the figures lie in ``figures/`` beside it.
    """

    page: Path

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"report": str(self.page)}


def report(folder: str | PathLike[str]) -> ReportResult:
    """Write ``report.html`` and ``figures/`` into a run directory or a comparison's folder.

    Raises:
        RunError: If it holds neither ``metrics.json`` nor ``comparison.json``.
    """
    place = user_path(folder)
    path = next((place / name for name in ("comparison.json", "metrics.json") if (place / name).is_file()), None)
    if path is None:
        raise RunError("holds neither comparison.json nor metrics.json.", fix=_next_step(place), where=str(folder))
    return ReportResult(_write(place, read_own_object(path)))


def _write(place: Path, compared: Mapping[str, Any]) -> Path:
    """The page of a finished run or comparison."""
    from fedvpa.evaluation.report.build import (
        accuracy_figures,
        history_figures,
        new_user_figures,
        objective_histories,
        policy_figures,
        reward_figures,
        stage2_figures,
        write_report,
    )

    policy = _policy(place)
    compared = {**compared, **_judged(policy)}
    figures = accuracy_figures(compared) | new_user_figures(compared) | policy_figures(compared)
    figures |= history_figures(place) | stage2_figures(place, policy or {}) | reward_figures(_compared_histories(place))
    title = compared.get("title", f"fedvpa: {place.name}")
    command, configuration = _commands(place, compared, policy), _settings(place, compared, policy)
    return write_report(
        place,
        title,
        command,
        compared,
        figures,
        _notes(compared, policy),
        policy=policy,
        histories=objective_histories(place, policy or {}),
        configuration=configuration,
    )


def _compared_histories(place: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """Method → the histories of a comparison's policies that were trained towards several objectives."""
    from fedvpa.evaluation.report.build import objective_histories

    found: dict[str, list[Any]] = {}
    for run in sorted((place / "policies").glob("*")):
        policy = _policy(run)
        if policy is not None:
            for lines in objective_histories(run, policy).values():
                found.setdefault(str(policy["method"]), []).append(lines)
    return found


def _policy(place: Path) -> dict[str, Any] | None:
    """What ``policy/metrics.json`` of a run holds; None without stage 2."""
    path = RunFolder(place).policy / "metrics.json"
    return read_own_object(path) if path.is_file() else None


def _judged(policy: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a judge said of a run's policies, by the keys that a comparison has for it; empty where none was asked."""
    return {name: value for name, value in (policy or {}).items() if name.startswith("policy_") or name == "switching"}


def _trained_with(place: Path, policy: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that a run's policies were trained with."""
    from fedvpa.policy.files import read_policy

    settings: Mapping[str, Any] = read_policy(RunFolder(place).policy / next(iter(policy["policies"])))["settings"]
    return settings


def _settings(place: Path, compared: Mapping[str, Any], policy: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The settings that were really run: those of stage 2 as it was trained, and none where it was not run."""
    from fedvpa.evaluation.report.build import yaml_mapping

    values = yaml_mapping(RunFolder(place).config_file)
    if policy is None and "policy_summary" in compared:
        return values
    trained = {} if policy is None else {"policy": _trained_with(place, policy)}
    return {name: value for name, value in values.items() if name != "policy"} | trained


def _commands(place: Path, compared: Mapping[str, Any], policy: Mapping[str, Any] | None) -> str:
    """What makes the run or comparison again: its own commands, one a line."""
    from fedvpa.runs.commands import align_command, compare_command, train_command
    from fedvpa.runs.config import read_config

    file = RunFolder(place).config_file
    if "command" in compared:
        return str(compared["command"])
    if not file.is_file():
        return ""
    try:
        config = read_config(file)
    except ConfigError:
        return ""  # of an earlier release, whose settings this one cannot repeat; the page still shows them
    if "controls" in compared and "rounds" not in compared:  # a comparison of an earlier release keeps no command
        return compare_command(config, file, place, **_options(compared))
    lines = [train_command(config, file, place)]
    if policy is not None:
        lines.append(align_command(config, _trained_with(place, policy), policy["method"], place))
    return "\n".join(lines)


def _options(compared: Mapping[str, Any]) -> dict[str, Any]:
    """What ``compare`` was given, as far as its rows say."""
    policies = "policy_rows" in compared
    rows = compared["policy_rows" if policies else "rows"]
    seeds = sorted({row["seed"] for row in rows})
    return {
        "stage": "policy" if policies else None,
        "methods": list(dict.fromkeys(row["method"] for row in rows)),
        "clients": sorted({row["n_clients"] for row in rows}),
        "seeds": len(seeds),
        "first_seed": seeds[0] or None,
    }


def _notes(compared: Mapping[str, Any], policy: Mapping[str, Any] | None) -> list[str]:
    """What a reader has to know to judge the numbers."""
    found = []
    if "policy_summary" not in compared and policy is None:
        found.append("Stage 2 was not run here: there is no policy, and no setting of one is shown.")
    if not any(row["method"] == "global" for row in compared["summary"]):
        found.append(
            "No global model was trained here. Whether a personal selector is better than one model for everybody is "
            "what fedvpa compare shows."
        )
    return found


def _next_step(place: Path) -> str:
    """What to do about a folder that has no result yet."""
    if (place / "cells").is_dir():
        return f"Finish the comparison: give fedvpa compare --out {quote(str(place))} again, with the same settings."
    if RunFolder(place).checkpoint.is_file():
        return f"Finish its training: fedvpa train --resume {quote(str(place))}"
    return "Give a finished run or comparison."
