"""The one look at a policy that clients trained: its base where nothing was learnt, and refused beyond the limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedvpa.alignment.language_look import look_at_language, look_line, look_notes, look_prompts
from fedvpa.policy.config import GuardConfig
from fedvpa.policy.sampling import Sampling
from policy_fixtures import make_policy, prompts_and_responses, tiny_config

FREE = GuardConfig(max_kl=1e3, max_drop=1e3, min_distinct=0)


@pytest.mark.equivalence
def test_a_policy_that_has_learnt_nothing_is_its_base(base_folder: Path):
    policy = make_policy(base_folder, None, noise=False)
    prompts, _ = prompts_and_responses(5)
    look = look_at_language(policy, prompts, tiny_config(base_folder), 3)
    assert (look.prompts, look.kl, look.refused) == (5, pytest.approx(0.0, abs=1e-4), "")
    assert look.language == pytest.approx(look.base_language, abs=1e-5)
    assert (look.distinct, look.tokens) == (look.base_distinct, look.base_tokens)


@pytest.mark.equivalence
def test_its_numbers_are_those_of_its_own_answers_under_both(base_folder: Path):
    policy = make_policy(base_folder, None)
    prompts, _ = prompts_and_responses(5)
    settings = tiny_config(base_folder).model_copy(update={"guard": FREE})
    look = look_at_language(policy, prompts, settings, 3, "x")
    limits = settings.candidates
    how = Sampling(limits.temperature, limits.top_p, limits.max_new_tokens, limits.batch)
    answers = policy.sample(prompts, None, how, 3, "language", "x")
    ours = [float(part.sum()) for part in policy.token_log_probs(prompts, answers, None)]
    theirs = [float(part.sum()) for part in policy.reference_log_probs(prompts, answers)]
    assert look.kl == pytest.approx((sum(ours) - sum(theirs)) / 5, rel=1e-4)
    assert look.language == pytest.approx(sum(theirs) / sum(map(len, answers)), rel=1e-4)
    assert look.kl > 1.0
    assert look.refused == ""
    strict = settings.model_copy(update={"guard": GuardConfig(max_kl=0.01)})
    refused = look_at_language(policy, prompts, strict, 3, "x")
    assert refused.kl == look.kl
    assert "policy.guard.max_kl=0.01" in refused.refused
    notes = look_notes(refused)
    assert (notes["looks"], notes["admissible"], notes["collapsed"]) == (1, 0, refused.refused)
    assert look_line(notes).endswith(f"not admissible: {refused.refused}")
    assert look_line(look_notes(look)).endswith(": admissible")


@pytest.mark.unit
def test_where_its_prompts_come_from(base_folder: Path, tmp_path: Path):
    settings = tiny_config(base_folder, candidates={"validation_prompts": 2})
    own = ["one", "two", "one", "three"]
    found = look_prompts(settings, 3, own, world=False, strict=False)
    assert len(found) == len(set(found)) == 2
    assert set(found) < set(own)
    assert look_prompts(settings, 3, own, world=False, strict=False) == found
    assert set(own).isdisjoint(look_prompts(settings, 3, own, world=True, strict=False))
    public = tmp_path / "prompts.txt"
    public.write_text("four\nfive\n")
    limits = settings.candidates.model_copy(update={"prompt_file": public})
    told = settings.model_copy(update={"candidates": limits})
    assert set(look_prompts(told, 3, own, world=True, strict=False)) == {"four", "five"}
    assert look_prompts(settings, 3, [], world=False, strict=False) == []
    assert look_notes(None) == {"looks": 0, "admissible": 0, "collapsed": ""}
    assert look_line(look_notes(None)) == "language not checked"
