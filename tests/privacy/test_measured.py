"""A plan quotes what was measured with at least as much noise, or nothing."""

import json
from dataclasses import asdict

import pytest

from fedvpa.privacy.measured import Measured, measurements, nearest

pytestmark = pytest.mark.unit


def row(method="fedem", cohort=100, rounds=50, noise_multiplier=1.2, gap_closed=0.5):
    return Measured(method, 1000, cohort, rounds, 3.0, 1e-4, noise_multiplier, 5, gap_closed, 0.9, 0.2, 0.1)


def test_the_least_of_those_with_no_less_noise():
    rows = [row(noise_multiplier=8.0), row(noise_multiplier=2.0), row(noise_multiplier=1.0), row("fedeb", 100, 50, 1.5)]
    assert nearest(rows, "fedem", 0.015, 50) is rows[1]
    assert nearest(rows, "fedem", 0.02, 50) is rows[1]
    assert nearest(rows, "fedem", 0.081, 50) is None
    assert nearest(rows, "lore", 0.015, 50) is None


def test_of_equal_noise_the_nearest_number_of_rounds():
    rows = [row(rounds=50), row(rounds=200)]
    assert nearest(rows, "fedem", 0.01, 180) is rows[1]


def test_a_table_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "world.json"
    assert measurements(path) == ()
    path.write_text(json.dumps({"rows": [asdict(row())]}))
    assert measurements(path) == (row(),)
    assert measurements(path)[0].relative_noise == pytest.approx(0.012)


def test_the_table_that_is_shipped_can_be_read():
    assert all(found.epsilon > 0 and found.seconds > 0 for found in measurements())
