"""Names of objectives, what they score, and the probe that refuses a constant one."""

from dataclasses import dataclass, replace

import pytest
import torch

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.registry import Registry
from fedvpa.core.seeds import numpy_generator
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.responses import features_of
from fedvpa.rewards import objective_names, objectives
from fedvpa.rewards.objective_names import default_objectives, parse_objective, parse_objectives
from fedvpa.rewards.objectives import ResponseReader, make_objectives
from fedvpa.rewards.probe import probe
from fedvpa.rewards.world import WorldReward
from fedvpa.world.attributes import attribute_grid
from fedvpa.world.grammar import render
from fedvpa.world.prompts import prompts
from policy_fixtures import make_selector

FEATURES = FeatureConfig(model="bundled", dtype="float32", storage="float32")
PROMPTS = prompts("train")[:3]
RNG = numpy_generator(0, "objective-test")
ITEMS = [(one.text, render(one.intent, attribute_grid()[row], RNG)) for one in PROMPTS for row in (3, 40)]


@dataclass(frozen=True)
class Table:
    """An objective that is a table of scores."""

    name: str
    scores: dict

    def score(self, items):
        return [self.scores[response] for _, response in items]


def two_samples(texts):
    return [["a", "b"] for _ in texts]


@pytest.mark.unit
def test_names_are_read_and_printed_alike():
    for name in ("world:helpful", "selector:1", "reward-model:owner/model", "reward-model:C:/models/rm"):
        assert str(parse_objective(name)) == name
    assert [str(name) for name in parse_objectives(["world:helpful", "selector:07"])] == ["world:helpful", "selector:7"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("helpful", "'helpful' is no objective. An objective is world:GROUP"),
        ("world:", "'world:' is no objective"),
        ("selector:one", "'one' is no number of a prototype"),
        ("selector:-1", "'-1' is no number of a prototype"),
        ("world:helpfull", "Did you mean 'helpful'"),
        ("wrld:helpful", "There is no reward 'wrld'"),
    ],
)
def test_a_wrong_name_is_one_message(name, message):
    with pytest.raises(ConfigError, match=message):
        parse_objective(name, "firm.objectives")


@pytest.mark.unit
def test_an_objective_is_named_once():
    with pytest.raises(ConfigError, match=r"firm.objectives: The objective 'selector:1' is named twice"):
        parse_objectives(["selector:1", "selector:01"], "firm.objectives")


@pytest.mark.unit
def test_by_default_the_world_has_its_groups_and_other_data_the_prototypes():
    assert [str(name) for name in default_objectives("two-groups", 3)] == ["world:helpful", "world:harmless"]
    assert [str(name) for name in default_objectives(None, 3)] == ["selector:0", "selector:1", "selector:2"]


@pytest.mark.unit
def test_the_worlds_objectives_are_its_utilities():
    helpful, harmless = make_objectives(default_objectives("two-groups", 0))
    assert helpful.score(ITEMS) == WorldReward().score(ITEMS, "helpful")
    assert harmless.score(ITEMS) == WorldReward().score(ITEMS, "harmless") != helpful.score(ITEMS)


@pytest.mark.unit
def test_an_added_reward_gets_its_settings_and_its_preference(monkeypatch):
    @dataclass
    class Length:
        factor: float
        name: str = "length"

        def score(self, items, preference):
            sign = {"long": 1.0, "short": -1.0}[preference]
            return [sign * self.factor * len(response) for _, response in items]

    rewards = Registry("reward", {})
    rewards.register("length", lambda settings: Length(**settings))
    for module in (objectives, objective_names):
        monkeypatch.setattr(module, "REWARDS", rewards)
    long, short = make_objectives(parse_objectives(["length:long", "length:short"]), settings={"length": {"factor": 2}})
    assert long.score([("x", "abc")]) == [6.0]
    assert short.score([("x", "abc")]) == [-6.0]


def reader_of(dimension, backbone=None, **shape):
    weights = torch.randn(3, dimension, generator=torch.Generator().manual_seed(0)).tolist()
    selector = make_selector([[1.0, -2.0], [0.5, 3.0]], weights[:2], weights[2])
    config = selector.config.model_copy(update=shape)
    return ResponseReader(replace(selector, config=config), backbone or (lambda: None), FEATURES)


@pytest.mark.unit
def test_a_prototypes_objective_is_the_selectors_reward_there_and_reads_a_batch_once():
    backbone, loads = load_backbone(FEATURES), []
    raw = features_of(*zip(*ITEMS, strict=True), backbone, FEATURES)
    reader = reader_of(raw.shape[1], lambda: loads.append(1) or backbone)
    names = parse_objectives(["selector:0", "selector:1"])
    found = [one.score(ITEMS) for one in make_objectives(names, selector=reader)]
    selector = reader.selector
    directions = selector.params["head.base"] + selector.prototypes @ selector.params["head.personal"]
    assert torch.tensor(found).allclose(directions @ selector.scale(raw.numpy()).T, rtol=1e-4)
    assert found[0] != found[1]
    assert loads == [1]
    assert make_objectives(names, selector=reader)[0].score([]) == []


@pytest.mark.unit
def test_a_prototype_needs_a_selector_that_has_it_and_follows_it():
    one, third = parse_objectives(["selector:0"]), parse_objectives(["selector:2"])
    with pytest.raises(ConfigError, match="'selector:0' is a prototype of the run's selector, and the run has no"):
        make_objectives(one)
    with pytest.raises(ConfigError, match=r"has 2 prototypes\. They are counted from 0: selector:0 to selector:1"):
        make_objectives(third, selector=reader_of(5))
    with pytest.raises(ConfigError, match="'selector:0' is the same at every prototype"):
        make_objectives(one, selector=reader_of(5, head="residual"))


@pytest.mark.unit
def test_the_probe_says_what_the_samples_are_worth():
    good, half = Table("good", {"a": 1.0, "b": 3.0}), Table("half", {"a": "too long", "b": 2.0, "c": 4.0})
    first = probe([good], ["x", "y"], lambda texts: [["a", "b"], ["b", "b"]])[0]
    assert (first.mean, first.varies, first.missing) == (2.5, 0.5, 0)
    assert first.spread == pytest.approx(0.5**0.5)
    second = probe([half], ["x", "y"], lambda texts: [["a", "b"], ["b", "c"]])[0]
    assert (second.mean, second.varies, second.missing, second.reason) == (8 / 3, 0.5, 1, "too long")


@pytest.mark.unit
def test_the_probe_refuses_what_teaches_nothing_and_names_it():
    good = Table("good", {"a": 1.0, "b": 3.0})
    flat = Table("flat", {"a": 1e6, "b": 1e6 * (1 + 1e-12)})
    with pytest.raises(DataError, match=r"The objective 'flat' does not vary: .* 4 samples to 2 prompts"):
        probe([good, flat], ["x", "y"], two_samples)
    by_prompt = Table("by prompt", {"a": 1.0, "b": 2.0})
    with pytest.raises(DataError, match="'by prompt' does not vary"):
        probe([by_prompt], ["x", "y"], lambda texts: [["a", "a"], ["b", "b"]])
    mute = Table("mute", {"a": "no text", "b": "no text"})
    with pytest.raises(DataError, match="'mute' scores none of 4 samples of the base policy: no text"):
        probe([good, mute], ["x", "y"], two_samples)
