"""``fedvpa evaluate``: a trained run on new labelled pairs, from what the run holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from fedvpa.core.errors import ConfigError, DataError, nearest
from fedvpa.core.options import column_option, new_pairs, option
from fedvpa.core.progress import say
from fedvpa.data.config import check_pairs_file
from fedvpa.data.report import DataReport, say_report
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.data.schema import PairTable
    from fedvpa.evaluation.intervals import Estimate
    from fedvpa.evaluation.scores import ClientScore
    from fedvpa.runs.new_scores import NewScores
    from fedvpa.runs.users import RunUsers
    from fedvpa.selector.pairs import Pairs

By = Literal["user", "group"]


@dataclass(frozen=True)
class EvaluateResult:
    """Accuracy of a run on new pairs.

    Attributes:
        run: The run directory.
        pairs: How many pairs were scored.
        skipped: Reason → pairs of the file that were left out.
        accuracy: Mean over clients, or over users.
        ci95: Its interval, over the same and over pairs, of this trained model.
        groups: The same by group.
        by: Whose z scored the pairs: ``user`` (of who labelled them) or ``group`` (of each seen client of their group).
        users: How many clients or users were scored.
        known: The same of the users whom the run knows; their z comes from the pairs that the run was trained with.
        new: The same of the others; their z comes from ``context_pairs`` of the new pairs, which are not scored.
        context_pairs: How many pairs gave the z of new users.
        data: What was read of the file, and what of it was left out, cut or changed.
    """

    run: Path
    pairs: int
    skipped: Mapping[str, int]
    accuracy: float | None
    ci95: Sequence[float] | None
    groups: Mapping[str, Estimate]
    by: By
    users: int
    known: Estimate | None
    new: Estimate | None
    context_pairs: int
    data: DataReport

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        from fedvpa.evaluation.summaries import fields_as_json

        return fields_as_json(self) | {"run": str(self.run), "data": self.data.to_dict()}


def evaluate(
    run: str | PathLike[str],
    pairs: str | PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    group_column: str | None = None,
    by: By | None = None,
    overrides: Sequence[str] = (),
) -> EvaluateResult:
    """Score a trained run on new labelled pairs. The data that the run was trained on are not needed.

    By user, each pair is scored with the z of the user who labelled it. A user whom the run knows is served with its
    own z. The z of another is inferred from about half of its pairs, and the others are scored; pairs of one prompt are
    never parted. By group, every seen client is scored on the pairs of its own group.

    Pairs that the run's own data hold, with the same group where both have one, are left out and counted, so that no
    pair is scored that training, or z, has seen.

    Args:
        run: The run directory.
        pairs: A file of pairs.
        columns: Our name of a column → its name in this file, such as ``{"user_id": "worker"}``. Columns that are not
            given have the names of the run's own data where the file has these, else the standard ones.
        group_column: The same as ``columns={"group": …}``.
        by: ``user`` or ``group``. By default by user where the pairs name users and the run's clients are users; else
            by group where the pairs have groups of the run; else by user, those of a file that names none being of one.
        overrides: Where the run's language model is now, such as ``features.model=PATH``.

    Raises:
        DataError: If by group a pair has no group, or no group is one that the run's clients have; if the run holds all
            pairs; or if no pair is left to score.
        ModelError: If the language model is not the one that the selector was trained on.
    """
    if by is not None and by not in get_args(By):
        raise ConfigError(f"{option('by', by)} is no way to score pairs.", fix=nearest(by, get_args(By)))
    folder = RunFolder.open(run)
    config = folder.config(overrides)
    check_pairs_file(pairs)
    from fedvpa.algorithms.registry import make
    from fedvpa.runs import new_scores
    from fedvpa.runs.new_pairs import load_pairs, scaling_of
    from fedvpa.runs.prepare import prepare_pairs
    from fedvpa.runs.stage1 import open_held, open_selector, open_users

    selector = open_selector(folder, config)
    scaling = scaling_of(selector, folder)
    given = load_pairs(config, str(pairs), {**(columns or {}), **({"group": group_column} if group_column else {})})
    users = open_users(folder, config, selector)
    algorithm, natural = make(config.method, config.method_config), config.partition.kind == "natural"
    grader = new_scores.Grader(config.method, algorithm, config.seed, selector, users, natural)
    way = by or new_scores.way_to_score(given, grader)
    with new_pairs():
        _check(given, users, way, grouped=by == "group" or group_column is not None, where=str(pairs))
    held = open_held(folder, config, users)

    def features(table: PairTable) -> tuple[PairTable, Pairs]:
        return prepare_pairs(config.features, table, scaling)

    score = new_scores.by_group if way == "group" else new_scores.by_user
    return _result(folder, way, score(grader, given, held, features, str(pairs)), str(pairs))


def _check(table: PairTable, users: RunUsers, way: By, *, grouped: bool, where: str) -> None:
    """Whether pairs can be scored this way; ``grouped``: the caller asks for groups."""
    name = f"Name their column: {column_option('group')}."
    theirs, ours = table.groups(), sorted({group for group in users.seen.groups if group is not None})
    if (way == "group" or grouped) and not set(theirs) & set(ours):
        raise DataError(
            f"its groups ({', '.join(theirs) or 'none'}) are none of the run's ({', '.join(ours) or 'none'}).",
            fix=f"{name} Or score by user: {option('by', 'user')}." if way == "group" else name,
            where=where,
        )
    if way == "group" and any(pair.group is None for pair in table.pairs):
        raise DataError(
            "some pairs have no group, and a client is scored on the pairs of its own.", fix=name, where=where
        )
    if way == "user" and all(pair.user_id is None for pair in table.pairs):
        column = column_option("user_id")
        say(f"{where} names no users, so its pairs are taken for those of one new user; name their column: {column}")


def _result(folder: RunFolder, way: By, scored: NewScores, where: str) -> EvaluateResult:
    from fedvpa.evaluation.client_sample import ClientSample
    from fedvpa.evaluation.intervals import estimate
    from fedvpa.evaluation.summaries import SHARE

    def mean(scores: Iterable[ClientScore]) -> Estimate | None:
        sample = ClientSample.of(scores, same_users=scored.same_users)
        return None if sample is None else estimate(sample, bounds=SHARE)

    scores = scored.scores
    whole = mean(scores)
    say_report(scored.report, where)
    return EvaluateResult(
        run=folder.path,
        pairs=scored.pairs,
        skipped=scored.report.skipped,
        accuracy=None if whole is None else whole.value,
        ci95=None if whole is None else whole.interval,
        groups={
            group: found
            for group in sorted({score.group for score in scores if score.group is not None})
            if (found := mean(score for score in scores if score.group == group)) is not None
        },
        by=way,
        users=len(scores),
        known=mean(score for score in scores if score.client_id in scored.known),
        new=mean(score for score in scores if score.client_id not in scored.known),
        context_pairs=scored.context,
        data=scored.report,
    )
