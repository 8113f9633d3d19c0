"""``fedvpa privacy plan``: what it says follows from shapes and the accountant, and wrong input is one message."""

import json
import math
from dataclasses import asdict, replace

import pytest

from command_line import fedvpa
from conftest import make_federation
from fedvpa import privacy_plan, read_config
from fedvpa.algorithms.registry import make
from fedvpa.core.errors import ConfigError
from fedvpa.engines.private import Privacy, Terms
from fedvpa.engines.training import rounds, start
from fedvpa.privacy import measured
from fedvpa.privacy.keyed import Key
from fedvpa.privacy.measured import Measured

FEW = ["--clients", "60", "--cohort", "20", "--rounds", "3"]


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch, tmp_path):
    table = tmp_path / "world.json"
    monkeypatch.setattr(measured.measurements, "__defaults__", (table,))
    return table


@pytest.fixture
def plan():
    return privacy_plan(60, cohort=20, rounds=3, noise_multiplier=4.0, dimension=7)


@pytest.mark.unit
def test_the_weights_of_a_method_are_those_of_its_shapes(plan):
    """A bilinear head on 7 features with k = 32: w₀ has 7, W 32 × 7."""
    assert plan.methods["fedem"].parameters == 7 + 32 * 7
    wider = privacy_plan(60, cohort=20, rounds=3, noise_multiplier=4.0, dimension=14)
    assert wider.methods["fedem"].parameters == 14 + 32 * 14


@pytest.mark.unit
def test_bytes_are_those_of_the_weights_and_a_few_statistics(plan):
    found = plan.methods["fedem"]
    assert 4 * found.parameters < found.uplink_bytes < 4 * (found.parameters + 20)
    assert 4 * found.parameters < found.downlink_bytes
    config = read_config(None, ["engine.codec=fp16"])
    halved = privacy_plan(60, cohort=20, rounds=3, noise_multiplier=4.0, dimension=7, config=config)
    assert halved.methods["fedem"].uplink_bytes == found.uplink_bytes - 2 * found.parameters


@pytest.mark.unit
def test_noise_beside_the_clip(plan):
    """σ √(1 + a²) over the expected cohort, with a = 0.3 for the statistics."""
    found = plan.methods["fedem"]
    assert found.noise == pytest.approx(4.0 / 20 * math.sqrt(1.09))
    assert found.noise_length == pytest.approx(found.noise * math.sqrt(found.parameters))
    assert found.times == 1


@pytest.mark.unit
def test_noise_of_nodes_has_the_same_epsilon_and_is_larger(plan):
    """60 nodes, of which a round has 10 at least: 10 of 7 − 1 that are counted on is the most that there can be."""
    shares = privacy_plan(60, cohort=20, rounds=3, dimension=7, config=read_config(None, [*NODES, "engine.cohort=20"]))
    assert replace(shares.budget) == plan.budget
    found = shares.methods["fedem"]
    assert found.times == pytest.approx(math.sqrt(10 / 6), rel=1e-3)
    assert found.noise == pytest.approx(found.times * plan.methods["fedem"].noise)
    told = fedvpa("privacy", "plan", *FEW, *NODES)
    assert "for the server, which sees that too, of the user who" in told.stdout
    assert "nodes add the noise before the server reads a sum, so both hold against it" in told.stdout
    assert "neither holds" in fedvpa("privacy", "plan", *FEW, NODES[0]).stdout


NODES = ["privacy.noise_multiplier=4", "privacy.noise=clients"]


@pytest.mark.unit
def test_an_adapter_has_a_row_by_its_number_of_weights():
    found = privacy_plan(60, cohort=20, rounds=3, noise_multiplier=4.0, weights=1600).methods["adapter"]
    assert found.parameters == 1600
    assert found.noise == pytest.approx(4.0 / 20 * math.sqrt(1.09)), "the bit of the clip is paid for"
    assert found.noise_length == pytest.approx(40 * found.noise)
    assert 4 * 1600 < found.uplink_bytes < 4 * 1600 + 20
    with pytest.raises(ConfigError, match="An adapter of 0 weights"):
        privacy_plan(60, noise_multiplier=4.0, weights=0)


@pytest.mark.unit
def test_noise_of_parts_that_are_clipped_each_on_its_own(plan):
    """fedeb: scores at share 1 and curvature at 0.3, so S² = 1 + 0.09 + 0.09; curvature is noised more, and shorter."""
    found = plan.methods["fedeb"]
    each = 4.0 / 20 * math.sqrt(1.18)
    assert found.noise == pytest.approx(each / 0.3)
    assert found.noise_length == pytest.approx(max(each * math.sqrt(4 * 7), each / 0.3 * math.sqrt(4)))


@pytest.mark.unit
def test_bytes_are_those_of_a_training_with_noise():
    federation = make_federation((5, 7, 3))
    config = read_config(None, ["method=fedem", "privacy.noise_multiplier=4", "engine.name=loop", "engine.cohort=3"])
    algorithm = make("fedem", config.method_config)
    terms = Terms(4.0, 1.0, 3.0, 3, 1, 0.1)
    state = start(algorithm, federation, 0)
    given = Privacy(config.privacy, terms, Key.new())
    _, line = next(rounds(algorithm, federation, config.engine, 0, state, privacy=given))
    ids = federation.client_ids
    found = privacy_plan(3, cohort=3, rounds=1, dimension=federation.dimension, config=config)
    assert line["uplink_bytes"] == len(ids) * found.methods["fedem"].uplink_bytes
    assert line["downlink_bytes"] == len(ids) * found.methods["fedem"].downlink_bytes


@pytest.mark.unit
def test_methods_that_cannot_be_private_are_left_out(plan):
    assert {"fedem", "fedeb", "fedvpa_gp", "global"} <= plan.methods.keys()
    assert plan.refused.keys() == {"local", "vpl", "fedbiscuit"}
    assert "each by itself" in plan.refused["fedbiscuit"]
    assert not {"oracle", "informed", "fedgd"} & (plan.methods.keys() | plan.refused.keys())


@pytest.mark.unit
def test_settings_come_from_a_configuration_unless_given():
    config = read_config(None, ["engine.cohort=20", "server.rounds=3", "privacy.noise_multiplier=4"])
    assert privacy_plan(60, config=config).budget == privacy_plan(60, cohort=20, rounds=3, noise_multiplier=4.0).budget
    with pytest.raises(ConfigError, match="are both given"):
        privacy_plan(60, epsilon=1.0, config=config)
    with pytest.raises(ConfigError, match="A cohort of 20 cannot be drawn from 10 users"):
        privacy_plan(10, config=config)


@pytest.mark.end_to_end
def test_the_command_prints_what_the_function_finds(nothing_measured):
    done = fedvpa("privacy", "plan", *FEW, "--noise-multiplier", "4", "--json")
    assert json.loads(done.stdout) == privacy_plan(60, cohort=20, rounds=3, noise_multiplier=4.0).to_dict()
    done = fedvpa("privacy", "plan", *FEW, "--noise-multiplier", "4")
    assert "noise multiplier 4\n" in done.stdout
    assert "add or remove one user; delta 0.0111" in done.stdout
    assert "not with noise: fedbiscuit, local, vpl" in done.stdout
    assert "accuracy on the bundled world: not measured" in done.stdout
    row = Measured("fedem", 1000, 100, 50, 3.0, 1e-4, 1.2, 5, 0.75, 0.9, 0.2, 0.1)
    rows = [asdict(replace(row, noise_multiplier=noise)) for noise in (1.2, 25.0)]
    nothing_measured.write_text(json.dumps({"rows": rows}))
    done = fedvpa("privacy", "plan", *FEW, "--noise-multiplier", "4")
    assert "fedem: gap closed 0.75 (0.90 without privacy), 0.20 s a round (0.10); 1,000 users" in done.stdout
    assert "noise multiplier 25," in done.stdout
    assert "not measured" not in done.stdout


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*FEW], "Give --epsilon 3, for the noise that it needs, or --noise-multiplier 1.2"),
        ([*FEW, "--epsilon", "3", "--noise-multiplier", "1"], "are both given"),
        ([*FEW, "--epsilon", "3", "--delta", "0.02"], "Give 0.0111 (N^-1.1) or less"),
        ([*FEW[:2], "--cohort", "61", "--epsilon", "3"], "Give --cohort from 1 to 60"),
        ([*FEW, "--epsilon", "3", "--dimension", "0"], "Features of dimension 0"),
        ([*FEW, "--epsilon", "-1"], "privacy.epsilon"),
    ],
)
def test_wrong_input_is_one_message_and_exit_2(arguments, words):
    done = fedvpa("privacy", "plan", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
