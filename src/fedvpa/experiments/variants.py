"""Named variants of one method: the rows of an ablation.

A file of variants maps the name of each to the settings that it has on top of the comparison's configuration:

    "− mixture": {variational.prior: normal}
    "− refinement": {variational: {refinement: "off"}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedvpa.algorithms.registry import METHODS
from fedvpa.core.errors import ConfigError, InputError
from fedvpa.core.written import read_yaml
from fedvpa.evaluation.scores import CONTROL_SEPARATOR
from fedvpa.evaluation.summaries import BAYES, OWN_WINS
from fedvpa.runs.config import RunConfig, with_settings

FIXED = ("data", "partition", "engine", "policy", "seed")
"""Sections that all rows of a table share, so that they are about the same pairs of the same users."""


def read_variants(path: Path, config: RunConfig) -> dict[str, RunConfig]:
    """Name → the run of each variant in a file, in the order of the file.

    Args:
        path: A YAML file.
        config: What the variants change.

    Raises:
        ConfigError: If the file cannot be read, names no variant, a name cannot be that of a row, or a variant changes
            nothing, what cannot be set, or what all rows share.
    """
    try:
        loaded = read_yaml(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}.", fix="Give a YAML file of variants.", where=str(path)) from error
    except ValueError as error:
        raise ConfigError(f"is not YAML: {error}.", fix="Correct the file.", where=str(path)) from error
    if not isinstance(loaded, Mapping) or not loaded:
        problem = "names no variant: it is no mapping from names to settings."
        raise ConfigError(problem, fix='Write lines such as "− mixture": {variational.prior: normal}.', where=str(path))
    return {str(name): _variant(str(name), settings, config, path) for name, settings in loaded.items()}


def _variant(name: str, settings: Any, config: RunConfig, path: Path) -> RunConfig:
    where = f"{path}: variant {name!r}"
    if name != name.strip() or not name or not name.isprintable() or CONTROL_SEPARATOR in name:
        raise ConfigError(
            f"A row cannot be called so: a name is printable and has no '{CONTROL_SEPARATOR}'.", where=where
        )
    if name in METHODS or name in (BAYES, OWN_WINS):
        raise ConfigError("That is the name of another row.", fix="Choose another name.", where=where)
    if not isinstance(settings, Mapping) or not settings:
        raise ConfigError("has no settings.", fix="Write {key.path: value}.", where=where)
    try:
        changed = with_settings(config, _nested(settings))
    except InputError as error:
        problem = f"{error.where}: {error.problem}" if error.where else error.problem
        raise ConfigError(problem, fix=error.fix, where=where) from error
    for section in FIXED:
        if getattr(changed, section) != getattr(config, section):
            raise ConfigError(
                f"changes the section {section!r}, which all rows of a comparison share.",
                fix="Compare it in a comparison of its own.",
                where=where,
            )
    if changed == config:
        raise ConfigError(
            "is the configuration itself: all its settings have these values already.",
            fix="Change a setting, or leave the variant out.",
            where=where,
        )
    return changed


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``; sections are merged."""
    found: dict[str, Any] = {}
    for keys, value in _leaves(settings):
        section = found
        for key in keys[:-1]:
            section = section.setdefault(key, {})
        section[keys[-1]] = value
    return found


def _leaves(settings: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in settings.items():
        keys = (*before, *str(key).split("."))
        if isinstance(value, Mapping):
            yield from _leaves(value, keys)
        else:
            yield keys, value
