"""What methods cost: parameters, bytes and wall clock of finished runs, beside FedDPO (arXiv 2605.30873, overhead).

    fedvpa train --config configs/world_two_groups.yaml method=fedvpa_gp --out runs/cost/ours
    fedvpa align runs/cost/ours
    fedvpa train --config configs/world_two_groups.yaml method=global --out runs/cost/dpo
    fedvpa align runs/cost/dpo --method feddpo
    python benchmarks/overhead.py runs/cost/ours runs/cost/dpo

Reads the runs alone: ``history.jsonl`` and ``policy/history.jsonl``, the selector's and the policy's weights, and the
base model's, which policies name. Bytes are what the codec sent, per client asked and round. Stage 1 of a run is left
out of a method whose clients train the policy themselves, since that needs none. The run whose policy is of
``--beside`` is 1 in the last column. Runs that are compared have to be made on one quiet machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from fedvpa.algorithms.registry import POLICY_METHODS
from fedvpa.core.files import read_own_lines, read_own_object, write_json
from fedvpa.models.locate import locate
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


def main() -> None:
    """Read every run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--beside", default="feddpo", help="the method that counts as 1")
    parser.add_argument("--json", type=Path, default=None, help="write the numbers there, too")
    options = parser.parse_args()
    costs = [cost_of(run) for run in options.runs]
    if options.json is not None:
        write_json(options.json, [asdict(cost) for cost in costs])
    print("\n".join(lines_of(costs, options.beside)))


if __name__ == "__main__":
    main()
