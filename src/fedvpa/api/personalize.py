"""``fedvpa personalize``: a new user's latent from labelled pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from fedvpa.core.short_repr import short_repr
from fedvpa.data.config import check_pairs_file
from fedvpa.data.report import DataReport, say_report
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
        data: What was read of the file, and what of it was left out, cut or changed.
    """

    run: Path
    pairs: int
    skipped: Mapping[str, int]
    mean: Sequence[float]
    std: Sequence[float]
    responsibilities: Sequence[float]
    prototype: int
    context_accuracy: float
    data: DataReport

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"run": str(self.run), "data": self.data.to_dict()}


def personalize(
    run: str | PathLike[str],
    pairs: str | PathLike[str],
    *,
    user: str | None = None,
    columns: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> PersonalizeResult:
    """A new user's posterior from labelled pairs. Nothing is written, and the data of the run are not needed.

    Args:
        run: The run directory.
        pairs: A file of the user's pairs.
        user: The user whose pairs to use, where the file holds those of several.
        columns: Our name of a column → its name in this file, such as ``{"user_id": "worker"}``. Columns that are not
            given have the names of the run's own data where the file has these, else the standard ones.
        overrides: Where the language model is now, such as ``features.model=PATH``.

    Raises:
        DataError: If the file holds several users' pairs and ``user`` is none of them.
        ModelError: If the language model is not the one that the selector was trained on.
    """
    folder = RunFolder.open(run)
    config = folder.config(overrides)
    check_pairs_file(pairs)
    from fedvpa.algorithms.registry import make
    from fedvpa.runs.new_user import NewUser, infer_new_user, shares_of

    inferred = infer_new_user(folder, config, str(pairs), NewUser(user, columns, overrides))
    selector, context, posterior = inferred.selector, inferred.context, inferred.posterior
    say_report(inferred.table.report, str(pairs))
    mean, log_var = posterior.gaussian()
    share = shares_of(selector, posterior, context, make(config.method, config.method_config).personal)
    return PersonalizeResult(
        run=folder.path,
        pairs=len(inferred.table),
        skipped=inferred.table.report.skipped,
        mean=mean.tolist(),
        std=(0.5 * log_var).exp().tolist(),
        responsibilities=share.tolist(),
        prototype=int(share.argmax()),
        context_accuracy=float((selector.margins(posterior, context) > 0).float().mean()),
        data=inferred.table.report,
    )
