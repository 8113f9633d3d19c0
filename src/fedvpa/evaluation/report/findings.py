"""What a comparison or a run found, in sentences: no more than its intervals say.

A sentence speaks of the method where the interval over training seeds is known, and of these trained models where it is
not. What an interval does not tell from chance, from ``global`` or from the base policy is said to be so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedvpa.evaluation.report.drawing import Ends, Row
from fedvpa.evaluation.summaries import BAYES, GLOBAL, PREFERRED, YARDSTICKS

CHANCE = 0.5
"""What a coin gets right of two responses, and what a policy as good as the base policy wins."""


def accuracy_sentences(compared: Mapping[str, Any]) -> list[str]:
    """What is said about selectors, for the method that is preferred: one sentence for each number of clients.

    Args:
        compared: What ``comparison.json`` or ``metrics.json`` holds.
    """
    found = []
    for size in sorted({row["n_clients"] for row in compared.get("summary", ())}):
        rows = [row for row in compared["summary"] if row["n_clients"] == size and row["mean"] is not None]
        row = _chosen(rows)
        if row is None:
            continue
        found.append(f"{_accuracy(row)} {_against_global(compared, row)}".strip())
    return found


def policy_sentences(compared: Mapping[str, Any]) -> list[str]:
    """What is said about policies: of the preferred method, under each preference."""
    found = []
    for size in sorted({row["n_clients"] for row in compared.get("policy_summary", ())}):
        row = _chosen([row for row in compared["policy_summary"] if row["n_clients"] == size])
        if row is None:
            continue
        for name, judged in row["preferences"].items():
            if judged["win_rate"] is None:
                continue
            known = judged.get("method_ci95") or judged["ci95"]
            about = _about(judged, "policies", len(row["seeds"]))
            found.append(
                f"Judged for {name}, answers of {row['method']} (N = {size}) are preferred to the base policy's on "
                f"{judged['win_rate']:.1%} of {judged['prompts']:,} prompts that no training saw ({about}): "
                f"{_verdict(known, CHANCE, 'better than the base policy', 'worse than the base policy')}."
            )
    return found


def stage2_sentences(policy: Mapping[str, Any]) -> list[str]:
    """What is said about the policies of a run, from its ``policy/metrics.json``.

    The selector that made a policy's pairs is no judge of it, and the sentence says so.
    """
    found = []
    asked = "" if "policy_summary" in policy else ": no judge has been asked"
    for name, notes in policy.get("policies", {}).items():
        look = notes.get("stopped")
        whose = f"The policy for {name}" if name else f"The policy of {policy['method']}"
        if look is None:
            left = f" and has left the base's language ({notes['collapsed']})" if notes.get("collapsed") else ""
            found.append(f"{whose} was trained{left}{asked}.")
            continue
        if look["step"] == 0:
            found.append(f"{whose} is the base policy: no look at the validation prompts was better and admissible.")
            continue
        ends = [look["win_rate"] - 1.96 * look["error"], look["win_rate"] + 1.96 * look["error"]]
        better = _verdict(ends, CHANCE, "more often than not", "less often than not")
        found.append(
            f"{whose} stopped at step {look['step']}, where its own selector prefers it to the base policy on "
            f"{look['win_rate']:.1%} ± {look['error']:.1%} of the validation prompts ({better}). That is what it was "
            f"trained by, not a judgement of it{asked}."
        )
    return found


def _chosen(rows: Sequence[Row]) -> Row | None:
    by_name = {row["method"]: row for row in rows}
    names = [*PREFERRED, *(name for name in by_name if name not in (*YARDSTICKS, BAYES)), *by_name]
    return next((by_name[name] for name in names if name in by_name), None)


def _accuracy(row: Row) -> str:
    known = row.get("method_ci95") or row["ci95"]
    about = _about(row, "models", len(row["seeds"]))
    return (
        f"At N = {row['n_clients']}, {row['method']} orders {row['mean']:.1%} of the users' own test pairs as they did "
        f"({about}): {_verdict(known, CHANCE, 'better than chance', 'worse than chance')}."
    )


def _against_global(compared: Mapping[str, Any], row: Row) -> str:
    """How it stands to one model for everybody, where that was run."""
    found = next(
        (
            one
            for one in compared.get("differences", ())
            if (one["n_clients"], one["first"], one["second"]) == (row["n_clients"], row["method"], GLOBAL)
        ),
        None,
    )
    if found is None:
        return ""
    methods = found.get("method_p_holm") is not None
    p_value, ends = (found["method_p_holm"], found["method_ci95"]) if methods else (found["p_holm"], found["ci95"])
    gain = f"{100 * found['mean']:+.1f} points against one global model"
    where = "" if ends is None else f", 95% interval {100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}"
    whom = "over training seeds too" if methods else "of these trained models"
    if p_value < 0.05:
        said = "a difference that survives Holm's correction over all differences"
    elif ends is not None and not ends[0] <= 0 <= ends[1]:
        said = "a difference that does not survive Holm's correction over all differences"
    else:
        said = "which is not distinguishable from no difference"
    return f"It stands {gain} ({whom}{where}), {said}."


def _about(row: Row, trained: str, seeds: int) -> str:
    """The interval in words, and what it is of."""
    if row.get("method_ci95"):
        return f"95% interval of the method, over {seeds} training seeds: {_percent(row['method_ci95'])}"
    if row["ci95"] is None:
        return "too few to give an interval"
    only = "with one seed, nothing is said about the method" if seeds == 1 else "nothing is said about the method"
    return f"95% interval of these trained {trained}: {_percent(row['ci95'])}; {only}"


def _verdict(ends: Ends, level: float, above: str, below: str) -> str:
    if ends is None:
        return f"nothing can be said against {level:.0%}"
    if ends[0] > level:
        return above
    return below if ends[1] < level else f"not distinguishable from {level:.0%}, which is chance"


def _percent(ends: Sequence[float]) -> str:
    return f"{ends[0]:.1%} to {ends[1]:.1%}"


def joined(sentences: Iterable[str]) -> str:
    """The sentences as one paragraph."""
    return " ".join(sentences)
