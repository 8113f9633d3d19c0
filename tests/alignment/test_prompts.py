from types import SimpleNamespace

import pytest

from fedvpa.alignment.prompts import check_unseen, evaluation_prompts, public_prompts
from fedvpa.alignment.stage1 import Users
from fedvpa.core.errors import DataError
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.data.partition import Partition, partition
from fedvpa.data.partition_config import PartitionConfig
from fedvpa.data.schema import Pair, PairTable
from fedvpa.policy.config import PolicyConfig
from fedvpa.runs.held import HeldPairs
from fedvpa.runs.users import RunUsers

pytestmark = pytest.mark.unit


def clients(prompts, *, users=7, split=None, **settings):
    """Every user judges every prompt."""
    table = PairTable(
        tuple(
            Pair(
                prompt,
                f"c{user}",
                f"r{number}",
                f"u{user}",
                split=split and split(user, number),
                pair_id=f"{user}-{number}",
            )
            for user in range(users)
            for number, prompt in enumerate(prompts)
        )
    )
    config = PartitionConfig(kind="natural", unseen=2, min_train=1, **settings)
    return ClientPairs(table, partition(table, config, seed=0))


def stage(pairs, prompt_file=None):
    policy = PolicyConfig.parse({"candidates": {"prompt_file": prompt_file}})
    some = Users.of((), None)
    users = RunUsers(some, some, pairs.partition, "", HeldPairs.of(pairs))
    there = bool(len(pairs.table))
    return SimpleNamespace(
        world=False,
        pairs=pairs,
        has_text=there,
        holds_out=users.holds_out,
        policy=policy,
        seed=0,
        strict=False,
        private=False,
    )


PROMPTS = [f"p{number}" for number in range(211)]
SPLITS = {
    "prompt": {},
    "pair": {"unit": "pair"},
    "own split": {"split": lambda user, number: "test" if (user + number) % 5 == 0 else "train"},
}


@pytest.mark.parametrize("settings", SPLITS.values(), ids=SPLITS)
def test_no_policy_trains_on_a_prompt_that_it_is_judged_on(settings):
    pairs = clients(PROMPTS, **settings)
    train, validation = public_prompts(stage(pairs))
    judged = evaluation_prompts(stage(pairs), 500)
    assert len(train) + len(validation) + len(judged) == len(PROMPTS)
    assert set(train) | set(validation) | set(judged) == set(PROMPTS)
    assert len(judged) == pytest.approx(0.2 * len(PROMPTS), abs=20)
    trained = {pair.prompt for own in pairs.policy_training().values() for pair in own}
    assert trained == set(train) | set(validation)
    assert {pair.prompt for pair in pairs.training_pairs(train)} == set(train)
    with pytest.raises(DataError, match="would train and judge"):
        check_unseen([*train, judged[0]], stage(pairs).holds_out)


def test_one_prompt_for_everybody_leaves_nothing_to_align_or_to_judge_on():
    pairs = clients(["which?"] * 31, unit="pair")
    with pytest.raises(DataError, match=r"prompt_file"):
        public_prompts(stage(pairs))
    if not pairs.partition.rule.holds_out("which?"):
        with pytest.raises(DataError, match=r"prompt_file"):
            evaluation_prompts(stage(pairs), 5)


def test_public_prompts_leave_out_what_users_are_judged_on(tmp_path):
    pairs = clients(PROMPTS[:97])
    held = set(pairs.test_prompts())
    file = tmp_path / "public.txt"
    public = [f"q{number}" for number in range(97)]
    file.write_text("\n".join([*public, *(f" {prompt}  " for prompt in sorted(held))]))
    train, validation = public_prompts(stage(pairs, file))
    assert set(train) | set(validation) < set(public)
    assert evaluation_prompts(stage(pairs, file), 500) == evaluation_prompts(stage(pairs), 500)


def test_without_users_text_the_hash_still_holds_out_public_prompts(tmp_path):
    pairs = clients(PROMPTS)
    nobody = ClientPairs(PairTable(()), Partition((), pairs.partition.rule))
    file = tmp_path / "public.txt"
    file.write_text("\n".join(PROMPTS))
    train, validation = public_prompts(stage(nobody, file))
    judged = evaluation_prompts(stage(nobody, file), 500)
    assert set(judged) == set(pairs.test_prompts())
    assert not set(judged) & {*train, *validation}
    assert len(train) + len(validation) + len(judged) == len(PROMPTS)


def test_few_prompts_are_said_loudly_and_two_are_enough(tmp_path, capsys):
    pairs = clients(PROMPTS)
    kept = [prompt for prompt in (f"q{number}" for number in range(30)) if not stage(pairs).holds_out(prompt)]
    for count in (2, 3, 11):
        file = tmp_path / f"{count}.txt"
        file.write_text("\n".join(kept[:count]))
        train, validation = public_prompts(stage(pairs, file))
        assert min(len(train), len(validation)) >= 1
        assert {*train, *validation} == set(kept[:count])
        said = capsys.readouterr().err
        assert f"WARNING: only {len(train)} prompts to align on and {len(validation)} to stop by" in said
    file.write_text("\n".join(f"q{number}" for number in range(900)))
    public_prompts(stage(pairs, file))
    assert "WARNING" not in capsys.readouterr().err


def test_prompts_to_judge_on_can_be_given_and_train_nothing(tmp_path, capsys):
    pairs, file, public = clients(PROMPTS), tmp_path / "judge.txt", tmp_path / "public.txt"
    trained = pairs.training_prompts()
    others = [f"other {number}" for number in range(20)]
    file.write_text("\n".join([*others, trained[0], "public 7"]))
    public.write_text("\n".join([*(f"public {number}" for number in range(60)), others[3]]))
    for candidates in (None, public):
        where = stage(pairs, candidates)
        judging = where.policy.judging.model_copy(update={"prompt_file": file})
        where.policy = where.policy.model_copy(update={"judging": judging})
        train, validation = public_prompts(where)
        judged = evaluation_prompts(where, 50)
        assert not set(judged) & {*train, *validation, trained[0]}
        left_out = {"public 7", others[3]} if candidates else set()
        assert set(judged) == {*others, "public 7"} - left_out
        assert not {*others, trained[0], "public 7"} & {*train, *validation}
    assert "3 of 22 prompts of" in capsys.readouterr().err
    file.write_text(trained[0])
    with pytest.raises(DataError, match=r"judge\.txt: its prompts all train \(1\)"):
        evaluation_prompts(where, 50)
