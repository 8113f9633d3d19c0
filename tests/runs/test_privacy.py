"""What a card says left the devices is what the settings of the run made leave."""

import pytest

from fedvpa.policy.config import PolicyConfig
from fedvpa.runs.config import read_config
from fedvpa.runs.privacy import Setting, what_left

pytestmark = pytest.mark.unit

TABLE = ["data.source=table", "data.path=pairs.jsonl", "features.model=some/model"]


FOUND = {
    "noise_multiplier": 1.21,
    "rate": 0.1,
    "rounds": 50,
    "delta": 1e-4,
    "epsilon_released": 3.0,
    "epsilon_server": 15.8,
    "unit": "user",
    "relation": "add or remove one user",
    "clip": {"all": 0.1},
    "seeded": False,
    "covered": "the selector",
    "not_covered": "the user's own z",
}


def said(*overrides, method=None, deployed=False, policy=None, base=TABLE, noise=None):
    config = read_config(None, [*base, *overrides])
    trained = PolicyConfig.parse(policy or {})
    return " ".join(what_left(Setting(method or config.method, config, trained, 7, deployed, noise)))


def test_by_default_stage_2_reads_users_prompts_and_that_is_said():
    text = said()
    assert "Stage 2 read the prompts of the users' training pairs where the policy was trained: these left" in text
    assert "one machine held the pairs of all 7 users" in text
    assert "stayed" not in text


def test_the_data_sets_own_responses_left_too():
    text = said(policy={"candidates": {"source": "pairs"}})
    assert "Stage 2 read the prompts and both responses of the users' training pairs" in text
    public = {"candidates": {"source": "pairs", "prompt_file": "public.txt"}}
    assert "both responses" in said(policy=public)


def test_public_prompts_and_the_worlds_keep_users_prompts_where_they_are():
    text = said(policy={"candidates": {"prompt_file": "/secret/place/public.txt"}})
    assert "public prompts (public.txt): no user's prompt left for it" in text
    assert "/secret" not in text
    world = said(base=[])
    assert "the bundled world's own prompts: no user's prompt left for it" in world
    assert "held-out pairs" not in world


def test_a_deployment_kept_the_pairs_where_they_were():
    text = said(deployed=True, policy={"candidates": {"prompt_file": "public.txt"}})
    assert text.startswith("The pairs of the 7 users stayed on their own machines.")
    assert "simulation" not in text
    assert "own posteriors" not in text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=fedem"], "sums of how likely the prototypes are for each user."),
        (["method=fedvpa_gp"], "sums of moments of the users' posteriors; alone, a user's sums tell the user's"),
        (["method=fedvpa_gp", "variational.prior=posteriors"], "which was sent on to the users of the next round"),
        (["method=fedbiscuit"], "for each user its losses under all of them."),
        (["method=oracle"], "together with each user's true group."),
        (["method=local"], "no weights left."),
        (["selector.rotation=full"], "left once, and so did second moments of the differences of their pairs"),
        (["method=global", "server.rule=krum"], "each user's by itself, as the rule krum needs."),
    ],
)
def test_stage_1_says_what_its_method_sends(overrides, words):
    assert words in said(*overrides)


def test_feddpo_sends_adapters_and_no_text():
    text = said(method="feddpo")
    assert "In each round both factors of the LoRA adapters left, averaged by the rule avg." in text
    assert "no prompt and no response left" in text
    assert "their numbers of pairs left once" in text
    assert "Stage 2 read" not in text
    assert "one factor" in said(method="feddpo", policy={"feddpo": {"averaging": "ffa"}})
    assert "Stage 1" not in text


def test_users_own_latents_are_named_where_stage_2_took_them():
    assert "For 40% of its latents, stage 2 took the users' own posteriors" in said()
    assert "own posteriors" not in said(policy={"preferences": {"posteriors": 0.0}})
    assert "own posteriors" not in said("method=global")
    alone = said("method=fedvpl", policy={"preferences": {"posteriors": 0.0}})
    assert "For all of its latents, stage 2 took the users' own posteriors" in alone


def test_noise_is_said_with_what_it_covers():
    text = said("method=fedem", noise=FOUND, policy={"candidates": {"prompt_file": "p.txt"}})
    assert "ε = 3 at δ = 0.0001" in text
    assert "No noise was added" not in text
    assert "Stage 1: names of users left once; in each round an update" in text
    assert "clipped, and with the same weight for every user; noise was added to the sum." in text
    assert "no user's text, z or group entered: ε covers this policy, too." in text
    assert "own posteriors" not in text


def test_adapters_under_noise_leave_clipped_and_with_nothing_beside_them():
    for method in ("feddpo", "firm"):
        text = said(method=method, noise=FOUND)
        assert "In each round the change of the LoRA adapters left, clipped, and with the same weight" in text
        assert "no figure of a client's training left" in text
        assert "numbers of pairs left" not in text
        assert "mean reward" not in text
        assert "ε = 3 at δ = 0.0001" in text
