from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.base import Broadcast, CohortUpdate, FeatureSetting
from fedvpa.algorithms.client import mixture_weights
from fedvpa.algorithms.client.draws import draw, pad_draws, split_sizes
from fedvpa.algorithms.client.mixture_weights import keep_weights
from fedvpa.algorithms.config import LocalConfig, MethodConfig, ServerConfig, VariationalConfig
from fedvpa.algorithms.fedvpa_gp import FedVPAGP
from fedvpa.algorithms.registry import METHODS, make
from fedvpa.core import tree
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.selector.config import EncoderConfig, SelectorConfig
from tests_shared import SMALL, config, parts_of


def trained(method: str, setting: MethodConfig, federation=None, seed: int = 3) -> TrainState:
    federation = federation or make_federation()
    algorithm = make(method, setting)
    state = start(algorithm, federation, seed)
    *_, (last, _) = [(state, {}), *rounds(algorithm, federation, EngineConfig(cohort=4, workers=1), seed, state)]
    return last


def signature(state: TrainState) -> torch.Tensor:
    server = state.server
    leaves = [leaf.flatten() for _, leaf in sorted(server.final.items())]
    further = [leaf.reshape(-1).nan_to_num() for name, leaf in vars(server).items() if isinstance(leaf, torch.Tensor)]
    own = [state.private[name]["logits"] for name in sorted(state.private) if "logits" in state.private[name]]
    return torch.cat([*leaves, *further, *own])


@pytest.mark.unit
@pytest.mark.parametrize("pairs", [0, 1, 2, 3, 17, 101])
def test_context_and_target_never_meet_and_every_pair_is_predicted(pairs: int):
    local = LocalConfig(steps=7, folds=7, target_size=32, context_size=128)
    found = draw(0, 1, "me", pairs, local, latent=3, components=(4, 1))
    for context, target in zip(found.context.tolist(), found.target.tolist(), strict=True):
        assert not set(context) & set(target)
        assert len(set(context)) == len(context)
    if pairs:
        assert set(found.target.flatten().tolist()) == set(range(pairs))
    assert split_sizes(1, local) == (0, 1)


@pytest.mark.unit
def test_draws_depend_on_seed_round_and_client_alone():
    local = LocalConfig()
    same = [draw(0, 1, "me", 13, local, latent=3) for _ in range(2)]
    assert torch.equal(same[0].noise, same[1].noise)
    for other in (draw(1, 1, "me", 13, local, latent=3), draw(0, 2, "me", 13, local, latent=3)):
        assert not torch.equal(same[0].noise, other.noise)
    padded = pad_draws([same[0], draw(0, 1, "you", 5, local, latent=3)])
    assert torch.equal(padded.context[0], same[0].context)
    assert padded.target_present[1].sum(-1).tolist() == [1.0] * local.steps


@pytest.mark.unit
def test_no_target_label_reaches_z_or_responsibilities():
    """The step's z and responsibilities are those of the context, whatever the labels of the targets say."""
    algorithm, federation = FedVPAGP(config()), make_federation()
    state = algorithm.init(FeatureSetting(DIMENSION), 0)
    data = federation.pairs("client-0", "train")
    broadcast = algorithm.broadcast(state, ["client-0"])
    draws = algorithm.draw(0, broadcast, "client-0", 11)
    received = broadcast.client(0) | {"z_scale": torch.tensor(1.0)}
    private = algorithm.load_private({}, received)
    weights = dict(state.params) | {"logits": private["logits"]}
    targets = draws.target[0]
    flip = torch.zeros(11, dtype=torch.bool)
    flip[targets] = True
    chosen = torch.where(flip[:, None], data.rejected, data.chosen)
    rejected = torch.where(flip[:, None], data.chosen, data.rejected)
    flipped = type(data)(chosen, rejected, data.weight, data.slot)
    one, two = (algorithm._losses(weights, received, some, private, draws, 0) for some in (data, flipped))
    assert torch.equal(one["kl"], two["kl"])
    assert torch.equal(one["orthogonal"], two["orthogonal"])
    assert not torch.equal(one["reconstruction"], two["reconstruction"])


SWITCHES = {
    SelectorConfig: {
        "head": "mlp", "latent": 6, "prototypes": 3, "prototype_scale": 2.0, "head_scale": 0.5, "base_dropout": 0.5,
    },
    EncoderConfig: {"pair_widths": (3,), "set_widths": (3,), "dropout": 0.5, "max_log_var": -1.0},
    LocalConfig: {
        "steps": 2, "folds": 2, "target_size": 2, "context_size": 2, "head_optimizer": "adamw", "head_lr": 0.2,
        "head_weight_decay": 0.9, "encoder_lr": 0.1, "encoder_weight_decay": 0.5,
    },
    VariationalConfig: {
        "prior": "normal", "normal_weight": 0.9, "kl_weight": 2.0, "orthogonal_weight": 0.0, "gram_weight": 3.0,
        "gumbel": False, "temperature_start": 3.0, "temperature_end": 0.5, "gain": 0.0, "learn_prior": False,
        "warmup": 0.9,
    },
    ServerConfig: {
        "rounds": 4, "average_tail": 0.0, "prior_rate": 0.9, "rule": "median", "clip_norm": 0.01, "max_weight": 0.5,
    },
}  # fmt: skip
ELSEWHERE = {"trunk_width", "normalise", "encoder", "component_log_var", "refinement", "malicious", "rotation"}
SECTIONS = {SelectorConfig: "selector", LocalConfig: "local", VariationalConfig: "variational", ServerConfig: "server"}
FLIPS = [(section, name, value) for section, values in SWITCHES.items() for name, value in values.items()]


@pytest.mark.unit
def test_every_option_has_a_switch_below():
    for section, values in SWITCHES.items():
        assert set(section.model_fields) - ELSEWHERE == set(values)


@pytest.fixture(scope="module")
def usual() -> torch.Tensor:
    return signature(trained("fedvpa_gp", config()))


@pytest.mark.unit
@pytest.mark.parametrize(("section", "name", "value"), FLIPS, ids=[f"{flip[1]}={flip[2]}" for flip in FLIPS])
def test_every_option_changes_the_result(section: type, name: str, value: Any, usual: torch.Tensor):
    if section is EncoderConfig:
        changed = config(selector={"encoder": {**SMALL["selector"]["encoder"], name: value}})
    else:
        changed = config(**{SECTIONS[section]: {name: value}})
    found = signature(trained("fedvpa_gp", changed))
    assert found.shape != usual.shape or not torch.allclose(found, usual, rtol=1e-6, atol=1e-9)


@pytest.mark.unit
def test_refinement_says_how_z_is_inferred_and_trunk_width_acts_where_it_is_read():
    ways = {"off": "amortised", "laplace": "amortised_laplace", "responsibilities": "amortised_responsibilities"}
    for refinement, way in ways.items():
        algorithm = make("fedvpa_gp", config(variational={"refinement": refinement, "component_log_var": -1.5}))
        selector = algorithm.selector(algorithm.init(FeatureSetting(DIMENSION), 0))
        assert (selector.inference.method, selector.inference.component_log_var) == (way, -1.5)
    trunk = trained("fedvpa_gp", config(selector={"head": "mlp", "trunk_width": 9}))
    assert trunk.server.params["head.trunk.0.weight"].shape == (DIMENSION, 9)


@pytest.mark.unit
def test_without_mixture_prior_and_orthogonality_it_is_fedvpl_which_sends_neither_evidence_nor_moments():
    off = {"prior": "normal", "orthogonal_weight": 0.0, "refinement": "off"}
    assert torch.equal(signature(trained("fedvpa_gp", config(variational=off))), signature(trained("fedvpl", config())))
    algorithm = make("fedvpl", config())
    asked = algorithm.expected(algorithm.init(FeatureSetting(DIMENSION), 0))
    assert set(asked.sums) == {"loss.reconstruction", "loss.kl"}
    assert not asked.own


@pytest.mark.unit
def test_only_two_yardsticks_read_groups():
    sizes = (7, 7, 7, 7)
    plain, regrouped = make_federation(sizes), make_federation(sizes)
    for client in regrouped.partition.clients:
        object.__setattr__(client, "group", {"a": "b", "b": "a"}[client.group])
    regrouped.partition.__dict__.pop("by_id", None)
    for method in METHODS.names():
        same = torch.equal(*(signature(trained(method, config(), some)) for some in (plain, regrouped)))
        assert same == (method not in ("fedgd", "informed", "oracle")), method


@pytest.mark.unit
@pytest.mark.parametrize("prior", ["mixture", "posteriors"])
def test_updates_add_up(prior: str):
    algorithm, federation = FedVPAGP(config(variational={"prior": prior})), make_federation()
    state = algorithm.init(FeatureSetting(DIMENSION), 0)
    names = ["client-0", "client-1", "client-4"]
    broadcast = algorithm.broadcast(state, names)
    data = federation.cohort(names, "train")
    draws = pad_draws([algorithm.draw(0, broadcast, name, federation.size(name)) for name in names])
    private = tree.stack([algorithm.load_private({}, broadcast.client(row)) for row in range(3)])
    update, _ = algorithm.client_update(broadcast.cohort(3), data, private, draws)
    one, two, three = parts_of(names, update)
    whole, parts = (one + two) + three, one + (two + three)
    assert list(whole.own) == list(parts.own) == (names if prior == "posteriors" else [])
    for name, leaf in update.sums.items():
        torch.testing.assert_close(whole.sums[name], leaf.sum(0))
        torch.testing.assert_close(parts.sums[name], leaf.sum(0))
    nobody = CohortUpdate({}, {})
    assert (nobody + whole).sums == (whole + nobody).sums == whole.sums
    assert not any("logits" in name for name in whole.sums), "mixture weights never leave a client"


@pytest.mark.unit
def test_averaging_by_hand():
    algorithm = make("global", config(server={"average_tail": 1.0, "rounds": 2}))
    state = algorithm.init(FeatureSetting(2), 0)
    before = state.params["head.base"]
    for weight, change in ((3.0, 6.0), (1.0, -1.0)):
        delta = {f"delta.{name}": torch.zeros_like(leaf) for name, leaf in state.params.items()}
        delta["delta.head.base"] = torch.full((2,), change)
        sums = {"weight": torch.tensor(weight), **delta}
        state, _ = algorithm.server_update(state, CohortUpdate(sums, {}))
    torch.testing.assert_close(state.params["head.base"], before + 2.0 - 1.0)
    torch.testing.assert_close(state.final["head.base"], before + (2.0 + 1.0) / 2)


@pytest.mark.reference
def test_local_is_ridge_logistic_regression():
    setting = config(local={"head_weight_decay": 0.3})
    algorithm, federation = make("local", setting), make_federation()
    selector = algorithm.selector(start(algorithm, federation, 0).server)
    data = federation.pairs("client-0", "train")
    delta = data.delta.double().numpy()
    model = LogisticRegression(C=1 / (0.3 * 11 * 2), fit_intercept=False, tol=1e-10, max_iter=1000)
    model.fit(np.concatenate([delta, -delta]), [1] * 11 + [0] * 11)
    np.testing.assert_allclose(selector.infer(data).mean.numpy(), model.coef_[0], atol=1e-4)


@pytest.mark.equivalence
def test_a_selector_of_local_that_holds_the_identity_still_gives_the_same():
    algorithm, federation = make("local", config()), make_federation()
    selector = algorithm.selector(start(algorithm, federation, 0).server)
    assert {name: leaf.shape for name, leaf in selector.params.items()} == {
        "head.base": (DIMENSION,),
        "prototypes": (1, DIMENSION),
    }
    shape = selector.config.model_copy(update={"head": "bilinear"})
    old = replace(selector, config=shape, params=selector.params | {"head.personal": torch.eye(DIMENSION)})
    data = federation.pairs("client-0", "train")
    one, two = selector.infer(data), old.infer(data)
    torch.testing.assert_close(one.mean, two.mean)
    torch.testing.assert_close(selector.margins(one, data), old.margins(two, data))


@pytest.mark.unit
def test_one_step_of_global_is_the_gradient_of_logistic_regression():
    setting = config(local={"steps": 1, "folds": 2, "head_lr": 0.5, "head_weight_decay": 0.0}, server={"rounds": 1})
    federation = make_federation((6,))
    algorithm = make("global", setting)
    state = start(algorithm, federation, 0)
    after = next(iter(rounds(algorithm, federation, EngineConfig(name="loop"), 0, state)))[0]
    targets = algorithm.draw(0, Broadcast({}, {}, 0), "client-0", 6).target[0]
    delta = federation.pairs("client-0", "train").delta[targets]
    torch.testing.assert_close(after.server.params["head.base"], 0.5 * 0.5 * delta.mean(0))


@pytest.mark.unit
@pytest.mark.parametrize("method", ["fedem", "fedvpa_gp"])
def test_the_gain_is_sent_and_kept(method: str):
    algorithm = make(method, config(variational={"gain": 3.0}))
    state = algorithm.init(FeatureSetting(DIMENSION), 0)
    assert algorithm.broadcast(state, ["b"]).shared["gain"].item() == 1.0
    for spread, gain in ((0.25, 6.0), (100.0, 1.0)):
        weak = replace(state, spread=torch.tensor(spread))
        assert algorithm.broadcast(weak, ["b"]).shared["gain"].item() == pytest.approx(gain)
        assert algorithm.selector(weak).gain.item() == pytest.approx(gain)


@pytest.mark.unit
def test_of_exchanged_posteriors_a_client_leaves_out_its_own_and_keeps_weights_by_component():
    algorithm = FedVPAGP(config(variational={"prior": "posteriors"}))
    state = algorithm.init(FeatureSetting(DIMENSION), 0)
    posterior = {"mean": torch.zeros(5), "log_var": torch.zeros(5)}
    met = replace(state, posteriors=dict.fromkeys("abc", posterior), cohort=("a", "b", "c"))
    sent = algorithm.broadcast(met, ["b", "new"])
    keys = sent.shared["prior.keys"]
    assert len(set(keys.tolist())) == 3
    private = algorithm.load_private({"keys": keys[:1], "logits": torch.tensor([0.5])}, sent.client(0))
    assert private["logits"].tolist() == [0.5, 0.0, 0.0]
    assert private["available"].tolist() == [0.0, -math.inf, 0.0]
    assert algorithm.load_private({}, sent.client(1))["available"].tolist() == [0.0, 0.0, 0.0]
    after = {"logits": torch.tensor([2.0, 3.0, 4.0])}
    kept = algorithm.store_private(
        {"keys": torch.tensor([7, int(keys[1])]), "logits": torch.ones(2)}, after, sent.client(0)
    )
    assert kept.keys() == {"keys", "logits"}
    assert kept["keys"].tolist() == [7, *keys.tolist()]
    assert kept["logits"].tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.unit
def test_a_client_remembers_the_components_that_it_met_last(monkeypatch):
    monkeypatch.setattr(mixture_weights, "MEMORY", 3)
    kept: dict[str, torch.Tensor] = {}
    for keys in ([1, 2], [3, 1], [4, 5]):
        kept = keep_weights(kept, torch.tensor(keys), torch.tensor(keys) / 10)
    assert kept["keys"].tolist() == [1, 4, 5]
    assert kept["logits"].tolist() == pytest.approx([0.1, 0.4, 0.5])


@pytest.mark.unit
def test_the_noise_of_a_component_depends_on_its_id_alone():
    local = LocalConfig(steps=3)
    one = draw(0, 1, "me", 13, local, components=(5, 2**62, 7)).gumbel
    two = draw(0, 1, "me", 13, local, latent=4, base_dropout=0.5, components=(7, 5)).gumbel
    assert one.shape == (3, 3)
    assert torch.equal(two, one[:, [2, 0]])
    assert not torch.equal(one[:, 0], one[:, 2])


@pytest.mark.unit
def test_the_width_of_the_encoder_changes_neither_head_nor_prototypes_nor_other_draws():
    small, wide = ({"encoder": {"pair_widths": widths, "dropout": 0.5}} for widths in ([3], [11, 4]))
    (one, first), (two, second) = (begun("fedvpa_gp", shape) for shape in (small, wide))
    for name in ("prototypes", "head.base", "head.personal"):
        assert torch.equal(one.params[name], two.params[name])
    for name in ("context", "target", "noise", "gumbel", "base_keep"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    em, _ = begun("fedem", small)
    assert torch.equal(em.params["prototypes"], one.params["prototypes"])
    assert torch.equal(em.params["head.personal"], one.params["head.personal"])


def begun(method: str, shape: dict[str, Any]):
    algorithm = make(method, config(selector={**SMALL["selector"], **shape, "base_dropout": 0.5}))
    state = algorithm.init(FeatureSetting(DIMENSION), 4)
    return state, algorithm.draw(0, algorithm.broadcast(state, ["me"]), "me", 13)
