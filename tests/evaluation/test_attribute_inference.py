"""The attacker on groups: finds what is there and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from fedvpa.evaluation.attribute_inference import guess_from_sums, guess_groups, guess_others

GENERATOR = np.random.default_rng(0)
LABELS = np.repeat(["a", "b"], 150)
SIGN = np.where(LABELS == "a", 1.0, -1.0)


def vectors(strength: float, width: int = 200) -> np.ndarray:
    """Noise in which one direction, along 20 coordinates, tells the groups apart."""
    found = GENERATOR.normal(size=(len(LABELS), width))
    found[:, :20] += strength * SIGN[:, None]
    return found


@pytest.mark.reference
def test_one_coordinate_is_guessed_as_well_as_the_closed_form_says():
    """Two Gaussians that are 2s apart: AUC = Φ(√2 s)."""
    found = guess_groups({"x": (GENERATOR.normal(size=300) + 0.7 * SIGN)[:, None]}, LABELS.tolist(), 0)
    assert found is not None
    assert found.ci95[0] < norm.cdf(np.sqrt(2) * 0.7) < found.ci95[1]
    assert found.users == 300


@pytest.mark.unit
def test_a_direction_in_many_is_found_and_luck_is_not():
    clear, blind = (guess_groups({"x": vectors(one)}, LABELS.tolist(), 0) for one in (1.0, 0.0))
    assert clear is not None
    assert blind is not None
    assert clear.auc > 0.95
    assert blind.ci95[0] < 0.5 < blind.ci95[1]
    both = guess_groups({"noise": vectors(0.0), "x": vectors(1.0)}, LABELS.tolist(), 0)
    assert both is not None
    assert both.auc > 0.9


@pytest.mark.unit
def test_others_are_guessed_by_what_was_learned_of_all():
    table = vectors(1.0)
    found = guess_others({"x": table[::2]}, LABELS[::2].tolist(), {"x": table[1::2]}, LABELS[1::2].tolist())
    assert found is not None
    assert found.auc > 0.9
    assert found.users == 150


@pytest.mark.unit
def test_three_groups_and_too_few_users():
    labels = np.repeat(["a", "b", "c"], 40)
    table = np.eye(3)[np.repeat([0, 1, 2], 40)] + GENERATOR.normal(size=(120, 3)) * 0.3
    found = guess_groups({"x": table}, labels.tolist(), 1)
    assert found is not None
    assert found.auc > 0.9
    assert guess_groups({"x": table[:40]}, labels[:40].tolist(), 1) is None
    assert guess_groups({"x": table[:50]}, labels[:50].tolist(), 1) is None


@pytest.mark.unit
@pytest.mark.parametrize("told", [True, False])
def test_sums_that_tell_numbers_of_users_give_some_of_them_away(told: bool):
    """Of n unknown users in a cohort and k rounds of a user, AUC = Φ(√2 k / √(k n)): n = 15 and k = 9 give 0.86."""
    generator = np.random.default_rng(2)
    groups = {f"u{row}": "ab"[row % 2] for row in range(200)}
    cohorts = [[name for name in groups if generator.random() < 0.15] for _ in range(60)]
    counts = np.array([sum(1.0 if groups[name] == "a" else -1.0 for name in cohort) for cohort in cohorts])
    sums = generator.normal(size=(60, 30)) + (counts[:, None] if told else 0.0)
    found = guess_from_sums(sums, cohorts, groups, 0)
    assert found is not None
    assert found.auc > 0.75 if told else 0.4 < found.auc < 0.6
    assert guess_from_sums(sums[:9], cohorts[:9], groups, 0) is None
