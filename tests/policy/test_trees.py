"""Responses that share their prompt in one row have the log-probabilities and gradients that they have alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, PreTrainedConfig

from fedvpa.policy import dpo_trainer, model, scoring
from fedvpa.policy.dpo_trainer import DPOTrainer
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Layout
from fedvpa.policy.scoring import plain_head, token_scores
from fedvpa.policy.sharing import sharing_room
from fedvpa.policy.trees import PADDING, groups_of, trees
from policy_fixtures import (
    BOS,
    SMALL,
    ids,
    latents,
    make_examples,
    make_policy,
    make_tokenizer,
    prompts_and_responses,
    tiny_config,
)

KINDS = (None, "soft_prefix", "additive")


@pytest.mark.unit
def test_rows_by_hand():
    layout = Layout(((BOS,),), 2, 0)
    found = trees(
        layout,
        [ids(BOS, 7), ids(8)],
        [[ids(11, 12), ids(13)], [ids(14)]],
        [[np.array([True, False]), np.array([True])], [np.array([False])]],
    )
    assert found.ids.tolist() == [[BOS, 0, 0, 7, 11, 12, 13], [0, 0, 8, 14, 0, 0, 0]]
    assert found.branch.tolist() == [[0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, PADDING, PADDING, PADDING]]
    assert found.positions.tolist() == [[0, 1, 2, 3, 4, 5, 4], [0, 1, 2, 3, 0, 0, 0]]
    assert found.first.tolist() == [1, 0]
    assert found.source.t().tolist() == [[0, 3], [0, 4], [0, 3], [1, 2]], "the first token follows the prompt"
    assert found.labels.tolist() == [11, 12, 13, 14]
    assert found.spread(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [[1, 2], [3, 0], [4, 0]]
    assert found.scored().tolist() == [[True, True], [True, False], [True, False]]
    assert found.marked().tolist() == [[True, False], [True, False], [False, False]]


@pytest.mark.unit
def test_equal_prompts_under_equal_z_come_together_as_long_as_there_is_room():
    prompts, responses = [ids(1, 2), ids(3), ids(1, 2), ids(1, 2)], [ids(5, 6), ids(7), ids(8), ids(9)]

    def found(room: int, z: torch.Tensor | None = None) -> list[tuple[list[int], int]]:
        return [(group.responses, group.tokens) for group in groups_of(prompts, responses, z, room, 3)]

    assert found(99) == [([0, 2, 3], 9), ([1], 5)]
    assert found(8) == [([0, 2], 8), ([1], 5), ([3], 6)]
    assert found(0) == [([0], 7), ([1], 5), ([2], 6), ([3], 6)]
    assert found(99, torch.tensor([[0.0], [0.0], [1.0], [0.0]])) == [([0, 3], 8), ([1], 5), ([2], 6)]


@pytest.mark.equivalence
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_each_response_alone(policies, kind, monkeypatch):
    policy = policies[kind]
    prompts, responses = prompts_and_responses(7)
    prompts = [prompts[0], *prompts[:3], *prompts[:3]]
    z = None if kind is None else latents(2)[[0, 0, 1, 0, 0, 1, 1]]
    shapes: list[int] = []
    forward = policy.forward
    monkeypatch.setattr(policy, "forward", lambda rows, own: shapes.append(len(rows.ids)) or forward(rows, own))
    found = policy.token_log_probs(prompts, responses, z)
    assert sum(shapes) < 7, "prompts are shared"
    monkeypatch.setattr(model, "sharing_room", lambda _: 0)
    for one, other in zip(found, policy.token_log_probs(prompts, responses, z), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.equivalence
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_step_of_shared_prompts_has_the_gradient_of_separate_ones(base_folder, kind, checkpointing, monkeypatch):
    examples = make_examples(5, with_z=kind is not None)

    def gradients() -> tuple[float, list[torch.Tensor]]:
        values = {"batch": 5, "gradient_checkpointing": checkpointing}
        policy = make_policy(base_folder, kind, **values)
        assert sharing_room(policy) > 97
        config = tiny_config(base_folder, **values, **({} if kind is None else {"conditioning": kind}))
        kept: list[torch.Tensor] = []
        with pytest.MonkeyPatch.context() as during:
            during.setattr(
                nn.utils,
                "clip_grad_norm_",
                lambda weights, _: kept.extend(one.grad.clone() for one in weights) or torch.zeros(()),
            )
            (step,) = DPOTrainer(policy, config, 0).run(examples, 1)
        return step.loss, kept

    shared = gradients()
    monkeypatch.setattr(dpo_trainer, "sharing_room", lambda _: 0)
    separate = gradients()
    assert shared[0] == pytest.approx(separate[0], rel=1e-5)
    norm = torch.cat([one.flatten() for one in separate[1]]).norm()
    assert norm > 0.1
    for one, other in zip(shared[1], separate[1], strict=True):
        torch.testing.assert_close(one / norm, other / norm, atol=1e-6, rtol=1e-5)


@pytest.mark.reference
@pytest.mark.parametrize("with_bias", [True, False])
def test_scores_are_log_softmax_with_its_gradient_whatever_is_computed_at_once(with_bias: bool, monkeypatch):
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 3)
    torch.manual_seed(5)
    head = nn.Linear(5, 11, bias=with_bias).requires_grad_(False)
    states, labels, weights = torch.randn(7, 5, requires_grad=True), torch.arange(7), torch.randn(7)
    dense = head(states).log_softmax(1)[torch.arange(7), labels]
    expected = torch.autograd.grad((dense * weights).sum(), states)
    found = token_scores(states, head, labels)
    torch.testing.assert_close(found, dense)
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), states), expected)
    assert token_scores(states[:0], head, labels[:0]).shape == (0,)


HEADS: dict[str, PreTrainedConfig] = {
    "soft cap": Gemma2Config(**SMALL, head_dim=6, query_pre_attn_scalar=6, final_logit_softcapping=3.0),
    "scale": CohereConfig(**SMALL, logit_scale=0.2),
}


@pytest.mark.reference
@pytest.mark.parametrize("head", HEADS)
def test_logits_that_the_architecture_changes_are_its_own(head: str, tmp_path: Path):
    torch.manual_seed(17)
    AutoModelForCausalLM.from_config(HEADS[head]).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    policy: Policy = make_policy(tmp_path, None)
    causal: Any = policy.model.get_base_model()
    assert not plain_head(causal)
    prompts, responses = prompts_and_responses(3)
    prompts, responses = [*prompts, *prompts], [*responses, *reversed(responses)]
    for prompt, response, scores in zip(
        prompts, responses, policy.token_log_probs(prompts, responses, None), strict=True
    ):
        row = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64))
        with torch.no_grad():
            dense = policy.model(row.unsqueeze(0)).logits[0].log_softmax(-1)
        expected = dense[:-1].gather(1, row[1:].unsqueeze(1)).squeeze(1)[-len(response) :]
        torch.testing.assert_close(torch.from_numpy(scores), expected, atol=1e-5, rtol=1e-5)
