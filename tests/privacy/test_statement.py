"""What a card and a report say of a run's noise."""

import pytest

from fedvpa.privacy.statement import READS, SIMULATION, rows, sentences

pytestmark = pytest.mark.unit

FOUND = {
    "noise_multiplier": 1.2097,
    "rate": 0.1,
    "rounds": 50,
    "clients": 1000,
    "delta": 1e-4,
    "epsilon_released": 2.9998,
    "epsilon_server": 15.83,
    "unit": "user",
    "relation": "add or remove one user",
    "clip": {"scores": 2.5, "curvature": 11.25},
    "seeded": False,
    "covered": "the selector",
    "not_covered": "the user's own z",
}


def test_everything_that_is_promised_is_said():
    said = " ".join(sentences(FOUND))
    assert "ε = 3 at δ = 0.0001 for whoever sees what is released and not who took part; ε = 15.8 for whoever" in said
    assert "Neither holds for the machine that added the noise." in said
    assert "Unit: user. Neighbouring federations: add or remove one user." in said
    assert "noise multiplier 1.21, in 50 rounds in each of which a user takes part with probability 0.1" in said
    assert "Covered: the selector. Not covered: the user's own z." in said
    assert SIMULATION not in said


def test_seeded_noise_is_called_a_simulation():
    assert sentences({**FOUND, "seeded": True})[-1] == SIMULATION


def test_the_table_says_the_same():
    found = dict(rows(FOUND))
    assert found["ε for whoever does not see who took part (epsilon_released)"] == "3"
    assert found["ε for whoever sees who took part (epsilon_server)"] == "15.8"
    assert (found["δ"], found["unit"], found["rounds released"]) == ("0.0001", "user", "50")
    assert found["longest change of one user, at the end"] == "scores 2.5, curvature 11.2"
    assert dict(rows({**FOUND, "clip": 0.1}))["longest change of one user, at the end"] == "0.1"
    assert found["not covered"] == "the user's own z"


def test_noise_of_nodes_holds_for_the_server_and_says_what_is_assumed():
    shares = {**FOUND, "noise": "clients", "honest_share": 1.0, "unmasked": 50}
    said = " ".join(sentences(shares))
    assert "ε = 15.8 for the server, which also sees who took part: it was sent integers under masks" in said
    assert "in a round all but one told nobody their noise" in said
    assert "noise multiplier 1.21 or more" in said
    assert "Neither holds" not in said
    assert "50% told nobody" in " ".join(sentences({**shares, "honest_share": 0.5}))
    again = {**shares, "unmasked": 52}
    assert "2 of the sums belong to rounds that were run again, and are counted." in " ".join(sentences(again))
    found = dict(rows(again))
    assert found["ε for the server, which sees who took part (epsilon_server)"] == "15.8"
    assert found["noise added by"] == "the nodes, before the server reads a sum: both ε hold for it"
    assert found["rounds released"] == "50; 2 of the sums belong to rounds that were run again, and are counted"
    assert dict(rows(FOUND))["noise added by"] == "the server: neither ε holds for it"


def test_a_release_that_features_are_standardised_by_is_said():
    found = {**FOUND, "scaling": "private", "scaling_noise": 5.0}
    assert "means of their features and of the squares, with noise multiplier 5; both ε count it." in " ".join(
        sentences(found)
    )
    assert dict(rows(found))["noise multiplier of the sums that features are standardised by"] == "5"
    assert "squares" not in " ".join(sentences({**FOUND, "scaling": "none"}))


BOTH = {"with_selector": {"epsilon_released": 4.2, "epsilon_server": 21.0, "delta": 1e-4}, "reads_selector": False}


def test_of_a_policy_that_clients_trained_selector_and_policy_together_are_said_too():
    said = sentences(FOUND | BOTH)
    assert said[1] == (
        "Selector and policy together, which are of the same users: ε = 4.2 at δ = 0.0001, and ε = 21 for whoever also "
        "sees who took part."
    )
    assert READS in sentences(FOUND | BOTH | {"reads_selector": True})[1]
    found = dict(rows(FOUND | BOTH | {"reads_selector": True}))
    assert found["selector and policy together, epsilon_released"] == "4.2"
    assert found["selector and policy together, epsilon_server"] == "21"
    assert found["the policy's figures"] == READS
    assert "selector and policy together, δ" not in dict(rows(FOUND))
