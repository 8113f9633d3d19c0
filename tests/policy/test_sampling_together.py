"""What a process that helps draws is what the one that leads would draw; see also ``tests/api/test_processes.py``."""

from __future__ import annotations

import pickle
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedvpa.core.processes import ALONE
from fedvpa.policy import sampling_together as module
from fedvpa.policy.policy import Policy, load_policy
from fedvpa.policy.sampling import Sampling
from fedvpa.policy.sampling_together import sample_together
from policy_fixtures import latents, make_policy, prompts_and_responses, tiny_config


@pytest.fixture
def loaded(base_folder: Path, tmp_path: Path) -> Policy:
    """A policy as a user has it: read from a folder."""
    make_policy(base_folder).save_pretrained(tmp_path / "policy")
    return load_policy(tmp_path / "policy", tiny_config(base_folder))


@pytest.mark.equivalence
def test_a_helper_draws_what_the_leader_draws(loaded: Policy, monkeypatch: pytest.MonkeyPatch):
    asked: list[bytes] = []

    @contextmanager
    def helped(function, *arguments):
        asked.append(pickle.dumps((function, arguments)))
        yield ALONE

    monkeypatch.setattr(module, "helped", helped)
    monkeypatch.setattr(module, "_policies", {})
    prompts, _ = prompts_and_responses(5)
    sampling = Sampling(1.0, 1.0, 11, 2)
    own = sample_together(loaded, prompts, latents(5), sampling, 0, "x")
    base = sample_together(loaded, prompts, latents(5), sampling, 0, "x", reference=True)
    found, whole = [], module._drawn
    monkeypatch.setattr(module, "_drawn", lambda *given: found.append((given[0], whole(*given))))
    for function, arguments in map(pickle.loads, asked):
        function(*arguments)
    (helper, mine), (same, theirs) = found
    assert helper is same is not loaded, "it is loaded once"
    assert any(not np.array_equal(one, other) for one, other in zip(own, base, strict=True))
    for drawn, wanted in ((mine, own), (theirs, base)):
        assert [ids.tolist() for ids in drawn] == [ids.tolist() for ids in wanted]
