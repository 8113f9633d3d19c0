"""The engine that serves many users at once, beside one request at a time, its base model, and transformers.

On one model, in one process, by turns: 32 requests with 32 different z at once; the same one after the other; 32 of the
base model without z (what z costs); ``generate`` of transformers on 32 padded prompts, and its continuous batching
(what ``transformers serve --continuous-batching`` runs on), both on a plain model such as a merged policy is. Then 8
streams that never stop: the time from a request to its first token, for the engine and for continuous batching. Ratios
are of the same repetition; seconds of the processor stand beside those of the clock, since only they compare fairly on
a busy machine. Prints JSON.

    python benchmarks/serving_engine.py --threads 2            # random weights in the shape of SmolLM2-135M
    python benchmarks/serving_engine.py --model FOLDER         # a model of your own
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from _machine import machine_facts
from fedvpa.core.progress import say
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.policy import Policy, new_policy
from fedvpa.policy.rows import Ids
from fedvpa.policy.sampling import Sampling
from fedvpa.serving.engine import BatchEngine
from fedvpa.serving.requests import GenerationRequest

LATENT, STREAMS, VOCABULARY = 16, 8, 49_152
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""Of SmolLM2-135M."""


def make_model(folder: Path, shape: dict[str, Any]) -> None:
    """Random weights in this shape, and a tokenizer whose every token is a word."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    names = ["<pad>", "<bos>", "<eos>", *(f"w{number}" for number in range(shape["vocab_size"] - 3))]
    backend = Tokenizer(models.WordLevel({name: row for row, name in enumerate(names)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


def make_policy(folder: Path, new_tokens: int) -> Policy:
    """A policy whose LoRA and conditioner do something."""
    config = PolicyConfig.parse({"model": str(folder), "candidates": {"max_new_tokens": new_tokens}})
    policy = new_policy(config, str(folder), LATENT, 0, device="cpu").eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.trained().values():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return policy


@dataclass(frozen=True)
class Work:
    """What is asked: the same prompts of all.

    Attributes:
        prompts: Of different lengths.
        z: One for each.
        new_tokens: Of each answer, unless a token ends it.
    """

    prompts: Sequence[Ids]
    z: torch.Tensor
    new_tokens: int

    @classmethod
    def of(cls, policy: Policy, options: argparse.Namespace) -> Work:
        """Random tokens, around ``options.prompt_tokens`` for each prompt."""
        rng, size = np.random.default_rng(0), len(policy.tokenizer.base)
        lengths = options.prompt_tokens + np.arange(options.requests) % 17 - 8
        prompts = [rng.integers(3, size, max(1, length)).astype(np.int32) for length in lengths]
        z = torch.randn(options.requests, LATENT, generator=torch.Generator().manual_seed(2))
        return cls(prompts, z, options.new_tokens)

    def request(self, number: int, *, base: bool = False) -> GenerationRequest:
        """One of the requests."""
        z, how = None if base else self.z[number], Sampling(0.7, 1.0, self.new_tokens)
        return GenerationRequest(self.prompts[number], z, how, number, base=base)


def at_once(engine: BatchEngine, work: Work, *, base: bool = False) -> int:
    """Tokens of all answers, drawn together."""
    answers = [engine.submit(work.request(number, base=base)) for number in range(len(work.prompts))]
    return sum(len(piece.ids) for answer in answers for piece in answer)


def one_by_one(engine: BatchEngine, work: Work, count: int) -> int:
    """Tokens of some answers, each drawn when the one before is done."""
    return sum(len(piece.ids) for number in range(count) for piece in engine.submit(work.request(number)))


def settings(work: Work) -> GenerationConfig:
    """How transformers samples: as the engine does."""
    return GenerationConfig(
        max_new_tokens=work.new_tokens,
        do_sample=True,
        temperature=0.7,
        top_k=0,
        top_p=1.0,
        eos_token_id=2,
        pad_token_id=0,
    )


def by_generate(plain: Any, policy: Policy, work: Work) -> int:
    """Tokens of all answers by ``generate``, the prompts padded on the left."""
    rows = policy.tokenizer.layout(0).rows(work.prompts)
    with torch.inference_mode():
        drawn = plain.generate(rows.ids, attention_mask=rows.attention, generation_config=settings(work))
    answers = drawn[:, rows.ids.shape[1] :]
    return int((answers != 0).sum())


@contextmanager
def continuous(plain: Any, work: Work, rows: int) -> Iterator[Any]:
    """The continuous batching of transformers, running."""
    config = ContinuousBatchingConfig(max_batch_tokens=2048, num_blocks=4 * rows, page_size=256)
    manager = plain.init_continuous_batching(settings(work), config)
    manager.start()
    try:
        yield manager
    finally:
        manager.stop(block=True)


def by_continuous(manager: Any, work: Work) -> int:
    """Tokens of all answers by continuous batching."""
    for prompt in work.prompts:
        manager.add_request(prompt.tolist(), max_new_tokens=work.new_tokens)
    return sum(len(manager.get_result(timeout=3600).generated_tokens) for _ in work.prompts)


def first_tokens(ask: Callable[[int], float], requests: int) -> list[float]:
    """Seconds to the first token of each request, ``STREAMS`` of which are always under way."""
    found, numbers, lock = list[float](), iter(range(requests)), threading.Lock()

    def stream() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            found.append(ask(number))

    streams = [threading.Thread(target=stream) for _ in range(STREAMS)]
    for one in streams:
        one.start()
    for one in streams:
        one.join()
    return found


def first_of_engine(engine: BatchEngine, work: Work, number: int) -> float:
    """Seconds to the first token; the answer is read to its end."""
    began, first = time.perf_counter(), 0.0
    for _ in engine.submit(work.request(number)):
        first = first or time.perf_counter() - began
    return first


def first_of_continuous(manager: Any, work: Work, number: int) -> float:
    """The same by continuous batching."""
    began, first = time.perf_counter(), 0.0
    name = manager.add_request(work.prompts[number].tolist(), max_new_tokens=work.new_tokens, streaming=True)
    for _ in manager.request_id_iter(name):
        first = first or time.perf_counter() - began
    return first


def speed(way: Callable[[], int]) -> dict[str, float]:
    """Tokens per second of the clock and of the processor."""
    wall, used = time.perf_counter(), time.process_time()
    tokens = way()
    return {
        "tokens": tokens,
        "per_second": tokens / (time.perf_counter() - wall),
        "per_cpu_second": tokens / (time.process_time() - used),
    }


def compared(ways: dict[str, Callable[[], int]], pairs: Sequence[tuple[str, str]], repetitions: int) -> dict[str, Any]:
    """All ways by turns, and the ratios of some."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for repetition in range(repetitions):
        for name in ways if repetition % 2 == 0 else reversed(ways):
            runs[name].append(speed(ways[name]))
            say(f"{name}: " + ", ".join(f"{key} {value:.1f}" for key, value in runs[name][-1].items()))
    found: dict[str, Any] = {
        name: {key: spread([run[key] for run in several]) for key in several[0]} for name, several in runs.items()
    }
    for one, other in pairs:
        found[f"{one} / {other}"] = {
            key: spread([a[key] / b[key] for a, b in zip(runs[one], runs[other], strict=True)])
            for key in ("per_second", "per_cpu_second")
        }
    return found


def spread(values: Sequence[float]) -> list[float]:
    """Least, median, greatest."""
    return [float(f"{value:.4g}") for value in (min(values), statistics.median(values), max(values))]


def measured(policy: Policy, plain: Any, work: Work, options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    with BatchEngine(policy, max_rows=options.requests) as engine, continuous(plain, work, options.requests) as manager:
        ways: dict[str, Callable[[], int]] = {
            "at once": lambda: at_once(engine, work),
            "base at once": lambda: at_once(engine, work, base=True),
            "one by one": lambda: one_by_one(engine, work, options.alone),
            "generate": lambda: by_generate(plain, policy, work),
            "continuous batching": lambda: by_continuous(manager, work),
        }
        for name in ("at once", "continuous batching"):
            ways[name]()  # what is made at the first call is not measured
        pairs = [("at once", name) for name in ("one by one", "base at once", "generate", "continuous batching")]
        found = compared(ways, pairs, options.repetitions)
        firsts: dict[str, list[float]] = {"fedvpa": [], "transformers": []}
        for _ in range(options.repetitions):
            mine = first_tokens(lambda number: first_of_engine(engine, work, number), options.requests)
            theirs = first_tokens(lambda number: first_of_continuous(manager, work, number), options.requests)
            firsts["fedvpa"].append(statistics.median(mine))
            firsts["transformers"].append(statistics.median(theirs))
        found[f"median seconds to the first token under {STREAMS} streams"] = {
            **{name: spread(values) for name, values in firsts.items()},
            "ratio": spread([a / b for a, b in zip(firsts["fedvpa"], firsts["transformers"], strict=True)]),
        }
    return found


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder; made with random weights unless given")
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"], help="of the model that is made")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--alone", type=int, default=3, help="how many of them one by one")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.model or Path(temporary)
        if options.model is None:
            make_model(folder, SHAPE | {"num_hidden_layers": options.layers})
        policy = make_policy(folder, options.new_tokens)
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        work = Work.of(policy, options)
        found = measured(policy, plain, work, options)
    setting = {key: value.name if isinstance(value, Path) else value for key, value in vars(options).items()}
    print(json.dumps({"machine": machine_facts(), "setting": setting} | found, indent=2))


if __name__ == "__main__":
    main()
