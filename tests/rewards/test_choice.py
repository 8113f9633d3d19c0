from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.data.schema import Pair
from fedvpa.models.tokens import Limits
from fedvpa.policy.policy import Policy, new_policy
from fedvpa.policy.rows import PolicyTokenizer
from fedvpa.rewards.choice import TEMPLATE, Choices, Template, both_log_odds, log_odds, losses, margins, mean_loss
from policy_fixtures import BOS, disturb, make_policy, make_tokenizer, world_config

LIMITS = Limits(512, 256, 256)
PAIRS = [
    Pair("How do I bake bread?", "First, find the oven.", "Sorry, I can't help you with that."),
    Pair("Tell me how to beat jet lag.", "No.", "Hi there, thanks for asking! First, grab the pillow."),
    Pair("Why?", "Thank you for this thoughtful question. First, inspect the dictionary.", "Nah."),
]


@pytest.fixture(scope="module")
def policy() -> Policy:
    """The bundled model under a LoRA that does something; to read only."""
    fresh = new_policy(world_config(lora_rank=3, lora_alpha=6), "bundled", None, 5, device="cpu")
    return disturb(fresh, scale=0.3).eval()


@pytest.fixture(scope="module")
def template(policy: Policy) -> Template:
    return Template.of(policy.tokenizer, LIMITS)


@pytest.mark.unit
def test_the_model_reads_the_template_in_both_orders(policy, template):
    choices = template.of_pairs(PAIRS)
    for row, pair in enumerate(PAIRS):
        for side, first, second in (
            (choices.preferred_first, pair.chosen, pair.rejected),
            (choices.preferred_second, pair.rejected, pair.chosen),
        ):
            assert policy.tokenizer.text(side[row]) == TEMPLATE.format(prompt=pair.prompt, first=first, second=second)
    assert choices.width().tolist() == [len(row) for row in choices.preferred_second]
    assert choices.counts.prompts_truncated == choices.counts.responses_truncated == 0
    assert [policy.tokenizer.text([token]) for token in template.answers] == ["A", "B"]


@pytest.mark.reference
def test_log_odds_are_those_of_the_full_forward_at_the_last_position(policy, template):
    rows = template.of_pairs(PAIRS).rows(range(3))
    assert len({len(row) for row in rows}) > 1, "or padding is not tested"
    with torch.no_grad():
        told = log_odds(policy, template, rows)
        for row, found in zip(rows, told, strict=True):
            logits = policy.model(input_ids=torch.from_numpy(row).long()[None]).logits[0, -1]
            a, b = template.answers
            torch.testing.assert_close(found, logits[a] - logits[b], atol=1e-4, rtol=1e-4)
    assert float(told.std()) > 0.02


@pytest.mark.reference
def test_the_loss_is_the_cross_entropy_over_two_tokens_in_both_orders(policy, template):
    choices = template.of_pairs(PAIRS)
    odds = both_log_odds(policy, template, choices)
    logits = torch.stack([odds, torch.zeros_like(odds)], -1)
    target = torch.tensor([[0] * 3, [1] * 3])
    want = torch.nn.functional.cross_entropy(logits.view(-1, 2), target.view(-1), reduction="none").view(2, 3).mean(0)
    with torch.no_grad():
        torch.testing.assert_close(losses(policy, template, choices, [2, 0, 1]), want[[2, 0, 1]], atol=1e-5, rtol=0)
    assert mean_loss(odds, empty=9.0) == pytest.approx(float(want.mean()), abs=1e-6)
    assert mean_loss(odds[:, :0], empty=9.0) == 9.0


@pytest.mark.unit
def test_swapping_the_responses_changes_the_sign_of_the_margin(policy, template):
    swapped = [Pair(pair.prompt, pair.rejected, pair.chosen) for pair in PAIRS]
    one, other = (both_log_odds(policy, template, template.of_pairs(pairs)) for pairs in (PAIRS, swapped))
    torch.testing.assert_close(margins(one), -margins(other), atol=1e-6, rtol=0)
    # A mere preference for the letter A is no preference.
    assert margins(torch.tensor([[3.0, 2.0], [3.0, -1.0]])).tolist() == [0.0, 1.5]
    alike = [policy.tokenizer.encode(text) for text in ("Why?", "No.", "No.")]
    told = both_log_odds(policy, template, template.of_tokens(*([ids] for ids in alike)))
    assert margins(told).tolist() == [0.0]


@pytest.mark.unit
def test_labelled_pairs_of_equal_responses_are_left_out_and_counted(policy):
    pairs = [Pair("Why?", "No.", "No."), PAIRS[0], Pair("Why?", "First, grab the saw.", "First, grab the rug.")]
    found = Template.of(policy.tokenizer, LIMITS).of_pairs(pairs)
    assert (len(found), found.equal) == (2, 1)
    found = Template.of(policy.tokenizer, Limits(512, 3, 256)).of_pairs(pairs)
    assert (len(found), found.equal) == (1, 2)


@pytest.mark.unit
def test_many_pairs_keep_their_places(policy, template, monkeypatch):
    choices = template.of_pairs(PAIRS)
    whole = both_log_odds(policy, template, choices)
    monkeypatch.setattr("fedvpa.rewards.choice.ROWS_AT_ONCE", 2)
    torch.testing.assert_close(both_log_odds(policy, template, choices), whole, atol=1e-5, rtol=0)
    assert choices.head(2).rows([1])[0].tolist() == choices.preferred_first[1].tolist()


@pytest.mark.unit
def test_responses_are_cut_on_the_right_and_prompts_on_the_left_and_counted(policy):
    fixed = Template.of(policy.tokenizer, Limits(512, 256, None))
    parts = sum(map(len, fixed.parts))
    tokens = [np.arange(300, 300 + length, dtype=np.int32) for length in (7, 11, 5)]

    def cut(limits: Limits) -> tuple[Choices, int]:
        found = Template.of(policy.tokenizer, limits).of_tokens([tokens[0]], [tokens[1]], [tokens[2]])
        return found, len(found.preferred_first[0]) - parts

    found, length = cut(Limits(4, 6, None))
    assert length == 4 + 6 + 5
    assert found.preferred_first[0][:4].tolist() == [303, 304, 305, 306]
    start = 4 + len(fixed.parts[0])
    assert found.preferred_first[0][start : start + 6].tolist() == [300, 301, 302, 303, 304, 305]
    assert (found.counts.prompts_truncated, found.counts.responses_truncated) == (1, 1)
    assert (found.counts.prompt_tokens, found.counts.response_tokens) == (4, 11)
    # Seventeen positions for texts: eight for a response at most, the rest for the prompt.
    found, length = cut(Limits(512, 256, parts + 17))
    assert (length, found.counts.prompt_tokens, found.counts.response_tokens) == (17, 4, 13)
    with pytest.raises(ConfigError, match=r"fills the model's .* positions alone"):
        Template.of(policy.tokenizer, Limits(512, 256, parts + 2))


@pytest.mark.unit
def test_the_end_of_a_response_is_left_out(policy, template):
    words, pair = policy.tokenizer, PAIRS[0]
    [(prompt, chosen, rejected)], _ = words.pairs([pair])
    assert chosen[-1] == words.eos
    found = template.of_tokens([prompt], [np.append(chosen, 300).astype(np.int32)], [rejected])
    assert found.preferred_first[0].tolist() == template.of_pairs([pair]).preferred_first[0].tolist()


@pytest.mark.unit
def test_answers_with_a_space_come_first_and_none_is_an_error(base_folder: Path):
    words = [" A", " B", "A", "B", *TEMPLATE.split()]
    backend = Tokenizer(models.WordLevel({"?": 0, **{word: row for row, word in enumerate(words, 1)}}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="?", unk_token="?")
    assert Template.of(PolicyTokenizer.of(fast, 99), LIMITS).answers == (1, 2)
    with pytest.raises(ModelError, match=r"no two single tokens .*' A' → \[3\], ' B' → \[3\]"):
        Template.of(PolicyTokenizer.of(make_tokenizer(), 99), LIMITS)


@pytest.mark.unit
def test_a_few_steps_teach_an_order(template):
    policy = new_policy(world_config(lora_rank=4, lora_alpha=8), "bundled", None, 5, device="cpu")
    long, short = "First, grab the saw. Second, check the clamps. Third, try the hammer.", "Sorry, I can't help."
    choices = template.of_pairs([Pair(f"How do I fix {what}?", long, short) for what in ("a rug", "it", "my lamp")])
    before = both_log_odds(policy, template, choices)
    assert mean_loss(before, 0.0) == pytest.approx(math.log(2), abs=0.05)
    optimiser = torch.optim.AdamW(policy.trained().values(), lr=1e-2)
    for _ in range(12):
        optimiser.zero_grad()
        losses(policy, template, choices, [0, 1]).mean().backward()
        optimiser.step()
    after = both_log_odds(policy, template, choices)
    assert mean_loss(after, 0.0) < 0.3
    assert bool((margins(after) > 0).all()), "the third pair was not trained on"


@pytest.mark.unit
def test_another_architecture_with_a_beginning_of_text(base_folder: Path):
    policy = make_policy(base_folder, None)
    template = Template(policy.tokenizer, tuple(np.asarray([7 + n], np.int32) for n in range(3)), (11, 13), LIMITS)
    prompt, *responses = (np.arange(20, 20 + n, dtype=np.int32) for n in (3, 5, 2))
    choices = template.of_tokens([np.append(np.int32(BOS), prompt)], *([one] for one in responses))
    with torch.no_grad():
        told = log_odds(policy, template, choices.preferred_first)
        ids = torch.from_numpy(choices.preferred_first[0]).long()
        logits = policy.model(input_ids=ids[None]).logits[0, -1]
    torch.testing.assert_close(told[0], logits[11] - logits[13], atol=1e-4, rtol=1e-4)
