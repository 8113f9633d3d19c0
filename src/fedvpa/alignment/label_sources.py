"""What knows the right order of a run's pairs: an exact judge of candidates, or pairs that users hold out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.label_check import Accuracy, LabelCheck, accuracy, check_candidates, preferences_of
from fedvpa.alignment.preferences import LabelledPairs
from fedvpa.alignment.stage1 import Stage1
from fedvpa.core.errors import DataError
from fedvpa.data.partition import ClientRows
from fedvpa.data.schema import PairTable, Text
from fedvpa.data.splits import prompt_name
from fedvpa.features.extract import load_features
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.rewards.base import ExactReward
from fedvpa.rewards.registry import REWARDS
from fedvpa.selector.pairs import Pairs

HELD_OUT = "held-out pairs"
"""What the check calls them."""

MOST_HELD_OUT = 1_000
"""Of more held-out pairs so many are read, as many of each user: a standard error of 0.015. Chosen by us."""

EVERYBODY = "the users' mean utility"
"""What a policy without a latent can follow at best."""


def check_labels(
    stage: Stage1, policy: Policy, texts: Sequence[Text], candidates: Candidates, labelled: LabelledPairs
) -> LabelCheck:
    """Check the labels of a policy's pairs by the exact judge of the run, or else by users' held-out pairs.

    Args:
        stage: The first stage.
        policy: Whose tokens the candidates are.
        texts: The prompt of each of the candidates.
        candidates: The responses.
        labelled: Their pairs.

    Raises:
        ConfigError: If the settings of the judge cannot be used, or it does not know the preference of a group.
    """
    reward, note = exact_reward(stage), ""
    if reward is not None:
        try:
            return _by_judge(reward, stage, policy, texts, candidates, labelled)
        except DataError as error:  # the bundled world's knows no other prompts than its own
            note = f"the judge {reward.name!r} cannot score these candidates ({error.problem})"
    if not stage.seen.ids or stage.seen.posterior is None:
        return LabelCheck("", note=note or "no user of the run is at hand, and its judge is not exact")
    if not stage.has_text:
        return LabelCheck("", note=note or "the run's pairs are not here, and its judge is not exact")
    found = _by_held_out(stage)
    return replace(found, note="; ".join(filter(None, (found.note, note))))


def exact_reward(stage: Stage1) -> ExactReward | None:
    """The judge of the run, if it knows what a response is worth."""
    judging = stage.policy.judging
    if judging.judge not in REWARDS:
        return None
    reward = REWARDS.get(str(judging.judge))(judging.settings)
    return reward if isinstance(reward, ExactReward) else None


def _by_judge(
    reward: ExactReward,
    stage: Stage1,
    policy: Policy,
    texts: Sequence[Text],
    candidates: Candidates,
    labelled: LabelledPairs,
) -> LabelCheck:
    by = f"the exact judge {reward.name!r}"
    following = stage.personal or stage.by_group
    tastes = stage.open_tastes()
    known = preferences_of(labelled.latents, stage.seen, tastes)
    everybody = [tastes.get(one, group) for one, group in zip(stage.seen.ids, stage.seen.groups, strict=True)]
    names = sorted({name for name in (known if following else everybody) if name is not None})
    if not names:
        return LabelCheck("", note=f"{by} knows no preference of the run's users")
    utilities = utilities_of(reward, policy, texts, candidates.responses, names)
    if following:
        return check_candidates(by, labelled, candidates, known, utilities)
    mean = torch.stack([utilities[name] for name in everybody if name is not None]).mean(0)
    found = check_candidates(by, labelled, candidates, [EVERYBODY] * len(known), {EVERYBODY: mean})
    return LabelCheck(
        f"{EVERYBODY} by {by}", found.trained, found.all, note="a policy without a latent follows no one", binding=False
    )


def utilities_of(
    reward: ExactReward,
    policy: Policy,
    texts: Sequence[Text],
    responses: Sequence[Sequence[Ids]],
    preferences: Iterable[str],
) -> Mapping[str, Float[Tensor, "p samples"]]:
    """Preference → what responses are worth under it.

    Args:
        reward: Knows it.
        policy: Whose tokens the responses are.
        texts: The prompts.
        responses: As many to each prompt.
        preferences: Names of groups, or of users.
    """
    items = [(text, policy.tokenizer.text(ids)) for text, group in zip(texts, responses, strict=True) for ids in group]
    return {
        name: torch.from_numpy(reward.utilities(items, name)[0]).double().view(len(texts), -1) for name in preferences
    }


def _by_held_out(stage: Stage1) -> LabelCheck:
    """The selector on test pairs of seen users, or on validation pairs where no user has test pairs."""
    clients = stage.pairs.partition.seen
    held = [client.test for client in clients] if any(len(one.test) for one in clients) else _validation(clients)
    most = max(1, -(-MOST_HELD_OUT // len(clients)))
    own = [rows[:most] for rows in held]
    rows = np.concatenate(own) if own else np.zeros(0, np.int64)
    if not len(rows):
        return LabelCheck("", note="no user holds out a pair, and the judge of the run is not exact")
    user = torch.from_numpy(np.repeat(np.arange(len(own)), [len(part) for part in own]))
    right, prompts = _tried(stage, rows, user)
    unit = torch.from_numpy(np.unique([prompt_name(prompt) for prompt in prompts], return_inverse=True)[1])
    groups = [stage.seen.groups[row] for row in user.tolist()]

    def part(where: Sequence[bool]) -> Accuracy | None:
        chosen = torch.tensor(where, dtype=torch.bool)
        return accuracy(right[chosen], unit[chosen])

    names = sorted({group for group in groups if group is not None})
    posterior = stage.seen.posterior
    nearest = posterior.weights.argmax(-1)[user].tolist() if posterior is not None and stage.personal else []
    return LabelCheck(
        HELD_OUT,
        accuracy(right, unit),
        None,
        {str(n): one for n in sorted(set(nearest)) if (one := part([place == n for place in nearest]))},
        {name: one for name in names if (one := part([group == name for group in groups]))},
        note="candidates may be harder to order than these pairs",
        binding=stage.personal or stage.by_group,
    )


def _validation(clients: Sequence[ClientRows]) -> list[np.ndarray]:
    return [client.validation for client in clients]


def _tried(stage: Stage1, rows: np.ndarray, user: Tensor) -> tuple[Float[Tensor, " n"], list[Text]]:
    """Whether the reward orders each pair as its user did, and the pairs' prompts."""
    pairs = [stage.pairs.table.pairs[int(row)] for row in rows]
    store = load_features(PairTable(tuple(pairs)), stage.features)
    chosen, rejected = (stage.reward.scale(np.asarray(side)).unsqueeze(1) for side in (store.chosen, store.rejected))
    ones = torch.ones(len(pairs), 1)
    posterior = stage.seen.posterior
    if posterior is None:
        raise ValueError("users without posteriors have no z to be judged at")
    margins = stage.reward.margins(posterior[user], Pairs(chosen, rejected, ones, ones)).squeeze(1)
    return 0.5 + 0.5 * margins.sign(), [pair.prompt for pair in pairs]
