from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from fedvpa.policy.adapters import restore, snapshot
from fedvpa.policy.batches import activation_bytes, batch_rows, passes
from fedvpa.policy.dpo_trainer import DPOTrainer, Step, schedule
from fedvpa.policy.examples import Examples
from fedvpa.policy.policy import Policy
from policy_fixtures import make_examples, make_policy, tiny_config

EXAMPLES = make_examples(11)


def trained(folder: Path, steps: int = 3, examples: Examples = EXAMPLES, seed: int = 0, **values: Any) -> dict:
    """The weights after some steps from weights that are noise."""
    policy = make_policy(folder, **values)
    for _ in DPOTrainer(policy, tiny_config(folder, **values), seed).run(examples, steps):
        pass
    return snapshot(policy)


def same(first: dict, second: dict) -> bool:
    assert first.keys() == second.keys()
    return all(first[name].equal(second[name]) for name in first)


@pytest.fixture(scope="module")
def three_steps(base_folder: Path) -> dict:
    return trained(base_folder)


@pytest.mark.unit
@pytest.mark.parametrize(("count", "batch"), [(41, 4), (11, 3), (23, 5)])
def test_an_epoch_visits_no_example_twice_and_leaves_out_less_than_a_batch(count: int, batch: int):
    examples, per_epoch = make_examples(count), count // batch
    epochs = [
        [row for step in range(start, start + per_epoch) for row in batch_rows(examples, batch, step, 0)]
        for start in (0, per_epoch)
    ]
    for rows in epochs:
        assert len(rows) == len(set(rows)) == per_epoch * batch
    assert epochs[0] != epochs[1]


@pytest.mark.unit
def test_batches_are_named_by_seed_labels_and_step():
    assert batch_rows(EXAMPLES, 4, 1, 0, "a") == batch_rows(EXAMPLES, 4, 1, 0, "a")
    assert batch_rows(EXAMPLES, 4, 1, 0, "a") != batch_rows(EXAMPLES, 4, 1, 0, "b")
    assert batch_rows(EXAMPLES, 4, 1, 0, "a") != batch_rows(EXAMPLES, 4, 1, 1, "a")


@pytest.mark.unit
def test_a_batch_larger_than_all_examples_is_all_of_them():
    assert sorted(batch_rows(EXAMPLES, 17, 5, 0)) == list(range(11))


@pytest.mark.unit
def test_rows_of_a_batch_have_like_lengths():
    examples = make_examples(64)
    spread = [examples.width()[batch_rows(examples, 8, step, 0)].std() for step in range(8)]
    assert max(spread) < examples.width().std() / 2


@pytest.mark.unit
@pytest.mark.parametrize(("strata", "batch", "least"), [(2, 8, 4), (4, 8, 2), (3, 7, 2)])
def test_every_batch_has_its_share_of_each_prototype(strata: int, batch: int, least: int):
    examples = make_examples(64)
    # One prototype's pairs are all longer than the others': sorted by length alone they would keep to themselves.
    longer = np.argsort(np.argsort(examples.width(), kind="stable"), kind="stable") * strata // 64
    seen: list[int] = []
    for step in range(64 // batch):
        rows = batch_rows(examples, batch, step, 0, strata=longer)
        assert np.bincount(longer[rows], minlength=strata).min() >= least
        spread = [examples.width()[[row for row in rows if longer[row] == name]].std() for name in range(strata)]
        assert max(spread) < examples.width().std()
        seen += rows
    assert len(seen) == len(set(seen))


@pytest.mark.unit
def test_passes_are_as_many_rows_as_the_longest_of_them_leaves_room_for():
    rows = [7, 3, 9, 4, 8]
    assert passes([10, 20, 5, 5, 40], rows, 9, 40) == [[7, 3], [9, 4], [8]]
    assert passes([10, 20, 5, 5, 40], rows, 9, math.inf) == [rows]
    assert passes([10, 20, 5, 5, 40], rows, 2, math.inf) == [[7, 3], [9, 4], [8]]
    # A row that is too long by itself stands alone.
    assert passes([90, 90], [1, 2], 9, 40) == [[1], [2]]


@pytest.mark.unit
def test_a_token_of_smollm2_leaves_three_megabytes():
    shape = LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30)
    base = SimpleNamespace(config=shape, dtype=torch.float32)
    assert activation_bytes(base) == 30 * (24 * 576 + 9 * 1536) * 4


@pytest.mark.unit
def test_the_learning_rate_rises_in_a_line_and_falls_in_a_cosine():
    found = [schedule(step, 10, 0.2) for step in range(10)]
    assert found[:3] == [0.5, 1.0, 1.0]
    assert found[6] == pytest.approx(0.5)
    assert found[9] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert [schedule(step, 3, 0.0) for step in range(3)] == pytest.approx([1.0, 0.75, 0.25])


@pytest.mark.unit
def test_a_step_reports_what_it_saw(base_folder: Path):
    policy = make_policy(base_folder)
    config = tiny_config(base_folder, batch=11, warmup=0.5)
    with torch.no_grad():
        chosen = policy.log_probs(EXAMPLES.prompts, EXAMPLES.chosen, EXAMPLES.z)
        rejected = policy.log_probs(EXAMPLES.prompts, EXAMPLES.rejected, EXAMPLES.z)
    gains = [chosen - EXAMPLES.reference[:, 0], rejected - EXAMPLES.reference[:, 1]]
    (step,) = DPOTrainer(policy, config, 0).run(EXAMPLES, 1)
    assert isinstance(step, Step)
    assert step.step == 1
    assert step.chosen == pytest.approx(float(chosen.mean()), rel=1e-4)
    assert step.rejected == pytest.approx(float(rejected.mean()), rel=1e-4)
    assert step.chosen_gain == pytest.approx(float(gains[0].mean()), rel=1e-4, abs=1e-4)
    assert step.rejected_gain == pytest.approx(float(gains[1].mean()), rel=1e-4, abs=1e-4)
    assert step.accuracy == pytest.approx(float((gains[0] > gains[1]).float().mean()))
    gap = gains[0] - gains[1]
    assert step.loss == pytest.approx(float(-torch.nn.functional.logsigmoid(config.beta * gap).mean()), rel=1e-4)
    assert step.lr == pytest.approx(config.lr / 3)
    odd = EXAMPLES.prototype == 1
    assert step.by_prototype["1"]["gap"] == pytest.approx(float(gap[odd].mean()), rel=1e-4, abs=1e-4)
    assert step.by_prototype["0"]["accuracy"] == pytest.approx(float((gap[~odd] > 0).float().mean()))


@pytest.mark.reference
def test_the_gradient_is_that_of_the_loss_written_out(base_folder: Path):
    weights = {"beta": 0.3, "sft_weight": 2.0, "language_weight": 3.0}
    policy = make_policy(base_folder)
    config = tiny_config(base_folder, batch=11, clip_norm=1e-6, **weights)
    rows = policy.layout.rows(EXAMPLES.prompts * 2, EXAMPLES.chosen + EXAMPLES.rejected)
    tokens = policy(rows, EXAMPLES.z.repeat(2, 1))
    chosen, rejected = tokens.sum(1).split(11)
    gap = (chosen - EXAMPLES.reference[:, 0]) - (rejected - EXAMPLES.reference[:, 1])
    language = torch.zeros(())
    flags = [good for good, _ in EXAMPLES.sure] + [bad for _, bad in EXAMPLES.sure]
    scored = rows.labels[:, 1:] >= 0
    for row, flag in enumerate(flags):
        language = language - tokens[row][scored[row]][torch.from_numpy(flag)].sum()
    loss = (
        (1 + (-0.3 * gap).exp()).log().mean()
        - 2.0 * chosen.sum() / sum(map(len, EXAMPLES.chosen))
        + 3.0 * language / sum(int(flag.sum()) for flag in flags)
    )
    loss.backward()
    expected = torch.cat([weight.grad.flatten() for weight in policy.trained().values()]).norm()
    policy.zero_grad()
    (step,) = DPOTrainer(policy, config, 0).run(EXAMPLES, 1)
    assert step.gradient_norm == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.equivalence
@pytest.mark.parametrize("size", [1, 3])
def test_accumulated_gradients_are_those_of_one_batch(base_folder: Path, size: int):
    def norm(**values: Any) -> tuple[float, dict]:
        policy = make_policy(base_folder)
        config = tiny_config(base_folder, batch=8, lr=1e-4, conditioner_lr=1e-4, **values)
        (step,) = DPOTrainer(policy, config, 0).run(EXAMPLES, 1)
        return step.gradient_norm, dataclasses.asdict(step)

    (whole, one), (parts, many) = norm(), norm(micro_batch=size)
    assert parts == pytest.approx(whole, rel=1e-5)
    for name in ("loss", "chosen", "rejected", "accuracy"):
        assert many[name] == pytest.approx(one[name], rel=1e-5)


@pytest.mark.equivalence
def test_accumulated_steps_end_at_the_weights_of_whole_batches(base_folder: Path):
    # AdamW divides by the gradient's size, so that rounding shows in weights whose gradient is almost nothing.
    whole, parts = (
        trained(base_folder, 1, batch=8, micro_batch=size, lr=1e-5, conditioner_lr=1e-5) for size in (None, 3)
    )
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-6, rtol=0)


@pytest.mark.equivalence
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_resumed_trainer_goes_on_bit_for_bit(base_folder: Path, dropout: float):
    config = tiny_config(base_folder, lora_dropout=dropout)
    policy = make_policy(base_folder, lora_dropout=dropout)
    whole = DPOTrainer(policy, config, 0)
    told = [dataclasses.replace(step, seconds=0.0) for step in whole.run(EXAMPLES, 2)]
    state = {name: value.clone() for name, value in whole.state().items()}
    weights = snapshot(policy)
    told += [dataclasses.replace(step, seconds=0.0) for step in whole.run(EXAMPLES, 99)]
    assert whole.step == 6

    fresh = make_policy(base_folder, lora_dropout=dropout)
    again = DPOTrainer(fresh, config, 0)
    restore(fresh, weights)
    again.load_state(state)
    assert again.step == 2
    torch.rand(7)  # the global stream is no part of a run
    more = [dataclasses.replace(step, seconds=0.0) for step in again.run(EXAMPLES, 99)]
    assert more == told[2:]
    assert same(snapshot(fresh), snapshot(policy))
    ours, theirs = again.state(), whole.state()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


@pytest.mark.unit
@pytest.mark.parametrize("fused", [True, False])
def test_what_is_resumed_lies_where_the_optimiser_wants_it(base_folder: Path, fused: bool):
    """The meta device stands for a GPU: a fused AdamW refuses a count of steps that lies on another device."""
    policy = make_policy(base_folder)
    trainer = DPOTrainer(policy, tiny_config(base_folder), 0)
    list(trainer.run(EXAMPLES, 2))
    saved = trainer.state()
    weights = [torch.nn.Parameter(weight.detach().to("meta")) for weight in policy.trained().values()]
    own, extra = weights[:-2], weights[-2:]
    trainer._optimiser = torch.optim.AdamW([{"params": own}, {"params": extra}], fused=fused)
    trainer.load_state(saved)
    assert trainer.step == 2
    for weight in weights:
        state = trainer._optimiser.state[weight]
        assert {state["exp_avg"].device.type, state["exp_avg_sq"].device.type} == {"meta"}
        assert state["step"].device.type == ("meta" if fused else "cpu")


@pytest.mark.unit
def test_a_fresh_trainer_can_be_saved_and_loaded(base_folder: Path, three_steps: dict):
    policy = make_policy(base_folder)
    state = DPOTrainer(policy, tiny_config(base_folder), 0).state()
    trainer = DPOTrainer(policy, tiny_config(base_folder), 0)
    trainer.load_state(state)
    list(trainer.run(EXAMPLES, 3))
    assert same(snapshot(policy), three_steps)


@pytest.mark.unit
@pytest.mark.parametrize(
    "values",
    [
        {"sft_weight": 0.0},
        {"language_weight": 0.0},
        {"beta": 0.1},
        {"lr": 1e-3},
        {"conditioner_lr": 1e-3},
        {"warmup": 0.9},
        {"clip_norm": 1e-4},
        {"lora_dropout": 0.5},
        {"batch": 3},
        {"steps": 7},
    ],
    ids=str,
)
def test_every_setting_of_training_changes_the_result(base_folder: Path, three_steps: dict, values: dict):
    assert not same(trained(base_folder, **values), three_steps)


@pytest.mark.unit
def test_dpo_learns_what_it_is_shown(base_folder: Path):
    policy = make_policy(base_folder)
    config = tiny_config(base_folder, sft_weight=0.0, language_weight=0.0, lr=0.03, steps=40, batch=11)
    steps = list(DPOTrainer(policy, config, 0).run(EXAMPLES, 40))
    assert steps[-1].accuracy == 1.0
    assert steps[-1].loss < 0.1


@pytest.mark.unit
def test_a_policy_without_z_and_an_additive_one_train_too(base_folder: Path):
    for kind, with_z in ((None, False), ("additive", True)):
        policy = make_policy(base_folder, kind)
        before = snapshot(policy)
        values = {} if kind is None else {"conditioning": kind}
        list(DPOTrainer(policy, tiny_config(base_folder, **values), 0).run(make_examples(11, with_z=with_z), 2))
        assert all(not before[name].equal(weight) for name, weight in snapshot(policy).items())


@pytest.mark.unit
def test_only_lora_and_conditioner_move(base_folder: Path):
    policy: Policy = make_policy(base_folder)
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    list(DPOTrainer(policy, tiny_config(base_folder), 0).run(EXAMPLES, 2))
    moved = {name for name, weight in policy.named_parameters() if not weight.equal(before[name])}
    assert moved == set(policy.trained())
    assert all("lora_" in name or name.startswith("conditioner.") for name in moved)
