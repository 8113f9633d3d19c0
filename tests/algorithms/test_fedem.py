"""FedEM against its closed forms and its limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.base import FeatureSetting
from fedvpa.algorithms.client.draws import pad_draws
from fedvpa.algorithms.fedem import FedEM
from fedvpa.algorithms.registry import make
from fedvpa.core.errors import ConfigError
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import rounds, start
from fedvpa.selector.config import InferenceConfig, SelectorConfig
from fedvpa.selector.selector import Selector
from tests_shared import config


def trained(method: str, **sections):
    algorithm, federation = make(method, config(**sections)), make_federation()
    state = start(algorithm, federation, 3)
    *_, (last, _) = rounds(algorithm, federation, EngineConfig(cohort=4, workers=1), 3, state)
    return last, algorithm.selector(last.server)


@pytest.mark.reference
def test_one_step_by_hand():
    """One client, one step: responsibilities of the context, and the gradient of the weighted loss of the targets."""
    setting = config(
        local={"steps": 1, "folds": 2, "head_lr": 0.5, "head_weight_decay": 0.0}, variational={"warmup": 0.0}
    )
    algorithm, federation = FedEM(setting), make_federation()
    state = replace(
        algorithm.init(FeatureSetting(DIMENSION), 0),
        log_prior=torch.tensor([0.3, 0.7]).log(),
        spread=torch.tensor(0.25),
    )
    sent, data = algorithm.broadcast(state, ["client-0"]), federation.pairs("client-0", "train")
    draws = algorithm.draw(0, sent, "client-0", federation.size("client-0"))
    update, kept = algorithm.client_update(sent.client(0), data, {}, draws)
    assert kept == {}
    assert update.own == {}
    head = {name: state.params[f"head.{name}"].clone().requires_grad_() for name in ("base", "personal")}
    prototypes = state.params["prototypes"]
    heads = head["base"] + prototypes @ head["personal"]
    gain = 4.5 / 0.5
    fit = logsigmoid(data.delta[draws.context[0]] @ heads.T).sum(0)
    share = torch.softmax(state.log_prior + gain * fit, -1).detach()
    (-(share * logsigmoid(data.delta[draws.target[0]] @ heads.T).mean(0)).sum()).backward()
    for name, leaf in head.items():
        torch.testing.assert_close(update.sums[f"delta.head.{name}"], -0.5 * 11 * leaf.grad, atol=1e-5, rtol=1e-4)
    everything = torch.softmax(state.log_prior + gain * logsigmoid(data.delta @ heads.T).sum(0), -1)
    torch.testing.assert_close(update.sums["responsibility"], everything.detach())


@pytest.mark.unit
def test_nothing_but_the_head_is_trained_and_no_encoder_is_sent():
    algorithm = FedEM(config())
    state = algorithm.init(FeatureSetting(DIMENSION), 0)
    sent = algorithm.broadcast(state, ["a", "b"])
    assert sent.own == {}
    assert {name for name in sent.shared if name.startswith("params")} == {
        "params.head.base", "params.head.personal", "params.prototypes",
    }  # fmt: skip
    assert set(algorithm.expected(state).deltas) == {"head.base", "head.personal"}
    last, _ = trained("fedem")
    assert torch.equal(
        last.server.params["prototypes"], algorithm.init(FeatureSetting(DIMENSION), 3).params["prototypes"]
    )
    assert all(own == {} for own in last.private.values())


@pytest.mark.unit
def test_what_only_the_variational_method_reads_changes_nothing():
    _, usual = trained("fedem")
    others = {"kl_weight": 3.0, "orthogonal_weight": 0.0, "prior": "normal", "gumbel": False, "gram_weight": 2.0}
    _, same = trained("fedem", variational={"warmup": 0.2, **others}, selector={"encoder": {"pair_widths": [3]}})
    assert all(torch.equal(usual.params[name], leaf) for name, leaf in same.params.items())
    for key, value in {"gain": 0.0, "learn_prior": False, "warmup": 0.7}.items():
        _, changed = trained("fedem", variational={key: value})
        assert not torch.equal(changed.params["head.personal"], usual.params["head.personal"]), key


@pytest.mark.equivalence
def test_with_one_prototype_and_no_variance_it_is_global():
    sections = {"selector": {"prototypes": 1}, "variational": {"component_log_var": -20.0, "warmup": 0.2}}
    plain, one_for_all = trained("global")
    (em, selector), data = trained("fedem", **sections), make_federation().pairs("client-0", "train")
    torch.testing.assert_close(em.server.params["head.base"], plain.server.params["head.base"])
    margins = [some.margins(some.infer(data), data) for some in (selector, one_for_all)]
    torch.testing.assert_close(*margins, atol=1e-4, rtol=1e-4)
    wide = replace(selector, inference=selector.inference.model_copy(update={"component_log_var": 3.0}))
    assert (wide.margins(wide.infer(data), data) - margins[0]).abs().max() > 0.1


@pytest.mark.equivalence
def test_without_variance_its_inference_is_the_e_step_of_its_training():
    sections = {"variational": {"component_log_var": -20.0, "warmup": 0.2}}
    last, selector = trained("fedem", **sections)
    algorithm, federation = FedEM(config(**sections)), make_federation()
    names = [name for name in federation.client_ids if federation.size(name)]
    sent, data = algorithm.broadcast(last.server, names), federation.cohort(names, "train")
    draws = pad_draws([algorithm.draw(3, sent, name, federation.size(name)) for name in names])
    update, _ = algorithm.client_update(sent.cohort(len(names)), data, {}, draws)
    now = replace(selector, params=last.server.params)
    torch.testing.assert_close(now.infer(data).weights, update.sums["responsibility"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        now.with_inference("responsibilities").infer(data).weights, now.infer(data).weights, atol=1e-5, rtol=1e-4
    )


@pytest.mark.equivalence
def test_one_component_with_a_latent_of_full_rank_and_the_ridge_prior_is_local():
    setting = config(local={"head_weight_decay": 0.3})
    local, federation = make("local", setting), make_federation()
    alone = local.selector(start(local, federation, 0).server)
    for name in ("client-0", "client-1"):
        data = federation.pairs(name, "train")
        shape = SelectorConfig(head="linear", latent=DIMENSION, prototypes=1)
        log_var = -math.log(0.3 * len(data.weight))
        prior = InferenceConfig(method="laplace", component_log_var=log_var)
        ours = Selector(shape, prior, alone.params, torch.zeros(1), torch.ones(()))
        torch.testing.assert_close(ours.infer(data).mean, alone.infer(data).mean, atol=1e-5, rtol=1e-4)


@pytest.mark.unit
def test_without_refinement_there_is_nothing_to_infer_z_by():
    with pytest.raises(ConfigError, match=r"fedem has no encoder.*method=fedvpa_gp"):
        make("fedem", config(variational={"refinement": "off"}))
    with pytest.raises(ConfigError, match="linear in z"):
        make("fedem", config(selector={"head": "residual"}, variational={"refinement": "laplace"}))
