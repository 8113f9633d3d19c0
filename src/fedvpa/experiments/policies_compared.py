"""What judged policies say together: win rates, switching, and answers side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from fedvpa.core.progress import say
from fedvpa.evaluation.judge_bias import short_warnings
from fedvpa.evaluation.outcomes import Outcome
from fedvpa.evaluation.samples import SideBySide, side_by_side
from fedvpa.evaluation.switching import switching
from fedvpa.evaluation.win_rates import policy_comparison
from fedvpa.experiments.judging import Judged
from fedvpa.experiments.results import PoliciesComparison

SAMPLES = 4
"""Prompts that are shown side by side."""


def compare_judged(
    found: Sequence[tuple[Judged, float]], shown: Sequence[Judged] | None = None, *, same_users: bool = False
) -> PoliciesComparison:
    """What judged policies say together.

    Args:
        found: Each with the seconds that making its policies took.
        shown: Those whose switching is shown, of one method and number of clients; by default all.
        same_users: Whether users of one name are the same in all seeds.
    """
    outcomes = [outcome for own, _ in found for outcome in own.outcomes]
    seconds = {(first.method, first.n_clients, first.seed): time for own, time in found for first in own.outcomes[:1]}
    along = [own for own in ([own for own, _ in found] if shown is None else shown) if own.path]
    rising = along[0].rising if along else None
    way: dict[float, list[Outcome]] = defaultdict(list)
    for own in along:
        for share, there in own.path.items():
            way[share] += there if own.rising == rising else []
    return PoliciesComparison(
        policy_comparison(outcomes, seconds, same_users=same_users),
        switching(way, rising) if way else None,
        samples_along(way) if way else (),
        notes=tuple(dict.fromkeys(note for own, _ in found for note in own.notes)),
        accuracy={name: value for own, _ in found for name, value in own.accuracy.items()},
    )


def samples_along(way: Mapping[float, Sequence[Outcome]]) -> tuple[SideBySide, ...]:
    """The first prompts, answered along the path from one preference to the other."""
    first = way[min(way)]
    shown = list(dict.fromkeys(outcome.prompt for outcome in first if outcome.seed == first[0].seed))[:SAMPLES]
    return tuple(side_by_side({f"z at {share:.0%}": way[share] for share in way}, shown))


def say_bias(compared: PoliciesComparison) -> None:
    """Say loudly where a judge decided by the place of a response."""
    for warning in short_warnings(compared.win_rates.judges):
        say(warning)
