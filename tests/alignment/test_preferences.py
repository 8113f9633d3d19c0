from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.latents import Latents, draw_latents
from fedvpa.alignment.preferences import UNUSUAL, label_pairs, language_floor, selector_margins
from fedvpa.core.errors import DataError
from fedvpa.policy.config import PreferenceConfig
from fedvpa.policy.examples import SURE
from fedvpa.selector.posterior import Posterior, single
from policy_fixtures import make_candidates, make_selector

PROTOTYPES = [[1.0, 0.0], [-1.0, 0.0]]
SELECTOR = make_selector(PROTOTYPES, personal=[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], base=[0.0, 1.0, 0.0])
"""At prototype 0 (z = e₁) a response is worth h₀ + h₁, at prototype 1 it is worth −h₀ + h₁."""
JUDGE = selector_margins(SELECTOR)


def at(*prototypes: int) -> Latents:
    rows = torch.tensor(prototypes)
    z = SELECTOR.prototypes[rows]
    return Latents(single(z, torch.full_like(z, -4.0)), z, rows)


def config(**values: float) -> PreferenceConfig:
    return PreferenceConfig.parse({"margin": 0.0, "pairs_per_latent": 1, **values})


def responses(found) -> list[tuple[int, int, int]]:
    """(prompt, chosen, rejected) as numbers: the tokens of the fixture name them."""
    return [
        (int(prompt[0]) - 40, int(chosen[1]) - 20, int(rejected[1]) - 20)
        for prompt, chosen, rejected in zip(
            found.examples.prompts, found.examples.chosen, found.examples.rejected, strict=True
        )
    ]


@pytest.mark.unit
def test_one_pair_in_both_orders_for_opposite_latents_is_kept_and_counted():
    # Prompt 0: the latents disagree. Prompt 1: they agree.
    features = torch.tensor([[[2.0, 0.0, 9.0], [-2.0, 0.0, 9.0]], [[0.0, 0.0, 9.0], [0.0, 3.0, 9.0]]])
    found = label_pairs(make_candidates(features), JUDGE, at(0, 1, 0, 1), config(), with_z=True)
    assert responses(found) == [(0, 0, 1), (0, 1, 0), (1, 1, 0), (1, 1, 0)]
    assert found.examples.prototype.tolist() == [0, 1, 0, 1]
    assert found.examples.z.equal(SELECTOR.prototypes[[0, 1, 0, 1]])
    assert found.counts == {
        "pairs": 4, "same text": 0, "margin": 0, "unusual": 0, "not among the widest": 0, "balance": 0, "kept": 4,
        "switched": 1,
    }  # fmt: skip


@pytest.mark.unit
def test_the_chosen_response_has_the_higher_reward_at_its_latent():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(11, 5, 3, generator=generator)
    latents = at(*([0, 1] * 11))
    found = label_pairs(make_candidates(features), JUDGE, latents, config(pairs_per_latent=2), with_z=True)
    assert len(found.examples) == 44
    for (prompt, chosen, rejected), z in zip(responses(found), found.examples.z, strict=True):
        posterior = single(z, torch.full_like(z, -4.0))
        rewards = SELECTOR.rewards(posterior, features[prompt])
        assert rewards[chosen] > rewards[rejected]
    # Two pairs of one prompt and latent share no response; the widest one of all is among them.
    for first, second in zip(responses(found)[::2], responses(found)[1::2], strict=True):
        assert len({*first[1:], *second[1:]}) == 4
    for latent, sign in ((0, 1), (1, -1)):
        rewards = sign * features[0, :, 0] + features[0, :, 1]
        assert (0, int(rewards.argmax()), int(rewards.argmin())) in responses(found)[2 * latent : 2 * latent + 2]


@pytest.mark.unit
def test_references_and_sure_tokens_come_with_their_responses():
    features = torch.tensor([[[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]])
    found = label_pairs(make_candidates(features), JUDGE, at(0, 1), config(), with_z=True)
    # Response 0 has tokens of −1 and −0.01 nats, response 1 a third one of −1: see the fixture.
    torch.testing.assert_close(found.examples.reference, torch.tensor([[-1.01, -2.01], [-2.01, -1.01]]))
    assert -0.01 > np.log(SURE) > -1.0
    (good, bad), _ = found.examples.sure
    assert (good.tolist(), bad.tolist()) == ([False, True], [False, True, False])


@pytest.mark.unit
def test_narrow_margins_and_copies_make_no_pairs():
    # Rewards 0, 0.1 and 4: differences 0.1, 4, 3.9; their root mean square, over √2, is 2.28.
    features = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 4.0, 0.0]]])
    many = config(pairs_per_latent=9, margin=1.0)
    found = label_pairs(make_candidates(features), JUDGE, at(0), many, with_z=True)
    assert responses(found) == [(0, 2, 0)]
    assert found.counts["margin"] == 1
    nothing_below = label_pairs(make_candidates(features), JUDGE, at(0), config(margin=0.043), with_z=True)
    assert nothing_below.counts["margin"] == 0
    one_below = label_pairs(make_candidates(features), JUDGE, at(0), config(margin=0.045), with_z=True)
    assert one_below.counts["margin"] == 1
    copies = make_candidates(features, torch.tensor([[True, True, False]]))
    found = label_pairs(copies, JUDGE, at(0), config(pairs_per_latent=9), with_z=True)
    assert responses(found) == [(0, 1, 0)]
    assert found.counts["same text"] == 2


@pytest.mark.unit
def test_every_prototype_has_as_many_pairs():
    # At prototype 1 the two features cancel in prompts 1 and 2: no margin there.
    features = torch.tensor([[[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]], *[[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]] * 2])
    found = label_pairs(make_candidates(features), JUDGE, at(0, 1, 0, 1, 0, 1), config(margin=0.1), with_z=True)
    assert found.counts | {"switched": 0} == {
        "pairs": 6, "same text": 0, "margin": 2, "unusual": 0, "not among the widest": 0, "balance": 2, "kept": 2,
        "switched": 0,
    }  # fmt: skip
    assert found.examples.prototype.tolist() == [0, 1]


@pytest.mark.unit
def test_every_pair_is_counted_once():
    generator = torch.Generator().manual_seed(8)
    features, distinct = torch.randn(7, 5, 3, generator=generator), torch.rand(7, 5, generator=generator) < 0.8
    # Prototype 0 judges eleven times and prototype 1 three times.
    latents = at(*[0, 0, 0, 1] * 3, 0, 0)
    candidates = make_candidates(features, distinct)
    values = torch.rand(7, 5, generator=generator)
    candidates = replace(candidates, reference=[[np.float32([0.0, -value]) for value in row] for row in values])
    floor = -0.7
    found = label_pairs(candidates, JUDGE, latents, config(margin=0.7), with_z=True, floor=floor)
    counts = dict(found.counts)
    del counts["switched"]
    assert counts.pop("pairs") == 14 * 10 == sum(counts.values())
    assert counts["kept"] == len(found.examples)
    assert all(counts.values())  # or a filter is not tested
    rewards = torch.stack([features[row // 2] @ SELECTOR.params["head.base"] for row in range(14)])
    rewards += features[torch.arange(14) // 2, :, 0] * latents.z[:, :1]
    # The unit: the standard deviation within a prompt, pooled; unbiased, since mean (a − b)² = 2·var.
    unit = rewards.var(1).mean().sqrt()
    first, second = torch.triu_indices(5, 5, 1)
    usable = distinct.repeat_interleave(2, 0)
    usable = usable[:, first] & usable[:, second]
    narrow = (rewards[:, first] - rewards[:, second]).abs() < 0.7 * unit
    assert counts["margin"] == int((usable & narrow).sum())
    least = candidates.least.repeat_interleave(2, 0)
    preferred = torch.where(rewards[:, first] > rewards[:, second], least[:, first], least[:, second])
    usable &= ~narrow
    assert counts["unusual"] == int((usable & (preferred < floor)).sum())
    kept = counts["kept"] + counts["balance"]
    assert counts["not among the widest"] == int((usable & (preferred >= floor)).sum()) - kept


@pytest.mark.unit
def test_what_the_base_would_not_say_is_rejected_but_never_preferred():
    # The best response has the least likely token.
    candidates = make_candidates(torch.tensor([[[0.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 9.0, 0.0]]]))
    least = [part.copy() for part in candidates.reference[0]]
    least[2][:] = -6.5
    odd = replace(candidates, reference=[least])

    def first(shown: Candidates, floor: float) -> list[tuple[int, int, int]]:
        return responses(label_pairs(shown, JUDGE, at(0), config(), with_z=True, floor=floor))

    assert first(odd, -7.0) == [(0, 2, 0)]
    assert first(odd, -6.0) == [(0, 1, 0)]
    assert first(replace(odd, features=-odd.features), -6.0) == [(0, 0, 2)]


@pytest.mark.unit
def test_the_floor_leaves_all_but_a_few_of_the_samples():
    generator = torch.Generator().manual_seed(3)
    candidates = make_candidates(torch.zeros(50, 4, 3))
    values = -10 * torch.rand(50, 4, generator=generator)
    samples = replace(candidates, reference=[[np.float32([-0.1, value]) for value in row] for row in values])
    assert int((samples.least < language_floor(samples)).sum()) == UNUSUAL * 200 == 4


@pytest.mark.unit
def test_nothing_left_says_which_filter_took_what():
    features = torch.tensor([[[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
    kept = torch.tensor([[True, False], [True, True]])
    with pytest.raises(DataError, match=r"No preference pair is left of 2: 1 had the same text twice, 1 had a margin"):
        label_pairs(make_candidates(features, kept), JUDGE, at(0, 0), config(margin=5.0), with_z=True)
    # Prompt 1 is all that prototype 1 judges, and it sees no difference there.
    with pytest.raises(
        DataError, match=r"left of 2: 0 .* 1 had a margin .*, 0 were not .*, 1 were left out because another prototype"
    ):
        label_pairs(make_candidates(features), JUDGE, at(0, 1), config(margin=0.1), with_z=True)


@pytest.mark.unit
def test_a_method_without_a_latent_gets_more_pairs_of_its_one_order():
    features = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(2))
    found = label_pairs(make_candidates(features), JUDGE, at(0, 0, 0), config(), with_z=False, pairs_per_latent=2)
    assert found.examples.z is None
    assert [prompt for prompt, *_ in responses(found)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.unit
def test_latents_are_judged_alike_in_any_number_at_once(monkeypatch):
    features = torch.randn(7, 3, 3, generator=torch.Generator().manual_seed(3))
    latents = at(*[0, 1] * 7)
    whole = label_pairs(make_candidates(features), JUDGE, latents, config(), with_z=True)
    monkeypatch.setattr("fedvpa.alignment.preferences.LATENTS_AT_ONCE", 5)
    cut = label_pairs(make_candidates(features), JUDGE, latents, config(), with_z=True)
    assert responses(whole) == responses(cut)


@pytest.mark.unit
def test_examples_can_be_taken_apart():
    features = torch.randn(7, 3, 3, generator=torch.Generator().manual_seed(3))
    candidates = make_candidates(features)
    found = label_pairs(candidates, JUDGE, at(*[0, 1] * 7), config(), with_z=True)
    some = found.examples.take([4, 1])
    assert [row.tolist() for row in some.prompts] == [found.examples.prompts[row].tolist() for row in (4, 1)]
    assert some.z.equal(found.examples.z[[4, 1]])
    assert some.reference.equal(found.examples.reference[[4, 1]])
    assert some.width().tolist() == [
        len(prompt) + max(len(chosen), len(rejected))
        for prompt, chosen, rejected in zip(some.prompts, some.chosen, some.rejected, strict=True)
    ]


@pytest.mark.unit
def test_saved_candidates_come_back(tmp_path):
    generator = torch.Generator().manual_seed(3)
    candidates = make_candidates(torch.randn(5, 3, 2, generator=generator), torch.rand(5, 3, generator=generator) < 0.5)
    candidates.save(tmp_path / "c.safetensors")
    loaded = Candidates.load(tmp_path / "c.safetensors")
    assert loaded.features.equal(candidates.features)
    assert loaded.distinct.equal(candidates.distinct)
    assert all(map(np.array_equal, loaded.prompts, candidates.prompts))
    for row in range(5):
        assert all(map(np.array_equal, loaded.responses[row], candidates.responses[row]))
        assert all(map(np.array_equal, loaded.reference[row], candidates.reference[row]))


WIDE = make_selector([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], personal=[[0.0] * 2] * 3, base=[0.0] * 2)


def users(count: int = 9) -> Posterior:
    """User i leans to prototype i % 3, all by different amounts."""
    weights = torch.full((count, 3), 0.01)
    for row in range(count):
        weights[row, row % 3] = 0.5 + row / 50
    weights = weights / weights.sum(1, keepdim=True)
    means = WIDE.prototypes.expand(count, 3, 3)
    return Posterior(weights, means, torch.full_like(means, -4.0))


def kinds(latents: Latents, population: Posterior) -> Counter[str]:
    """Which latents sit on a prototype, which on a user's mean, which elsewhere."""
    found: Counter[str] = Counter()
    for z, prototype in zip(latents.z, latents.prototype, strict=True):
        of_user = [row for row in range(len(population.mean)) if population.mean[row].allclose(z)]
        if z.equal(WIDE.prototypes[prototype]):
            found["prototype"] += 1
        elif of_user:
            assert population.weights[of_user[0]].argmax() == prototype
            found["user"] += 1
        else:
            # A mixture of two: it sums to 1, and the larger share names its prototype.
            assert float(z.sum()) == pytest.approx(1.0)
            assert int((z > 0).sum()) == 2
            assert int(z.argmax()) == prototype
            found["mixture"] += 1
    return found


@pytest.mark.unit
def test_latents_visit_every_prototype_equally_often_in_the_shares_asked_for():
    population = users()
    latents = draw_latents(WIDE, population, config(prototypes=0.2, posteriors=0.5), 600, 0)
    assert torch.bincount(latents.prototype).tolist() == [200, 200, 200]
    found = kinds(latents, population)
    # Three standard deviations of a binomial of 600 are at most 37.
    assert found["prototype"] == pytest.approx(120, abs=30)
    assert found["user"] == pytest.approx(300, abs=37)
    assert found["mixture"] == pytest.approx(180, abs=34)
    assert latents.posterior.mean.equal(latents.z)


@pytest.mark.unit
def test_latents_are_named_by_seed_and_labels():
    def draw(seed: int, name: str) -> torch.Tensor:
        return draw_latents(WIDE, users(), config(), 31, seed, name).z

    assert draw(0, "a").equal(draw(0, "a"))
    assert not draw(0, "a").equal(draw(0, "b"))
    assert not draw(0, "a").equal(draw(1, "a"))


@pytest.mark.unit
def test_a_prototype_that_nobody_leans_to_gets_mixtures():
    lean = users()[torch.tensor([0, 3, 6])]
    latents = draw_latents(WIDE, lean, config(prototypes=0.0, posteriors=1.0), 30, 0)
    others = latents.z[latents.prototype != 0]
    assert ((others > 0).sum(1) == 2).all()
    assert kinds(latents, lean)["user"] == 10


@pytest.mark.unit
def test_without_prototypes_latents_are_the_users_own():
    population = users(5)
    latents = draw_latents(WIDE, population, config(), 13, 0, prototypes=False)
    counts = [int((latents.z == mean).all(1).sum()) for mean in population.mean]
    assert sorted(counts) == [2, 2, 3, 3, 3]
    assert latents.prototype.tolist() == [0] * 13


@pytest.mark.unit
def test_shares_above_one_are_refused():
    with pytest.raises(ValueError, match="more than 1"):
        config(prototypes=0.7, posteriors=0.4)
