"""The accuracy of labels by hand, what a latent stands for, and when a run stops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fedvpa.alignment.label_check import (
    Accuracy,
    LabelCheck,
    accuracy,
    check_candidates,
    check_passed,
    preferences_of,
)
from fedvpa.alignment.latents import BETWEEN, ON_PROTOTYPE, Latents
from fedvpa.alignment.preferences import label_pairs, selector_margins
from fedvpa.alignment.stage1 import Users, named_latents
from fedvpa.core.errors import AlignmentError
from fedvpa.policy.config import PreferenceConfig
from fedvpa.selector.posterior import Posterior, single
from policy_fixtures import make_candidates, make_selector

SELECTOR = make_selector([[1.0, 0.0], [-1.0, 0.0]], personal=[[1.0, 0.0], [0.0, 0.0]], base=[0.0, 0.0])
"""At prototype 0 a response is worth its first number, at prototype 1 its negative."""
EVERY = PreferenceConfig(margin=0.0, pairs_per_latent=9)


def at(*prototypes: int, user: int = ON_PROTOTYPE) -> Latents:
    rows = torch.tensor(prototypes)
    z = SELECTOR.prototypes[rows]
    return Latents(single(z, torch.full_like(z, -4.0)), z, rows, torch.full_like(rows, user))


@pytest.mark.unit
def test_the_error_is_that_of_a_ratio_over_prompts() -> None:
    # Prompt 0: 2 of 2 right; prompt 1: 1 of 4. The mean is 3/6; residuals 2 − 1 and 1 − 2.
    found = accuracy(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 1, 1, 1, 1]))
    assert found == Accuracy(0.5, pytest.approx(math.sqrt(2 / 1 * 2.0) / 6), 6)
    # A pair a prompt: the standard error of a mean.
    each = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.5])
    assert accuracy(each, torch.arange(5)).error == pytest.approx(float(each.std()) / 5**0.5)
    assert accuracy(torch.tensor([1.0, 1.0]), torch.tensor([3, 3])) == Accuracy(1.0, 0.5, 2)
    assert accuracy(torch.zeros(0), torch.zeros(0)) is None


@pytest.mark.unit
def test_a_prototype_stands_for_the_clients_that_are_there() -> None:
    weights = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0], [0.1, 0.9, 0.0]])
    posterior = Posterior(weights, torch.zeros(4, 3, 2), torch.zeros(4, 3, 2))
    users = Users(("a", "b", "c", "d"), ("long", "long", "short", "long"), posterior)
    z = torch.zeros(6, 2)
    latents = Latents(single(z, z), z, torch.tensor([0, 1, 2, 0, 1, 0]), torch.tensor([-1, -1, -1, -2, 2, 3]))
    assert (ON_PROTOTYPE, BETWEEN) == (-1, -2)
    # At prototype 1 the clients disagree, at prototype 2 there is none; a user's own z is the user's, wherever it lies.
    assert preferences_of(latents, users, {}) == ["long", None, None, None, "short", "long"]
    assert preferences_of(latents, users, {"c": "long"})[1] == "long"
    assert preferences_of(latents[torch.arange(4)], Users((), (), None), {}) == [None] * 4


@pytest.mark.unit
def test_a_group_is_named_by_the_prototype_that_its_users_lean_to() -> None:
    weights = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    posterior = Posterior(weights, SELECTOR.prototypes.expand(4, 2, 2), torch.zeros(4, 2, 2))
    users = Users(("a", "b", "c", "d"), ("long", "short", "long", None), posterior)
    assert named_latents(SELECTOR, users) == {"long": [1.0, 0.0], "short": [-1.0, 0.0]}


@pytest.mark.unit
def test_the_order_of_candidates_is_compared_with_utilities() -> None:
    features = torch.tensor([[[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [2.0, 0.0], [2.5, 0.0]]])
    candidates = make_candidates(features, torch.tensor([[True, True, True], [True, True, False]]))
    labelled = label_pairs(candidates, selector_margins(SELECTOR), at(0, 1, 0, 1), EVERY, with_z=True)
    up = torch.tensor([[2.0, 1.0, 1.0], [0.0, 5.0, 9.0]], dtype=torch.double)
    utilities = {"up": up, "down": torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 0.0]], dtype=torch.double)}
    found = check_candidates("x", labelled, candidates, ["up", "down", "up", None], utilities)
    # Prompt 0 at "up": 0-1 and 0-2 right, 1-2 a tie; at "down": all right. Prompt 1 at "up": right; the last is of
    # nobody.
    assert found.all == Accuracy(1.0, 0.0, 6)
    flipped = check_candidates("x", labelled, candidates, ["down", "down", "up", None], utilities)
    # The first latent now has 0-1, 0-2 and 1-2 wrong.
    assert (flipped.all.right, flipped.all.pairs) == (pytest.approx(4 / 7), 7)
    # To train on: the widest pair of each latent, 0-2 of prompt 0 and 0-1 of prompt 1.
    assert (flipped.trained.right, flipped.trained.pairs) == (pytest.approx(2 / 3), 3)
    assert {name: (one.right, one.pairs) for name, one in flipped.by_group.items()} == {
        "up": (1.0, 1),
        "down": (0.5, 2),
    }
    assert {name: (one.right, one.pairs) for name, one in flipped.by_prototype.items()} == {
        "0": (0.5, 2),
        "1": (1.0, 1),
    }
    assert flipped.unmatched == 1


@pytest.mark.unit
def test_labels_stop_a_run_unless_they_are_better_than_luck() -> None:
    def found(right: float, error: float, **values: object) -> LabelCheck:
        return LabelCheck("the exact judge 'x'", Accuracy(right, error, 40), Accuracy(0.5, 0.1, 90), **values)

    luck = PreferenceConfig()
    assert check_passed(found(0.61, 0.05), luck, "m") == ""
    with pytest.raises(
        AlignmentError, match=r"0\.590 ± 0\.050 are in the right order \(40 pairs\).*luck.*more labelled"
    ):
        check_passed(found(0.59, 0.05), luck, "m")
    assert "luck" in check_passed(found(0.59, 0.05), PreferenceConfig(check="warn"), "m")
    asked = PreferenceConfig(min_accuracy=0.7)
    assert check_passed(found(0.7, 0.3), asked, "m") == ""
    with pytest.raises(AlignmentError, match=r"0\.7 are asked for \(policy\.preferences\.min_accuracy\)"):
        check_passed(found(0.69, 0.0), asked, "m")
    # One policy for all follows nobody's preference, and what was not measured fails nothing.
    assert check_passed(found(0.4, 0.1, binding=False), asked, "m") == ""
    assert check_passed(LabelCheck("", note="nobody is here"), asked, "m") == ""


@pytest.mark.unit
def test_all_of_it_stands_in_one_line() -> None:
    one = Accuracy(0.91, 0.012, 1234)
    found = LabelCheck("the exact judge 'x'", one, replace(one, right=0.7), {"0": one, "1": one}, {"long": one}, 7)
    assert found.line() == (
        "labels: 0.910 ± 0.012 of 1,234 pairs to train on are in the order of the exact judge 'x', and 0.700 ± 0.012 "
        "of all pairs; long 0.910 ± 0.012; prototype 0 0.910 ± 0.012; prototype 1 0.910 ± 0.012; 7 pairs stand for no "
        "one preference"
    )
    assert LabelCheck("held-out pairs", one, note="n").line() == (
        "labels: the selector orders 0.910 ± 0.012 of 1,234 held-out pairs as their users did; n"
    )
    assert LabelCheck("", note="nobody is here").line() == "labels: not checked: nobody is here"
