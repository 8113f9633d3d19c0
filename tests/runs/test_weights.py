from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedvpa.data.load import load
from fedvpa.data.schema import PairTable
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.new_pairs import scaling_of
from fedvpa.runs.prepare import prepare_pairs
from fedvpa.runs.stage1 import open_selector


@pytest.mark.end_to_end
def test_a_new_users_pair_of_weight_two_is_the_pair_twice(finished):
    run = RunFolder.open(finished)
    config = run.config(())
    selector = open_selector(run, config)
    given = load(config.resolved_data()).pairs[:5]
    tables = [
        [replace(pair, weight=2.0 if row < 2 else 1.0) for row, pair in enumerate(given)],
        [*given[:2], *given],
        given,
    ]
    found = [
        selector.infer(prepare_pairs(config.features, PairTable(tuple(pairs)), scaling_of(selector, run))[1]).mean
        for pairs in tables
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], found[2], rtol=1e-4, atol=1e-5)
