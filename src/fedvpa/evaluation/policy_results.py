"""What comparing policies gives, and its form in ``comparison.json``, beside the keys about accuracies.

The names of the fields are the keys of the file, which others rely on; those of the comparison itself have the prefix
``policy_`` there. All means are over prompts that no training saw, then over seeds; intervals are at 95% and None
where the data cannot bound the number. What is not known is None, in the file null. A missing verdict is counted as
missing and as nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedvpa.evaluation.intervals import Bootstrap, Estimate
from fedvpa.evaluation.judge_bias import JudgeSummary
from fedvpa.evaluation.student import Interval
from fedvpa.evaluation.summaries import JsonResult, bootstrap_as_json, fields_as_json


@dataclass(frozen=True, slots=True)
class PolicyRow(JsonResult):
    """One method in one run.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the run trained on.
        seed: The run's seed.
        win_rates: Preference → answers preferred to the base policy's, in [0, 1]; a tie counts one half.
        utilities: Preference → mean utility of the answers.
        parsed: Preference → fraction of answers inside the world's grammar.
        missing: Outcomes without a verdict.
        outcomes: All outcomes.
        unseen_win_rates: The same for users that training never saw; ``unseen_`` repeats the keys above.
        seconds: Wall-clock time of making the policy.
    """

    method: str
    n_clients: int
    seed: int
    win_rates: Mapping[str, float | None]
    utilities: Mapping[str, float | None]
    parsed: Mapping[str, float | None]
    missing: int
    outcomes: int
    unseen_win_rates: Mapping[str, float | None]
    unseen_utilities: Mapping[str, float | None]
    unseen_parsed: Mapping[str, float | None]
    unseen_missing: int
    unseen_outcomes: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class PreferenceSummary(JsonResult):
    """One method's answers, judged under one preference.

    Attributes:
        win_rate: Answers preferred to the base policy's, in [0, 1]; a tie counts one half.
        ci95: Its interval, of these trained policies; keys that end in ``ci95`` are likewise.
        method_ci95: Its interval over training seeds too, which is what it says of the method; keys that end in
            ``method_ci95`` are likewise. None with a single seed.
        length_controlled: The win rate predicted for answers as long as the base policy's.
        utility: Mean utility of the answers.
        utility_ci95: Its interval.
        base_utility: Mean utility of the base policy's answers.
        utility_gain: Mean utility above that of the base policy's answers.
        utility_gain_ci95: Its interval.
        parsed: Fraction of answers inside the world's grammar.
        parsed_ci95: Its interval.
        base_parsed: The same for the base policy's answers.
        tokens: Mean length of the answers.
        missing: Outcomes without a verdict.
        ties: Outcomes that ended in a tie, flipped ones included.
        flipped: Share of the outcomes judged in both orders whose verdict flipped with the order; None without any.
        outcomes: All outcomes.
        prompts: Different prompts.
        users: Users whose z steered the policy, counted once per seed.
    """

    win_rate: float | None
    ci95: Interval | None
    method_ci95: Interval | None
    length_controlled: float | None
    utility: float | None
    utility_ci95: Interval | None
    utility_method_ci95: Interval | None
    base_utility: float | None
    utility_gain: float | None
    utility_gain_ci95: Interval | None
    utility_gain_method_ci95: Interval | None
    parsed: float | None
    parsed_ci95: Interval | None
    parsed_method_ci95: Interval | None
    base_parsed: float | None
    tokens: float | None
    missing: int
    ties: int
    flipped: float | None
    outcomes: int
    prompts: int
    users: int


@dataclass(frozen=True, slots=True)
class UserSummary(JsonResult):
    """One method's answers for one kind of users: those that took part in training, or the others.

    Attributes:
        preferences: Preference → what its judge said.
        worse_axis: The preference with the lowest win rate; None without any win rate.
        oracle_share: Preference → mean gain over the base policy as a share of the oracle's gain; None without an
            oracle on the same prompts.
    """

    preferences: Mapping[str, PreferenceSummary]
    worse_axis: str | None
    oracle_share: Mapping[str, Estimate | None]


@dataclass(frozen=True, slots=True)
class PolicySummary(JsonResult):
    """One method at one number of clients, over all its seeds.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the runs trained on.
        seeds: Their seeds, sorted.
        preferences: Preference → what its judge said, for seen users.
        worse_axis: The preference with the lowest win rate; None without any win rate.
        oracle_share: Preference → mean gain over the base policy as a share of the oracle's gain; None without an
            oracle on the same prompts.
        unseen: The same for users that training never saw; None without any.
    """

    method: str
    n_clients: int
    seeds: tuple[int, ...]
    preferences: Mapping[str, PreferenceSummary]
    worse_axis: str | None
    oracle_share: Mapping[str, Estimate | None]
    unseen: UserSummary | None


@dataclass(frozen=True, slots=True)
class PolicyDifferenceRow(JsonResult):
    """Two methods on the same prompts, for seen users.

    Attributes:
        n_clients: How many clients the runs trained on.
        preference: Whose taste decided.
        first: One method.
        second: The other.
        mean: Win rate of the first less that of the second.
        ci95: Its interval.
        p_value: Two-sided, by Student's t: below 0.05 just where ``ci95`` leaves out zero.
        prompts: Prompts compared.
        seeds: The seeds both were run with.
        p_holm: The p-value adjusted over all differences of the comparison.
        method_p_value: The same as ``p_value`` for ``method_ci95``.
        method_p_holm: The same, adjusted.
    """

    n_clients: int
    preference: str
    first: str
    second: str
    mean: float
    ci95: Interval | None
    method_ci95: Interval | None
    p_value: float
    prompts: int
    seeds: tuple[int, ...]
    p_holm: float
    method_p_value: float | None
    method_p_holm: float | None


@dataclass(frozen=True, slots=True)
class PolicyComparison:
    """Everything that is said about policies compared on the same prompts.

    Attributes:
        bootstrap: How intervals were computed.
        rows: One per (method, n_clients, seed).
        summary: One per (method, n_clients).
        differences: The chosen method against every other one, by number of clients and preference.
        judges: How the judges decided; one, unless outcomes of several judges were gathered.
    """

    bootstrap: Bootstrap
    rows: tuple[PolicyRow, ...]
    summary: tuple[PolicySummary, ...]
    differences: tuple[PolicyDifferenceRow, ...]
    judges: tuple[JudgeSummary, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``comparison.json``: the fields with the prefix ``policy_``, as plain JSON values."""
        found = fields_as_json(self) | {"bootstrap": bootstrap_as_json(self.bootstrap)}
        return {f"policy_{name}": value for name, value in found.items()}
