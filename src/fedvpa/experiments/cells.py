"""A cell of a comparison: one method on one number of clients and one seed, and the files that keep its results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvpa.core.files import read_own_object, write_json
from fedvpa.experiments.methods import Stage
from fedvpa.runs.config import RunConfig


def settings_of(config: RunConfig, clients: Sequence[int], seeds: int, first_seed: int) -> list[RunConfig]:
    """The configuration of every number of clients and seed, whatever the method."""
    return [config.with_clients(n).with_seed(first_seed + seed) for n in clients for seed in range(seeds)]


@dataclass(frozen=True)
class Views:
    """What a run is scored on beside the test pairs of its clients.

    Attributes:
        shots: Numbers of pairs that unseen users give.
        four_way: Whether on seen and unseen prompts apart, for which some training pairs are set aside.
    """

    shots: tuple[int, ...] = ()
    four_way: bool = False

    def parts(self) -> dict[str, str]:
        """What of it decides a cell's identity; nothing where there is nothing."""
        found = {"shots": ",".join(map(str, self.shots))} if self.shots else {}
        return found | ({"protocol": "four-way"} if self.four_way else {})


NO_VIEWS = Views()


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        stage: What the run ends with: a selector and its scores, or a policy and its duels.
        method: The name of the row: the method's, or that of a variant of it.
        config: The run. Its method is another than ``method`` where the run gives no more than its data.
        identity: Tells apart cells of one method, number of clients and seed: the digest of all that decides what the
            run trains; see :mod:`fedvpa.runs.identity`.
        out: The comparison's folder.
        holdout: Further labelled pairs that the run is scored on.
        views: What else the run is scored on.
        variant_of: The row that this one is a variant of; empty of a method as it is configured.
    """

    stage: Stage
    method: str
    config: RunConfig
    identity: str
    out: Path
    holdout: Path | None = None
    views: Views = NO_VIEWS
    variant_of: str = ""

    @property
    def name(self) -> str:
        """A readable name that no other cell of the stage has, and any file may have."""
        method = re.sub(r"[^\w.+-]+", "_", self.method)
        return f"{method}-{self.config.partition.clients}-{self.config.seed}-{self.identity}"

    @property
    def label(self) -> str:
        """The cell in a message."""
        return f"{self.method}, N = {self.config.partition.clients}, seed {self.config.seed}"

    @property
    def folder(self) -> Path:
        """Where its files are: a folder of its own for policies; else one for all, in names that begin with its own."""
        return self.out / "cells" if self.stage == "selector" else self.out / "policies" / self.name

    @property
    def record(self) -> Path:
        """Where its training time is kept; written last, so that its presence says that the cell is whole."""
        return self.folder / ("seconds.json" if self.stage == "policy" else f"{self.name}.json")

    @property
    def is_done(self) -> bool:
        """Whether all its files are there."""
        return self.record.exists()

    @property
    def seconds(self) -> float:
        """The training time of a finished cell."""
        return float(self.notes["seconds"])

    @property
    def notes(self) -> Mapping[str, Any]:
        """What :meth:`finish` kept of a finished cell."""
        return read_own_object(self.record)

    def finish(self, seconds: float, **notes: Any) -> None:
        """Say that all other files are written.

        Args:
            seconds: The training time.
            notes: What else there is to say about the training.
        """
        write_json(self.record, {"seconds": seconds, **notes})
