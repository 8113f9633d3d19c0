"""The commands that make a run or a comparison again, from the settings that it was made with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedvpa.core.errors import InputError
from fedvpa.runs.config import RunConfig, read_config


def train_command(config: RunConfig, config_file: Path, out: Path) -> str:
    """``fedvpa train`` with the overrides of a run.

    Args:
        config: The run's settings.
        config_file: The run's ``config.yaml``, which is given where no overrides of the defaults say the same.
        out: Where the command writes to.
    """
    return shlex.join(["fedvpa", "train", *given(config, config_file), "--out", str(out)])


def align_command(config: RunConfig, settings: Mapping[str, Any], method: str, run: Path) -> str:
    """``fedvpa align`` with the overrides that a policy was trained with.

    Args:
        config: The run's settings.
        settings: Of the policy: the section ``policy`` as it was trained.
        method: What trained the policy.
        run: The run directory.
    """
    changed = _changed(settings, config.policy.model_dump(mode="json"), "policy.")
    chosen = ["--method", method] if method != config.method else []
    return shlex.join(["fedvpa", "align", str(run), *changed, *chosen, "--overwrite"])


def compare_command(config: RunConfig, config_file: Path, out: Path, **options: Any) -> str:
    """``fedvpa compare`` with the overrides and options of a comparison.

    Args:
        config: What all runs share.
        config_file: Where it is kept.
        out: The folder of the comparison.
        options: Name of an option, without dashes → its value; None for one that was not given.
    """
    shown = [
        word
        for name, value in options.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", _joined(value))
    ]
    return shlex.join(["fedvpa", "compare", *given(config, config_file), *shown, "--out", str(out)])


def given(config: RunConfig, config_file: Path) -> list[str]:
    """What a command is given to have these settings: overrides of the defaults, or the file that holds them."""
    # What a source reads, and what a method has for defaults, follows from these.
    heads = [f"method={config.method}", f"data.source={config.data.source}"]
    try:
        base = read_config(None, heads)
        overrides = _changed(config.model_dump(mode="json"), base.model_dump(mode="json"))
        usual = RunConfig()
        heads = [
            head
            for head, now, then in zip(
                heads, (config.method, config.data.source), (usual.method, usual.data.source), strict=True
            )
            if now != then
        ]
        if read_config(None, [*heads, *overrides]) == config:
            return [*heads, *overrides]
    except InputError:
        pass  # settings that no list of overrides can say; their file can
    return ["--config", str(config_file)]


def _changed(now: Mapping[str, Any], then: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``key=value`` for each setting that differs, as the command line reads it."""
    found = []
    for key, value in now.items():
        other = then.get(key)
        if value == other:
            continue
        if isinstance(value, Mapping) and isinstance(other, Mapping) and value.keys() <= other.keys():
            found += _changed(value, other, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return found


def _joined(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)
