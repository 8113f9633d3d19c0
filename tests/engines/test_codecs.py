import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.validation import Expected, problem
from fedvpa.core import tree
from fedvpa.core.errors import TrainingError
from fedvpa.engines.codecs import decode, encode, hint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import rounds, start
from tests_shared import config


def weights() -> tree.Tree:
    generator = torch.Generator().manual_seed(0)
    return {
        "params.w": torch.randn(7, 64, generator=generator) * torch.logspace(-3, 3, 7).unsqueeze(1),
        "delta.b": torch.randn(128, generator=generator),
        "params.zero": torch.zeros(3, 5),
        "weight": torch.tensor(0.7),
        "responsibility": torch.tensor([1 / 3, 2 / 3]),
    }


@pytest.mark.unit
@pytest.mark.parametrize(
    ("codec", "dtype", "error"), [("fp16", torch.float16, 2**-11), ("int8", torch.int8, 0.5 / 127)]
)
def test_weights_survive_within_the_codecs_error_and_statistics_exactly(codec, dtype, error):
    plain = weights()
    sent = encode(plain, codec)
    got = decode(sent, codec)
    assert sent["params.w"].dtype == sent["delta.b"].dtype == dtype
    assert got.keys() == plain.keys()
    assert all(leaf.dtype == torch.float32 for leaf in got.values())
    for name in ("params.w", "delta.b"):
        limit = plain[name].abs().amax(-1, keepdim=True) * error
        assert ((got[name] - plain[name]).abs() <= limit * 1.001).all()
        assert not torch.equal(got[name], plain[name])
    for name in ("params.zero", "weight", "responsibility"):
        assert torch.equal(got[name], plain[name])


@pytest.mark.unit
@pytest.mark.parametrize("codec", ["fp16", "int8"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 3.7, 29.3, 41.0, 1 / 3, 2e5])
def test_what_was_decoded_encodes_to_the_same_bytes(codec, weight):
    plain = weights()
    change = torch.randn(800, 16, generator=torch.Generator().manual_seed(1)) * torch.logspace(-4, 3, 800).unsqueeze(1)
    sent = encode(plain | {"weight": torch.tensor(weight), "delta.b": weight * change}, codec)
    again = encode(decode(sent, codec), codec)
    assert again.keys() == sent.keys()
    assert all(torch.equal(again[name], leaf) for name, leaf in sent.items())


@pytest.mark.unit
@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_a_change_survives_however_many_pairs_it_is_multiplied_by(codec):
    change = weights()["delta.b"]
    for weight in (1.0, 2e5):
        sums = {"weight": torch.tensor(weight), "delta.b": weight * change}
        got = decode(encode(sums, codec), codec)["delta.b"] / weight
        assert (got - change).abs().max() <= change.abs().max() * (2**-11 if codec == "fp16" else 0.51 / 127)


@pytest.mark.unit
def test_what_is_too_large_for_fp16_is_never_averaged():
    sums = {"weight": torch.tensor(2.0), "delta.b": torch.tensor([2e5])}
    arrived = decode(encode(sums, "fp16"), "fp16")
    reason = problem(arrived, {}, Expected({"b": (1,)}), ["a"], 9.0)
    assert reason == "delta.b is not finite"
    assert hint(reason, "fp16") == " (or beyond 65,504, the most that engine.codec=fp16 carries)"
    assert hint(reason, "int8") == hint("delta.b is missing", "fp16") == ""
    with pytest.raises(TrainingError, match=r"params\.w has a weight beyond 65,504, the most that engine\.codec=fp16"):
        encode({"params.w": torch.tensor([7e4])}, "fp16")


@pytest.mark.unit
def test_sizes_halve_and_quarter():
    big = {"params.w": torch.randn(128, 896)}
    assert tree.size(encode(big, "fp32")) == 4 * 128 * 896
    assert tree.size(encode(big, "fp16")) == 2 * 128 * 896
    assert tree.size(encode(big, "int8")) == 128 * 896 + 4 * 128


@pytest.mark.unit
@pytest.mark.parametrize("codec", ["fp32", "fp16", "int8"])
def test_a_change_of_nothing_travels_as_its_shape(codec):
    plain = {"weight": torch.tensor(0.0), "delta.w": torch.zeros(3, 500), "delta.b": torch.tensor([0.0, float("nan")])}
    sent = encode(plain, codec)
    assert tree.size(sent) < 100
    got = decode(sent, codec)
    assert got.keys() == plain.keys()
    assert (got["delta.w"].shape, got["delta.w"].dtype) == ((3, 500), torch.float32)
    assert not got["delta.w"].any()
    assert got["delta.b"].isnan().any(), "what is not finite is no zero"
    huge = decode({"delta.w#zeros": torch.tensor([10**6, 10**6, 10**6])}, codec)["delta.w"]
    assert huge.untyped_storage().nbytes() == 4, "whatever shape a node claims, it takes no memory"


@pytest.mark.equivalence
def test_engines_agree_and_history_counts_what_is_sent():
    setting, found = config(server={"rounds": 3}, selector={"latent": 32}), {}
    for codec in ("fp32", "fp16", "int8"):
        for name in ("loop", "vectorised"):
            algorithm, federation = make("fedvpa_gp", setting), make_federation()
            engine = EngineConfig(name=name, cohort=4, workers=1, codec=codec)
            states, lines = zip(*rounds(algorithm, federation, engine, 3, start(algorithm, federation, 3)), strict=True)
            found[codec, name] = states[-1].server.final, lines[-1]
        one, two = (found[codec, name][1] for name in ("loop", "vectorised"))
        assert {**one, "seconds": 0, "losses": 0} == {**two, "seconds": 0, "losses": 0}
    params = found["fp32", "loop"][0]
    exact = found["fp32", "loop"][1]
    statistics, moments = exact["uplink_bytes"] - 3 * tree.size(params), 2 * 2 * 32 * 4
    assert 0 < statistics - 4 * moments < 4 * 100, "weight, losses, responsibilities; the shapes of the empty client"
    half = found["fp16", "loop"][1]
    assert half["uplink_bytes"] == statistics + 3 * tree.size(params) // 2
    assert exact["downlink_bytes"] - half["downlink_bytes"] == 2 * tree.size(params)
    for name, leaf in params.items():
        assert not torch.equal(leaf, found["fp16", "vectorised"][0][name])
        torch.testing.assert_close(leaf, found["fp16", "vectorised"][0][name], rtol=0.02, atol=0.02)
