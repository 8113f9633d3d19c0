from collections import defaultdict

import numpy as np
import pytest

from fedvpa.data.splits import TEST, TRAIN, UNDECIDED, UNUSED, VALIDATION, SplitRule, draw_splits


def split_by_hand(owner, keys, prescribed, clients, rule):
    """The slow twin: one client after the other, one prompt after the other."""
    parts = np.full(len(owner), UNUSED)
    for client in range(clients):
        prompts = defaultdict(list)
        for row in np.flatnonzero(owner == client):
            prompts[keys[row]].append(row)
        ordered = [prompts[key] for key in sorted(prompts)]
        whole = {id(rows): max(prescribed[row] for row in rows) for rows in ordered}
        undecided = [rows for rows in ordered if whole[id(rows)] == UNDECIDED]
        free = sum(map(len, undecided))
        given_tests = int(((owner == client) & (prescribed == TEST)).sum())
        target = max(round(rule.test_fraction * free), rule.min_test - given_tests) if free else 0
        tests = take(undecided, target)
        for rows in undecided:
            whole[id(rows)] = TEST if any(rows is taken for taken in tests) else TRAIN
        if not (prescribed == VALIDATION).any():
            target = round(rule.validation_fraction * sum(map(len, ordered)))
            for rows in take([rows for rows in ordered if whole[id(rows)] == TRAIN], target):
                whole[id(rows)] = VALIDATION
        used = 0
        for rows in ordered:
            for row in rows:
                part = whole[id(rows)]
                keeps_own = prescribed[row] != UNDECIDED and not (prescribed[row] == TRAIN and part == VALIDATION)
                parts[row] = prescribed[row] if keeps_own else part
                if parts[row] == TRAIN:
                    used += 1
                    parts[row] = UNUSED if rule.train_cap is not None and used > rule.train_cap else TRAIN
    return parts


def take(prompts, target):
    taken, count = [], 0
    for rows in prompts:
        if len(rows) > target:
            continue
        if count + len(rows) / 2 > target:
            break
        taken.append(rows)
        count += len(rows)
    return taken


def random_case(trial):
    rng = np.random.default_rng(trial)
    clients, pairs = int(rng.integers(1, 7)), int(rng.integers(0, 89))
    owner = rng.integers(0, clients, pairs)
    keys = rng.integers(0, rng.choice([5, 97]), pairs).astype(np.uint64)
    choices = [[UNDECIDED], [UNDECIDED, TRAIN, TEST], [TRAIN, VALIDATION, TEST]][trial % 3]
    rule = SplitRule(
        test_fraction=float(rng.choice([0.2, 0.33, 0.5])),
        validation_fraction=float(rng.choice([0.0, 0.13, 0.3])),
        min_test=int(rng.integers(1, 4)),
        train_cap=[None, 3, 11][int(rng.integers(3))],
    )
    return owner, keys, rng.choice(choices, pairs), clients, rule


@pytest.mark.equivalence
@pytest.mark.parametrize("trial", range(211))
def test_all_clients_at_once_equals_one_by_one(trial):
    case = random_case(trial)
    np.testing.assert_array_equal(draw_splits(*case), split_by_hand(*case))


@pytest.mark.unit
@pytest.mark.parametrize("trial", range(0, 211, 3))
def test_no_prompt_of_a_client_straddles_parts(trial):
    owner, keys, prescribed, clients, rule = random_case(trial)
    parts = draw_splits(owner, keys, prescribed, clients, rule)
    seen = defaultdict(set)
    for client, key, part in zip(owner, keys, parts, strict=True):
        seen[client, key].add(TRAIN if part == UNUSED else part)
    assert all(len(parts) == 1 for parts in seen.values())


@pytest.mark.unit
def test_a_prescribed_split_is_kept_and_pulls_the_pairs_of_its_prompt_along():
    keys = np.array([3, 3, 5, 5, 7, 11, 13], dtype=np.uint64)
    prescribed = np.array([TEST, UNDECIDED, TRAIN, UNDECIDED, TRAIN, TRAIN, TEST])
    parts = draw_splits(np.zeros(7, dtype=np.int64), keys, prescribed, 1, SplitRule(0.5, 0.0, 1, None))
    assert parts.tolist() == [TEST, TEST, TRAIN, TRAIN, TRAIN, TRAIN, TEST]


@pytest.mark.unit
def test_one_prompt_asked_often_does_not_take_the_test_part_from_the_others():
    keys = np.array([0] * 7 + [2, 3, 5], dtype=np.uint64)
    parts = draw_splits(np.zeros(10, dtype=np.int64), keys, np.full(10, UNDECIDED), 1, SplitRule(0.2, 0.0, 1, None))
    assert parts.tolist() == [TRAIN] * 7 + [TEST, TEST, TRAIN]
