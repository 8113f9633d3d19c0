"""``fedvpa compare``: methods × numbers of clients × seeds, side by side, with honest intervals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import ConfigError, DataError, InputError, RunError, nearest
from fedvpa.core.files import output_folder, user_path, write_json, write_text
from fedvpa.core.options import column_option, option
from fedvpa.core.signals import interrupting
from fedvpa.experiments.asked import FOUR_WAY, check_views
from fedvpa.experiments.methods import (
    DEFAULT_METHODS,
    DEFAULT_POLICY_METHODS,
    OWN_WINS,
    STAGES,
    Stage,
    policy_methods,
)
from fedvpa.experiments.processes import check_jobs

if TYPE_CHECKING:
    from fedvpa.experiments.results import ComparisonResult
    from fedvpa.runs.config import RunConfig


def compare(
    config: RunConfig,
    *,
    stage: Stage = "selector",
    methods: Sequence[str] | None = None,
    clients: Sequence[int] | None = None,
    seeds: int = 5,
    first_seed: int = 0,
    holdout: str | os.PathLike[str] | None = None,
    variants: str | os.PathLike[str] | None = None,
    shots: Sequence[int] | None = None,
    protocol: str | None = None,
    out: str | os.PathLike[str],
    jobs: int | None = None,
) -> ComparisonResult:
    """Run every (method, clients, seed) and write ``out/comparison.json``.

    Runs that an earlier call finished under the same configuration are read instead of run again.

    Args:
        config: What all runs share.
        stage: ``selector``, or ``policy``: both stages, on equal terms.
        methods: Names of methods; by default those of the stage, without those that read true groups where the data
            say none. ``own_wins`` is a row too, by default where users rate the same responses in several pairs.
        clients: Numbers of seen clients. By default 10, 50 and 100; where a client is a user of the data,
            ``partition.clients``, or all users that can be split under each seed.
        seeds: How many seeds.
        first_seed: The first of them.
        holdout: Further labelled pairs, seen by nobody, on which every client is scored with those of its own group;
            a file, or the folder of another source. For the selector stage.
        variants: A YAML file of named variants of ``config.method``, which become rows; see
            :mod:`fedvpa.experiments.variants`. Each is compared with the method (``ablations``). For the selector
            stage.
        shots: Numbers of labelled pairs that unseen users give: each method against ``global`` at each (``shots``).
            For the selector stage, with ``partition.unseen``.
        protocol: ``four-way`` for seen and unseen users on seen and unseen prompts (``four_way``); some training pairs
            are set aside for it. For the selector stage.
        out: The folder to write to.
        jobs: Processes, each with one thread; by default one per core, and where policies train on GPUs one for each
            GPU. With 1 this process alone. Results do not
            depend on it. A script that starts processes has to do so below ``if __name__ == "__main__":``.

    Returns:
        What ``comparison.json`` holds, by stage.

    Raises:
        InputError: If a method, the configuration, the judge or the data cannot be used; nothing has run then.
        FedvpaError: If a run fails; it is named.
        Interrupted: After SIGINT or SIGTERM; finished runs are kept.
    """
    out, held = output_folder(out, "a comparison"), None if holdout is None else user_path(holdout)
    if (out / "history.jsonl").is_file():
        what = "holds a run, whose files the comparison would replace."
        raise RunError(what, fix="Choose another folder.", where=str(out))
    names = _checked_names(stage, methods)
    _check_numbers(clients, seeds, first_seed, jobs)
    if held is not None:
        _check_holdout(config, stage, held)
    check_views(config, stage, names, variants, shots, protocol)
    config.check_engine()
    config.check_paths()
    if stage == "policy" and config.privacy.on:
        from fedvpa.runs.released import check_methods

        check_methods(config, names)
    from fedvpa.experiments.cells import Views
    from fedvpa.experiments.population import default_clients
    from fedvpa.experiments.variants import read_variants
    from fedvpa.runs.commands import compare_command

    if clients is None:
        clients = default_clients(config, seeds, first_seed)
    size: dict[str, Any] = {"clients": clients, "seeds": seeds, "first_seed": first_seed, "out": out}
    options: dict[str, Any] = {"stage": stage if stage == "policy" else None, "methods": methods, "clients": clients}
    options |= {"seeds": seeds, "first_seed": first_seed or None, "holdout": held}
    options |= {"variants": variants and str(variants), "shots": shots or None, "protocol": protocol}
    page = {"command": compare_command(config, out / "config.yaml", out, **options)}
    with interrupting(f"the comparison stopped. Its finished runs are kept in {out}, and the same command goes on."):
        _check_machinery(config, names)
        views: dict[str, Any] = {"views": Views(tuple(shots or ()), protocol == FOUR_WAY)}
        if variants is not None:
            views["variants"] = read_variants(user_path(variants), config)
            for name, run in views["variants"].items():
                _check_machinery(run, [run.method], name)
            names = names if config.method in names else (config.method, *names)
        if stage == "selector" and methods is None:
            names = _with_own_wins(config, names, size)
        names = _with_groups(config, names, size, asked=methods is not None)
        if stage == "policy":
            _check_judging(config, names, size)
        result = replace(_compare_selectors(config, names, size | views, held, jobs), page=page)
        write_result(result)
        return _compare_policies(config, names, size, jobs, result) if stage == "policy" else result


def _checked_names(stage: str, methods: Sequence[str] | None) -> tuple[str, ...]:
    """The methods to compare.

    Raises:
        ConfigError: If there is no such stage or method, or a method is given twice.
    """
    from fedvpa.algorithms.registry import METHODS

    if stage not in STAGES:
        raise ConfigError(f"There is no stage {stage!r}.", fix=nearest(stage, STAGES))
    if methods is None:
        return DEFAULT_POLICY_METHODS if stage == "policy" else DEFAULT_METHODS
    known = policy_methods() if stage == "policy" else METHODS.names()
    if not methods:
        raise ConfigError("No method is given.", fix=f"Give some of {', '.join(known)}.")
    for number, name in enumerate(methods):
        if stage == "selector":
            if name != OWN_WINS:
                METHODS.check(name)
        elif name not in known:
            raise ConfigError(f"There is no method {name!r} with a policy.", fix=nearest(name, known))
        if name in methods[:number]:
            raise ConfigError(f"The method {name!r} is given twice.", fix="Give it once.")
    return tuple(methods)


def write_result(result: ComparisonResult) -> None:
    """Write ``comparison.json``."""
    write_json(result.out / "comparison.json", result.to_dict())


def _check_numbers(clients: Sequence[int] | None, seeds: int, first_seed: int, jobs: int | None) -> None:
    sizes = (1,) if clients is None else clients
    if not sizes or seeds < 1:
        raise ConfigError("There is nothing to compare.", fix="Give at least one number of clients and one seed.")
    if len(set(sizes)) < len(sizes):
        raise ConfigError("A number of clients is given twice.", fix="Give each once.")
    for name, number, least in (("clients", min(sizes), 1), ("first_seed", first_seed, 0)):
        if number < least:
            raise ConfigError(f"{name} = {number} is too small.", fix=f"Give {least} or more.")
    check_jobs(jobs)


def _check_holdout(config: RunConfig, stage: str, holdout: Path) -> None:
    if stage == "policy":
        raise ConfigError(
            "A hold-out is for the selector stage, where clients are scored on pairs.",
            fix=f"Leave out {option('holdout')}, or give {option('stage', 'selector')}.",
        )
    if config.data.source == "world":
        raise DataError(
            f"{option('holdout')} needs a file of pairs with groups, and the bundled world has none.",
            fix="Use unseen clients (partition.unseen) instead.",
        )
    from fedvpa.data.shards import is_hub_id

    if not holdout.exists() and not is_hub_id(str(holdout)):
        raise DataError("There is no such file.", fix=f"Check the path of {option('holdout')}.", where=str(holdout))


def _check_machinery(config: RunConfig, methods: Sequence[str], variant: str = "") -> None:
    """Raise what methods have against the configuration, before anything runs."""
    from fedvpa.algorithms.registry import METHODS, make
    from fedvpa.runs.earlier import warn_of_new_meaning

    for name in methods:
        if name not in METHODS:
            continue
        warn_of_new_meaning(config.model_copy(update={"method": name}))
        try:
            make(name, config.method_config)
        except InputError as error:
            fix = f"{error.fix} Or leave {name} out of {option('methods')}."
            if variant:
                fix = f"{error.fix} Or leave the variant {variant!r} out."
            raise type(error)(error.problem, fix=fix, where=error.where) from error


def _with_own_wins(config: RunConfig, methods: tuple[str, ...], size: dict[str, Any]) -> tuple[str, ...]:
    """The methods, and the row of own wins where users rate the same responses in several pairs."""
    from fedvpa.experiments.groups import rate_the_same

    return (*methods, OWN_WINS) if rate_the_same(config, size["clients"], size["first_seed"]) else methods


def _with_groups(config: RunConfig, methods: Sequence[str], size: dict[str, Any], *, asked: bool) -> tuple[str, ...]:
    """The methods without those that read true groups, where clients have none.

    Raises:
        DataError: If such a method was asked for by name.
    """
    from fedvpa.core.progress import say
    from fedvpa.experiments.groups import reading_groups, without_group

    reading = reading_groups(config, methods)
    without = without_group(config, size["clients"], size["first_seed"]) if reading else ""
    if not without:
        return tuple(methods)
    named, several = " and ".join(reading), len(reading) > 1
    if asked:
        raise DataError(
            f"{named} {'need' if several else 'needs'} the true group of every client, and {without}.",
            fix=f"{_more_groups(config)}, or leave {named} out of {option('methods')}.",
        )
    left = "are left out: they need" if several else "is left out: it needs"
    say(f"{named} {left} the true group of every client, and {without}")
    return tuple(name for name in methods if name not in reading)


def _more_groups(config: RunConfig) -> str:
    if config.data.source == "world":
        return "Choose users with groups (data.population=two-groups with partition.kind=natural)"
    return f"Give a column of groups ({column_option('group')})"


def _check_judging(config: RunConfig, methods: Sequence[str], size: dict[str, Any]) -> None:
    """Raise what the judge has against the comparison, before anything runs; says how many calls it will take."""
    from fedvpa.experiments.judge_check import check_judging
    from fedvpa.experiments.policy_cells import policy_cells

    check_judging(config, policy_cells(config, methods=methods, **size), size["out"])


def _compare_selectors(
    config: RunConfig, methods: Sequence[str], size: dict[str, Any], holdout: Path | None, jobs: int | None
) -> ComparisonResult:
    from fedvpa.algorithms.registry import METHODS
    from fedvpa.evaluation.report.tables import table_text
    from fedvpa.experiments.results import ComparisonResult
    from fedvpa.experiments.selector_cells import run_selectors, selector_cells
    from fedvpa.runs.config import dump
    from fedvpa.runs.environment import environment

    out: Path = size["out"]
    # Policies of methods without a selector are judged beside that of one which needs nothing but the pairs.
    selectors = [name for name in methods if name in METHODS or name == OWN_WINS] or ["global"]
    result = ComparisonResult(
        out, run_selectors(selector_cells(config, methods=selectors, holdout=holdout, **size), jobs)
    )
    write_text(out / "config.yaml", dump(config))
    write_json(out / "environment.json", environment().to_dict())
    write_result(result)
    write_text(out / "comparison.txt", table_text(result.to_dict(), 140))
    return result


def _compare_policies(
    config: RunConfig, methods: Sequence[str], size: dict[str, Any], jobs: int | None, selectors: ComparisonResult
) -> ComparisonResult:
    from fedvpa.experiments.policy_cells import policy_cells, run_policies

    result = replace(selectors, policies=run_policies(policy_cells(config, methods=methods, **size), jobs))
    write_result(result)
    return result
