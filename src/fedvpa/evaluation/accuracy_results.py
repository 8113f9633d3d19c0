"""What comparing accuracies gives, and its form in ``comparison.json``.

The names of the fields are the keys of the file, which others rely on. The plain ones are about the clients that took
part in training; ``unseen_`` marks the others. Accuracies are fractions in [0, 1]; intervals are at 95% and None where
the data cannot bound the number. What is not known is None, in the file null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedvpa.core.schema import VERSIONS
from fedvpa.evaluation.intervals import Bootstrap, Estimate
from fedvpa.evaluation.student import Interval
from fedvpa.evaluation.summaries import JsonResult, bootstrap_as_json, fields_as_json


@dataclass(frozen=True, slots=True)
class AccuracyRow(JsonResult):
    """One method in one run.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the run trained on.
        seed: The run's seed.
        accuracy: Mean over seen clients of the fraction of their own test pairs ordered as the client did.
        groups: True preference group → the same over its clients.
        holdout_accuracy: The same on the hold-out pairs of each client's group.
        holdout_groups: Group → the same over its clients.
        unseen_accuracy: Mean over the clients that training never saw.
        seconds: Wall-clock training time.
    """

    method: str
    n_clients: int
    seed: int
    accuracy: float | None
    groups: Mapping[str, float]
    holdout_accuracy: float | None
    holdout_groups: Mapping[str, float]
    unseen_accuracy: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class AccuracySummary(JsonResult):
    """One method at one number of clients, over all its seeds.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the runs trained on.
        seeds: Their seeds, sorted.
        clients: Seen clients, counted once per seed.
        mean: Accuracy, mean over seen clients, then over seeds.
        ci95: Its interval, of these trained models.
        method_ci95: Its interval over training seeds too.
        gap_closed: Share of the gap between ``global`` (0) and ``oracle`` (1) that the method closes.
        gap_closed_ci95: Its interval; ``gap_closed_method_ci95`` that of the method.
        informed_share: Share of what ``informed`` gains over ``global`` that the method gains: of what can be had by a
            method that has to infer who belongs to which group.
        informed_share_ci95: Its interval; ``informed_share_method_ci95`` that of the method.
        worst_decile: Accuracy of the worst tenth of the seen clients.
        groups: True preference group → accuracy of its clients.
        holdout_mean: Accuracy on the hold-out; ``holdout_`` repeats the keys above for it.
        unseen_mean: Accuracy of the clients that training never saw; ``unseen_`` likewise.
    """

    method: str
    n_clients: int
    seeds: tuple[int, ...]
    clients: int
    mean: float | None
    ci95: Interval | None
    method_ci95: Interval | None
    gap_closed: float | None
    gap_closed_ci95: Interval | None
    gap_closed_method_ci95: Interval | None
    informed_share: float | None
    informed_share_ci95: Interval | None
    informed_share_method_ci95: Interval | None
    worst_decile: Estimate | None
    groups: Mapping[str, Estimate]
    holdout_mean: float | None
    holdout_ci95: Interval | None
    holdout_method_ci95: Interval | None
    holdout_gap_closed: float | None
    holdout_gap_closed_ci95: Interval | None
    holdout_gap_closed_method_ci95: Interval | None
    holdout_informed_share: float | None
    holdout_informed_share_ci95: Interval | None
    holdout_informed_share_method_ci95: Interval | None
    holdout_groups: Mapping[str, Estimate]
    unseen_mean: float | None
    unseen_ci95: Interval | None
    unseen_method_ci95: Interval | None
    unseen_gap_closed: float | None
    unseen_gap_closed_ci95: Interval | None
    unseen_gap_closed_method_ci95: Interval | None
    unseen_informed_share: float | None
    unseen_informed_share_ci95: Interval | None
    unseen_informed_share_method_ci95: Interval | None


@dataclass(frozen=True, slots=True)
class ControlRow(JsonResult):
    """One control of a method, and what it changes against the method itself on the same clients.

    Attributes:
        method: The method.
        control: One of :data:`fedvpa.evaluation.scores.CONTROLS`.
        n_clients: How many clients the runs trained on.
        mean: Accuracy under the control.
        ci95: Its interval, of these trained models.
        method_ci95: Its interval over training seeds too.
        difference: Accuracy under the control less the method's own.
    """

    method: str
    control: str
    n_clients: int
    mean: float
    ci95: Interval | None
    method_ci95: Interval | None
    difference: Estimate | None


@dataclass(frozen=True, slots=True)
class DifferenceRow(JsonResult):
    """Two methods on the same clients.

    Attributes:
        n_clients: How many clients the runs trained on.
        first: One method.
        second: The other.
        mean: Accuracy of the first less that of the second.
        ci95: Its interval, of these trained models.
        method_ci95: Its interval over training seeds too.
        p_value: Two-sided, by Student's t: below 0.05 just where ``ci95`` leaves out zero.
        p_holm: The same, adjusted over all differences of the comparison.
        method_p_value: The same for ``method_ci95``.
        method_p_holm: The same, adjusted.
        clients: Clients compared, counted once per seed.
        seeds: The seeds both were run with.
    """

    n_clients: int
    first: str
    second: str
    mean: float
    ci95: Interval | None
    method_ci95: Interval | None
    p_value: float
    p_holm: float
    method_p_value: float | None
    method_p_holm: float | None
    clients: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AccuracyComparison:
    """Everything that is said about methods compared on the same clients.

    Attributes:
        bootstrap: How intervals were computed.
        rows: One per (method, n_clients, seed).
        summary: One per (method, n_clients).
        controls: One per control of a method and number of clients.
        differences: Every pair of methods at the same number of clients, except two yardsticks.
    """

    bootstrap: Bootstrap
    rows: tuple[AccuracyRow, ...]
    summary: tuple[AccuracySummary, ...]
    controls: tuple[ControlRow, ...]
    differences: tuple[DifferenceRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``comparison.json``: ``schema_version`` and the fields, as plain JSON values."""
        return (
            {"schema_version": VERSIONS["comparison"]}
            | fields_as_json(self)
            | {"bootstrap": bootstrap_as_json(self.bootstrap)}
        )


@dataclass(frozen=True, slots=True)
class FewShotPoint(JsonResult):
    """Accuracy on clients that training never saw, with so many of their pairs as context.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the runs trained on.
        context_pairs: Labelled pairs that each unseen client gave.
        mean: Accuracy, mean over unseen clients, then over seeds.
        ci95: Its interval, of these trained models.
        method_ci95: Its interval over training seeds too.
        clients: Unseen clients, counted once per seed.
    """

    method: str
    n_clients: int
    context_pairs: int
    mean: float
    ci95: Interval | None
    method_ci95: Interval | None
    clients: int
