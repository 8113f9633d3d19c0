"""Two processes, connected as ``torchrun`` and ``accelerate launch`` connect them, do what one does. On the CPU."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import multiprocessing
from torch.distributed.tensor import DTensor

from fedvpa.api.align import align
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError, DataError, FedvpaError
from fedvpa.core.files import write_json
from fedvpa.core.processes import current, lead, together
from fedvpa.core.rendezvous import ProcessLost, first_to_speak
from fedvpa.policy.adapters import snapshot
from fedvpa.policy.dpo_trainer import DPOTrainer
from fedvpa.policy.policy import load_policy
from fedvpa.policy.sampling import Sampling
from fedvpa.policy.sampling_together import sample_together
from fedvpa.runs.config import read_config
from policy_fixtures import latents, make_examples, make_policy, prompts_and_responses, save_model, tiny_config
from run_fixtures import TINY, TINY_POLICY

POLICY = (
    *TINY_POLICY,
    "policy.steps=4",
    "policy.checkpoint_every=2",
    "policy.refresh_every=2",
    "policy.micro_batch=1",
    "policy.candidates.batch=3",
    "policy.sft_weight=0.7",
    "policy.language_weight=1.3",
    "policy.tokens_per_batch=257",
)
ADAPTER = ("policy/adapter_model.safetensors", "policy/z_conditioner.safetensors")


def both_stages(out: Path) -> list[dict[str, Any]]:
    """What a user does; returns what Python gets."""
    trained = train(read_config(None, TINY), out / "trained").to_dict()
    aligned = align(out / "run", overrides=POLICY).to_dict()
    return [json.loads(json.dumps(found)) for found in (trained["rows"], aligned)]


def failing(problem: str) -> None:
    raise DataError(problem, fix="Mend it.")


def answers_and_steps(folder: Path) -> tuple[list[Any], int]:
    """What a policy samples, says of responses and learns, and how many of its weights are sharded."""
    values: dict[str, Any] = {"batch": 4, "steps": 2, "micro_batch": 1}
    policy = make_policy(folder, **values)
    prompts, responses = prompts_and_responses(5)
    drawn = policy.sample(prompts, latents(5), Sampling(1.0, 1.0, 11, 2), 0, "x")  # three blocks for two processes
    said = policy.reference_log_probs(prompts, responses)
    losses = [step.loss for step in DPOTrainer(policy, tiny_config(folder, **values), 0).run(make_examples(8), 2)]
    found = [[ids.tolist() for ids in drawn], [own.tolist() for own in said], losses]
    found += [[weight.flatten().tolist() for weight in snapshot(policy).values()]]
    return found, sum(isinstance(weight, DTensor) for weight in policy.parameters())


def led_answers(folder: Path) -> list[Any]:
    """What a policy and its reference answer where one process leads, as in ``evaluate --policy`` and ``simulate``."""
    prompts, _ = prompts_and_responses(5)

    def drawn() -> list[Any]:
        make_policy(folder).save_pretrained(folder.parent / "policy")
        policy, how = load_policy(folder.parent / "policy", tiny_config(folder)), Sampling(1.0, 1.0, 11, 2)
        found = [sample_together(policy, prompts, latents(5), how, 0, "x", reference=base) for base in (False, True)]
        return [[ids.tolist() for ids in own] for own in found]

    return lead(drawn)


def sharded_and_not(folder: Path) -> list[Any]:
    """The same by a base that is whole in each process, and by one that is sharded; and what is refused."""
    with together(), pytest.MonkeyPatch.context() as patch:
        whole, none = answers_and_steps(folder)
        patch.setenv("ACCELERATE_USE_FSDP", "true")
        with pytest.raises(ConfigError, match="version 1 of FSDP"):
            make_policy(folder)
        patch.setenv("FSDP_VERSION", "2")
        shared, some = answers_and_steps(folder)
        with pytest.raises(ConfigError, match="5 pairs do not divide evenly among 2 processes"):
            next(DPOTrainer(make_policy(folder, batch=5), tiny_config(folder, batch=5), 0).run(make_examples(5), 1))
    return [whole, shared, [none, some]]


def messages(rank: int, folder: Path) -> list[str]:
    """What each kind of end says in this process."""
    said = []
    with pytest.raises(FedvpaError) as failed:
        lead(lambda: failing("No pairs."))
    said.append(f"{type(failed.value).__name__} {failed.value.exit_code}: {failed.value}")
    with together():
        policy = make_policy(folder, batch=6)
        for wrong in ({"batch": 1}, {"batch": 6}):
            with pytest.raises(ConfigError) as refused:
                next(DPOTrainer(policy, tiny_config(folder, **wrong), 0).run(make_examples(1), 1))
            said.append(str(refused.value))
        with pytest.raises(ConfigError) as refused:
            align(folder.parent / "run", method="feddpo", overwrite=True)
        said.append(str(refused.value))
        said += [f"{current().most(rank)} of {current().count}", *current().put_together(list("ab")[: 2 - rank])]
        said.append(f"reports: {sum(current().gather(first_to_speak()))}")
        if rank == 1:
            torch.distributed.destroy_process_group()
            return said
        with pytest.raises(ProcessLost, match="Another process of this command has ended"):
            current().wait()
    return said


def one_of_two(rank: int, port: int, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "FEDVPA_CACHE": str(out / "cache")}
    torch.set_num_threads(1)
    write_json(out / f"{rank}.json", both_stages(out))
    write_json(out / f"led-{rank}.json", led_answers(out / "base"))
    write_json(out / f"sharded-{rank}.json", sharded_and_not(out / "base"))
    write_json(out / f"said-{rank}.json", messages(rank, out / "base"))


def history(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "policy" / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def check_close(found: Any, wanted: Any, name: str = "") -> None:
    """Losses agree to 1e-5, other numbers, which are sums over tokens and weights, to 1e-4; the rest is equal."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted.keys() - {"seconds"}:
            check_close(found[key], wanted[key], f"{name}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for place, value in enumerate(wanted):
            check_close(found[place], value, f"{name}.{place}")
    else:
        near = 1e-5 if name.endswith("loss") else 1e-4
        assert found == (pytest.approx(wanted, abs=near, rel=near) if isinstance(wanted, float) else wanted), name


def samples(place: Path) -> list[Path]:
    return sorted(place.rglob("candidates/*.safetensors")) + sorted(place.rglob("refresh*.safetensors"))


@pytest.fixture
def places(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder for one process and one for two, each with a run to align and no cache."""
    for name in ("one", "two"):
        shutil.copytree(finished, tmp_path / name / "run")
        save_model(tmp_path / name / "base")
    return tmp_path / "one", tmp_path / "two"


@pytest.mark.equivalence
def test_two_processes_do_what_one_does(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    one, two = places
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_of_two, (port, two), nprocs=2)
    monkeypatch.setenv("FEDVPA_CACHE", str(one / "cache"))
    alone = both_stages(one)

    first, second = (json.loads((two / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    check_close(first, alone)
    check_close(history(two / "run"), history(one / "run"))
    for name in ADAPTER:
        mine, theirs = load_file(one / "run" / name), load_file(two / "run" / name)
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(theirs[key], value, rtol=1e-5, atol=1e-5) for key, value in mine.items())
    assert [path.name for path in samples(one)] == [path.name for path in samples(two)]
    assert len(samples(one)) == 3
    for mine, theirs in zip(*([load_file(path) for path in samples(place)] for place in places), strict=True):
        for key in ("prompts", "responses", "response_lengths", "distinct"):
            assert torch.equal(theirs[key], mine[key])
        assert torch.allclose(theirs["reference"], mine["reference"], rtol=1e-5, atol=1e-5)
        assert torch.allclose(theirs["features"], mine["features"], rtol=2**-10, atol=2**-10)  # kept in half precision
    scores = [(place / "trained" / "scores.jsonl").read_text() for place in places]
    assert scores[0] == scores[1]

    led = [json.loads((two / f"led-{rank}.json").read_text()) for rank in range(2)]
    assert led == [led_answers(one / "base")] * 2
    assert led[0][0] != led[0][1]

    whole, shared, weights = json.loads((two / "sharded-1.json").read_text())
    assert shared[0] == whole[0]
    check_close(shared[1:], whole[1:])
    assert weights == [0, 2 * 9]  # of two layers with seven matrices and two norms

    said = [json.loads((two / f"said-{rank}.json").read_text()) for rank in range(2)]
    assert [one[0].partition(":")[0] for one in said] == ["DataError 2", "EndedElsewhere 2"]
    assert all(one[0].endswith("No pairs. Mend it.") for one in said)
    assert said[0][1:] == said[1][1:]
    assert said[0][1].startswith("policy.batch = 1 does not divide among 2 processes.")
    assert said[0][2].startswith("1 pairs do not divide among 2 processes.")
    assert said[0][3].startswith("'feddpo' trains its clients one after another")
    assert said[0][4:] == ["1 of 2", "a", "a", "b", "reports: 1"]
