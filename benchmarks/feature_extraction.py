"""Feature extraction: the shipped way against two padded forwards per pair in the data's own order.

Without ``--model``, the model has the Qwen2 architecture with 7.6 M body parameters and random weights, made on the
spot, and reads two data sets of made-up pairs: lengths as in HH-RLHF (log-normal; prompts ≈ 128 and responses ≈ 62
tokens on average), and fixed lengths of 128 + 64, where sharing the prompt can save at most a third of the tokens
(1.5×). With ``--model`` and ``--data`` it is a real one on the first pairs of a folder in the layout of HH-RLHF.

The plain way is the body as transformers loads it, in float32. Both ways start from the same texts, so tokenisation and
the probe of the model count. Repetitions alternate, and CPU seconds are given beside wall-clock seconds, since only
they compare fairly on a busy machine.

    python benchmarks/feature_extraction.py [--pairs 256] [--repetitions 5] [--threads 2] [--dtype float32]
    python benchmarks/feature_extraction.py --model FOLDER --data HH-RLHF --pairs 64 [--layer 0 12 30]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, PreTrainedTokenizerFast, Qwen2Config

from _machine import machine_facts
from fedvpa.core.progress import say
from fedvpa.core.seeds import numpy_generator
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.data.schema import Pair, PairTable
from fedvpa.features.backbone import Backbone, load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract
from fedvpa.features.reader import Reader

VOCABULARY = 4096
BATCH = 16
SPREAD = {"prompt": 1.0, "response": 0.9}
"""Standard deviations of the logarithm of lengths, as in HH-RLHF."""


def save_model(folder: Path) -> int:
    """Write the model and a word tokenizer; returns the number of parameters without the embeddings."""
    torch.manual_seed(0)
    model = AutoModel.from_config(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=4096,
        )
    )
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return sum(parameter.numel() for name, parameter in model.named_parameters() if "embed" not in name)


def save_tokenizer(folder: Path) -> None:
    """Write a tokenizer of words: a text of so many words has as many tokens."""
    backend = Tokenizer(models.WordLevel({"a": 0, **{f"w{row}": row for row in range(1, VOCABULARY)}}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="a").save_pretrained(folder)


def make_pairs(lengths: str, count: int) -> PairTable:
    """Random words; ``variable`` or ``fixed`` lengths."""
    rng = numpy_generator(0, "feature_extraction", lengths)

    def draw(mean: int, spread: float, limit: int) -> int:
        return int(np.clip(rng.lognormal(np.log(mean) - spread**2 / 2, spread), 4, limit))

    def text(size: int) -> str:
        return " ".join(f"w{word}" for word in rng.integers(1, VOCABULARY, size))

    def pair() -> Pair:
        if lengths == "fixed":
            return Pair(text(128), text(64), text(64))
        prompt = draw(136, SPREAD["prompt"], 512)
        return Pair(text(prompt), *(text(draw(64, SPREAD["response"], 256)) for _ in range(2)))

    return PairTable(tuple(pair() for _ in range(count)))


@torch.inference_mode()
def plain_way(table: PairTable, plain: Any, reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    """What one writes first: batches of 16 in order, chosen and rejected in a forward each, padded to the longest."""
    rows, chosen, rejected = reader.read(table.pairs).rows, [], []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        chosen.append(_padded_forward(plain, reader.backbone.layers, [(row.prefix, row.chosen) for row in part]))
        rejected.append(_padded_forward(plain, reader.backbone.layers, [(row.prefix, row.rejected) for row in part]))
    return np.concatenate(chosen), np.concatenate(rejected)


def _padded_forward(plain: Any, layers: Sequence[int], texts: Sequence[tuple[Any, Any]]) -> np.ndarray:
    """Mean hidden states over the response tokens of prompt + response, layer beside layer."""
    length = max(len(prompt) + len(response) for prompt, response in texts)
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    seen = torch.zeros(len(texts), length, dtype=torch.long)
    answer = torch.zeros(len(texts), length)
    for row, (prompt, response) in enumerate(texts):
        stop = len(prompt) + len(response)
        ids[row, :stop] = torch.from_numpy(np.concatenate([prompt, response]))
        seen[row, :stop] = 1
        answer[row, len(prompt) : stop] = 1
    several = {} if layers == (-1,) else {"output_hidden_states": True}
    out = plain(input_ids=ids.to(plain.device), attention_mask=seen.to(plain.device), use_cache=False, **several)
    states = [out.last_hidden_state if layer == -1 else out.hidden_states[layer] for layer in layers]
    weights = (answer / answer.sum(dim=1, keepdim=True)).to(plain.device)
    return torch.cat([torch.einsum("bl,bld->bd", weights, layer.float()) for layer in states], 1).cpu().numpy()


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall-clock seconds, CPU seconds and result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def compare(
    table: PairTable, backbone: Backbone, config: FeatureConfig, repetitions: int, stock: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Alternate both ways, the plain one in the precision ``stock``, and summarise."""
    reader = Reader.of(backbone, config)
    plain = AutoModel.from_pretrained(config.model, dtype=stock).to(backbone.device).eval()
    ways: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain_way(table, plain, reader),
        "shipped": lambda: extract(table, backbone, config),
    }
    walls: dict[str, list[float]] = {name: [] for name in ways}
    cpus: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for repetition in range(repetitions):
        for name in ways if repetition % 2 == 0 else reversed(ways):
            wall, cpu, results[name] = timed(ways[name])
            walls[name].append(wall)
            cpus[name].append(cpu)
            say(f"{name}: {wall:.2f} s, {cpu:.2f} s of CPU")
    shipped, (chosen, rejected) = results["shipped"], results["plain"]
    difference = max(np.abs(shipped.chosen - chosen).max(), np.abs(shipped.rejected - rejected).max())
    apart = np.linalg.norm(shipped.chosen - chosen, axis=1) / np.linalg.norm(chosen, axis=1)
    tokens = 2 * shipped.report.prompt_tokens + shipped.report.response_tokens
    return {
        "mean_prompt_tokens": shipped.report.prompt_tokens / len(table),
        "mean_response_tokens": shipped.report.response_tokens / len(table) / 2,
        "plain_seconds": summary(walls["plain"]),
        "shipped_seconds": summary(walls["shipped"]),
        "plain_tokens_per_second": tokens / statistics.median(walls["plain"]),
        "speedup_wall": summary([plain / ours for plain, ours in zip(walls["plain"], walls["shipped"], strict=True)]),
        "speedup_cpu": summary([plain / ours for plain, ours in zip(cpus["plain"], cpus["shipped"], strict=True)]),
        "pairs_sharing_prompt": shipped.report.pairs_sharing_prompt,
        "largest_difference": float(difference),
        "largest_difference_over_the_norm": float(apart.max()),
        "largest_feature": float(np.abs(chosen).max()),
    }


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="a folder; the random model unless given")
    parser.add_argument("--data", help="a folder in the layout of HH-RLHF, for --model")
    parser.add_argument("--layer", type=int, nargs="+", default=[-1])
    parser.add_argument("--tokens-per-batch", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if (options.model is None) != (options.data is None):
        parser.error("--model and --data belong together")
    with tempfile.TemporaryDirectory() as name:
        parameters = save_model(Path(name)) if options.model is None else None
        config = FeatureConfig(
            model=options.model or name,
            layer=tuple(options.layer),
            dtype=options.dtype,
            device=options.device,
            storage="float32",
            tokens_per_batch=options.tokens_per_batch,
        )
        backbone = load_backbone(config)
        if options.model is None:
            tables = {lengths: make_pairs(lengths, options.pairs) for lengths in ("variable", "fixed")}
        else:
            pairs = load(DataConfig(source="hh-rlhf", path=options.data)).pairs
            tables = {"real": PairTable(pairs[: options.pairs])}
        cases = {name: compare(table, backbone, config, options.repetitions) for name, table in tables.items()}
    options.model, options.data = (part and Path(part).name for part in (options.model, options.data))
    settings = {**vars(options), "batch_of_the_plain_way": BATCH, "body_parameters": parameters}
    print(json.dumps({"machine": machine_facts(), "settings": settings, **cases}, indent=2))


if __name__ == "__main__":
    main()
