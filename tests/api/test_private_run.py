"""A run under differential privacy from its configuration to its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedvpa.algorithms.fedem import FedEM
from fedvpa.api.train import resume, train
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.engines.checkpoint import load_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.private import Privacy, Terms
from fedvpa.engines.training import TrainState
from fedvpa.privacy.accounting import epsilon_released, epsilon_server
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.keyed import Key, read_key
from fedvpa.runs.config import read_config, with_overrides
from fedvpa.runs.fit import longer
from fedvpa.runs.noise import privacy_of, terms_of
from fedvpa.runs.prepare import prepare
from fedvpa.runs.spending import Spending
from fedvpa.selector.selector import Selector

PRIVATE = ["method=fedem", "selector.rotation=none", "privacy.noise_multiplier=2.0"]


@pytest.mark.end_to_end
def test_a_private_run_says_what_it_costs_and_goes_on_with_its_own_noise(tiny, tmp_path: Path, monkeypatch):
    config = with_overrides(tiny, [*PRIVATE, "engine.checkpoint_every=1"])
    stop = {"after": 2}
    from fedvpa.runs.fit import SelectorJob

    plain = SelectorJob.run

    def stopped(self):
        for line in plain(self):
            yield line
            stop["after"] -= 1
            if stop["after"] == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(SelectorJob, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    found = resume(tmp_path / "run").privacy
    assert found is not None
    assert found["rounds"] == config.server.rounds
    assert found["epsilon_server"] > 0
    assert (found["unit"], found["seeded"]) == ("user", False)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["privacy"] == found
    key = tmp_path / "run" / "checkpoints" / "privacy.key"
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file() and file != key:
            assert key.read_bytes() not in file.read_bytes(), file
            assert key.read_bytes().hex().encode() not in file.read_bytes(), file
    lines = [json.loads(line)["privacy"] for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [line["releases"] for line in lines] == list(range(1, config.server.rounds + 1))
    numbers = found["noise_multiplier"], found["rate"]
    whole = [epsilon_released(*numbers, line["releases"], found["delta"]) for line in lines]
    assert [line["epsilon_released"] for line in lines] == pytest.approx(whole, rel=1e-9), "as the accountant says it"
    assert [lines[-1][name] for name in ("epsilon_released", "epsilon_server")] == pytest.approx(
        [found["epsilon_released"], found["epsilon_server"]], rel=1e-9
    )
    assert sorted(line["epsilon_server"] for line in lines) == [line["epsilon_server"] for line in lines]
    key.unlink()
    with pytest.raises(RunError, match="noise and cohorts"):
        resume(tmp_path / "run")


@pytest.mark.reference
@pytest.mark.parametrize("sampling", ["poisson", "none"])
def test_each_line_says_what_the_user_who_took_part_most_has_spent_so_far(sampling: str):
    key, names, rate = Key.of_seed(3), ["ana", "bo", "cem"], 0.4 if sampling == "poisson" else 1.0
    settings = PrivacyConfig(noise_multiplier=1.7, sampling=sampling)
    privacy = Privacy(settings, Terms(1.7, rate, 1.2, 3, 6, 0.1), key)
    spending, counts = Spending(privacy, names, 0), [0, 0, 0]
    for round_ in range(6):
        coins = key.uniform(round_, names) < 0.4 if sampling == "poisson" else [True] * 3
        counts = [count + int(coin) for count, coin in zip(counts, coins, strict=True)]
        found = spending.after_round({"round": round_, "privacy": {"releases": round_ + 1}})
        assert found["privacy"]["epsilon_server"] == epsilon_server(1.7, max(counts), 0.1)
        assert found["privacy"]["epsilon_released"] == pytest.approx(epsilon_released(1.7, rate, round_ + 1, 0.1))
        assert found["round"] == found["privacy"]["releases"] - 1 == round_
        again = Spending(privacy, names, round_).after_round({"privacy": {}})["privacy"]
        assert again["epsilon_server"] == found["privacy"]["epsilon_server"], "after a resume"
    assert sampling == "none" or max(counts) < 6


@pytest.mark.unit
def test_terms_of_a_federation():
    terms = terms_of(PrivacyConfig(epsilon=3, delta=1e-4), EngineConfig(cohort=100), 1000, 50)
    assert (terms.rate, terms.cohort) == (0.1, 100)
    assert terms.noise_multiplier == pytest.approx(1.21, abs=0.005), "the design's value"
    whole = terms_of(PrivacyConfig(epsilon=3, delta=1e-4, sampling="none"), EngineConfig(cohort=100), 1000, 50)
    assert whole.rate == 1
    assert whole.noise_multiplier > 5 * terms.noise_multiplier
    with pytest.raises(ConfigError, match="larger than the federation of 50 clients"):
        terms_of(PrivacyConfig(noise_multiplier=1), EngineConfig(cohort=100), 50, 50)
    with pytest.raises(ConfigError, match="1/N"):
        terms_of(PrivacyConfig(noise_multiplier=1, delta=0.02), EngineConfig(cohort=10), 50, 50)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["method=fedeb"], "fedeb learns little"),
        (["selector.rotation=8"], "follows from users' pairs"),
        (["features.layer=auto"], "chooses layers by users' pairs"),
        (["method=local"], "nothing of 'local' is released"),
    ],
)
def test_what_cannot_be_private_is_refused_before_anything_is_written(tiny, overrides, reason, tmp_path: Path):
    with pytest.raises(ConfigError, match=reason):
        train(with_overrides(tiny, [*PRIVATE, *overrides]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.unit
def test_noise_brings_settings_that_bear_it():
    plain, noised = read_config(None, []), read_config(None, ["privacy.epsilon=3"])
    assert (plain.method, noised.method, noised.selector.rotation) == ("fedeb", "fedem", "none")
    public = read_config(None, ["privacy.epsilon=3", "privacy.public_pairs=some.jsonl"])
    assert (public.method, public.eb.components, public.eb.curvature) == ("fedeb", 4, "shared")
    assert public.selector.rotation == plain.selector.rotation
    assert privacy_of(plain, 10, 5, None) is None
    assert read_config(None, ["privacy.epsilon=3", "method=fedvpl"]).method == "fedvpl", "what is given wins"


@pytest.mark.unit
def test_public_pairs_scale_and_turn_features(tiny, tmp_path: Path):
    public = tmp_path / "public.jsonl"
    rows = [{"prompt": "Tell me.", "chosen": f"It is {a} of {b}.", "rejected": f"{b}, not {a}!"} for a, b in WORDS]
    public.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = prepare(with_overrides(tiny, [*PRIVATE, f"privacy.public_pairs={public}", "selector.rotation=4"]))
    scaling = found.federation.scaling
    assert scaling.dimension == 4
    untouched = prepare(with_overrides(tiny, PRIVATE)).federation.scaling
    assert not untouched.standardiser.mean.any()
    assert (untouched.standardiser.scale == 1).all()
    assert scaling.standardiser.mean.any()


WORDS = [("the door", "wood"), ("a lamp", "glass"), ("the road", "stone"), ("a coat", "wool"), ("the boat", "tin")]


@pytest.mark.end_to_end
def test_private_scaling_is_one_more_release_that_a_resumed_run_does_not_make_again(tiny, tmp_path, monkeypatch):
    from fedvpa.runs import prepare as prepared
    from fedvpa.runs.fit import SelectorJob

    overrides = [*PRIVATE, "privacy.scaling=private", "privacy.scaling_noise=0.5", "privacy.feature_clip=7"]
    config = with_overrides(tiny, [*overrides, "engine.checkpoint_every=1", "server.rounds=2"])
    plain, run, key = SelectorJob.run, tmp_path / "run", Key.of_seed(5)

    def stopped(self):
        yield next(plain(self))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SelectorJob, "run", stopped)
        patched.setattr(Key, "new", classmethod(lambda cls: key))
        with pytest.raises(KeyboardInterrupt):
            train(config, run)
    checkpoint = run / "checkpoints" / "last.safetensors"
    _, before = load_checkpoint(checkpoint, FedEM.state_type)
    with monkeypatch.context() as patched:
        patched.setattr(prepared, "private_scaling", lambda *_: pytest.fail("summed again"))
        found = resume(run).privacy
    state, after = load_checkpoint(checkpoint, FedEM.state_type)
    scaling = Selector.from_pretrained(run / "selector").scaling
    assert scaling is not None
    assert before["scaling"] == after["scaling"] == scaling.standardiser.to_dict()
    assert (scaling.standardiser.scale != 1).all()
    assert read_key(run / "checkpoints" / "privacy.key") == key, "of rounds and moments alike"
    federation = prepare(config, key=key).federation
    assert federation.scaling.standardiser.to_dict() == before["scaling"], "the noise follows from the key"
    assert prepare(config, key=Key.of_seed(6)).federation.scaling.standardiser.to_dict() != before["scaling"]
    assert (found["scaling"], found["scaling_noise"]) == ("private", 0.5)
    numbers = found["noise_multiplier"], found["rate"], state.ledger.releases, found["delta"]
    assert found["epsilon_released"] == epsilon_released(*numbers, once=0.5) > epsilon_released(*numbers)
    lines = [json.loads(line)["privacy"] for line in (run / "history.jsonl").read_text().splitlines()]
    assert lines[-1]["epsilon_released"] == pytest.approx(found["epsilon_released"], rel=1e-9)
    assert lines[-1]["epsilon_server"] == found["epsilon_server"]


@pytest.mark.unit
def test_private_scaling_is_paid_for_by_the_noise_of_the_rounds():
    section = {"epsilon": 3.0, "delta": 1e-3}
    plain, paid = (
        terms_of(PrivacyConfig.parse(section | more), EngineConfig(cohort=30), 100, 10)
        for more in ({}, {"scaling": "private", "scaling_noise": 4.0})
    )
    assert (plain.once, paid.once) == (None, 4.0)
    assert paid.noise_multiplier > plain.noise_multiplier
    spent = epsilon_released(paid.noise_multiplier, paid.rate, 10, 1e-3, once=4.0)
    assert spent == pytest.approx(3.0, rel=1e-3)
    assert spent <= 3.0


@pytest.mark.unit
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["privacy.scaling=public"], "none are given"),
        (["privacy.scaling=private", "privacy.public_pairs=some.jsonl"], "reads no public pairs"),
        (["privacy.scaling=private", "method=fedeb"], "fedeb learns little or nothing"),
        (["privacy.scaling=private", "selector.rotation=8"], "follows from users' pairs"),
        (["privacy.scaling=private", "engine.name=flower", "engine.secure_aggregation=true"], "no sum without noise"),
    ],
)
def test_scaling_that_cannot_be_is_refused(tiny, overrides, reason, tmp_path: Path):
    with pytest.raises(ConfigError, match=reason):
        train(with_overrides(tiny, [*PRIVATE, *overrides]), tmp_path / "run")


@pytest.mark.unit
def test_rounds_beyond_the_budget_are_refused_and_public_pairs_are_found_from_anywhere(tiny, tmp_path, monkeypatch):
    noised = with_overrides(tiny, PRIVATE)
    state = TrainState(None)
    assert longer(noised, state, 99)[0].server.rounds == 99
    budget = with_overrides(tiny, [*PRIVATE[:2], "privacy.epsilon=3"])
    with pytest.raises(ConfigError, match=r"5 rounds cost ε = 3, and more of them cost more"):
        longer(budget, state, 99)
    monkeypatch.chdir(tmp_path)
    found = with_overrides(noised, ["privacy.public_pairs=public.jsonl"]).located()
    assert found.privacy.public_pairs == tmp_path / "public.jsonl"
