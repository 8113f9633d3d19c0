import numpy as np
import pytest

from fedvpa.core.errors import DataError
from fedvpa.data.schema import Message, Pair
from fedvpa.data.splits import (
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    HeldOut,
    SplitRule,
    cap_training,
    check_held_out,
    hold_out,
    make_rule,
    prompt_name,
    unit_names,
)

pytestmark = pytest.mark.unit

CODES = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def pairs_of(prompts, splits=None, responses=None):
    splits = splits or [None] * len(prompts)
    responses = responses or [(f"c{i}", f"r{i}") for i in range(len(prompts))]
    return [
        Pair(prompt, *both, split=split, pair_id=str(i))
        for i, (prompt, split, both) in enumerate(zip(prompts, splits, responses, strict=True))
    ]


def test_a_unit_is_on_one_side_and_its_hash_alone_decides_which():
    rng = np.random.default_rng(0)
    prompts = [f"p{number}" for number in rng.integers(0, 97, 613)]
    pairs, rule = pairs_of(prompts), SplitRule("prompt", 3, 0.2, 0.1)
    parts = hold_out(pairs, rule)
    assert set(parts.tolist()) == {TRAIN, VALIDATION, TEST}
    side = dict(zip(prompts, parts.tolist(), strict=True))
    assert [side[prompt] for prompt in prompts] == parts.tolist()
    # A device that holds a few of the pairs finds the same parts without hearing of the others.
    few = rng.permutation(613)[:31]
    np.testing.assert_array_equal(hold_out([pairs[row] for row in few], rule), parts[few])
    assert all(rule.part(prompt) == part for prompt, part in side.items())


@pytest.mark.parametrize(("test", "validation"), [(0.2, 0.0), (0.33, 0.1), (0.05, 0.5)])
def test_shares_of_the_units(test, validation):
    rule = SplitRule("prompt", 0, test, validation)
    parts = hold_out(pairs_of([str(number) for number in range(9973)]), rule)
    shares = np.bincount(parts, minlength=3) / len(parts)
    assert shares == pytest.approx([1 - test - validation, validation, test], abs=0.015)


def test_validation_moves_no_test_unit_and_another_seed_holds_out_others():
    pairs = pairs_of([str(number) for number in range(997)])
    plain, validated, other = (
        hold_out(pairs, rule)
        for rule in (
            SplitRule("prompt", 0, 0.2),
            SplitRule("prompt", 0, 0.2, 0.3),
            SplitRule("prompt", 1, 0.2),
        )
    )
    np.testing.assert_array_equal(plain == TEST, validated == TEST)
    both = ((plain == TEST) & (other == TEST)).sum() / (plain == TEST).sum()
    assert both == pytest.approx(0.2, abs=0.07)


def test_pairs_are_the_unordered_responses_with_their_prompt():
    responses = [("a", "b"), ("b", "a"), ("a", "c"), ("a", "b"), ("a ", "b\n")]
    pairs = pairs_of(["p", "p", "p", "q", " p"], responses=responses)
    names = unit_names(pairs, "pair")
    assert names[0] == names[1] == names[4]
    assert len(set(names)) == 3
    assert len(set(unit_names(pairs, "prompt"))) == 2


def test_prompts_that_differ_in_white_space_only_are_one_prompt():
    assert prompt_name(" a\n b ") == prompt_name("a b") != prompt_name("ab")
    turns = (Message("user", "a  b"), Message("assistant", "c"))
    assert prompt_name(turns) == prompt_name((Message("user", "a b"), Message("assistant", "c ")))
    assert prompt_name(turns) != prompt_name((Message("user", "a b c"),))
    assert prompt_name(turns) != prompt_name((Message("system", "a b"), Message("assistant", "c")))


def test_one_prompt_cannot_be_held_out_and_the_error_names_the_other_unit():
    pairs = pairs_of(["the only one"] * 53)
    for seed in range(7):
        rule = SplitRule("prompt", seed, 0.2)
        parts = hold_out(pairs, rule)
        assert len(set(parts.tolist())) == 1
        with pytest.raises(DataError, match=r"53 pairs \(1 different prompts\) leave none to .*partition\.unit=pair"):
            HeldOut.of(pairs, parts, rule).check(parts)
    rule = SplitRule("pair", 0, 0.2)
    parts = hold_out(pairs, rule)
    HeldOut.of(pairs, parts, rule).check(parts)
    assert (parts == TEST).mean() == pytest.approx(0.2, abs=0.15)


def test_the_datas_own_split_is_kept_as_it_is():
    splits = ["train", "test", "train", "test", "validation", "train"]
    pairs = pairs_of(["p", "p", "q", "r", "s", "t"], splits)
    rule = make_rule(pairs, None, 0, test_fraction=0.2, validation_fraction=0.5)
    assert rule.unit == "split"
    parts = hold_out(pairs, rule)
    assert parts.tolist() == [CODES[split] for split in splits]
    found = HeldOut.of(pairs, parts, rule)
    assert (found.units, found.test_units, found.shared_units, found.test_pairs) == (5, 2, 1, 2)
    assert "1 of these prompts also train" in str(found)


def test_a_split_without_validation_takes_it_from_whole_training_prompts():
    prompts = [f"p{number % 97}" for number in range(613)]
    pairs = pairs_of(prompts, ["test" if number % 5 == 0 else "train" for number in range(613)])
    parts = hold_out(pairs, SplitRule("split", 0, 0.2, 0.3))
    assert (parts == VALIDATION).mean() == pytest.approx(0.8 * 0.3, abs=0.08)
    assert all((part == TEST) == (pair.split == "test") for pair, part in zip(pairs, parts, strict=True))
    held = {pair.prompt for pair, part in zip(pairs, parts, strict=True) if part == VALIDATION}
    assert not held & {pair.prompt for pair, part in zip(pairs, parts, strict=True) if part == TRAIN}


def test_pairs_without_a_split_follow_their_unit():
    pairs = pairs_of(["p", "p", "q", "q", "r"], ["test", None, "train", None, None])
    rule = make_rule(pairs, None, 0, test_fraction=0.2, validation_fraction=0.0)
    assert rule.unit == "prompt"
    parts = hold_out(pairs, rule)
    assert parts[:4].tolist() == [TEST, TEST, TRAIN, TRAIN]
    assert parts[4] == rule.part("r")


def test_a_split_that_parts_a_unit_is_an_error_unless_it_is_asked_for():
    pairs = pairs_of(["p", "p", "q"], ["test", "train", None])
    with pytest.raises(DataError, match=r"1 pairs elsewhere .* pair '1' \(train\).*partition\.unit=split"):
        hold_out(pairs, SplitRule("prompt", 0, 0.2))
    with pytest.raises(DataError, match=r"1 of 3 pairs say no split.*partition\.unit=prompt"):
        make_rule(pairs, "split", 0, test_fraction=0.2, validation_fraction=0.0)


def test_a_unit_on_both_sides_is_found():
    pairs = pairs_of(["p", "q", "p"])
    rule = SplitRule("prompt", 0, 0.2)
    check_held_out(pairs, np.array([TEST, TRAIN, TEST]), rule)
    for part in (TRAIN, VALIDATION, UNUSED):
        with pytest.raises(DataError, match=r"The prompt 'p' would train and test"):
            check_held_out(pairs, np.array([TEST, TRAIN, part]), rule)


def test_few_units_are_said():
    pairs = pairs_of([str(number % 7) for number in range(97)])
    rule = SplitRule("prompt", 0, 0.3)
    assert "so few prompts say little (partition.unit=pair" in str(HeldOut.of(pairs, hold_out(pairs, rule), rule))


@pytest.mark.equivalence
@pytest.mark.parametrize("trial", range(23))
def test_a_cap_keeps_the_first_training_pairs_of_each_client(trial):
    rng = np.random.default_rng(trial)
    size, cap = int(rng.integers(0, 89)), int(rng.integers(1, 7))
    owner, parts = rng.integers(0, 5, size), rng.choice([TRAIN, VALIDATION, TEST], size)
    keys = rng.permutation(size).astype(np.uint64)
    expected = parts.copy()
    for client in range(5):
        rows = sorted(np.flatnonzero((owner == client) & (parts == TRAIN)), key=lambda row: keys[row])
        expected[rows[cap:]] = UNUSED
    np.testing.assert_array_equal(cap_training(parts, owner, keys, cap), expected)
