"""``fedvpa personalize``: a new user's latent from labelled pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from fedvpa.core.short_repr import short_repr
from fedvpa.data.config import check_pairs_file
from fedvpa.runs.folder import RunFolder


@dataclass(frozen=True, repr=False)
class PersonalizeResult:
    """A new user's posterior, and how it lies among the prototypes.

    Attributes:
        run: The run directory.
        pairs: How many pairs it was inferred from.
        skipped: Reason → pairs of the file that were left out.
        mean: The z that serves the user, k numbers; ``policy.generate(…, preference=result.mean)`` follows it.
        std: The posterior's standard deviations, k numbers.
        responsibilities: Over the prototypes.
        prototype: The likeliest of them.
        context_accuracy: The share of the given pairs that the selector then orders as the user did. z has seen them,
            so this is no estimate of accuracy on others.
    """

    run: Path
    pairs: int
    skipped: Mapping[str, int]
    mean: Sequence[float]
    std: Sequence[float]
    responsibilities: Sequence[float]
    prototype: int
    context_accuracy: float

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"run": str(self.run)}


def personalize(
    run: str | PathLike[str], pairs: str | PathLike[str], *, user: str | None = None, overrides: Sequence[str] = ()
) -> PersonalizeResult:
    """A new user's posterior from labelled pairs. Nothing is written.

    Args:
        run: The run directory.
        pairs: A JSONL or Parquet file of the user's pairs.
        user: The user whose pairs to use, where the file holds those of several.
        overrides: Where the language model is now, such as ``features.model=PATH``.

    Raises:
        DataError: If the file holds several users' pairs and ``user`` is none of them.
        ModelError: If the language model is not the one that the selector was trained on.
    """
    folder = RunFolder.open(run)
    config = folder.config(overrides)
    check_pairs_file(pairs)
    from fedvpa.algorithms.registry import make
    from fedvpa.runs.new_pairs import load_pairs, of_one_user, scaling_of
    from fedvpa.runs.prepare import prepare_pairs
    from fedvpa.runs.stage1 import open_selector

    selector = open_selector(folder, config)
    table = of_one_user(load_pairs(config, Path(pairs)), user, str(pairs))
    context = prepare_pairs(config.features, table, scaling_of(selector, folder))
    posterior = selector.infer(context)
    mean, log_var = posterior.gaussian()
    near = selector.with_inference("responsibilities") if len(posterior.weights) == 1 else None
    personal = make(config.method, config.method_config).personal
    share = (near.infer(context) if near and personal else posterior).weights
    return PersonalizeResult(
        run=folder.path,
        pairs=len(table),
        skipped=table.report.skipped,
        mean=mean.tolist(),
        std=(0.5 * log_var).exp().tolist(),
        responsibilities=share.tolist(),
        prototype=int(share.argmax()),
        context_accuracy=float((selector.margins(posterior, context) > 0).float().mean()),
    )
