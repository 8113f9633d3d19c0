"""Policies against the base policy, on prompts that no training saw, judged per preference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedvpa.alignment.prompts import evaluation_prompts
from fedvpa.alignment.stage1 import ONE, Stage1
from fedvpa.core.errors import DataError
from fedvpa.data.schema import Text
from fedvpa.data.text import plain_text
from fedvpa.evaluation.judges.base import Duel, Judge, check_missing, exact_reward_of
from fedvpa.evaluation.outcomes import Outcome
from fedvpa.policy.config import JudgingConfig
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.policy.sampling import Sampling
from fedvpa.rewards.base import ExactReward

PATH_STEPS = 5
"""Latents from one prototype to the other, both included: the switching curve of the evaluation protocol."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A response and its length in tokens."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Duels:
    """Prompts, and the base policy's answers to them: the same for all methods of a seed.

    Attributes:
        prompts: Unseen ones.
        base: One answer of the base policy to each.
        sampling: How everybody's answers are drawn.
        judge: Who decides.
        exact: The reward that knows the utilities which the judge decides by; None for a judge without one.
        missing_limit: Largest share of verdicts that may be missing.
    """

    prompts: Sequence[Text]
    base: Sequence[str]
    sampling: Sampling
    judge: Judge
    exact: ExactReward | None
    missing_limit: float

    def outcomes(self, stage: Stage1, policies: Mapping[str, Policy], preference: str, *, seen: bool) -> list[Outcome]:
        """The duels of one preference: its users take turns, each with the own z.

        Args:
            stage: Whose users, and whose method.
            policies: By name; one for all, or one per group.
            preference: The group whose users ask, and whose taste judges.
            seen: Whether its seen or its unseen users ask.
        """
        users = stage.seen if seen else stage.unseen
        own = [row for row, group in enumerate(users.groups) if group == preference]
        if not own:
            return []
        rows = [own[place % len(own)] for place in range(len(self.prompts))]
        policy = policies.get(preference, policies.get(ONE))
        if policy is None:
            raise DataError(f"There is no policy for {preference!r}.", fix="Align the run again.")
        if not stage.personal:
            answers = self.answers(policy, None, stage.seed)
            return self.judged(stage, answers, preference, [""] * len(answers), seen=True)
        answers = self.answers(policy, users.z[rows], stage.seed, "seen" if seen else "unseen")
        return self.judged(stage, answers, preference, [users.ids[row] for row in rows], seen=seen)

    def answers(self, policy: Policy, z: Tensor | None, seed: int, *path: str) -> list[Completion]:
        """One answer to each prompt."""
        prompts = policy.tokenizer.prompts(self.prompts)
        return _completions(policy, policy.sample(prompts, z, self.sampling, seed, "duel", *path))

    def judged(
        self, stage: Stage1, answers: Sequence[Completion], preference: str, users: Sequence[str], *, seen: bool
    ) -> list[Outcome]:
        """Verdicts on answers against the base policy's.

        Raises:
            JudgeError: If too many verdicts are missing.
        """
        shown = [plain_text(prompt) for prompt in self.prompts]
        duels = [
            Duel(prompt, answer.text, base, preference)
            for prompt, answer, base in zip(self.prompts, answers, self.base, strict=True)
        ]
        verdicts = self.judge.compare(duels)
        check_missing(verdicts, self.missing_limit)
        ours = self._utilities(shown, [answer.text for answer in answers], preference)
        theirs = self._utilities(shown, self.base, preference)
        return [
            Outcome(
                method=stage.method,
                n_clients=len(stage.seen.ids),
                seed=stage.seed,
                preference=preference,
                user_id=user,
                seen=seen,
                prompt=prompt,
                response=answer.text,
                base_response=base,
                score=verdict.score,
                utility=mine[0],
                base_utility=other[0],
                parsed=mine[1],
                base_parsed=other[1],
                tokens=answer.tokens,
                judge=self.judge.name,
                first_seat=verdict.first_seat,
            )
            for user, prompt, answer, base, verdict, mine, other in zip(
                users, shown, answers, self.base, verdicts, ours, theirs, strict=True
            )
        ]

    def _utilities(
        self, prompts: Sequence[str], answers: Sequence[str], preference: str
    ) -> list[tuple[float | None, bool | None]]:
        if self.exact is None:
            return [(None, None)] * len(answers)
        values, parsed = self.exact.utilities(list(zip(prompts, answers, strict=True)), preference)
        return [(float(value), bool(inside)) for value, inside in zip(values, parsed, strict=True)]


def open_duels(
    stage: Stage1, policy: Policy, judge: Judge, rules: JudgingConfig, prompts: Sequence[Text] | None = None
) -> Duels:
    """The evaluation of a seed: unseen prompts and the base policy's answers.

    Args:
        stage: Gives prompts and seed.
        policy: Any policy on the base.
        judge: Who decides.
        rules: How many prompts and how answers are drawn.
        prompts: Instead of the evaluation prompts, for choices that must not see those.
    """
    prompts = evaluation_prompts(stage, rules.prompts) if prompts is None else prompts
    limits = stage.policy.candidates
    sampling = Sampling(rules.temperature, rules.top_p, limits.max_new_tokens, limits.batch)
    with policy.reference() as base:
        samples = base.sample(base.tokenizer.prompts(prompts), None, sampling, stage.seed, "duel", "base")
    answers = [answer.text for answer in _completions(policy, samples)]
    return Duels(prompts, answers, sampling, judge, exact_reward_of(judge), rules.missing_limit)


def all_outcomes(duels: Duels, stage: Stage1, policies: Mapping[str, Policy]) -> list[Outcome]:
    """The duels of every preference, by seen and by unseen users; a policy without z answers both alike."""
    return [
        outcome
        for seen in ((True, False) if stage.personal else (True,))
        for preference in stage.groups
        for outcome in duels.outcomes(stage, policies, preference, seen=seen)
    ]


def path_outcomes(duels: Duels, stage: Stage1, policy: Policy) -> list[list[Outcome]]:
    """The duels along the straight path between the z of the first two preferences; each step judged under both."""
    named = stage.named_preferences()
    first, second = (torch.tensor(named[name]) for name in stage.groups[:2])
    steps = []
    for step in range(PATH_STEPS):
        share = step / (PATH_STEPS - 1)
        z = ((1 - share) * first + share * second).expand(len(duels.prompts), -1)
        answers = duels.answers(policy, z, stage.seed, "path")
        nobody = [""] * len(answers)
        steps.append(
            [
                outcome
                for preference in stage.groups[:2]
                for outcome in duels.judged(stage, answers, preference, nobody, seen=True)
            ]
        )
    return steps


def _completions(policy: Policy, samples: Sequence[Ids]) -> list[Completion]:
    return [Completion(policy.tokenizer.text(ids), len(ids)) for ids in samples]
