from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from fedvpa.core.errors import ConfigError, ModelError, RunError, TrainingError
from fedvpa.data.schema import Pair
from fedvpa.policy.adapters import restore, snapshot, training_only
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.drawing import pick
from fedvpa.policy.files import saved_settings
from fedvpa.policy.partial_samples import PartialSamples
from fedvpa.policy.policy import Policy, load_policy, new_policy
from fedvpa.policy.sampling import Sampling
from policy_fixtures import (
    EOS,
    LATENT,
    TOKENS,
    disturb,
    latents,
    make_policy,
    prompts_and_responses,
    random_prompt,
    save_model,
    tiny_config,
)

KINDS = (None, "gated_lora", "soft_prefix", "additive")
GREEDY = Sampling(temperature=0.0, max_new_tokens=9, batch=3)


def z_for(policy: Policy, count: int, seed: int = 5) -> torch.Tensor | None:
    return None if policy.conditioner is None else latents(count, seed)


@torch.no_grad()
def dense_logits(policy: Policy, prompt: np.ndarray, response: np.ndarray, z: torch.Tensor | None) -> torch.Tensor:
    """Logits of one unpadded row with z put in by hand: added to the first tokens behind <bos>, or to every token."""
    row = np.concatenate([prompt, response])
    embed = policy.model.get_input_embeddings()
    shown = embed(torch.from_numpy(row.astype(np.int64)))
    if policy.conditioner is not None and policy.conditioner.kind != "gated_lora":
        made = torch.nn.functional.linear(z, policy.conditioner.map.weight, policy.conditioner.map.bias)
        if policy.conditioner.kind == "additive":
            shown = shown + made
        elif policy.conditioner.placement == "inserted":
            shown = torch.cat([shown[:1], made.view(TOKENS, -1), shown[1:]])
        else:
            count = min(TOKENS, len(prompt) - 1)
            shown[1 : 1 + count] += made.view(TOKENS, -1)[:count]
    with gated_by_hand(policy, z):
        return policy.model(inputs_embeds=shown.unsqueeze(0)).logits[0]


@contextmanager
def gated_by_hand(policy: Policy, z: torch.Tensor | None) -> Iterator[None]:
    """While inside, the factors A of a gated LoRA are diag(1 + M·z)·A."""
    if policy.conditioner is None or policy.conditioner.kind != "gated_lora":
        yield
        return
    gates, start, kept = 1 + policy.conditioner.map.weight @ z, 0, {}
    for name, weight in policy.model.named_parameters():
        if ".lora_A." in name:
            kept[weight] = weight.clone()
            weight.mul_(gates[start : start + len(weight)].unsqueeze(1))
            start += len(weight)
    assert start == len(gates)
    yield
    for weight, value in kept.items():
        weight.copy_(value)


@pytest.mark.reference
@pytest.mark.parametrize("kind", KINDS)
def test_fused_log_probabilities_are_those_of_dense_logits(policies, kind):
    policy = policies[kind]
    prompts, responses = prompts_and_responses(5)
    z = z_for(policy, 5)
    with torch.no_grad():
        found = policy.log_probs(prompts, responses, z)
    expected = []
    for place, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        logits = dense_logits(policy, prompt, response, None if z is None else z[place])
        scores = logits[-len(response) - 1 : -1].log_softmax(-1)
        expected.append(scores.gather(1, torch.from_numpy(response.astype(np.int64)).unsqueeze(1)).sum())
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.equivalence
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_generation_follows_the_training_path_token_by_token(policies, kind):
    policy = policies[kind]
    rng = np.random.default_rng(1)
    prompts = [random_prompt(rng, length) for length in (3, 8, 1, 5)]
    z = z_for(policy, 4)
    found = policy.sample(prompts, z, GREEDY, 0)
    assert max(map(len, found)) > 3
    for place, (prompt, response) in enumerate(zip(prompts, found, strict=True)):
        logits = dense_logits(policy, prompt, response, None if z is None else z[place])
        assert logits[-len(response) - 1 : -1].argmax(-1).tolist() == response.tolist()
        # And no other token in its place would have scored higher where policies are trained.
        wrong = response.copy()
        wrong[-1] = (response[-1] + 1) % logits.shape[-1]
        own = None if z is None else z[[place, place]]
        with torch.no_grad():
            kept, changed = policy.log_probs([prompt, prompt], [response, wrong], own).tolist()
        assert kept > changed


@pytest.mark.unit
@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_policy_follows_z(policies, kind):
    policy = policies[kind]
    prompts, responses = prompts_and_responses(5)
    with torch.no_grad():
        first, second = (policy.log_probs(prompts, responses, latents(5, seed)) for seed in (5, 6))
    assert (first - second).abs().min() > 1e-3


@pytest.mark.reference
@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_base_model_whatever_was_trained(policies, base_folder, kind):
    policy = policies[kind]
    prompts, responses = prompts_and_responses(5)
    plain = LlamaForCausalLM.from_pretrained(base_folder).eval()
    found = policy.reference_log_probs(prompts, responses)
    for prompt, response, scores in zip(prompts, responses, found, strict=True):
        row = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64))
        with torch.no_grad():
            dense = plain(row.unsqueeze(0)).logits[0].log_softmax(-1)
        expected = dense[:-1].gather(1, row[1:].unsqueeze(1)).squeeze(1)[-len(response) :]
        torch.testing.assert_close(torch.from_numpy(scores), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        trained = policy.log_probs(prompts, responses, z_for(policy, 5))
    assert (trained - torch.tensor([float(part.sum()) for part in found])).abs().min() > 1e-3


@pytest.mark.equivalence
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [1, 41, 10_000])
def test_log_probabilities_do_not_depend_on_the_budget_of_tokens(base_folder, kind, budget, monkeypatch):
    policy = make_policy(base_folder, kind, tokens_per_batch=budget, lora_dropout=0.4).train()
    prompts, responses = prompts_and_responses(7)
    z, shapes, forward = z_for(policy, 7), [], policy.forward
    monkeypatch.setattr(policy, "forward", lambda rows, own: shapes.append(rows.ids.shape) or forward(rows, own))
    found = policy.token_log_probs(prompts, responses, z)
    assert policy.training
    assert all(rows == 1 or rows * width <= budget for rows, width in shapes)
    assert len(shapes) == {1: 7, 10_000: 1}.get(budget, len(shapes))
    assert [len(row) for row in found] == [len(response) for response in responses]
    sums = torch.tensor([float(row.sum()) for row in found])
    with torch.no_grad():
        torch.testing.assert_close(sums, policy.eval().log_probs(prompts, responses, z), atol=1e-4, rtol=1e-5)


@pytest.mark.unit
def test_a_prompt_has_a_cap_of_its_own(base_folder):
    long = " ".join(f"w{number}" for number in range(40))
    whole = make_policy(base_folder, max_prompt_tokens=None).tokenizer.prompts([long])[0]
    cut = make_policy(base_folder, max_prompt_tokens=11).tokenizer.prompts([long])[0]
    assert len(whole) == 41  # <bos> in front
    assert cut.tolist() == [1, *whole[-11:].tolist()]
    # The positions still leave room for the response.
    assert make_policy(base_folder, max_prompt_tokens=512).tokenizer.max_prompt_tokens == 97 - 11 - 2


@pytest.mark.unit
def test_a_policy_of_a_release_without_the_cap_keeps_whole_prompts():
    assert saved_settings({"settings": {"beta": 0.3}}) == PolicyConfig(beta=0.3, max_prompt_tokens=None)
    assert saved_settings({"settings": PolicyConfig().model_dump()}) == PolicyConfig()


@pytest.mark.unit
def test_leaving_the_reference_leaves_the_policy_as_it_was(base_folder):
    policy = make_policy(base_folder).train()
    names = policy.trained().keys()
    with policy.reference() as base:
        assert not base.training
        assert base.conditioner is None
    assert policy.training
    assert policy.trained().keys() == names


@pytest.mark.unit
def test_a_failure_inside_the_reference_leaves_the_policy_as_it_was(base_folder):
    policy = make_policy(base_folder).train()
    with pytest.raises(KeyError), policy.reference():
        raise KeyError
    assert policy.training
    prompts, responses = prompts_and_responses(3)
    policy.eval()
    with torch.no_grad():
        after = policy.log_probs(prompts, responses, latents(3))
        same = make_policy(base_folder).log_probs(prompts, responses, latents(3))
    assert after.equal(same)


@pytest.mark.unit
def test_the_same_draws_for_the_same_labels_and_global_randomness_untouched(policies):
    policy = policies["soft_prefix"]
    prompts, _ = prompts_and_responses(5)
    z, sampling = latents(5), Sampling(temperature=1.0, top_p=0.9, max_new_tokens=9, batch=2)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = (policy.sample(prompts, z, sampling, 0, label) for label in ("a", "a", "b"))
    assert before.equal(torch.get_rng_state())
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))
    assert all(len(row) <= 9 and EOS not in row[:-1] for row in first)


@pytest.mark.unit
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nothing_is_sampled_from_a_policy_whose_weights_have_diverged(
    temperature: float, value: float, base_folder: Path
):
    policy = make_policy(base_folder, None)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[7:] = value
    prompts, _ = prompts_and_responses(2)
    with pytest.raises(TrainingError, match=r"diverged\. Lower policy\.lr or policy\.conditioner_lr"):
        policy.sample(prompts, None, Sampling(temperature=temperature, max_new_tokens=3, batch=3), 0)
    how, number = Sampling(temperature=temperature), torch.tensor([0.99])
    with pytest.raises(TrainingError, match="no finite numbers"):
        pick(torch.tensor([[0.5, value, -torch.inf]]), number, how)
    assert pick(torch.tensor([[0.5, -torch.inf]]), number, how).tolist() == [0], "a masked token is no fault"


@pytest.mark.unit
def test_a_z_that_does_not_fit_is_refused(policies):
    prompts, responses = prompts_and_responses(2)
    for kind in KINDS[1:]:
        with pytest.raises(ConfigError, match=f"{LATENT} numbers, and none is given"):
            policies[kind].log_probs(prompts, responses, None)
        with pytest.raises(ConfigError, match=f"{LATENT} numbers, and 7 are given"):
            policies[kind].sample(prompts, torch.zeros(2, 7), GREEDY, 0)
    with pytest.raises(ConfigError, match="takes no z"):
        policies[None].sample(prompts, latents(2), GREEDY, 0)


@pytest.mark.unit
def test_a_model_too_short_for_its_candidates_is_refused(base_folder):
    config = tiny_config(base_folder, candidates={"max_new_tokens": 97})
    with pytest.raises(ConfigError, match=r"policy\.candidates\.max_new_tokens"):
        new_policy(config, "", LATENT, 0, device="cpu")


@pytest.mark.unit
def test_rows_fit_into_the_positions(policies):
    words = policies["soft_prefix"].tokenizer  # 97 positions, samples of 11
    assert (words.max_prompt_tokens, words.max_tokens) == (97 - 11 - 2, 97)
    ((prompt, chosen, _),), counts = words.pairs([Pair("w1 " * 90, "w2 " * 30, "w3")])
    assert (len(prompt), len(chosen)) == (85, 12)
    assert (counts.prompts_truncated, counts.responses_truncated) == (1, 1)


@pytest.mark.unit
def test_the_first_weights_are_named_by_the_seed(base_folder):
    config = tiny_config(base_folder)
    one, two, other = (snapshot(new_policy(config, "", LATENT, seed, device="cpu")) for seed in (3, 3, 4))
    assert all(one[name].equal(two[name]) for name in one)
    assert any(not one[name].equal(other[name]) for name in one if "lora_A" in name)


@pytest.mark.unit
@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_that_nothing_has_trained_is_its_base(base_folder, kind):
    policy = make_policy(base_folder, kind, noise=False)
    prompts, responses = prompts_and_responses(5)
    theirs = policy.reference_log_probs(prompts, responses)
    z = z_for(policy, 5)
    for ours, wanted in zip(policy.token_log_probs(prompts, responses, z), theirs, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-6)
    with policy.reference() as base:
        answers = base.sample(prompts, None, GREEDY, 0)
    assert all(map(np.array_equal, policy.sample(prompts, z, GREEDY, 0), answers))


@pytest.mark.reference
def test_a_policy_of_an_earlier_release_keeps_its_prefix_in_places_of_its_own(base_folder, tmp_path):
    policy = make_policy(base_folder)
    policy.conditioner.placement = "inserted"
    policy.save_pretrained(tmp_path)
    path = tmp_path / "policy.json"
    saved = json.loads(path.read_text())
    del saved["conditioner"]["placement"]
    path.write_text(json.dumps({**saved, "schema_version": 2}))
    loaded = load_policy(tmp_path, tiny_config(base_folder, prefix_tokens=2), device="cpu").eval()
    assert (loaded.tokenizer.max_prompt_tokens, loaded.tokenizer.max_tokens) == (97 - TOKENS - 11 - 2, 97 - TOKENS)
    prompts, responses = prompts_and_responses(3)
    z = latents(3)
    for place, found in enumerate(loaded.token_log_probs(prompts, responses, z)):
        logits = dense_logits(loaded, prompts[place], responses[place], z[place])
        tokens = torch.from_numpy(responses[place].astype(np.int64)).unsqueeze(1)
        expected = logits[-len(tokens) - 1 : -1].log_softmax(-1).gather(1, tokens).squeeze(1)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert loaded.sample(prompts, z, GREEDY, 0)[0].tolist() == policy.sample(prompts, z, GREEDY, 0)[0].tolist()


@pytest.mark.unit
def test_restoring_a_snapshot_undoes_training(base_folder):
    policy = make_policy(base_folder)
    before = snapshot(policy)
    disturb(policy, seed=9)
    assert not any(before[name].equal(weight) for name, weight in policy.trained().items())
    restore(policy, before)
    assert all(before[name].equal(weight) for name, weight in policy.trained().items())


@pytest.mark.equivalence
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's, by transformers 5.23
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_policy_comes_back_exactly_and_its_adapter_is_a_standard_one(policies, base_folder, tmp_path, kind):
    policy = policies[kind]
    policy.save_pretrained(tmp_path, {"method": "x"})
    # Another configuration than the one it was trained with: the shape is read from the folder.
    other = "soft_prefix" if kind == "additive" else "additive"
    loaded = load_policy(tmp_path, tiny_config(base_folder, conditioning=other, prefix_tokens=2), device="cpu").eval()
    ours, theirs = snapshot(policy), snapshot(loaded)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    prompts, responses = prompts_and_responses(5)
    z = z_for(policy, 5)
    with torch.no_grad():
        assert policy.log_probs(prompts, responses, z).equal(loaded.log_probs(prompts, responses, z))
    saved = json.loads((tmp_path / "policy.json").read_text())
    assert saved["method"] == "x"
    assert (saved["conditioner"] is None) == (kind is None)
    adapted = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base_folder), tmp_path).eval()
    shown = torch.arange(6, 13).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(adapted(shown).logits, policy.model(shown).logits)


@pytest.mark.unit
def test_another_base_another_schema_and_an_empty_folder_are_refused(policies, base_folder, tmp_path):
    config = tiny_config(base_folder)
    with pytest.raises(RunError, match="fedvpa align"):
        load_policy(tmp_path / "nothing", config, device="cpu")
    folder = tmp_path / "policy"
    policies["soft_prefix"].save_pretrained(folder)
    changed = save_model(tmp_path / "changed", seed=18)
    with pytest.raises(ModelError, match="other weights"):
        load_policy(folder, tiny_config(changed), device="cpu")
    # The base moved: its content decides, not its place.
    moved = shutil.copytree(base_folder, tmp_path / "moved")
    load_policy(folder, tiny_config(Path(moved)), device="cpu")
    saved = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps({**saved, "schema_version": 99}))
    with pytest.raises(RunError, match="schema version 99"):
        load_policy(folder, config, device="cpu")


@pytest.mark.equivalence
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_memory_and_not_gradients(base_folder, kind):
    prompts, responses = prompts_and_responses(4)
    gradients = []
    for checkpointing in (False, True):
        policy = make_policy(base_folder, kind, gradient_checkpointing=checkpointing).train()
        policy.log_probs(prompts, responses, z_for(policy, 4)).sum().backward()
        gradients.append([weight.grad for weight in policy.trained().values()])
    for plain, saved in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, saved)


@pytest.mark.unit
def test_samples_of_one_prompt_in_several_blocks_are_no_copies(policies):
    policy = policies["soft_prefix"]
    prompts, z = [prompts_and_responses(1)[0][0]] * 6, latents(1).repeat(6, 1)
    found = policy.sample(prompts, z, Sampling(temperature=1.0, max_new_tokens=9, batch=2), 0, "a")
    blocks = {tuple(tuple(ids.tolist()) for ids in found[start : start + 2]) for start in (0, 2, 4)}
    assert len(blocks) == 3


@pytest.mark.unit
def test_samples_that_were_stopped_go_on_as_if_they_had_never_been(policies, tmp_path, monkeypatch, capsys):
    policy = policies["soft_prefix"]
    prompts, _ = prompts_and_responses(7)
    z, sampling = latents(7), Sampling(temperature=1.0, max_new_tokens=9, batch=2)
    whole = policy.sample(prompts, z, sampling, 0, "a")
    kept, ordinary, calls = PartialSamples(tmp_path / "some.partial"), type(policy)._sample, []

    def stopped(self, part, *others):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(part))
        return ordinary(self, part, *others)

    with monkeypatch.context() as during:
        during.setattr(type(policy), "_sample", stopped)
        with pytest.raises(KeyboardInterrupt):
            policy.sample(prompts, z, sampling, 0, "a", kept=kept)
    assert all(map(np.array_equal, kept.load(), whole[:4]))
    monkeypatch.setattr(
        type(policy), "_sample", lambda self, *given: calls.append(len(given[0])) or ordinary(self, *given)
    )
    found = policy.sample(prompts, z, sampling, 0, "a", kept=kept)
    assert calls == [2, 2, 2, 1]
    assert len(found) == 7
    assert all(map(np.array_equal, found, whole))
    assert "4 responses were sampled before" in capsys.readouterr().err
    kept.path.write_bytes(b"damaged")
    assert kept.load() == []
    assert "everything is sampled again" in capsys.readouterr().err


@pytest.mark.unit
def test_what_is_held_fixed_stays_fixed_when_the_reference_was_asked(base_folder: Path):
    """PEFT lets the whole adapter train again once it is switched on; the base never trained."""
    policy = make_policy(base_folder, None)
    kept = [name for name in policy.trained() if "lora_B" in name]
    with training_only(policy, kept):
        with policy.reference():
            pass
        assert list(policy.trained()) == kept
    assert len(policy.trained()) == 2 * len(kept)
