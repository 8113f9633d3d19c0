"""The cache of features for many pairs: memory, and seconds until features are there, anew and again.

Pairs of random words with lengths as in HH-RLHF (log-normal; prompts ≈ 128 and responses ≈ 62 tokens on average, 4.4
characters for a token with its space) and a language model of the Qwen2 architecture without a layer, which only looks
its tokens up: what is measured is what lies around a model, tokenising, storing and finding. Each phase is a process of
its own:

- ``new``: nothing is there;
- ``again``: everything is there;
- ``one more``: everything but one pair in the middle of the table is there.

Memory is the peak of the process. ``table`` is what it had before features were asked for: Python, torch and the
pairs' texts. Prints JSON.

    python benchmarks/feature_cache.py [--pairs 100000] [--tokens-per-batch 4096] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, PreTrainedTokenizerFast, Qwen2Config

from _machine import machine_facts
from fedvpa.core.progress import say
from fedvpa.core.seeds import numpy_generator
from fedvpa.data.schema import Pair, PairTable
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import load_features

PHASES = ("new", "again", "one more")
WORDS = 4096
DIMENSION = 384
PROMPT, RESPONSE = (136, 1.0, 512), (64, 0.9, 256)
"""Mean, standard deviation of the logarithm, and limit of the numbers of tokens."""
CHARACTERS = 4.4
"""Of a token, with its space."""


def save_model(folder: Path) -> None:
    """Write the model and its tokenizer of whole words."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=WORDS,
        hidden_size=DIMENSION,
        num_hidden_layers=0,
        max_position_embeddings=4096,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words())}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="a").save_pretrained(folder)


def words() -> list[str]:
    """Distinct words of 1 to 6 letters, 3.4 on average."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    draw = numpy_generator(0, "feature_cache", "words")
    sizes = draw.choice([2, 3, 4, 5, 6], size=20 * WORDS, p=[0.2, 0.35, 0.3, 0.1, 0.05])
    found = dict.fromkeys(["a", *("".join(draw.choice(list(letters), size)) for size in sizes)])
    return list(found)[:WORDS]


def make_pairs(count: int) -> PairTable:
    """Pairs of random words."""
    draw, known = numpy_generator(0, "feature_cache", "pairs"), words()
    written = " ".join(known[word] for word in draw.integers(1, WORDS, 1 << 19).tolist())

    def texts(mean: float, spread: float, limit: int) -> Iterator[str]:
        """Pieces of one long text, which begin and end anywhere."""
        tokens = np.clip(draw.lognormal(np.log(mean) - spread**2 / 2, spread, count), 4, limit)
        sizes = (CHARACTERS * tokens).astype(int)
        starts = draw.integers(0, len(written) - sizes)
        return (written[start : start + size] for start, size in zip(starts.tolist(), sizes.tolist(), strict=True))

    rows = zip(texts(*PROMPT), texts(*RESPONSE), texts(*RESPONSE), strict=True)
    return PairTable(tuple(Pair(*row, pair_id=f"pair-{number}") for number, row in enumerate(rows)))


def run_phase(phase: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Ask for the features of the pairs in this process."""
    torch.set_num_threads(options.threads)
    table = make_pairs(options.pairs)
    if phase == "one more":
        middle = len(table) // 2
        new = Pair(table.pairs[middle].prompt, "a", "a a")
        table = PairTable((*table.pairs[:middle], new, *table.pairs[middle:]))
    config = FeatureConfig(
        model=str(model), cache_dir=model.parent / "cache", device="cpu", tokens_per_batch=options.tokens_per_batch
    )
    before, wall, processor = peak_mb(), time.perf_counter(), time.process_time()
    features = load_features(table, config)
    found = {
        "seconds": round(time.perf_counter() - wall, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
        "table_mb": before,
        "peak_mb": peak_mb(),
        "pairs": len(features),
        "tokens_a_pair": (features.report.prompt_tokens + features.report.response_tokens) / len(features),
    }
    texts = sum(len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in table.pairs)
    return {**found, "texts_mb": texts // 10**6}


def peak_mb() -> int:
    """The most memory that this process has held, in 10⁶ bytes; Linux only."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 // 10**6


def in_a_process(phase: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The same in a process of its own, so that its peak is that of the phase."""
    given = [
        f"--{name}={getattr(options, name.replace(chr(45), chr(95)))}"
        for name in ("pairs", "tokens-per-batch", "threads")
    ]
    command = [sys.executable, __file__, *given, f"--phase={phase}", f"--model={model}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    say(f"{phase}: {found}")
    return found


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--tokens-per-batch", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase is not None:
        print(json.dumps(run_phase(options.phase, options.model, options)))
        return
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        save_model(model)
        phases = {phase: in_a_process(phase, model, options) for phase in PHASES}
        size = sum(file.stat().st_size for file in (model.parent / "cache").rglob("*.bin"))
    print(json.dumps({"machine": machine_facts(), "cache_mb": round(size / 1e6, 1), **phases}, indent=2))


if __name__ == "__main__":
    main()
