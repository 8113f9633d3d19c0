"""Who may join: the first come first, within rows, memory and the prompts of one step."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import pytest

from fedvpa.serving.admission import SHARE, Admission, admission_of
from policy_fixtures import SMALL


def row(prompt: int, answer: int) -> SimpleNamespace:
    return SimpleNamespace(prompt_tokens=prompt, longest=prompt + answer)


def admitted(admission: Admission, waiting: list, running: list) -> list[int]:
    queue = deque(waiting)
    found = admission.admit(queue, running)
    assert [*found, *queue] == waiting
    return len(found)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("waiting", "running", "expected"),
    [
        ([row(5, 5)] * 4, [], 3),  # rows
        ([row(5, 5)] * 4, [row(1, 1)] * 2, 1),
        ([row(5, 25), row(1, 1)], [row(5, 5)], 1),  # 2 × 30 places
        ([row(5, 25), row(1, 1)], [row(5, 5)] * 2, 0),  # 3 × 30 are too many, and nobody overtakes
        ([row(9, 60)], [], 1),  # alone it fits
        ([row(9, 60), row(1, 1)], [], 1),
        ([row(8, 1), row(8, 1), row(5, 1)], [], 2),  # 20 tokens of prompts in one step
        ([row(30, 1), row(1, 1)], [], 1),  # a long prompt is computed alone
    ],
)
def test_who_may_join(waiting, running, expected):
    assert admitted(Admission(max_rows=3, cache_tokens=70, prefill_tokens=20), waiting, running) == expected


@pytest.mark.unit
def test_the_memory_for_keys_and_values_is_a_share_of_what_is_free(policies, monkeypatch):
    heads = SMALL["num_key_value_heads"] * SMALL["hidden_size"] // SMALL["num_attention_heads"]
    token = 2 * SMALL["num_hidden_layers"] * heads * 4  # bytes: keys and values of all layers in float32
    monkeypatch.setattr("fedvpa.serving.admission.free_memory", lambda device: 100 * token)
    assert admission_of(policies["gated_lora"], 3, None).cache_tokens == 100 * SHARE
    assert admission_of(policies["gated_lora"], 3, 7).cache_tokens == 7
