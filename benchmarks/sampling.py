"""Several responses to each prompt: ours beside stock ``generate`` of transformers, on the same model and prompts.

Both ways draw from the same distribution, in float32 unless asked otherwise, with as many responses at once: stock by
``num_return_sequences``, ours as ``fedvpa align`` samples candidates of the base. They alternate in one process, and
seconds of the processor stand beside those of the clock, since only they compare fairly on a busy machine. Tokens that
were drawn are counted up to the end of each response. Before that, one batch is drawn by ``generate`` with our own
draws and must be ours token for token. Prints JSON.

    python benchmarks/sampling.py --model FOLDER --template chat --prompts FILE --threads 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from _machine import machine_facts
from fedvpa.core.progress import say
from fedvpa.data.prompt_files import read_prompts
from fedvpa.policy import decoding
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.generation import inheriting_nothing
from fedvpa.policy.model import PolicyModel
from fedvpa.policy.policy import new_policy
from fedvpa.policy.rows import Ids
from fedvpa.policy.sampling import Sampling
from fedvpa.world import backbone_path

WORDS = ("Describe", "a", "good", "way", "to", "cook", "rice", "for", "many", "people", "on", "Sunday")
"""Of the prompts where no file is given; the bundled model reads any text."""


def some_prompts(count: int) -> list[str]:
    """Prompts of different lengths."""
    return [" ".join([*WORDS[: 3 + number % 9], f"number {number}"]) for number in range(count)]


def stock(plain: Any, base: PolicyModel, prompts: Sequence[Ids], options: argparse.Namespace) -> list[Ids]:
    """``generate`` as it comes, of the model as transformers loads it, a few prompts at a time, padded on the left."""
    tokenizer, found = base.tokenizer, list[Ids]()
    settings = GenerationConfig(
        max_new_tokens=options.new_tokens,
        do_sample=True,
        temperature=options.temperature,
        top_k=0,
        top_p=1.0,
        num_return_sequences=options.responses,
        eos_token_id=list(tokenizer.stops.tokens),
        pad_token_id=tokenizer.pad,
    )
    at_once = max(1, options.rows // options.responses)
    with inheriting_nothing(plain), torch.inference_mode():
        for start in range(0, len(prompts), at_once):
            rows = base.layout.rows(prompts[start : start + at_once]).to(base.device)
            drawn = plain.generate(input_ids=rows.ids, attention_mask=rows.attention, generation_config=settings)
            found += list(drawn[:, rows.ids.shape[1] :].cpu().numpy())
    return found


def ours(base: PolicyModel, prompts: Sequence[Ids], options: argparse.Namespace) -> list[Ids]:
    """As candidates are sampled."""
    repeated = [prompt for prompt in prompts for _ in range(options.responses)]
    how = Sampling(options.temperature, 1.0, options.new_tokens, options.rows)
    return base.sample(repeated, None, how, 0, "benchmark")


def tokens_in(responses: Sequence[Ids], ends: Sequence[int]) -> int:
    """Tokens up to the end of each response, the end included."""
    stops = [np.isin(response, ends).nonzero()[0] for response in responses]
    return sum(int(stop[0]) + 1 if len(stop) else len(ids) for ids, stop in zip(responses, stops, strict=True))


def check(base: PolicyModel, prompts: Sequence[Ids], options: argparse.Namespace) -> int:
    """How many tokens of one batch are the same by ``generate`` with our draws.

    Raises:
        SystemExit: If one differs.
    """
    few = prompts[: max(1, options.rows // options.responses)]
    expected = ours(base, few, options)
    ordinary = decoding.decoding_obstacle
    decoding.decoding_obstacle = lambda _: "compared"  # type: ignore[assignment]
    try:
        found = ours(base, few, options)
    finally:
        decoding.decoding_obstacle = ordinary
    if not all(map(np.array_equal, found, expected)):
        raise SystemExit("The responses are not those of generate with the same draws.")
    return sum(map(len, expected))


def measured(base: PolicyModel, prompts: Sequence[Ids], options: argparse.Namespace) -> dict[str, Any]:
    """Alternate both ways and summarise tokens per second."""
    model = AutoModelForCausalLM.from_pretrained(base.source.folder, dtype=getattr(torch, options.precision))
    plain = model.to(base.device).eval()
    ways: dict[str, Callable[..., list[Ids]]] = {"stock": partial(stock, plain), "fedvpa": ours}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for repetition in range(options.repetitions):
        for name in ways if repetition % 2 == 0 else reversed(ways):
            wall, used = time.perf_counter(), time.process_time()
            tokens = tokens_in(ways[name](base, prompts, options), base.tokenizer.stops.tokens)
            wall, used = time.perf_counter() - wall, time.process_time() - used
            found[name].append({"tokens": tokens, "per_second": tokens / wall, "per_cpu_second": tokens / used})
            say(f"{name}: {tokens} tokens, {tokens / wall:.0f} a second, {tokens / used:.0f} a second of the processor")
    return {name: {key: spread([run[key] for run in runs]) for key in runs[0]} for name, runs in found.items()} | {
        f"speedup_{key}": spread([a[key] / b[key] for a, b in zip(found["fedvpa"], found["stock"], strict=True)])
        for key in ("per_second", "per_cpu_second")
    }


def spread(values: list[float]) -> list[float]:
    """Least, median, greatest."""
    return [float(f"{value:.4g}") for value in (min(values), statistics.median(values), max(values))]


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="bundled, or a folder")
    parser.add_argument("--template", choices=("plain", "chat"), default="plain")
    parser.add_argument("--prompts", type=Path, help="as fedvpa align reads them; made up unless given")
    parser.add_argument("--count", type=int, default=64, help="prompts")
    parser.add_argument("--responses", type=int, default=8, help="to each prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, default=64, help="responses at once")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = str(backbone_path()) if options.model == "bundled" else options.model
    config = PolicyConfig.parse(
        {
            "model": folder,
            "template": options.template,
            "precision": options.precision,
            "max_prompt_tokens": 512,
            "candidates": {"max_new_tokens": options.new_tokens},
        }
    )
    policy = new_policy(config, folder, None, 0, device=options.device).eval()
    texts = some_prompts(options.count) if options.prompts is None else read_prompts(options.prompts)
    asked = policy.tokenizer.prompts(texts[: options.count])
    with policy.reference() as base:
        same = check(base, asked, options)
        found = measured(base, asked, options)
    setting = {key: value.name if isinstance(value, Path) else value for key, value in vars(options).items()}
    setting |= {"model": Path(folder).name, "prompt_tokens": sum(map(len, asked)) / len(asked)}
    facts = {"machine": machine_facts(), "setting": setting, "tokens_equal_to_generate_with_our_draws": same}
    print(json.dumps(facts | found, indent=2))


if __name__ == "__main__":
    main()
