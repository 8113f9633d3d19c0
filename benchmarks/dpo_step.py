"""Seconds and peak memory of one DPO step: ours beside TRL's stock ``DPOTrainer``, on the same model and batch.

Ways, each in a fresh process, alternated:

- ``fedvpa``: ``fedvpa.policy.dpo_trainer.DPOTrainer`` with DPO alone and no z: what TRL computes, with cached reference
  log-probabilities.
- ``fedvpa_prefix``: the same with z as a soft prefix and with the two language terms, as ``fedvpa align`` trains.
- ``trl``: ``DPOTrainer`` as it comes: the reference is the model with its adapter disabled, computed at every step.
- ``trl_cached``: the same with ``precompute_ref_log_probs``.

All have the same token ids, LoRA, AdamW, schedule, clipping, precision and gradient checkpointing (off unless asked
for; TRL's own default is on). The losses of the ways without z must agree in float32 from the same LoRA
weights, which are not at the reference. Prints JSON. Linux only: memory is read from /proc.

    python benchmarks/dpo_step.py --repetitions 3 --steps 20
    python benchmarks/dpo_step.py --model qwen2-0.5b-shape --device cuda --prompt-tokens 256 --response-tokens 256
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, TrainerCallback

from _machine import machine_facts
from fedvpa.core.progress import say
from fedvpa.core.seeds import numpy_generator
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.dpo_trainer import DPOTrainer, schedule
from fedvpa.policy.examples import Examples, reference_of
from fedvpa.policy.policy import Policy, new_policy
from fedvpa.policy.rows import Ids
from fedvpa.world import backbone_path

QWEN2_SHAPE = "qwen2-0.5b-shape"
QWEN2_0_5B: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}
"""Of Qwen/Qwen2-0.5B's config.json: 494 million weights."""

WAYS = ("fedvpa", "fedvpa_prefix", "trl", "trl_cached")
PLAIN = ("fedvpa", "trl", "trl_cached")
LATENT = 32
LORA_STD = 0.02
"""Of both LoRA factors at the start: the policy must differ from the reference, or every loss is log 2."""
TOLERANCE = 1e-4
WARM = 2
"""First steps that are not measured."""


def policy_config(options: argparse.Namespace, way: str) -> PolicyConfig:
    """Ours; the paper's LoRA and β, without dropout so that losses can be compared."""
    plain = {"sft_weight": 0.0, "language_weight": 0.0} if way != "fedvpa_prefix" else {}
    return PolicyConfig.parse(
        {
            "lora_rank": 8,
            "lora_alpha": 16,
            "beta": 0.1,
            "batch": options.batch,
            "steps": options.steps + WARM,
            "lr": 1e-4,
            "conditioner_lr": 1e-3,
            "precision": options.precision,
            "gradient_checkpointing": options.gradient_checkpointing,
            "max_prompt_tokens": None,
            "loading": getattr(options, "loading", None),
            "candidates": {"max_new_tokens": options.response_tokens},
            **plain,
        }
    )


def pairs(options: argparse.Namespace, vocabulary: int) -> tuple[list[Ids], list[Ids], list[Ids]]:
    """Prompts, chosen and rejected responses of random tokens, of between half and all of the given lengths."""
    rng = numpy_generator(0, "dpo-step", "pairs")

    def rows(longest: int) -> list[Ids]:
        sizes = rng.integers(longest // 2, longest + 1, options.batch)
        return [rng.integers(2, vocabulary, size).astype(np.int32) for size in sizes]

    return rows(options.prompt_tokens), rows(options.response_tokens), rows(options.response_tokens)


@torch.no_grad()
def fill_lora(named: dict[str, Tensor]) -> None:
    """The same LoRA weights for everybody, by name."""
    for name in sorted(named):
        if "lora_" in name:
            values = numpy_generator(0, "dpo-step", name).normal(0.0, LORA_STD, tuple(named[name].shape))
            named[name].copy_(torch.from_numpy(values))


def status(key: str) -> float:
    """A size of this process in MiB. VmHWM, unlike ``ru_maxrss``, does not start at the parent's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) / 1024


class Clock:
    """Times and losses of the steps of one process, and its memory."""

    def __init__(self, device: str) -> None:
        self._device, self.ends, self.losses = device, list[float](), list[float]()
        self.used = list[float]()
        self._before = 0.0

    def start(self) -> None:
        """Just before the first step."""
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._before = status("VmRSS")

    def tick(self, loss: float | None) -> None:
        """Just after a step."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.used.append(time.process_time())
        if loss is not None:
            self.losses.append(loss)

    def report(self) -> dict[str, Any]:
        """Seconds of the steps after the first ``WARM``, from end to end; losses; memory in MiB."""
        if self._device == "cuda":
            memory = {"peak_mib": torch.cuda.max_memory_allocated() / 2**20}
        else:
            peak = status("VmHWM")
            memory = {"peak_mib": peak, "of_which_steps_mib": peak - self._before}
        return {
            "seconds": [after - before for before, after in pairwise(self.ends[WARM - 1 :])],
            "cpu_seconds": [after - before for before, after in pairwise(self.used[WARM - 1 :])],
            "losses": self.losses,
            **memory,
        }


def ours(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """Steps of ``fedvpa.policy.dpo_trainer.DPOTrainer``."""
    config = policy_config(options, way)
    latent = LATENT if way == "fedvpa_prefix" else None
    policy = new_policy(config, options.model, latent, 0, device=options.device)
    fill_lora(dict(policy.model.named_parameters()))
    examples = make_examples(policy, options, latent)
    trainer, clock = DPOTrainer(policy, config, 0), Clock(options.device)
    clock.start()
    for step in trainer.run(examples, options.steps + WARM):
        clock.tick(step.loss)
    return clock.report()


def make_examples(policy: Policy, options: argparse.Namespace, latent: int | None) -> Examples:
    """The pairs, with the reference's log-probabilities."""
    prompts, chosen, rejected = pairs(options, policy.model.config.vocab_size)
    told = policy.reference_log_probs(prompts * 2, chosen + rejected)
    sums, sure = reference_of(list(zip(told[: options.batch], told[options.batch :], strict=True)))
    z = torch.from_numpy(numpy_generator(0, "dpo-step", "z").normal(0, LATENT**-0.5, (options.batch, LATENT)))
    return Examples(
        prompts, chosen, rejected, sums, sure, None if latent is None else z.float(), torch.zeros(options.batch)
    )


def theirs(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """Steps of TRL's ``DPOTrainer``."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    class TokensGiven(DPOTrainer):
        """The stock trainer, given token ids: texts would not tokenise to them."""

        def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
            return dataset

    config, folder = policy_config(options, way), folder_of(options.model)
    half = options.precision == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if half else torch.float32)
    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    parts = [[ids.tolist() for ids in part] for part in pairs(options, model.config.vocab_size)]
    steps = options.steps + WARM
    clock = Clock(options.device)

    class Ticks(TrainerCallback):  # type: ignore[misc]
        """Every step's end."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick(None)

    with tempfile.TemporaryDirectory() as out:
        trainer = TokensGiven(
            model,
            args=DPOConfig(
                out,
                max_steps=steps,
                per_device_train_batch_size=options.batch,
                max_length=None,
                beta=config.beta,
                bf16=half,
                gradient_checkpointing=options.gradient_checkpointing,
                precompute_ref_log_probs=way == "trl_cached",
                train_sampling_strategy="sequential",
                max_grad_norm=config.clip_norm,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=options.device == "cpu",
                dataloader_pin_memory=options.device != "cpu",
            ),
            train_dataset=Dataset.from_dict({name: part * steps for name, part in zip(names, parts, strict=True)}),
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=lora,
            callbacks=[Ticks()],
        )
        fill_lora(dict(trainer.model.named_parameters()))
        moved = [weight for weight in trainer.model.parameters() if weight.requires_grad]
        optimiser = torch.optim.AdamW(moved, lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        rate: Callable[[int], float] = lambda step: schedule(step, config.steps, config.warmup)  # noqa: E731
        trainer.optimizer, trainer.lr_scheduler = optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        trainer.train()
        clock.losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return clock.report()


def folder_of(model: str) -> str:
    """The folder of a model that is named or given."""
    return str(backbone_path()) if model == "bundled" else model


def save_random_qwen2(folder: Path, dtype: torch.dtype, shape: dict[str, Any] = QWEN2_0_5B) -> None:
    """A Qwen2 of random weights, with the bundled tokenizer, of which only the special tokens are used."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen2ForCausalLM(Qwen2Config(**shape)).to(dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(backbone_path()).save_pretrained(folder)


def fresh(options: argparse.Namespace, way: str, **changed: Any) -> dict[str, Any]:
    """One way in a process of its own."""
    say(f"{way} {changed or ''}")
    values = {key: value for key, value in vars(options).items() if key != "ways"} | changed | {"way": way}
    flags = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        flags += ([flag] if value else []) if isinstance(value, bool) else [flag, str(value)]
    done = subprocess.run([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    seconds, used = (statistics.median(found[key]) for key in ("seconds", "cpu_seconds"))
    say(f"{way}: {seconds:.2f} s a step, {used:.2f} s of the processor, {found['peak_mib']:,.0f} MiB at most")
    return found


def check(losses: dict[str, list[float]]) -> float:
    """The largest difference between the first losses of the ways; an error above the tolerance.

    Raises:
        SystemExit: If they differ, or are all those of a policy at its reference, which would say nothing.
    """
    first = [values[0] for values in losses.values()]
    apart = max(first) - min(first)
    if apart > TOLERANCE or abs(first[0] - math.log(2)) < 10 * TOLERANCE:
        raise SystemExit(f"The losses do not agree: {losses}")
    return apart


def spread(values: list[float]) -> list[float]:
    """Least, median, greatest."""
    return [float(f"{value:.4g}") for value in (min(values), statistics.median(values), max(values))]


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The agreement of the losses, then times and memory of all ways."""
    plain = [way for way in options.ways if way in PLAIN]
    exact = options.precision == "float32"
    losses = {} if exact else {way: fresh(options, way, precision="float32", steps=2)["losses"] for way in plain}
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
    for _ in range(options.repetitions):
        for way in options.ways:
            found[way].append(fresh(options, way))
        if exact and not losses:
            losses = {way: found[way][0]["losses"] for way in plain}
            check(losses)  # at once, before more is measured
    apart = check(losses)
    memory = {key for key in found["trl"][0] if key.endswith("_mib")}
    return {
        "machine": machine_facts(),
        "setting": {key: value for key, value in vars(options).items() if key != "way"},
        "first_losses": {way: values[0] for way, values in losses.items()},
        "largest_difference": apart,
        "later_differences": [max(values) - min(values) for values in zip(*losses.values(), strict=True)],
        **compared(found, "seconds"),
        **compared(found, "cpu_seconds"),
        "memory": {way: {key: spread([run[key] for run in runs]) for key in memory} for way, runs in found.items()},
    }


def compared(found: dict[str, list[dict[str, Any]]], key: str) -> dict[str, Any]:
    """The median step of each process, and how it stands to that of ``trl`` beside it.

    Seconds of the processor tell more than those of the clock on a machine that others use too.
    """
    medians = {way: [statistics.median(run[key]) for run in runs] for way, runs in found.items()}
    ratios = {
        way: spread([own / stock for own, stock in zip(medians[way], medians["trl"], strict=True)]) for way in found
    }
    return {f"{key}_per_step": {way: spread(values) for way, values in medians.items()}, f"{key}_over_trl": ratios}


def main() -> None:
    """Print the comparison, or, with ``--way``, one process' part of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help=f"bundled, {QWEN2_SHAPE} (random weights), or a folder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="bfloat16 on a GPU, else float32")
    parser.add_argument("--batch", type=int, default=8, help="pairs")
    parser.add_argument("--prompt-tokens", type=int, default=48)
    parser.add_argument("--response-tokens", type=int, default=48)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="trl among them")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.precision = options.precision or ("bfloat16" if options.device == "cuda" else "float32")
    if options.way:
        # The log lines of TRL's trainer go to stdout, where only the result may be.
        stdout, sys.stdout = sys.stdout, sys.stderr
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = ours(options, options.way) if options.way.startswith("fedvpa") else theirs(options, options.way)
        sys.stdout = stdout
        print(json.dumps(found))
        return
    del options.way
    with tempfile.TemporaryDirectory() as folder:
        shape = options.model
        if shape == QWEN2_SHAPE:
            save_random_qwen2(Path(folder), getattr(torch, options.precision))
            options.model = folder
        found = measured(options)
    found["setting"]["model"] = Path(shape).name
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
