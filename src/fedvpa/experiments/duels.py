"""Verdicts: the answers of policies against the base policy's, on prompts that no training saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedvpa.data.schema import Text
from fedvpa.data.text import plain_text
from fedvpa.evaluation.judges.base import Duel, Judge, Verdict, check_missing, exact_reward_of
from fedvpa.evaluation.outcomes import Outcome
from fedvpa.experiments.answers import BASE, Answer, Answers
from fedvpa.experiments.contests import Contest, Served
from fedvpa.rewards.base import ExactReward


@dataclass(frozen=True)
class Answered:
    """A contest whose prompts are answered.

    Attributes:
        contest: Who asks, and whose taste decides.
        prompts: Those that are judged.
        answers: The policy's answer to each.
        base: The base policy's answer to each: the same in all contests of a seed.
    """

    contest: Contest
    prompts: Sequence[Text]
    answers: Sequence[Answer]
    base: Sequence[Answer]


def answered(contest: Contest, answers: Answers, count: int) -> Answered:
    """The answers to the first ``count`` prompts."""
    return Answered(
        contest,
        answers.prompts[:count],
        answers.of(contest.policy, contest.z, *contest.stream)[:count],
        answers.of(BASE, None, "base")[:count],
    )


def judged(served: Served, found: Sequence[Answered], judge: Judge, missing_limit: float) -> list[list[Outcome]]:
    """The outcomes of each contest; all duels are put to the judge at once.

    Args:
        served: Whose policies answered.
        found: The contests.
        judge: Who decides.
        missing_limit: The largest share of a contest's verdicts that may be missing.

    Raises:
        InputError: If the judge cannot judge such duels.
        JudgeError: If it is out of order, or too many verdicts of a contest are missing.
    """
    duels = [duel for one in found for duel in _duels(one)]
    verdicts, exact = iter(judge.compare(duels)), exact_reward_of(judge)
    outcomes = []
    for one in found:
        own = [next(verdicts) for _ in one.prompts]
        check_missing(own, missing_limit)
        outcomes.append(_outcomes(served, one, own, judge.name, exact))
    return outcomes


def _duels(one: Answered) -> list[Duel]:
    """The policy's answer is the first response of each, so that a verdict of 1 is a win of the policy."""
    tastes = one.contest.judged_by(len(one.prompts))
    return [
        Duel(prompt, answer.text, base.text, taste)
        for prompt, answer, base, taste in zip(one.prompts, one.answers, one.base, tastes, strict=True)
    ]


def _outcomes(
    served: Served, one: Answered, verdicts: Sequence[Verdict], judge: str, exact: ExactReward | None
) -> list[Outcome]:
    contest = one.contest
    ours, theirs = (_utilities(exact, one.prompts, side, contest) for side in (one.answers, one.base))
    return [
        Outcome(
            method=served.method,
            n_clients=served.n_clients,
            seed=served.seed,
            preference=contest.preference,
            user_id=user,
            seen=contest.seen,
            prompt=plain_text(prompt),
            response=answer.text,
            base_response=base.text,
            score=verdict.score,
            utility=mine[0],
            base_utility=other[0],
            parsed=mine[1],
            base_parsed=other[1],
            tokens=answer.tokens,
            judge=judge,
            first_seat=verdict.first_seat,
        )
        for user, prompt, answer, base, verdict, mine, other in zip(
            contest.users[: len(one.prompts)],
            one.prompts,
            one.answers,
            one.base,
            verdicts,
            ours,
            theirs,
            strict=True,
        )
    ]


def _utilities(
    exact: ExactReward | None, prompts: Sequence[Text], answers: Sequence[Answer], contest: Contest
) -> list[tuple[float | None, bool | None]]:
    """What answers are worth, and whether they are inside the world's grammar; None for a judge that does not know."""
    if exact is None:
        return [(None, None)] * len(answers)
    rows: dict[str, list[int]] = {}
    for row, taste in enumerate(contest.judged_by(len(prompts))):
        rows.setdefault(taste, []).append(row)
    found: dict[int, tuple[float, bool]] = {}
    for taste, own in rows.items():
        values, parsed = exact.utilities([(prompts[row], answers[row].text) for row in own], taste)
        found |= {row: (float(value), bool(inside)) for row, value, inside in zip(own, values, parsed, strict=True)}
    return [found[row] for row in range(len(prompts))]
