"""Answers are sampled once, in blocks: more prompts, another judge or another process sample only what is not there."""

from pathlib import Path

import pytest
import torch

from experiments.stub_policy import StubPolicy
from fedvpa.core.errors import DataError
from fedvpa.experiments.answers import BASE, BLOCK, Answers, whole_blocks
from fedvpa.policy.sampling import Sampling

pytestmark = pytest.mark.unit

HOW = Sampling(temperature=0.3, top_p=0.9, max_new_tokens=17)
PROMPTS = [f"prompt {number}" for number in range(2 * BLOCK)]
CONTENTS = {"": "weights", BASE: "base"}


def book(policy, prompts=PROMPTS, path=None, contents=CONTENTS, sampling=HOW, seed=5):
    return Answers(prompts, sampling, seed, contents, lambda name: policy, path)


def never(name):
    pytest.fail(f"{name!r} was opened")


def test_every_prompt_gets_the_answer_at_its_own_z_in_a_stream_of_its_block():
    z = torch.arange(2.0 * len(PROMPTS)).view(-1, 2)
    found = book(StubPolicy("policy")).of("", z, "seen")
    assert len(found) == len(PROMPTS)
    for row in (0, BLOCK - 1, BLOCK, 2 * BLOCK - 1):
        text = f"policy to prompt {row} at {z[row].tolist()} with 0.3, 0.9, 17 by 5.duel.seen.{row // BLOCK}"
        assert (found[row].text, found[row].tokens) == (text, len(text))


def test_the_base_policy_answers_without_adapter_and_without_z():
    found = book(StubPolicy("policy")).of(BASE, None, "base")
    assert found[0].text == "base to prompt 0 at None with 0.3, 0.9, 17 by 5.duel.base.0"


def test_more_prompts_sample_only_the_blocks_that_are_new(tmp_path: Path):
    policy, path = StubPolicy("policy"), tmp_path / "answers.jsonl"
    few = book(policy, PROMPTS[:BLOCK], path).of("", None)
    assert policy.calls == [("policy", BLOCK)]
    many = book(policy, PROMPTS, path).of("", None)
    assert policy.calls == [("policy", BLOCK)] * 2
    assert many[:BLOCK] == few
    assert many == book(StubPolicy("policy")).of("", None)
    assert Answers(PROMPTS, HOW, 5, CONTENTS, never, path).of("", None) == many


@pytest.mark.parametrize(
    "changes",
    [
        {"contents": {**CONTENTS, "": "other weights"}},
        {"sampling": Sampling(0.4, 0.9, 17)},
        {"sampling": Sampling(0.3, 0.8, 17)},
        {"sampling": Sampling(0.3, 0.9, 18)},
        {"seed": 6},
        {"prompts": [*PROMPTS[:-1], "another"]},
    ],
)
def test_what_decides_an_answer_is_sampled_again_when_it_changes(changes, tmp_path: Path):
    policy, path = StubPolicy("policy"), tmp_path / "answers.jsonl"
    book(policy, path=path).of("", None)
    del policy.calls[:]
    book(policy, path=path, **changes).of("", None)
    assert policy.calls == [("policy", BLOCK)] * (1 if "prompts" in changes else 2)


def test_another_z_or_stream_is_another_answer(tmp_path: Path):
    policy, path = StubPolicy("policy"), tmp_path / "answers.jsonl"
    answers, z = book(policy, PROMPTS[:3], path), torch.zeros(3, 2)
    texts = {
        answers.of("", latents, *stream)[2].text
        for latents, stream in ((z, ("seen",)), (z + 1, ("seen",)), (z, ("unseen",)), (None, ()))
    }
    assert len(texts) == len(policy.calls) == 4
    assert answers.of("", z, "seen")
    assert len(policy.calls) == 4


def test_the_batch_decides_no_answer(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    found = book(StubPolicy("policy"), path=path).of("", None)
    assert Answers(PROMPTS, Sampling(0.3, 0.9, 17, batch=2), 5, CONTENTS, never, path).of("", None) == found


def test_whole_blocks():
    assert [whole_blocks(count) for count in (1, BLOCK, BLOCK + 1)] == [BLOCK, BLOCK, 2 * BLOCK]


def test_a_file_that_holds_something_else_is_named(tmp_path: Path):
    (tmp_path / "answers.jsonl").write_text('{"key": "k"}\n')
    with pytest.raises(DataError, match=r"answers\.jsonl:1: this line holds no answers\. Delete the file"):
        book(StubPolicy("policy"), path=tmp_path / "answers.jsonl")
