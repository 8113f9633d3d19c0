"""What stands in the folder of a policy, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedvpa.core.errors import RunError
from fedvpa.core.files import read_own_object
from fedvpa.core.options import option
from fedvpa.core.schema import check_version
from fedvpa.policy.config import PolicyConfig

EARLIER = 2
"""The schema version of policies up to 0.4, whose soft prefix stands in places of its own: they are what they were."""

PREFERENCES = "preferences.json"
"""Beside the policy: group → the z that stands for it."""


def read_policy(folder: Path) -> dict[str, Any]:
    """``policy.json`` of a folder that :meth:`Policy.save_pretrained` wrote.

    Raises:
        RunError: If it is not such a folder, or of another schema version, or damaged.
    """
    try:
        saved = read_own_object(folder / "policy.json")
    except FileNotFoundError as error:
        raise RunError("holds no policy.", fix="Run: fedvpa align RUN", where=str(folder)) from error
    check_version(
        "policy",
        saved.get("schema_version"),
        where=str(folder),
        fix="Align again, or use the fedvpa that wrote it.",
        earlier=(EARLIER,),
    )
    return saved


def saved_settings(saved: Mapping[str, Any]) -> PolicyConfig:
    """Stage 2 as a policy was trained with it.

    Args:
        saved: From :func:`read_policy`. A policy of a release that had no cap on prompts gets none. Code that lies
            beside the weights is trusted by who opens a policy, not by its folder.

    Raises:
        ConfigError: If it holds a setting that this fedvpa does not know.
    """
    found = PolicyConfig.parse({"max_prompt_tokens": None, **saved.get("settings", {})})
    if found.loading is None:
        return found
    return found.model_copy(update={"loading": found.loading.model_copy(update={"trust_remote_code": False})})


def read_preferences(folder: Path) -> dict[str, list[float]]:
    """Group → the z that stands for it, of a policy folder.

    Raises:
        RunError: If the file is missing or broken.
    """
    path = folder / PREFERENCES
    try:
        found: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(
            f"cannot be read ({error}).",
            fix=f"Restore it, or align again with {option('overwrite', 'True')}.",
            where=str(path),
        ) from error
    return found
