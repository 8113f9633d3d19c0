"""What methods cost: parameters, bytes and wall clock of finished runs, beside FedDPO (arXiv 2605.30873, overhead).

    fedvpa train --config configs/world_two_groups.yaml method=fedvpa_gp --out runs/cost/ours
    fedvpa align runs/cost/ours
    fedvpa train --config configs/world_two_groups.yaml method=global --out runs/cost/dpo
    fedvpa align runs/cost/dpo --method feddpo
    python benchmarks/overhead.py runs/cost/ours runs/cost/dpo

Reads the runs alone: ``history.jsonl`` and ``policy/history.jsonl``, the selector's and the policy's weights, and the
base model's, which policies name. Bytes are what the codec sent, per client asked and round. Stage 1 of a run is left
out of a method whose clients train the policy themselves, since that needs none. Seconds are of rounds and steps alone:
features, samples and their log-probabilities are in none of these files. The run whose policy is of ``--beside`` is 1
in the last column. Runs that are compared have to be made on one quiet machine.

    python benchmarks/overhead.py --measure runs/cost --config configs/world_two_groups.yaml partition.clients=10

trains each of ``--methods``, by turns and so often as ``--repetitions`` says, into a folder that does not exist yet,
with an empty cache each time, and measures all that a user waits for: of a method with a selector both stages from the
pairs on, of one whose clients train the policy stage 2 (its run is begun with one round of ``global``, which is not
counted). Wall clock, and processor time, which programs beside disturb less; ratios are to the last method, repetition
by repetition: least, median, greatest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from fedvpa.algorithms.registry import POLICY_METHODS
from fedvpa.api.align import align
from fedvpa.api.train import train
from fedvpa.core.cache import CACHE_VARIABLE
from fedvpa.core.errors import RunError
from fedvpa.core.files import read_own_lines, read_own_object, write_json
from fedvpa.models.locate import locate
from fedvpa.runs.config import read_config
from fedvpa.runs.folder import RunFolder


@dataclass(frozen=True)
class Cost:
    """What one run took.

    Attributes:
        run: Its folder.
        method: Of its policy, or of its selector where it has no policy.
        selector: Parameters of the selector; 0 where the method needs none.
        policy: Parameters that stage 2 trained.
        base: Parameters of the base model; None without a policy.
        up: Bytes that a client sent in a round, mean over all requests.
        down: Bytes that it got.
        rounds: Rounds in which clients took part.
        stage1_seconds: Wall clock of the rounds of stage 1.
        stage2_seconds: Wall clock of making the policies.
    """

    run: str
    method: str
    selector: int
    policy: int
    base: int | None
    up: float
    down: float
    rounds: int
    stage1_seconds: float
    stage2_seconds: float

    @property
    def seconds(self) -> float:
        """Of both stages."""
        return self.stage1_seconds + self.stage2_seconds


def cost_of(run: Path) -> Cost:
    """Read a run directory.

    Raises:
        RunError: If it is none, or damaged.
    """
    folder = RunFolder.open(run)
    policies: Mapping[str, Any] = {}
    method = folder.config().method
    if (folder.policy / "metrics.json").is_file():
        metrics = read_own_object(folder.policy / "metrics.json")
        method, policies = metrics["method"], metrics["policies"]
    by_clients = method in POLICY_METHODS
    history = folder.policy_history("") if by_clients else folder.path / "history.jsonl"
    lines = [line for line in read_own_lines(history) if "uplink_bytes" in line]
    asked = sum(len(line["cohort"]) for line in lines)
    stage1 = 0.0 if by_clients else sum(line["seconds"] for line in lines)
    names = list(policies)
    return Cost(
        run=str(run),
        method=method,
        selector=0 if by_clients else parameters(folder.selector / "selector.safetensors", "params."),
        policy=sum(_trained(folder.policy / name) for name in names),
        base=_base(folder.policy / names[0]) if names else None,
        up=sum(line["uplink_bytes"] for line in lines) / asked if asked else 0.0,
        down=sum(line["downlink_bytes"] for line in lines) / asked if asked else 0.0,
        rounds=len(lines),
        stage1_seconds=stage1,
        stage2_seconds=sum(float(notes.get("seconds", 0.0)) for notes in policies.values()),
    )


def parameters(file: Path, prefix: str = "") -> int:
    """How many numbers the tensors of a file hold whose names begin with ``prefix``."""
    total = 0
    with safe_open(file, framework="numpy") as opened:
        for name in opened.keys():  # noqa: SIM118 - it is no mapping
            if name.startswith(prefix):
                size = 1
                for length in opened.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def _trained(policy: Path) -> int:
    files = [policy / "adapter_model.safetensors", policy / "z_conditioner.safetensors"]
    return sum(parameters(file) for file in files if file.is_file())


def _base(policy: Path) -> int:
    folder = locate(read_own_object(policy / "policy.json")["model"]).folder
    return sum(parameters(file) for file in sorted(folder.glob("*.safetensors")))


def lines_of(costs: Sequence[Cost], beside: str) -> list[str]:
    """The table in Markdown."""
    one = next((cost.seconds for cost in costs if cost.method == beside), None)
    found = [
        f"| method | selector | share of the base | policy's own | bytes up, client and round | down | rounds "
        f"| stage 1, s | stage 2, s | beside {beside} |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        share = "–" if not cost.base else f"{cost.selector / cost.base:.2%}"
        ratio = "–" if not one else f"{cost.seconds / one:.2f}×"
        found.append(
            f"| `{cost.method}` | {cost.selector:,} | {share} | {cost.policy:,} | {cost.up:,.0f} | {cost.down:,.0f} | "
            f"{cost.rounds} | {cost.stage1_seconds:.1f} | {cost.stage2_seconds:.1f} | {ratio} |"
        )
    return found


@dataclass(frozen=True)
class Taken:
    """What making a policy took, from pairs to the finished folder.

    Attributes:
        method: That made it.
        wall: Seconds of wall clock.
        processor: Seconds of processor time, of all threads.
    """

    method: str
    wall: float
    processor: float


def take(method: str, place: Path, config: Path | None, overrides: Sequence[str]) -> Taken:
    """Make a policy with an empty cache and measure it.

    Args:
        method: With a selector, or one whose clients train the policy.
        place: A folder for the run and its cache.
        config: As of ``fedvpa train``.
        overrides: The same.
    """
    by_clients = method in POLICY_METHODS
    begun = ["method=global", "server.rounds=1"] if by_clients else [f"method={method}"]
    with _cache(place / "cache"):
        if by_clients:
            train(read_config(config, [*overrides, *begun]), place / "run")
        wall, processor = time.perf_counter(), time.process_time()
        if not by_clients:
            train(read_config(config, [*overrides, *begun]), place / "run")
        align(place / "run", method=method if by_clients else None)
        return Taken(method, time.perf_counter() - wall, time.process_time() - processor)


@contextmanager
def _cache(place: Path) -> Iterator[None]:
    """While inside, features and samples are kept in this folder."""
    before = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = str(place)
    try:
        yield
    finally:
        os.environ.pop(CACHE_VARIABLE)
        if before is not None:
            os.environ[CACHE_VARIABLE] = before


def ratios_of(taken: Sequence[Taken], beside: str) -> list[str]:
    """The table in Markdown: medians of seconds, and each method over ``beside``, repetition by repetition."""
    found = [
        "| method | wall clock, s | processor, s | wall clock beside | processor beside |",
        "|---|---|---|---|---|",
    ]
    by_method = {name: [one for one in taken if one.method == name] for name in dict.fromkeys(t.method for t in taken)}
    for name, own in by_method.items():
        pairs = list(zip(own, by_method[beside], strict=True))
        wall, processor = ([getattr(one, key) for one in own] for key in ("wall", "processor"))
        over = (
            _spread([one.wall / two.wall for one, two in pairs]),
            _spread([a.processor / b.processor for a, b in pairs]),
        )
        found.append(
            f"| `{name}` | {statistics.median(wall):.1f} | {statistics.median(processor):.1f} | {over[0]} | {over[1]} |"
        )
    return found


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}× [{min(values):.2f}, {max(values):.2f}]"


def measure(options: argparse.Namespace) -> None:
    """Train every method by turns and print the table."""
    methods = options.methods.split(",")
    taken = []
    for number in range(options.repetitions):
        for method in methods if number % 2 == 0 else reversed(methods):
            place = options.measure / f"{method}-{number}"
            if place.exists():
                raise RunError(
                    "is there already, and its cache would not be empty.", fix="Delete it.", where=str(place)
                )
            taken.append(take(method, place, options.config, options.given))
    taken.sort(key=lambda one: methods.index(one.method))
    if options.json is not None:
        write_json(options.json, [asdict(one) for one in taken])
    print("\n".join(ratios_of(taken, methods[-1])))


def main() -> None:
    """Read every run, or make some, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("given", nargs="*", help="run directories; of --measure settings, such as partition.clients=10")
    parser.add_argument("--beside", default="feddpo", help="the method that counts as 1")
    parser.add_argument("--json", type=Path, default=None, help="write the numbers there, too")
    parser.add_argument("--measure", type=Path, help="make runs in this folder and measure them")
    parser.add_argument("--config", type=Path, help="of the runs to make")
    parser.add_argument("--methods", default="fedeb,feddpo", help="to make; the last one counts as 1")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options)
        return
    costs = [cost_of(Path(run)) for run in options.given]
    if options.json is not None:
        write_json(options.json, [asdict(cost) for cost in costs])
    print("\n".join(lines_of(costs, options.beside)))


if __name__ == "__main__":
    main()
