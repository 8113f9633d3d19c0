"""DPO of one z-conditioned policy on z-labelled pairs, resumable bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.options import option
from fedvpa.core.processes import current
from fedvpa.core.seeds import Label, entropy
from fedvpa.objectives.dpo import dpo_loss
from fedvpa.policy.batches import ACTIVATIONS, activation_bytes, batch_rows, passes
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.examples import Examples
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Batch
from fedvpa.policy.sharding import sharded
from fedvpa.policy.sharing import sharing_room
from fedvpa.policy.trees import Trees, trees


@dataclass(frozen=True)
class Step:
    """What one optimiser step did; means over its pairs.

    Attributes:
        step: Its number, from 1.
        loss: DPO loss, in nats.
        accuracy: Share of pairs whose implicit reward has the right order.
        chosen: Log-probability of the preferred responses, in nats.
        rejected: The same of the others.
        chosen_gain: log π − log π_ref of the preferred responses.
        rejected_gain: The same of the others.
        lr: Learning rate of the LoRA.
        gradient_norm: Before clipping.
        by_prototype: Prototype → accuracy and mean gain of chosen minus rejected.
        seconds: Wall-clock seconds.
    """

    step: int
    loss: float
    accuracy: float
    chosen: float
    rejected: float
    chosen_gain: float
    rejected_gain: float
    lr: float
    gradient_norm: float
    by_prototype: dict[str, dict[str, float]]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Totals:
    """What a batch's means divide by, so that its parts add up to the same loss however it is cut."""

    pairs: int
    chosen: int
    sure: int


class DPOTrainer:
    """AdamW on the weights that stage 2 moves.

    Everything random is named by (seed, step), so a trainer that loads :meth:`state` goes on as if never stopped.

    Args:
        policy: Trained in place.
        config: Steps, batch, learning rates.
        seed: Names the order of the examples and the dropout.
        *path: Labels that further name the streams.

    Processes that are together (:func:`fedvpa.core.processes.together`) share each batch out. The frozen base has no
    gradient, so what they have to add up is that of the LoRA and of the conditioner: at the end of a step, at once.

    Raises:
        ConfigError: If there are more processes than pairs in a batch.
    """

    def __init__(self, policy: Policy, config: PolicyConfig, seed: int, *path: Label) -> None:
        self.policy, self.config, self.seed, self.path = policy, config, seed, path
        self._team = current()
        if config.batch < self._team.count:
            raise ConfigError(
                f"policy.batch = {config.batch} does not divide among {self._team.count} processes.",
                fix="Use fewer processes, or a larger batch.",
            )
        own = [weight for name, weight in policy.trained().items() if not name.startswith("conditioner.")]
        groups = [{"params": own, "lr": config.lr, "peak": config.lr}]
        if policy.conditioner is not None:
            extra = list(policy.conditioner.parameters())
            groups.append({"params": extra, "lr": config.conditioner_lr, "peak": config.conditioner_lr})
        # β of the paper; no weight decay: the pull to the reference is DPO's own.
        self._optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self._mixed = policy.device.type == "cuda" and config.precision != "float32"
        self.step = 0

    def state(self) -> dict[str, Tensor]:
        """Optimiser moments and step: with the policy's weights, all that is needed to go on."""
        found = {"step": torch.tensor(self.step)}
        for group in self._optimiser.param_groups:
            for weight in group["params"]:
                place = len(found)
                for name, value in self._optimiser.state.get(weight, {}).items():
                    found[f"{place:05d}.{name}"] = value
                found[f"{place:05d}.present"] = torch.tensor(weight in self._optimiser.state)
        return found

    def load_state(self, saved: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`, whatever device it was saved on.

        torch puts the moments where they belong: the fused AdamW wants its own count of steps on the weights' device,
        the others on the CPU.
        """
        self.step = int(saved["step"])
        starts = sorted({name.partition(".")[0] for name in saved if "." in name})
        moments = {
            number: {name: saved[f"{start}.{name}"].clone() for name in ("step", "exp_avg", "exp_avg_sq")}
            for number, start in enumerate(starts)
            if bool(saved[f"{start}.present"])
        }
        groups = self._optimiser.state_dict()["param_groups"]
        if len(starts) != sum(len(group["params"]) for group in groups):
            raise RunError(
                "The optimiser's state is of another policy.", fix=f"Start again with {option('overwrite', 'True')}."
            )
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})

    def run(self, examples: Examples, steps: int) -> Iterator[Step]:
        """Up to ``steps`` further optimiser steps on ``examples``, each yielded when done."""
        for _ in range(min(steps, self.config.steps - self.step)):
            yield self._one(examples)

    def _one(self, examples: Examples) -> Step:
        started = time.monotonic()
        factor = schedule(self.step, self.config.steps, self.config.warmup)
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        strata = examples.prototype.numpy()
        rows = batch_rows(examples, self.config.batch, self.step, self.seed, *self.path, strata=strata)
        team = self._team
        if len(rows) < team.count:
            raise ConfigError(
                f"{len(rows)} pairs do not divide among {team.count} processes.", fix="Use fewer processes."
            )
        if len(rows) % team.count and sharded():
            raise ConfigError(
                f"{len(rows)} pairs do not divide evenly among {team.count} processes, which a sharded base asks for.",
                fix="Make policy.batch a multiple of the processes.",
            )
        own = team.share(rows)
        self.policy.train()
        outcomes = []
        # Of the whole batch, such that the gradient is the same however many processes share it.
        totals = _totals(examples, rows)
        parts = self._passes(examples, own)
        devices = [self.policy.device] if self.policy.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(entropy(self.seed, "dropout", *self.path, self.step, team.rank) % 2**63)
            for part in parts:
                loss, outcome = self._forward(examples.take(part), totals)
                outcomes.append(outcome)
                loss.backward()
        if self.policy.conditioner is not None:
            self.policy.conditioner.gates = None
        self._add_gradients()
        norm = torch.nn.utils.clip_grad_norm_(list(self.policy.trained().values()), self.config.clip_norm)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.step += 1
        told = torch.stack(team.put_together(list(torch.cat(outcomes))))
        return self._report(told, examples.prototype[rows], factor, float(norm), started)

    def _passes(self, examples: Examples, rows: Sequence[int]) -> list[list[int]]:
        """The rows of each forward pass: as many as the settings say, or as their activations leave room for."""
        most = self.config.micro_batch or len(rows)
        room = math.inf
        # A sharded base asks for as many passes in every process.
        if self.config.micro_batch is None and self.policy.device.type == "cpu" and not sharded():
            room = ACTIVATIONS / activation_bytes(self.policy.model.get_base_model())
        return passes(examples.packed()[list(rows)].tolist(), rows, most, room)

    def _add_gradients(self) -> None:
        """Each process has the gradient of its share of the batch's loss: all go on with the sum."""
        if self._team.count == 1:
            return
        weights = list(self.policy.trained().values())
        own = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        whole = torch.cat([gradient.flatten().float() for gradient in own])
        self._team.add(whole)
        for weight, part in zip(weights, whole.split([weight.numel() for weight in weights]), strict=True):
            weight.grad = part.view_as(weight).to(weight.dtype)

    def _forward(self, part: Examples, totals: _Totals) -> tuple[Tensor, Tensor]:
        """The part's share of the batch's loss, and [loss, chosen, rejected, chosen gain, rejected gain] per pair."""
        rows, z = self._rows(part)
        with torch.autocast("cuda", torch.bfloat16) if self._mixed else nullcontext():
            tokens = self.policy(rows, z).float()
        chosen, rejected = tokens.sum(1).view(-1, 2).unbind(1)
        reference = part.reference.to(tokens.device)
        loss = dpo_loss(chosen, rejected, reference[:, 0], reference[:, 1], self.config.beta)
        imitation = -chosen.sum() / totals.chosen
        language = -tokens[rows.marked()].sum() / max(totals.sure, 1)
        total = loss.sum() / totals.pairs + self.config.sft_weight * imitation + self.config.language_weight * language
        told = torch.stack([loss, chosen, rejected, chosen - reference[:, 0], rejected - reference[:, 1]], 1)
        return total, told.detach().cpu()

    def _rows(self, part: Examples) -> tuple[Batch | Trees, Tensor | None]:
        """Chosen and rejected of each pair, one behind the other, and z: the prompt once where the model allows it."""
        layout, device = self.policy.layout, self.policy.device
        pairs = list(zip(part.chosen, part.rejected, strict=True))
        if part.packed().max() + layout.slots <= sharing_room(self.policy):
            rows: Batch | Trees = trees(layout, part.prompts, pairs, part.sure)
            z = part.z
        else:
            repeated = [prompt for prompt in part.prompts for _ in range(2)]
            sure = [flags for both in part.sure for flags in both]
            rows = layout.rows(repeated, [response for pair in pairs for response in pair], sure)
            z = None if part.z is None else part.z.repeat_interleave(2, 0)
        return rows.to(device), None if z is None else z.to(device)

    def _report(self, outcome: Tensor, prototype: Tensor, factor: float, norm: float, started: float) -> Step:
        right = (outcome[:, 3] > outcome[:, 4]).float()
        by_prototype = {}
        for name in prototype.unique().tolist():
            own = prototype == name
            by_prototype[str(name)] = {
                "accuracy": float(right[own].mean()),
                "gap": float((outcome[own, 3] - outcome[own, 4]).mean()),
            }
        loss, chosen, rejected, chosen_gain, rejected_gain = outcome.mean(0).tolist()
        return Step(
            step=self.step,
            loss=loss,
            accuracy=float(right.mean()),
            chosen=chosen,
            rejected=rejected,
            chosen_gain=chosen_gain,
            rejected_gain=rejected_gain,
            lr=self.config.lr * factor,
            gradient_norm=norm,
            by_prototype=by_prototype,
            seconds=time.monotonic() - started,
        )


def _totals(examples: Examples, rows: Sequence[int]) -> _Totals:
    chosen = sum(len(examples.chosen[row]) for row in rows)
    return _Totals(len(rows), chosen, sum(int(flags.sum()) for row in rows for flags in examples.sure[row]))


def schedule(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then a cosine to 0; the factor of the peak learning rate in the step after ``step`` steps."""
    rising = math.ceil(steps * warmup)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))
