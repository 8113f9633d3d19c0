"""Stage 2 of a run: its policies, their pairs, and the looks at validation prompts that decided when to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedvpa.core.config import flat
from fedvpa.core.errors import DataError
from fedvpa.evaluation.report.cells import MISSING, TableText, worded
from fedvpa.evaluation.report.drawing import interval_mark, level_line
from fedvpa.evaluation.report.style import COLOURS, FAINT, label_axes, legend_below, new_figure

NORMAL = 1.96
"""Standard errors on each side of a 95% interval, over the hundred or so validation prompts."""

KEPT = ("kept", "switched")

SHOWN = ("stopped", "steps", "seconds", "data", "labels", "collapsed", "looks", "admissible", "look", "privacy")
"""What stands in tables of their own."""


def policies_text(policy: Mapping[str, Any]) -> TableText:
    """A row for each policy of a run: its pairs, where it stopped, and what its selector says of it there.

    Args:
        policy: What ``policy/metrics.json`` holds.
    """
    rows = []
    for name, notes in policy["policies"].items():
        stop, pairs = notes.get("stopped"), notes.get("pairs", {})
        look = stop or notes.get("look")
        labels = notes.get("labels") or {}
        rows.append(
            (
                name or "all users",
                str(policy["method"]),
                _of(pairs.get("kept"), pairs.get("pairs")),
                _plain(pairs.get("switched")),
                _share(labels.get("trained")),
                _share(labels.get("all")),
                _plain(notes.get("steps", notes.get("rounds"))),
                MISSING if stop is None else str(stop["step"]),
                MISSING if stop is None else f"{stop['win_rate']:.1%} ± {stop['error']:.1%}",
                worded(None if look is None else look["kl"], digits=1),
                worded(None if look is None else look["tokens"], digits=1),
                worded(notes.get("seconds"), digits=1),
            )
        )
    header = (
        "policy for",
        "method",
        "pairs kept",
        "prompts in both orders",
        "labels right",
        "of all pairs",
        "steps",
        "stopped at",
        "selector prefers it",
        "KL, nats",
        "tokens",
        "seconds",
    )
    kept = [place for place in range(len(header)) if any(row[place] != MISSING for row in rows)]
    return TableText(tuple(header[place] for place in kept), tuple(tuple(row[place] for place in kept) for row in rows))


def left_out_text(policy: Mapping[str, Any]) -> TableText:
    """What else each policy's ``metrics.json`` says: its pairs by the reason they were left out, and the like."""
    rows = []
    for name, notes in policy["policies"].items():
        shown = {key: value for key, value in notes.items() if key not in SHOWN}
        if isinstance(shown.get("pairs"), Mapping):
            shown["pairs"] = {key: value for key, value in shown["pairs"].items() if key not in ("pairs", *KEPT)}
        known = [(key.replace("pairs.", "pairs left out: "), value) for key, value in flat(shown) if value != "0"]
        rows += [(name or "all users", key, value) for key, value in known]
    return TableText(("policy for", "what", "value"), tuple(rows))


def labels_text(policy: Mapping[str, Any]) -> TableText:
    """How many labels are right, for each policy: of all pairs, of those to train on, by preference and prototype."""
    rows = []
    for name, notes in policy["policies"].items():
        found = notes.get("labels") or {}
        parts = {"pairs to train on": found.get("trained"), "all pairs": found.get("all")}
        parts |= found.get("by_group", {})
        parts |= {f"prototype {number}": value for number, value in found.get("by_prototype", {}).items()}
        whose, by = name or "all users", str(found.get("by", ""))
        rows += [(whose, what, _share(value), f"{value['pairs']:,}", by) for what, value in parts.items() if value]
    return TableText(("policy for", "labels of", "right", "pairs", "by"), tuple(rows))


def looks_text(lines: Sequence[Mapping[str, Any]]) -> TableText:
    """Each look at the validation prompts: what the selector prefers, and what the policy keeps of the language.

    Args:
        lines: Of a policy's ``history.jsonl``; the first holds the look at the base policy.
    """
    looks = [line[key] for line in lines for key in ("start", "validation") if line.get(key)]
    rows = [
        (
            str(look["step"]),
            f"{look['win_rate']:.1%} ± {look['error']:.1%}",
            f"{look['kl']:.1f}",
            f"{look['tokens']:.1f}",
            f"{look['language']:.2f} ({look['base_language']:.2f})",
            f"{look['distinct']:.2f} ({look['base_distinct']:.2f})",
            look["refused"] or "yes",
        )
        for look in looks
        if "refused" in look
    ]
    header = ("step", "preferred", "KL, nats", "tokens", "nats a token (base)", "distinct-2 (base)", "admissible")
    return TableText(header, tuple(rows))


def validation_figure(lines: Sequence[Mapping[str, Any]], stopped: Mapping[str, Any]) -> Figure:
    """How often the selector prefers the policy to the base policy on validation prompts, at each look.

    Args:
        lines: Of the policy's ``history.jsonl``.
        stopped: The look whose weights were kept.

    Raises:
        DataError: If no line holds a look.
    """
    looks = [line["validation"] for line in lines if line.get("validation")]
    if not looks:
        raise DataError("there is no look at validation prompts to draw.", fix="Lower policy.evaluate_every.")
    figure = new_figure()
    axes = figure.subplots()
    axes.plot([look["step"] for look in looks], [look["win_rate"] for look in looks], color=COLOURS[0], alpha=0.6)
    for place, look in enumerate(looks):
        half = NORMAL * look["error"]
        ends = (max(0.0, look["win_rate"] - half), min(1.0, look["win_rate"] + half))
        label = "selector prefers the policy" if place == 0 else None
        interval_mark(axes, look["step"], look["win_rate"], (COLOURS[0], "o"), y_ends=ends, label=label)
    level_line(axes, 0.5, "as good as the base policy")
    axes.axvline(stopped["step"], color=FAINT, linewidth=1.2, label=f"kept: step {stopped['step']}")
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_axes(
        axes,
        title="Looks at validation prompts",
        note="by the selector that ordered the training pairs, not by a judge; 95% intervals over prompts",
        x="step",
        y="preferred to the base policy's samples",
    )
    legend_below(figure, axes)
    return figure


def _share(found: Mapping[str, Any] | None) -> str:
    return MISSING if found is None else f"{found['right']:.1%} ± {found['error']:.1%}"


def _of(part: Any, whole: Any) -> str:
    return MISSING if part is None or whole is None else f"{part:,} of {whole:,}"


def _plain(value: Any) -> str:
    return MISSING if value is None else f"{value:,}"
