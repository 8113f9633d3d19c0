"""What is known about a judge before it is needed: whether it answers at all, and how many calls it will make.

A wrong address, key, model name or folder must be seen before hours of training and not after them, and money must
be counted before it is spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from fedvpa.core.errors import ConfigError, InputError, JudgeError
from fedvpa.data.schema import Text
from fedvpa.evaluation.judges.base import Duel, Judge, exact_reward_of
from fedvpa.evaluation.judges.budget import LIMIT_KEY
from fedvpa.evaluation.judges.cost import Estimate
from fedvpa.evaluation.judges.registry import how_to_set_a_judge

PROBE_PROMPT = "What can I do on a rainy afternoon?"
PROBE_ANSWERS = ("You could bake bread, visit a museum or read a novel that you like.", "Nothing.")
"""A duel that is made up: its verdict is looked at and forgotten."""

PROBE_CALLS = 2
"""What a paid judge is asked to try it: one duel, in both orders."""


@runtime_checkable
class PaidJudge(Judge, Protocol):
    """A judge whose calls cost money or somebody else's time."""

    def plan(self, duels: int, example: Duel) -> Estimate:
        """What judging so many duels like ``example`` takes at most; calls nobody."""

    def probe(self, duel: Duel, preferences: Sequence[str]) -> None:
        """Ask about one duel, whatever is known already.

        Raises:
            InputError: If one of the preferences cannot be judged.
            JudgeError: If there is no verdict; with the reason.
        """

    def limit_calls(self, most: int) -> None:
        """Stop with a JudgeError before more than ``most`` calls are made, earlier ones of the same folder included."""


def plan(judge: Judge, duels: int, example: Duel | None = None) -> Estimate | None:
    """What judging takes, before it starts; None for a judge that calls nobody.

    Args:
        judge: Who decides.
        duels: How many pairs of responses, at most.
        example: A duel as long as most; by default a short one.

    Returns:
        The estimate; the calls of :func:`probe` are in it.
    """
    if not isinstance(judge, PaidJudge):
        return None
    return judge.plan(duels, example or _made_up("helpful"))


def check_plan(estimate: Estimate, max_calls: int | None) -> None:
    """Refuse a plan that takes more calls than are allowed, before anything runs.

    Raises:
        ConfigError: If it does; with both numbers.
    """
    if max_calls is not None and estimate.calls > max_calls:
        raise ConfigError(
            f"Judging takes {estimate.calls:,} calls, and {max_calls:,} are allowed.",
            fix=f"Judge fewer prompts (policy.judging.prompts), methods, sizes or seeds, or raise {LIMIT_KEY}.",
            where=f"configuration key '{LIMIT_KEY}'",
        )


def probe(judge: Judge, preferences: Sequence[str], prompt: Text | None = None) -> None:
    """Let a judge decide a made-up duel, so that one that cannot judge is found before anything is trained.

    A paid judge is asked about one duel under the first preference, others under each. A judge that knows utilities
    scores one made-up answer to ``prompt``.

    Args:
        judge: Who decides.
        preferences: All that it will have to judge under; at least one.
        prompt: One of the prompts that it will see; a made-up one by default. Judges that know utilities know them
            for their own prompts only.

    Raises:
        InputError: If the judge cannot judge such prompts, or not under one of the preferences.
        JudgeError: If it gives no verdict; with the reason.
    """
    exact = exact_reward_of(judge)
    if exact is not None:
        asked = [] if prompt is None else [(prompt, PROBE_ANSWERS[0])]
        for preference in preferences:
            try:
                exact.utilities(asked, preference)
            except InputError as error:  # it knows neither other prompts nor other preferences
                raise ConfigError(
                    f"The judge {judge.name!r} knows the utilities of its own prompts only. {error.problem}",
                    fix=how_to_set_a_judge(),
                    where="configuration key 'policy.judging.judge'",
                ) from error
        return
    duels = [_made_up(preference) for preference in preferences]
    if isinstance(judge, PaidJudge):
        judge.probe(duels[0], preferences)
        return
    for duel, verdict in zip(duels, judge.compare(duels), strict=True):
        if verdict.score is None:
            raise JudgeError(
                f"The judge {judge.name!r} gives no verdict on a made-up pair of responses under {duel.preference!r}: "
                f"{verdict.reason}.",
                fix="Nothing was trained. Check policy.judging.settings.",
            )


def _made_up(preference: str) -> Duel:
    return Duel(PROBE_PROMPT, *PROBE_ANSWERS, preference)
