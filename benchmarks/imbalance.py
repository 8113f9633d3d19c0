"""What a majority costs a minority: each method under several proportions of two groups, group by group.

The paper's table of imbalance (arXiv 2605.30873: 70/30 to 20/80), and 90/10 and 10/90. Without ``--config`` on the
bundled world's two groups, whose users are clients (``data.user_shares``); with one, pairs are dealt by group
(``partition.shares``). Unseen clients come evenly from both groups. Finished runs are read again, so that another
method or proportion costs only itself.

    python benchmarks/imbalance.py --out runs/imbalance --clients 10 50
    python benchmarks/imbalance.py --out runs/hh --config configs/hh_imbalanced.yaml data.path=P features.model=M

Prints a table: accuracy of all clients and of each group, the paired difference from ``global`` in each group, and,
where ``informed`` (true heads, inferred membership) is among the methods, the share of its gain; all with 95% intervals
of these trained models, and in round brackets those of the method over seeds. ``imbalance.json`` in the folder holds
the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _machine import machine_facts
from fedvpa.api.compare import compare
from fedvpa.core.errors import ConfigError
from fedvpa.core.files import write_json
from fedvpa.data.load import load
from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.intervals import difference, estimate, gap_closed
from fedvpa.evaluation.report.cells import worded
from fedvpa.evaluation.scores import ClientScore, control_of, load_scores
from fedvpa.evaluation.summaries import GLOBAL, SHARE, SHARE_DIFFERENCE, fields_as_json, method_order
from fedvpa.experiments.methods import DEFAULT_METHODS
from fedvpa.runs.config import RunConfig, read_config, with_overrides
from fedvpa.world.users import find_population

PROPORTIONS = ("90/10", "80/20", "70/30", "30/70", "20/80", "10/90")
INFORMED = "informed"
WORLD = ("partition.kind=natural", "partition.unseen=20", "partition.unseen_pairs=16")


def groups_of(config: RunConfig) -> tuple[str, str]:
    """The two groups of the data, sorted.

    Raises:
        ConfigError: If they are not two.
    """
    names = load(config.resolved_data()).groups()
    if len(names) != 2:
        raise ConfigError(f"Proportions are of two groups, and the data have {len(names)}.", fix="Give data with two.")
    return names[0], names[1]


def with_proportion(config: RunConfig, groups: tuple[str, str], proportion: str) -> RunConfig:
    """The same run with so many clients of the first and of the second group.

    Raises:
        ConfigError: If the proportion is no two numbers above zero.
    """
    parts = proportion.split("/")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"{proportion!r} is no proportion.", fix="Give two numbers above zero, such as 90/10.")
    shares = dict(zip(groups, map(int, parts), strict=True))
    if config.data.source == "world" and config.partition.kind == "natural":
        order = [utility.name for utility in find_population(config.data.population).utilities]
        return with_overrides(config, [f"data.user_shares=[{', '.join(str(shares[name]) for name in order)}]"])
    return with_overrides(config, [f"partition.shares.{name}={share}" for name, share in shares.items()])


def rows_of(
    scores: Sequence[ClientScore], groups: tuple[str, str], proportion: str, *, same_users: bool
) -> list[dict[str, Any]]:
    """One row for each method, number of clients and whose accuracy it is: seen or unseen clients."""
    methods = sorted({score.method for score in scores if control_of(score.method)[1] is None}, key=method_order)
    rows = []
    for n_clients in sorted({score.n_clients for score in scores}):
        for seen in (True, False):
            here = [score for score in scores if score.n_clients == n_clients and score.seen == seen]
            for method in methods if here else ():
                parts = {name: _part(here, method, name, same_users) for name in (None, *groups)}
                about = {"proportion": proportion, "clients": n_clients, "seen": seen, "method": method}
                rows.append(about | {name or "all": part for name, part in parts.items()})
    return rows


def _part(scores: Sequence[ClientScore], method: str, group: str | None, same_users: bool) -> dict[str, Any] | None:
    """Accuracy of one group, or of all, its difference from ``global`` and its share of what ``informed`` gains."""

    def of(name: str) -> ClientSample | None:
        own = (score for score in scores if score.method == name and group in (None, score.group))
        return ClientSample.of(own, same_users=same_users)

    sample = of(method)
    if sample is None:
        return None
    gain = None if method == GLOBAL else difference(sample, of(GLOBAL), bounds=SHARE_DIFFERENCE)
    return {
        "accuracy": _json(estimate(sample, bounds=SHARE)),
        "above_global": None if gain is None else _json(gain.estimate),
        "of_informed": _json(gap_closed(sample, of(GLOBAL), of(INFORMED))),
    }


def _json(found: Any) -> dict[str, Any] | None:
    if found is None:
        return None
    value = fields_as_json(found)
    return {"mean": value["value"], "ci95": value["interval"], "method_ci95": value["method"]}


def table_of(rows: Sequence[dict[str, Any]], groups: tuple[str, str]) -> str:
    """The rows as a Markdown table."""
    informed = any(row["all"]["of_informed"] for row in rows)
    names = [part for group in groups for part in (group, f"{group} − global")]
    header = [" / ".join(groups), "N", "clients", "method", "all", *names, *(["of informed"] if informed else [])]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        cells = [row["proportion"], str(row["clients"]), "seen" if row["seen"] else "unseen", row["method"]]
        cells.append(_cell(row["all"], "accuracy"))
        cells += [_cell(row[group], key) for group in groups for key in ("accuracy", "above_global")]
        lines.append([*cells, *([_cell(row["all"], "of_informed")] if informed else [])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(part: dict[str, Any] | None, key: str) -> str:
    value = None if part is None else part[key]
    return "–" if value is None else worded(value["mean"], value["ci95"], value["method_ci95"])


def imbalance(
    config: RunConfig, out: Path, proportions: Sequence[str], **size: Any
) -> tuple[list[dict[str, Any]], tuple[str, str]]:
    """Compare under every proportion.

    Args:
        config: What all runs share.
        out: The folder; each proportion has one below it.
        proportions: Such as ``90/10``.
        **size: ``methods``, ``clients``, ``seeds``, ``first_seed`` and ``jobs`` of :func:`fedvpa.compare`.
    """
    groups = groups_of(config)
    runs = {proportion: with_proportion(config, groups, proportion) for proportion in proportions}
    rows: list[dict[str, Any]] = []
    for proportion, run in runs.items():
        folder = out / proportion.replace("/", "-")
        compare(run, out=folder, **size)
        rows += rows_of(load_scores(folder / "scores.jsonl"), groups, proportion, same_users=run.same_users)
    return rows, groups


def main() -> None:
    """Run every proportion, print the table and write ``imbalance.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--proportions", default=",".join(PROPORTIONS))
    parser.add_argument("--methods", default=",".join(DEFAULT_METHODS))
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    config = read_config(given.config, [*(() if given.config else WORLD), *given.overrides])
    size = {"methods": given.methods.split(","), "clients": given.clients, "seeds": given.seeds}
    size |= {"first_seed": given.first_seed, "jobs": given.jobs}
    rows, groups = imbalance(config, given.out, given.proportions.split(","), **size)
    write_json(given.out / "imbalance.json", {"machine": machine_facts(), "seeds": given.seeds, "rows": rows})
    print(table_of(rows, groups))


if __name__ == "__main__":
    main()
