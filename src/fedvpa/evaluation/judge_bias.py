"""How a judge decided: how often it named a place instead of an answer, tied, or said nothing.

Language models favour a place (position bias; Zheng et al., NeurIPS 2023, arXiv:2306.05685). Every duel is asked about
in both orders, and where the two answers disagree the verdict has *flipped* and counts as a tie. A judge that always
names the same place so gives a win rate of exactly 0.5, with an interval, for any policy: that must be said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedvpa.evaluation.outcomes import Outcome
from fedvpa.evaluation.summaries import JsonResult

LOUD_SHARE = 1 / 3
"""A judge that flips more of its verdicts is loudly said to be biased. Chosen by us: a judge that names either answer
at random flips half of them; GPT-4 flipped 35% of close cases (Zheng et al., Table 2)."""


@dataclass(frozen=True, slots=True)
class JudgeSummary(JsonResult):
    """How one judge decided, over all methods, sizes, seeds and preferences.

    Attributes:
        judge: Its name; empty where an earlier release did not keep it.
        duels: All duels.
        missing: Duels without a verdict.
        ties: Duels that ended in a tie, flipped ones included.
        both_orders: Duels that it was asked about in both orders, and answered.
        flipped: Share of these whose verdict flipped; None without any.
        first_seat: Share of the calls about these in which the answer shown first won; None without any.
        position_biased: Whether it flipped more than a third of its verdicts.
    """

    judge: str
    duels: int
    missing: int
    ties: int
    both_orders: int
    flipped: float | None
    first_seat: float | None
    position_biased: bool


def judge_summaries(outcomes: Iterable[Outcome]) -> tuple[JudgeSummary, ...]:
    """One summary per judge, by name."""
    by_judge: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_judge.setdefault(outcome.judge, []).append(outcome)
    return tuple(_summary(name, by_judge[name]) for name in sorted(by_judge))


def _summary(judge: str, outcomes: Sequence[Outcome]) -> JudgeSummary:
    seats = [outcome.first_seat for outcome in outcomes if outcome.first_seat is not None]
    flipped = flipped_share(outcomes)
    return JudgeSummary(
        judge,
        duels=len(outcomes),
        missing=sum(outcome.score is None for outcome in outcomes),
        ties=sum(outcome.score == 0.5 for outcome in outcomes),
        both_orders=len(seats),
        flipped=flipped,
        first_seat=sum(seats) / len(seats) if seats else None,
        position_biased=flipped is not None and flipped > LOUD_SHARE,
    )


def flipped_share(outcomes: Iterable[Outcome]) -> float | None:
    """Share of the duels asked about in both orders whose verdict flipped; None without any."""
    flips = [outcome.flipped for outcome in outcomes if outcome.flipped is not None]
    return sum(flips) / len(flips) if flips else None


def judge_lines(judges: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a reader of a table has to know about its judges, a line for each that was asked about orders.

    Args:
        judges: Summaries as JSON: the key ``policy_judges`` of ``comparison.json``.
    """
    return [_line(judge) for judge in judges if judge["both_orders"]]


def bias_warnings(judges: Iterable[Mapping[str, Any]]) -> list[str]:
    """A warning for each judge that flipped more than a third of its verdicts; arguments as :func:`judge_lines`."""
    return [
        f"WARNING: the judge {judge['judge']!r} decides by the place of an answer: {judge['flipped']:.1%} of its "
        "verdicts flipped when the two answers changed places. These count as ties, which draws every win rate to 0.5. "
        "Use another judge, or a clearer rubric (policy.judging.settings.rubric)."
        for judge in judges
        if judge["position_biased"]
    ]


def short_warnings(judges: Iterable[JudgeSummary]) -> list[str]:
    """The same warnings in a few words, for progress on a terminal."""
    return [
        f"WARNING: the judge {judge.judge!r} decides by the place of an answer: {judge.flipped:.1%} of its verdicts "
        "flipped with the order, and count as ties."
        for judge in judges
        if judge.position_biased
    ]


def _line(judge: Mapping[str, Any]) -> str:
    return (
        f"Judge {judge['judge'] or 'of an earlier release'}: {judge['both_orders']:,} duels in both orders, "
        f"{judge['flipped']:.1%} of verdicts flipped (a tie); the answer shown first won {judge['first_seat']:.1%} of "
        f"the calls. {judge['ties']:,} ties and {judge['missing']:,} missing verdicts in {judge['duels']:,} duels."
    )
