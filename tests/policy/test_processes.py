"""Several processes share a batch as ``accelerate launch`` and ``torchrun`` start them, on the CPU."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import multiprocessing

from fedvpa.core.errors import ConfigError
from fedvpa.core.files import write_json
from fedvpa.core.tensors import write_tensors
from fedvpa.policy.adapters import snapshot
from fedvpa.policy.dpo_trainer import DPOTrainer
from fedvpa.policy.examples import Examples
from policy_fixtures import make_examples, make_policy, tiny_config

VALUES: dict[str, Any] = {"batch": 6, "micro_batch": 2, "steps": 3, "sft_weight": 0.7, "language_weight": 1.3}


def take_steps(folder: Path, out: Path, examples: Examples) -> list[dict[str, Any]]:
    """Train; the main process writes the weights, every process what it was told."""
    policy = make_policy(folder, **VALUES)
    trainer = DPOTrainer(policy, tiny_config(folder, **VALUES), 0)
    told = [asdict(step) | {"seconds": 0.0} for step in trainer.run(examples, VALUES["steps"])]
    if trainer.is_main:
        write_tensors(out / "weights.safetensors", snapshot(policy), {})
    return told


def one_of_two(rank: int, port: int, folder: Path, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    write_json(out / f"{rank}.json", take_steps(folder, out, make_examples(11)))
    try:
        take_steps(folder, out / "few", make_examples(1))
    except ConfigError as error:
        (out / f"{rank}.error").write_text(str(error), encoding="utf-8")
    torch.distributed.destroy_process_group()


@pytest.mark.equivalence
def test_two_processes_take_the_steps_of_one(base_folder: Path, tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "two").mkdir()
    multiprocessing.spawn(one_of_two, (port, base_folder, tmp_path / "two"), nprocs=2)
    alone = take_steps(base_folder, tmp_path / "one", make_examples(11))
    first, second = (json.loads((tmp_path / "two" / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    for mine, theirs in zip(alone, first, strict=True):
        names = mine.pop("by_prototype"), theirs.pop("by_prototype")
        assert names[0].keys() == names[1].keys()
        assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-6)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)
    assert "1 pairs do not divide among 2 processes" in (tmp_path / "two" / "0.error").read_text()
