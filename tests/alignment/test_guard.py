"""What a look must stay within, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedvpa.alignment.guard import Language, distinct_beside, distinct_pairs, language_of, per_token, refusals
from fedvpa.policy.config import GuardConfig
from policy_fixtures import ids, make_candidates

LIMITS = GuardConfig(max_kl=0.5, max_drop=0.3, min_distinct=0.8)
FINE = Language(-2.0, -1.9, 0.85, 1.0, 20.0)


@pytest.mark.unit
def test_distinct_pairs_by_hand() -> None:
    # 1-2, 2-1, 1-2 and 1-2, 2-3: three different ones of five.
    assert distinct_pairs([ids(1, 2, 1, 2), ids(1, 2, 3)]) == pytest.approx(3 / 5)
    assert distinct_pairs([ids(7, 7, 7, 7, 7)]) == pytest.approx(1 / 4)
    assert distinct_pairs([ids(1), ids()]) == 0.0
    # Cut as the other: 7 7 and 1 2 3 beside 7 8 and 1 2 3.
    assert distinct_beside([ids(7, 7, 7), ids(1, 2, 3)], [ids(7, 8), ids(1, 2, 3, 1, 2)]) == (1.0, 1.0)
    assert distinct_beside([ids(7, 7, 7, 7)], [ids(1, 2, 1, 2, 9)]) == pytest.approx((1 / 3, 2 / 3))


@pytest.mark.unit
def test_the_mean_over_tokens_weighs_long_answers_more() -> None:
    assert per_token([np.float32([-1, -2, -3]), np.float32([-6])]) == pytest.approx(-3.0)
    assert per_token([]) == 0.0


@pytest.mark.unit
def test_the_language_of_answers_beside_the_bases_by_hand() -> None:
    # The base's samples have tokens (6 + row, 20, 2)[:2 or 3] of −1, −0.01 and −1 nats.
    base = make_candidates(torch.zeros(3, 2, 1))
    answers = [ids(8, 8, 8, 8), ids(9), ids(5, 5, 5)]
    said = [np.float32([-4, -4, -4, -4]), np.float32([-2]), np.float32([-1, -1, -1])]
    found = language_of(answers, said, base, [0, 2])
    assert found.language == pytest.approx(-19 / 7)
    assert found.base_language == pytest.approx(-(1.01 + 2.01) / 5)
    assert found.base_tokens == pytest.approx(2.5)
    # Both answers are cut to the two tokens of the base's first sample: (8, 8) and (5, 5), against (6, 20) and (8, 20).
    assert (found.distinct, found.base_distinct) == (1.0, 1.0)
    assert language_of([ids(8, 8, 8)] * 3, said, base, [0, 1, 2]).distinct == pytest.approx(1 / 3)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("spoken", "kl", "words"),
    [
        (FINE, 9.9, []),
        # 0.5 nats for each of the base's twenty tokens, however long the policy's answers are.
        (FINE, 10.1, ["KL of 0.51 nats a token at prototype 1 (policy.guard.max_kl=0.5)"]),
        (Language(-2.19, -1.9, 0.85, 1.0, 20.0), 0.0, []),
        (Language(-2.21, -1.9, 0.85, 1.0, 20.0), 0.0, ["0.31 nats a token less likely", "policy.guard.max_drop=0.3"]),
        (Language(-1.0, -1.9, 0.81, 1.0, 20.0), 0.0, []),
        (Language(-1.0, -1.9, 0.39, 0.5, 20.0), 0.0, ["distinct-2 of 0.78 of the base's at prototype 1"]),
    ],
)
def test_each_limit_is_passed_by_itself(spoken: Language, kl: float, words: list[str]) -> None:
    found = refusals(LIMITS, {"": 0.0, "1": kl}, {"": FINE, "1": spoken})
    assert len(found) == bool(words)
    assert all(word in found[0] for word in words)


@pytest.mark.unit
def test_all_that_is_wrong_is_said() -> None:
    lost = Language(-5.0, -1.9, 0.1, 1.0, 20.0)
    # Once for each limit, though it is passed at a prototype, too.
    found = refusals(LIMITS, {"": 61.0, "0": 99.0}, {"": lost, "0": lost})
    assert len(found) == 3
    assert not any("prototype" in clause for clause in found)
