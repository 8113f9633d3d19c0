from __future__ import annotations

import pytest
import torch

from fedvpa.algorithms.client.text_client import AdapterSetting
from fedvpa.engines.text_federation import TextFederation
from fedvpa.policy.adapters import snapshot
from fedvpa.policy.policy import new_policy
from policy_fixtures import disturb, world_config


@pytest.mark.unit
def test_clients_share_the_policy_and_start_from_the_adapter_it_had():
    policy = new_policy(world_config(lora_rank=3), "bundled", None, 3, device="cpu")
    start = snapshot(policy)
    federation = TextFederation.of(policy, {"ann": [1, 2, 3, 4, 5], "bob": [], "cho": [7, 7]})
    disturb(policy, 1)
    assert federation.client_ids == ("ann", "bob", "cho")
    assert [federation.size(name) for name in federation.client_ids] == [5, 0, 2]
    held = federation.held("cho")
    assert (held.policy, held.data, len(held)) == (policy, [7, 7], 2)
    setting = federation.setting
    assert setting.experts is False
    assert list(setting.start) == list(start)
    assert all(torch.equal(leaf, start[name]) for name, leaf in setting.start.items())
    assert not all(torch.equal(leaf, start[name]) for name, leaf in AdapterSetting.of(policy).start.items())
