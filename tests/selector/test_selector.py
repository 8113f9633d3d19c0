from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import fedvpa
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.tree import below
from fedvpa.features.standardise import Moments, Standardiser
from fedvpa.selector.config import EncoderConfig, InferenceConfig, SelectorConfig
from fedvpa.selector.encoder import encode, init_encoder
from fedvpa.selector.heads import HEADS
from fedvpa.selector.inference import INFERENCES, Inference
from fedvpa.selector.pairs import Pairs, pad
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.prior import Prior, isotropic
from fedvpa.selector.prototypes import balanced_assignment, init_prototypes
from fedvpa.selector.refinement import at_prototypes, laplace, modes
from fedvpa.selector.scaling import Scaling
from fedvpa.selector.selector import Selector

D, K, N = 11, 3, 7


def pairs(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    chosen, rejected = torch.randn(2, *shape, D, generator=generator, dtype=dtype)
    ones = torch.ones(shape, dtype=dtype)
    return Pairs(chosen, rejected, ones, ones)


def weights(kind: str, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    config = SelectorConfig(head=kind, latent=D if kind == "linear" else K, head_scale=3.0)
    tree = HEADS[kind].init(D, config, torch.Generator().manual_seed(1))
    base = torch.randn(tree["base"].shape, generator=torch.Generator().manual_seed(2))
    return {name: leaf.to(dtype) for name, leaf in (tree | {"base": base}).items()}


def latents(*shape: int, seed: int = 5, width: int = K) -> torch.Tensor:
    return torch.randn(*shape, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["bilinear", "linear", "mlp"])
def test_swapping_the_responses_flips_the_margin_which_is_the_difference_of_rewards(kind: str):
    head, tree, data, z = HEADS[kind], weights(kind), pairs(N), latents(2, width=D if kind == "linear" else K)
    margin = head.margins(tree, data, z, None)
    torch.testing.assert_close(head.margins(tree, data.swapped(), z, None), -margin)
    difference = head.rewards(tree, data.chosen, z) - head.rewards(tree, data.rejected, z)
    torch.testing.assert_close(margin, difference)
    offset, slope = head.linear(tree, data)
    torch.testing.assert_close(margin, offset + z @ slope.mT)


@pytest.mark.unit
def test_bilinear_reward_by_hand():
    tree, data, z = weights("bilinear"), pairs(N), latents(2)
    expected = [[tree["base"] @ h + zi @ tree["personal"] @ h for h in data.chosen] for zi in z]
    torch.testing.assert_close(
        HEADS["bilinear"].rewards(tree, data.chosen, z), torch.tensor(expected, dtype=torch.float64)
    )


@pytest.mark.unit
def test_the_published_residual_head_cannot_personalise():
    head, tree, data = HEADS["residual"], weights("residual"), pairs(N)
    one, two = latents(1, seed=1), latents(1, seed=2)
    torch.testing.assert_close(head.rewards(tree, data.chosen, one), head.rewards(tree, data.chosen, two))
    moved = head.margins(tree, data, one, None) - head.margins(tree, data, two, None)
    assert moved.abs().max() > 1e-3
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved))


@pytest.mark.equivalence
@pytest.mark.parametrize("kind", ["bilinear", "mlp", "residual"])
def test_a_cohort_is_its_clients_one_by_one(kind: str):
    head, data, z = HEADS[kind], pairs(5, N), latents(5, 2)
    trees = [{name: leaf * (1 + row) for name, leaf in weights(kind).items()} for row in range(5)]
    stacked = {name: torch.stack([tree[name] for tree in trees]) for name in trees[0]}
    together = head.margins(stacked, data, z, None)
    for row, tree in enumerate(trees):
        own = Pairs(data.chosen[row], data.rejected[row], data.weight[row], data.slot[row])
        torch.testing.assert_close(together[row], head.margins(tree, own, z[row], None))


@pytest.mark.unit
def test_encoder_ignores_order_and_padding_and_reads_labels():
    config = EncoderConfig(pair_widths=(13, 5), set_widths=(3,))
    tree = init_encoder(D, K, config, torch.Generator().manual_seed(0))
    data = pairs(N, dtype=torch.float32)
    mean, log_var = encode(tree, data.delta, data.weight, config)
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(encode(tree, data.delta[shuffled], data.weight, config)[0], mean)
    padded = pad([data, pairs(N + 4, dtype=torch.float32)])
    torch.testing.assert_close(encode(tree, padded.delta, padded.weight, config)[0][0], mean)
    assert (encode(tree, -data.delta, data.weight, config)[0] - mean).abs().max() > 1e-3
    assert log_var.max() <= config.max_log_var


@pytest.mark.reference
def test_laplace_finds_the_mode_that_an_independent_optimiser_finds():
    tree, data, centre = weights("bilinear"), pairs(N), latents(2)
    prior = isotropic(torch.tensor([0.3, 0.7]).log().double(), centre, -1.0)
    found = laplace(HEADS["bilinear"], tree, data, prior, torch.tensor(1.5).double())
    offset, slope = (part.numpy() for part in HEADS["bilinear"].linear(tree, data))
    for m in range(2):

        def negative(z: np.ndarray, at: np.ndarray) -> float:
            fit = -1.5 * np.logaddexp(0, -(offset + slope @ z)).sum()
            return -(fit - 0.5 * np.exp(1.0) * ((z - at) ** 2).sum())

        best = minimize(negative, np.zeros(K), args=(centre[m].numpy(),), tol=1e-12)
        np.testing.assert_allclose(found.means[m].numpy(), best.x, atol=1e-5)


@pytest.mark.unit
def test_a_linear_head_adds_z_to_its_weights_as_a_bilinear_one_does_with_the_identity():
    tree, data, z = weights("linear"), pairs(5, N), latents(5, 2, width=D)
    assert tree.keys() == {"base"}
    same = tree | {"personal": torch.eye(D, dtype=torch.float64)}
    for function in ("margins", "rewards"):
        inputs = (data, z, None) if function == "margins" else (data.chosen, z)
        one, two = (
            getattr(HEADS[kind], function)(own, *inputs) for kind, own in (("linear", tree), ("bilinear", same))
        )
        torch.testing.assert_close(one, two)
    with pytest.raises(ConfigError, match=rf"latent={D}"):
        HEADS["linear"].init(D, SelectorConfig(head="linear", latent=K), torch.Generator())


@pytest.mark.equivalence
def test_in_the_span_of_few_pairs_is_the_same_as_in_all_dimensions():
    head, tree, gain = HEADS["linear"], weights("linear"), torch.tensor(1.5).double()
    centre, log_vars = latents(2, width=D), latents(3, 2, width=D, seed=6)
    prior = Prior(torch.tensor([0.3, 0.7]).log().double(), centre, log_vars)
    few = pad([pairs(N), pairs(1, seed=1), pairs(0)])
    absent = pad([pairs(N), pairs(1, seed=1), pairs(0), pairs(D + 2)])  # padded to more pairs than dimensions
    many = Pairs(*(getattr(absent, name)[:3] for name in ("chosen", "rejected", "weight", "slot")))
    assert few.weight.shape[-1] < D < many.weight.shape[-1]
    one, two = (laplace(head, tree, data, prior, gain) for data in (few, many))
    for name in ("weights", "means", "log_vars"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), atol=1e-9, rtol=1e-9)
    known = laplace(head, tree, few.between(0, 0), prior, gain)
    torch.testing.assert_close(known.means, centre.expand(3, 2, D))
    torch.testing.assert_close(known.log_vars, log_vars)
    torch.testing.assert_close(known.weights, prior.log_weights.exp().expand(3, 2))


@pytest.mark.equivalence
@pytest.mark.parametrize("count", [N, D + 5])
def test_the_path_of_modes_is_one_ridge_solution_for_each_variance(count: int):
    head, tree, log_vars = HEADS["linear"], weights("linear"), torch.tensor([-2.0, 0.0, 1.5]).double()
    data, nothing, one = pairs(3, count), torch.zeros(1, D).double(), torch.ones(()).double()
    found = modes(head, tree, data, log_vars)
    for place, log_var in enumerate(log_vars):
        alone = laplace(head, tree, data, isotropic(torch.zeros(1).double(), nothing, log_var.item()), one)
        torch.testing.assert_close(found[:, place], alone.mean)


@pytest.mark.unit
def test_balanced_assignment_is_the_best_of_all_balanced_ones():
    means, prototypes = latents(6, seed=8), init_prototypes(2, K, 2.0, torch.Generator().manual_seed(0)).double()
    cost = torch.cdist(means, prototypes).square().numpy()

    def total(labels: tuple[int, ...]) -> float:
        return cost[np.arange(6), list(labels)].sum()

    best = min((labels for labels in itertools.product((0, 1), repeat=6) if sum(labels) == 3), key=total)
    assert tuple(balanced_assignment(means, prototypes)) == best


@pytest.mark.unit
def test_moments_of_a_mixture_posterior_are_exact():
    prior = isotropic(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), -2.0)
    at = at_prototypes(torch.tensor([0.0, 1.0]), prior, torch.tensor(1.0))
    mean, log_var = at.gaussian()
    share = at.weights[0].item()
    torch.testing.assert_close(mean, torch.tensor([share, 1 - share]))
    torch.testing.assert_close(log_var.exp(), torch.full((2,), np.exp(-2.0) + share * (1 - share)))


def make_selector() -> Selector:
    config = SelectorConfig(latent=K, encoder=EncoderConfig(pair_widths=(5,)))
    generator = torch.Generator().manual_seed(0)
    params = {f"head.{name}": leaf for name, leaf in HEADS["bilinear"].init(D, config, generator).items()}
    params |= {f"encoder.{name}": leaf for name, leaf in init_encoder(D, K, config.encoder, generator).items()}
    params["prototypes"] = init_prototypes(2, K, 1.0, generator)
    raw = torch.randn(23, D, generator=generator).numpy()
    scaling = Scaling(Standardiser.from_moments(Moments.of(raw)), rms=True)
    return Selector(config, InferenceConfig(), params, torch.tensor([0.4, 0.6]).log(), torch.tensor(1.7), scaling)


@pytest.mark.equivalence
def test_a_saved_selector_comes_back_bit_for_bit(tmp_path):
    selector = make_selector()
    selector.save_pretrained(tmp_path)
    again = Selector.from_pretrained(tmp_path)
    assert again.config == selector.config
    assert all(torch.equal(again.params[name], leaf) for name, leaf in selector.params.items())
    raw = np.ones((2, D))
    assert torch.equal(again.scale(raw), selector.scale(raw))
    data = pairs(N, dtype=torch.float32)
    for method in ("amortised", "responsibilities", "laplace"):
        one, two = (chosen.with_inference(method).infer(data) for chosen in (selector, again))
        assert torch.equal(selector.margins(one, data), again.margins(two, data))


@pytest.mark.equivalence
def test_a_saved_selector_keeps_its_layers_and_its_rotation(tmp_path):
    selector = make_selector()
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((D, 3)))[0].astype(np.float32)
    turned = replace(selector, scaling=replace(selector.scaling, rotation=rotation, blocks=(2, D - 3)))
    turned.save_pretrained(tmp_path)
    again, raw = Selector.from_pretrained(tmp_path), np.random.default_rng(1).standard_normal((5, D))
    assert again.scaling.blocks == (2, D - 3)
    assert torch.equal(again.scale(raw), turned.scale(raw))
    assert again.scale(raw).shape == (5, 3)


@pytest.mark.unit
def test_a_selector_of_a_release_without_rotation_opens(tmp_path):
    make_selector().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["selector"]["rotation"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    again = Selector.from_pretrained(tmp_path)
    assert (again.config.rotation, again.scaling.rotation, again.scaling.blocks) == ("none", None, ())


@pytest.mark.unit
def test_a_selector_of_another_schema_version_or_none_is_refused(tmp_path):
    with pytest.raises(RunError, match="no readable selector"):
        Selector.from_pretrained(tmp_path)
    make_selector().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"schema_version": 99}))
    with pytest.raises(RunError, match="schema version 99"):
        Selector.from_pretrained(tmp_path)


@pytest.mark.unit
def test_z_may_be_inferred_in_a_way_of_ones_own_which_a_saved_selector_keeps(tmp_path, monkeypatch):
    def first(selector: Selector, context: Pairs) -> Posterior:
        return selector.at_prototype(torch.zeros(context.weight.shape[:-1], dtype=torch.long))

    monkeypatch.setattr(INFERENCES, "_registered", {})
    with pytest.raises(ConfigError, match=r"There is no inference 'first'\. Known: amortised.*fedvpa\.register"):
        make_selector().with_inference("first")
    fedvpa.register("inference", "first", Inference(first))
    selector, data = make_selector().with_inference("first"), pairs(N, dtype=torch.float32)
    assert torch.equal(selector.infer(data).mean, selector.prototypes[0])
    selector.save_pretrained(tmp_path)
    assert torch.equal(Selector.from_pretrained(tmp_path).infer(data).mean, selector.prototypes[0])
    INFERENCES._registered.clear()
    with pytest.raises(RunError, match=r"config\.json: .*'inference\.method': There is no inference 'first'"):
        Selector.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="Inference"):
        fedvpa.register("inference", "first", first)


@pytest.mark.unit
def test_scaling_gives_every_response_the_same_norm():
    scaled = make_selector().scale(np.random.default_rng(0).standard_normal((5, D)) * 9)
    torch.testing.assert_close(scaled.norm(dim=-1), torch.full((5,), D**0.5))


@pytest.mark.unit
def test_more_prototypes_than_latent_dimensions_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        SelectorConfig(latent=2, prototypes=3)


@pytest.mark.unit
def test_below_takes_the_prefix_off():
    assert below("a", {"a.b": torch.zeros(1), "ab.c": torch.zeros(1)}).keys() == {"b"}
