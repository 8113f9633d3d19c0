"""``fedvpa judge``: train a judge on pairs that no method sees."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import RunError
from fedvpa.core.files import output_folder
from fedvpa.core.options import option
from fedvpa.core.progress import say

if TYPE_CHECKING:
    from fedvpa.rewards.base import HeldOutAccuracy
    from fedvpa.runs.config import RunConfig


@dataclass(frozen=True)
class JudgeResult:
    """A trained judge.

    Attributes:
        out: Its folder: ``policy.judging.judge=held-out policy.judging.settings.path=FOLDER``.
        pairs: How many pairs it was trained on.
        model: The language model that it reads.
        accuracy: Preference → how often it orders pairs right that it was not trained on.
    """

    out: Path
    pairs: int
    model: str
    accuracy: Mapping[str, HeldOutAccuracy]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        accuracy = {name: asdict(found) for name, found in self.accuracy.items()}
        return {"out": str(self.out), "pairs": self.pairs, "model": self.model, "accuracy": accuracy}


def judge(config: RunConfig, model: str, out: str | os.PathLike[str], *, overwrite: bool = False) -> JudgeResult:
    """Train a reward model for each preference on labelled pairs, and write it to a folder.

    With ``data.reserved`` the pairs are those of the prompts that a run with the same data section leaves aside.
    Without it they are all pairs of the section, for data with a file that no run reads, such as ``data.split=test``.

    Args:
        config: Its data section says where the pairs are; nothing else of it is read.
        model: The language model that reads responses, a folder or a hub id; better another one than the selectors'.
        out: The folder to write to.
        overwrite: Replace a judge that is there.

    Raises:
        DataError: If the data cannot be used, or a preference has too few prompts.
        ModelError: If the language model cannot be loaded.
        RunError: If the folder holds a judge already, or something else than one.
    """
    from fedvpa.rewards.held_out_files import is_judge, save_judge

    folder = output_folder(out, "a judge")
    if folder.is_dir() and any(folder.iterdir()):
        if not is_judge(folder):
            raise RunError("holds something else than a judge.", fix="Choose another folder.", where=str(folder))
        if not overwrite:
            fix = f"Choose another folder, or give {option('overwrite', 'True')}."
            raise RunError("holds a judge already.", fix=fix, where=str(folder))
    config.data.check_paths()
    from fedvpa.data.load import load, load_reserved
    from fedvpa.data.report import say_report
    from fedvpa.evaluation.judges.training import train_judge

    data = config.resolved_data()
    table = load_reserved(data) if data.reserved else load(data)
    say_report(table.report)
    kept = f"{data.reserved:.0%} of the prompts left aside" if data.reserved else "all pairs"
    part = f", {data.split} files" if data.split else ""
    saved = train_judge(table, model, f"{data.source}{part}: {kept}")
    save_judge(saved, folder)
    for name, found in saved.accuracy.items():
        if found.ci95 is None or found.ci95[0] <= 0.5:
            say(f"WARNING: under {name!r} the judge is not distinguishable from chance: its win rates mean nothing")
    return JudgeResult(folder, len(saved.pairs), model, saved.accuracy)
