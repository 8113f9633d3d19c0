import numpy as np
import pytest
import torch

from fedvpa.core.errors import DataError
from fedvpa.policy import plain_text
from fedvpa.policy.plain_text import check_texts, text_log_probs, windows
from policy_fixtures import BOS, latents, make_policy

pytestmark = pytest.mark.unit

TEXT = " ".join(f"w{number % 53}" for number in range(19))


@pytest.mark.parametrize("kind", [None, "soft_prefix", "additive"])
def test_a_text_is_worth_what_dense_logits_say_window_by_window(base_folder, kind, monkeypatch):
    monkeypatch.setattr(plain_text, "WINDOW", 8)
    policy = make_policy(base_folder, kind)
    read = windows(policy, TEXT)
    assert [len(first) + len(rest) for first, rest in read] == [9, 9, 4]
    assert all(first[0] == BOS and len(first) == 2 for first, _ in read)
    whole = np.concatenate([np.concatenate([first[1:], rest]) for first, rest in read])
    np.testing.assert_array_equal(whole, policy.tokenizer.encode(TEXT))
    z = None if kind is None else latents(1, 3)[0]
    (found,) = text_log_probs(policy, [read], z)
    with policy.reference() as base:
        (at_base,) = text_log_probs(base, [read], None)
        expected = 0.0
        for first, rest in read:
            row = torch.from_numpy(np.concatenate([first, rest]).astype(np.int64))[None]
            logits = base.model(input_ids=row).logits[0].log_softmax(-1)
            expected += float(sum(logits[len(first) - 1 + place, token] for place, token in enumerate(rest)))
    assert at_base == pytest.approx(expected, rel=1e-4)
    assert abs(found - at_base) > 1e-3


def test_texts_keep_their_own_sums_and_one_of_a_single_token_is_refused(base_folder):
    policy = make_policy(base_folder, None)
    read = [windows(policy, text) for text in (TEXT, "w1 w2 w3", "w7 w7")]
    both = text_log_probs(policy, read, None)
    alone = [text_log_probs(policy, [own], None)[0] for own in read]
    np.testing.assert_allclose(both, alone, rtol=1e-5)
    with pytest.raises(DataError, match="text 2 has fewer than two tokens"):
        check_texts([read[0], windows(policy, "w1")], "f")


def test_control_tokens_in_a_text_are_text(base_folder):
    policy = make_policy(base_folder, None)
    ((first, rest),) = windows(policy, "w1 <eos> w2")
    assert policy.tokenizer.base.eos_token_id not in [*first.tolist(), *rest.tolist()]
