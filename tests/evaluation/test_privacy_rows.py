"""The table of a comparison that says what noise costs: of one run, the largest of its seeds."""

from __future__ import annotations

import pytest

from fedvpa.evaluation.privacy_rows import privacy_rows
from fedvpa.evaluation.report.protocol_tables import protocol_tables

pytestmark = pytest.mark.unit

SPENT = {
    "noise_multiplier": 1.21,
    "epsilon_released": 3.0,
    "epsilon_server": 12.5,
    "delta": 1e-4,
    "unit": "user",
    "relation": "add or remove one user",
    "rounds": 50,
    "clients": 1000,
    "seeded": False,
}


def test_a_row_is_the_largest_of_its_seeds_and_runs_without_noise_have_none():
    spent = {("m", 1000, 1): SPENT, ("global", 1000, 1): None, ("m", 1000, 0): {**SPENT, "epsilon_server": 14.1}}
    (row,) = privacy_rows(spent)
    assert (row.method, row.n_clients, row.seeds, row.releases) == ("m", 1000, (0, 1), 50)
    assert (row.epsilon_released, row.epsilon_server, row.seeded) == (3.0, 14.1, False)
    assert privacy_rows({("global", 1000, 1): None}) == ()
    (shown,) = protocol_tables({"privacy_rows": [row.to_dict()]})
    assert shown.table.rows == (("1000", "m", "user", "50", "1.21", "3", "14.1", "0.0001"),)
    assert "add or remove one user" in shown.notes[0]
    assert not any("Simulation" in note for note in shown.notes)
    seeded = protocol_tables({"privacy_rows": [{**row.to_dict(), "seeded": True}]})[0]
    assert "nothing is private" in seeded.notes[-1]
