"""One training of a comparison: a method, a number of clients, a seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedvpa import __version__
from fedvpa.algorithms.registry import make
from fedvpa.core.files import write_json
from fedvpa.data.load import load
from fedvpa.evaluation.accuracy import infer_clients, score_clients
from fedvpa.evaluation.scores import ClientScore, save_scores
from fedvpa.features.store import data_hash
from fedvpa.runs.config import RunConfig
from fedvpa.runs.fit import fit
from fedvpa.runs.prepare import prepare, prepare_holdout
from fedvpa.runs.scores import conflict_scores, run_scores


@dataclass(frozen=True)
class Cell:
    """One run of the comparison.

    Attributes:
        config: The run.
        holdout: The hold-out's file.
        out: The comparison's folder.
        data: A hash of the pairs and of the hold-out, so that no cell outlives its data.
    """

    config: RunConfig
    holdout: Path | None
    out: Path
    data: str

    @property
    def name(self) -> str:
        """A readable name that no other cell has, with a hash of everything that matters."""
        text = json.dumps([__version__, self.config.model_dump(mode="json"), self.data], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return f"{self.config.method}-{self.config.partition.clients}-{self.config.seed}-{digest}"

    @property
    def path(self) -> Path:
        """Where its scores are kept."""
        return self.out / "cells" / f"{self.name}.jsonl"

    @property
    def disagreed(self) -> Path:
        """Where its scores on the pairs that groups disagree on are kept."""
        return self.out / "cells" / f"{self.name}.conflicting.jsonl"

    @property
    def seconds(self) -> Path:
        """Where its training time is kept; written last, so that its presence says the cell is whole."""
        return self.path.with_suffix(".json")


def _data_hash(config: RunConfig, holdout: Path | None) -> str:
    """A hash of what the configuration only names: the pairs of a file, and the hold-out. The world is its keys."""
    total = hashlib.sha256()
    if config.data.source != "world":
        table = load(config.data)
        total.update(data_hash(table.pairs).encode())
        total.update(repr([(pair.user_id, pair.group, pair.split, pair.weight) for pair in table.pairs]).encode())
    if holdout is not None and holdout.is_file():
        total.update(holdout.read_bytes())
    return total.hexdigest()


def run_cell(cell: Cell) -> None:
    """Train, score, and keep the scores of one run."""
    config = cell.config.model_copy(update={"engine": cell.config.engine.model_copy(update={"workers": 1})})
    prepared = prepare(config)
    done = fit(config, prepared)
    by_group = make(config.method, config.method_config).reads_groups
    scores = run_scores(config, prepared, done, by_group)
    if cell.holdout is not None:
        held = prepare_holdout(config, cell.holdout, prepared.table, prepared.federation.scaling)
        seen = prepared.federation.partition.seen
        further = score_clients(
            done.selector,
            prepared.federation,
            seen,
            done.posterior,
            method=config.method,
            seed=config.seed,
            holdout=held,
        )
        scores = further + [score for score in scores if not score.seen or score.method != config.method]
    save_scores(cell.path, scores)
    save_scores(cell.disagreed, conflict_scores(config, prepared, done))
    write_json(cell.seconds, {"seconds": done.seconds})


def few_shot(config: RunConfig, shots: Sequence[int]) -> dict[int, list[ClientScore]]:
    """Scores of unseen clients by the number of labelled pairs that they give."""
    prepared = prepare(config)
    done = fit(config, prepared)
    unseen = prepared.federation.partition.unseen
    found = {}
    for count in shots:
        posterior = infer_clients(done.selector, prepared.federation, unseen, shots=count)
        found[count] = score_clients(
            done.selector, prepared.federation, unseen, posterior, method=config.method, seed=config.seed
        )
    return found
