"""Attacks on the released model: what the number of pairs alone would tell is no leak."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.data.partition import Partition
from fedvpa.runs.audit import Replayed, audit_model
from tests_shared import config


@pytest.mark.unit
def test_users_with_more_pairs_do_not_pass_for_users_who_trained():
    """The others hold the first pairs of those who trained, so that by equally many of them nobody is told apart."""
    federation = make_federation((12,) * 6)
    others = tuple(
        replace(client, client_id=f"other {client.client_id}", seen=False, train=client.train[:3])
        for client in federation.partition.clients
    )
    both = replace(federation, partition=Partition((*federation.partition.clients, *others)))
    algorithm = make("fedem", config())
    selector = algorithm.selector(algorithm.init(federation.setting, 0))
    noise = torch.Generator().manual_seed(0)  # at the start nothing of a head depends on z
    params = {name: leaf + torch.randn(leaf.shape, generator=noise) for name, leaf in selector.params.items()}
    selector = replace(selector, params=params)
    _, membership = audit_model(Replayed(None, {}, selector), both, seed=0)  # type: ignore[arg-type]
    assert membership is not None
    assert membership.auc == 0.5
    assert (membership.members, membership.others) == (6, 6)
