"""What a GPU gives, in one script for a machine that is there for some minutes: each part's figures are kept at once.

The model has the shape of Qwen2-0.5B (494 M weights) and random weights that are made on the spot; nothing is fetched.
Parts, in order:

- ``features``: tokens a second of feature extraction beside two padded forwards of transformers.
- ``sampling``: new tokens a second of 8 responses to each prompt beside stock ``generate``.
- ``losses``: the first losses of our DPO step and of TRL's stock trainer in float32, which must agree.
- ``step``: seconds and peak memory of a DPO step beside TRL's trainer, as it comes and with its reference cached.
- ``resume``: whether training that goes on from a saved state equals one that was never stopped, bit for bit.
- ``nf4``: seconds and peak memory of a DPO step on a base of four bits, if bitsandbytes is installed.

All but ``losses`` in bfloat16. The JSON file is replaced after each part, so that an end in the middle loses one part.
A part that fails or runs out of time is in the file with its reason; the exit code is then 1. With ``--tiny`` the model
has few weights and the parts little work: that measures nothing, and runs on a CPU in seconds.

    python benchmarks/gpu.py --out gpu.json --time-limit 780
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import torch

import dpo_step
import feature_extraction
import sampling
from _machine import machine_facts
from fedvpa.core.files import write_json
from fedvpa.core.progress import say
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.policy.adapters import restore, snapshot
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.dpo_trainer import DPOTrainer
from fedvpa.policy.policy import new_policy

TINY = {
    "vocab_size": 4608,
    "hidden_size": 16,
    "initializer_range": 0.3,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}

CLOSE = 0.02
"""The largest difference of two vectors of features, against their norm, at which both ways count as the same."""


@dataclass(frozen=True)
class Setting:
    """How much work the parts do.

    Attributes:
        device: ``cuda`` or ``cpu``.
        precision: Of all parts but ``losses``.
        pairs: Of ``features``.
        prompts: Of ``sampling``.
        new_tokens: Longest response of ``sampling``.
        batch: Pairs of a DPO step.
        tokens: Longest prompt, and longest response, of a DPO step.
        steps: Of which the first ``dpo_step.WARM`` are not measured.
        repetitions: Of ``features`` and ``sampling``.
    """

    device: str
    precision: str
    pairs: int = 512
    prompts: int = 64
    new_tokens: int = 128
    batch: int = 16
    tokens: int = 256
    steps: int = 10
    repetitions: int = 3


def small(device: str) -> Setting:
    """The least work."""
    return Setting(device, "float32", pairs=3, prompts=2, new_tokens=3, batch=2, tokens=7, steps=1, repetitions=1)


@dataclass(frozen=True)
class Folders:
    """The model twice: with the bundled tokenizer, and with one of words, which gives texts the lengths asked for."""

    policy: Path
    features: Path


def save_models(folder: Path, setting: Setting, shape: dict[str, Any]) -> Folders:
    """Write the model; the weights are one file."""
    found = Folders(folder / "policy", folder / "features")
    dpo_step.save_random_qwen2(found.policy, getattr(torch, setting.precision), shape)
    found.features.mkdir()
    feature_extraction.save_tokenizer(found.features)
    for file in found.policy.iterdir():
        if file.name == "config.json" or file.suffix == ".safetensors":
            os.link(file, found.features / file.name)
    return found


def features(folders: Folders, setting: Setting) -> dict[str, Any]:
    """Tokens a second, and by how much the two ways differ."""
    config = FeatureConfig(
        model=str(folders.features),
        layer=-1,
        storage="float32",
        dtype=setting.precision,
        device=setting.device,
        max_prompt_tokens=10_000,
        max_response_tokens=10_000,
    )
    backbone, table = load_backbone(config), feature_extraction.make_pairs("variable", setting.pairs)
    precision = getattr(torch, setting.precision)
    found = feature_extraction.compare(table, backbone, config, setting.repetitions, precision)
    return {**found, "close": found["largest_difference_over_the_norm"] <= CLOSE}


def samples(folders: Folders, setting: Setting) -> dict[str, Any]:
    """New tokens a second, with ends of responses that random weights hardly draw."""
    options = Namespace(
        responses=8, new_tokens=setting.new_tokens, rows=256, temperature=1.0, repetitions=setting.repetitions,
        precision=setting.precision,
    )  # fmt: skip
    config = PolicyConfig.parse({"precision": setting.precision, "candidates": {"max_new_tokens": setting.new_tokens}})
    policy = new_policy(config, str(folders.policy), None, 0, device=setting.device).eval()
    asked = policy.tokenizer.prompts(sampling.some_prompts(setting.prompts))
    with policy.reference() as base:
        return sampling.measured(base, asked, options)


def step_options(folders: Folders, setting: Setting, **changed: Any) -> Namespace:
    """What the functions of ``dpo_step`` read."""
    values = {
        "model": str(folders.policy),
        "device": setting.device,
        "precision": setting.precision,
        "batch": setting.batch,
        "prompt_tokens": setting.tokens,
        "response_tokens": setting.tokens,
        "steps": setting.steps,
        "gradient_checkpointing": False,
    }
    return Namespace(**{**values, **changed})


def one_way(options: Namespace, way: str) -> dict[str, Any]:
    """Steps of one way, with the memory of the others given back."""
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL, about what it is given
        return dpo_step.ours(options, way) if way.startswith("fedvpa") else dpo_step.theirs(options, way)


def losses(folders: Folders, setting: Setting) -> dict[str, Any]:
    """The first loss of each way, which must be the same."""
    options = step_options(folders, setting, precision="float32", steps=1)
    found = {way: one_way(options, way)["losses"] for way in dpo_step.PLAIN}
    return {"first_losses": {way: values[0] for way, values in found.items()}, "apart": dpo_step.check(found)}


def step(folders: Folders, setting: Setting) -> dict[str, Any]:
    """The median step of each way, and its memory."""
    options = step_options(folders, setting)
    found = {way: figures(one_way(options, way)) for way in dpo_step.WAYS}
    ours, stock = found["fedvpa"], found["trl"]
    over = {key: ours[key] / stock[key] for key in ("seconds", "peak_mib") if key in stock}
    return {**found, "fedvpa_over_trl": over}


def figures(run: dict[str, Any]) -> dict[str, float]:
    """Of one way; a peak of memory only where it is this way's own, on a GPU."""
    peak = {} if "of_which_steps_mib" in run else {"peak_mib": run["peak_mib"]}
    return {"seconds": median(run["seconds"]), **peak}


def resume(folders: Folders, setting: Setting) -> dict[str, Any]:
    """Four steps at once, and two and two in another policy, from what the first two left."""
    options = step_options(folders, setting, steps=4 - dpo_step.WARM)
    config = dpo_step.policy_config(options, "fedvpa_prefix")

    def begun() -> DPOTrainer:
        policy = new_policy(config, options.model, dpo_step.LATENT, 0, device=options.device)
        return DPOTrainer(policy, config, 0)

    whole, half = begun(), begun()
    examples = dpo_step.make_examples(whole.policy, options, dpo_step.LATENT)
    wanted = list(whole.run(examples, 4))
    found = list(half.run(examples, 2))
    rest = begun()
    restore(rest.policy, snapshot(half.policy))
    rest.load_state({name: value.cpu() for name, value in half.state().items()})
    found += list(rest.run(examples, 2))
    apart = max(
        float((value - weight).abs().max())
        for value, weight in zip(snapshot(rest.policy).values(), snapshot(whole.policy).values(), strict=True)
    )
    same = apart == 0 and [one.loss for one in found] == [one.loss for one in wanted]
    return {"bit_for_bit": same, "largest_difference": apart, "steps": len(found)}


def nf4(folders: Folders, setting: Setting) -> dict[str, Any]:
    """A DPO step on a base of four bits, or why there is none."""
    if find_spec("bitsandbytes") is None:
        return {"left_out": "bitsandbytes is not installed"}
    if setting.device != "cuda":
        return {"left_out": "bitsandbytes is asked for on a GPU only"}
    return figures(one_way(step_options(folders, setting, loading={"quantization": "nf4"}), "fedvpa_prefix"))


PARTS: dict[str, Callable[[Folders, Setting], dict[str, Any]]] = {
    "features": features,
    "sampling": samples,
    "losses": losses,
    "step": step,
    "resume": resume,
    "nf4": nf4,
}


class OutOfTime(Exception):
    """The time limit came in the middle of a part."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """While inside, at most so many seconds.

    Raises:
        OutOfTime: When they are over.
    """

    def over(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    if seconds <= 0:
        raise OutOfTime
    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measured(out: Path, setting: Setting, shape: dict[str, Any], parts: list[str], time_limit: float) -> bool:
    """Do the parts, and keep what each gave; whether all of them ran.

    Args:
        out: The JSON file.
        setting: How much work.
        shape: The model's configuration.
        parts: Names of ``PARTS``.
        time_limit: Seconds in all.
    """
    started, kept = (
        time.monotonic(),
        {"machine": machine_facts(), "setting": vars(setting), "shape": shape, "parts": {}},
    )
    whole = True
    with tempfile.TemporaryDirectory() as place:
        folders = save_models(Path(place), setting, shape)
        for name in parts:
            began = time.monotonic()
            if setting.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                with limited(time_limit - (began - started)):
                    found = PARTS[name](folders, setting)
            except OutOfTime:
                found, whole = {"failed": f"the {time_limit:g} seconds were over"}, False
            except (Exception, SystemExit) as error:  # the parts after it still run, and the exit code says it
                traceback.print_exc()
                found, whole = {"failed": f"{type(error).__name__}: {error}"}, False
            gpu = {"peak_mib": torch.cuda.max_memory_allocated() / 2**20} if setting.device == "cuda" else {}
            kept["parts"][name] = {**found, "part": {"seconds": time.monotonic() - began, **gpu}}
            write_json(out, kept)
            say(f"{name}: {kept['parts'][name]}")
    return whole


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the JSON file")
    parser.add_argument("--time-limit", type=float, default=780, help="seconds in all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiny", action="store_true", help="measure nothing: show that everything runs")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        parser.error("torch sees no GPU; --tiny runs everything small on the CPU")
    setting = small(device) if options.tiny else Setting(device, "bfloat16")
    shape = TINY if options.tiny else dpo_step.QWEN2_0_5B
    sys.exit(not measured(options.out, setting, shape, options.parts, options.time_limit))


if __name__ == "__main__":
    main()
