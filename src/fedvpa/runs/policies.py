"""What ``align`` left in a run directory, read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvpa.alignment.stage1 import ONE
from fedvpa.core.errors import RunError
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.files import load_policy, read_policy
from fedvpa.policy.model import Policy
from fedvpa.runs.config import RunConfig, with_overrides
from fedvpa.runs.folder import load_run_config


@dataclass(frozen=True)
class Aligned:
    """An aligned run.

    Attributes:
        config: Of the run, with stage 2 as the policies were trained, whatever overrides that took.
        method: Of the policies.
        policies: By name: one for all, or one per true group.
        preferences: Group → the z that stands for it; empty for a method without a selector.
    """

    config: RunConfig
    method: str
    policies: dict[str, Policy]
    preferences: dict[str, list[float]]

    @property
    def by_group(self) -> bool:
        """Whether there is one policy per true group."""
        return ONE not in self.policies


def open_aligned(run: Path, overrides: Sequence[str] = ()) -> Aligned:
    """The policies of a run and the settings that they were trained with.

    Args:
        run: A run directory with stage 2.
        overrides: Where data and language model are now.

    Raises:
        RunError: If it holds no policy.
        ModelError: If the base model is not the one that they were trained on.
    """
    config, folder = load_run_config(run), run / "policy"
    if not (folder / "metrics.json").is_file():
        raise RunError("holds no policy.", fix=f"Run: fedvpa align {run}", where=str(run))
    metrics = _read(folder / "metrics.json")
    names = list(metrics["policies"])
    trained = PolicyConfig.parse(read_policy(folder / names[0])["settings"])
    config = with_overrides(config.model_copy(update={"policy": trained}), overrides)
    # The base may have moved since; its content is checked.
    here = config.policy.model_copy(update={"model": config.policy.model or config.features.model})
    policies = {name: load_policy(folder / name, here, device=config.features.device).eval() for name in names}
    return Aligned(config, metrics["method"], policies, _read(folder / "preferences.json"))


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(
            f"cannot be read ({error}).", fix="Restore it, or align again with --overwrite.", where=str(path)
        ) from error
    return found
