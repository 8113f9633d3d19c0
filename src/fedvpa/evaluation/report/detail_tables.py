"""The tables below the summary: controls, paired differences, answers side by side, and latent diagnostics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedvpa.evaluation.latents import LatentReport
from fedvpa.evaluation.report.cells import MISSING, TableText, worded
from fedvpa.evaluation.report.drawing import Row
from fedvpa.evaluation.samples import SideBySide
from fedvpa.evaluation.scores import CONTROLS

SIGNIFICANT = 0.05


def controls_text(compared: Mapping[str, Any]) -> TableText:
    """The controls beside what a sound method shows under each."""
    return TableText(
        ("N", "method", "control", "accuracy", "change", "expected"),
        tuple(
            (
                str(row["n_clients"]),
                row["method"],
                row["control"].replace("_", " "),
                _estimate(row),
                _estimate(row["difference"]),
                CONTROLS.get(row["control"], MISSING),
            )
            for row in compared["controls"]
        ),
    )


def differences_text(compared: Mapping[str, Any]) -> TableText:
    """Paired differences, a star where Holm's adjusted p is below 0.05: of these trained models, and of the methods."""
    rows = compared["differences"]
    header, cells = p_columns(rows, "these models")
    return TableText(
        ("N", "difference", "accuracy", *header),
        tuple((str(row["n_clients"]), _pair(row), _estimate(row), *cells(row)) for row in rows),
    )


def policy_differences_text(policies: Mapping[str, Any]) -> TableText:
    """The same for win rates."""
    rows = policies["policy_differences"]
    header, cells = p_columns(rows, "these policies")
    return TableText(
        ("N", "difference", "preference", "win rate", *header),
        tuple((str(row["n_clients"]), _pair(row), row["preference"], _estimate(row), *cells(row)) for row in rows),
    )


def p_columns(rows: Sequence[Row], trained: str) -> tuple[tuple[str, ...], Callable[[Row], tuple[str, ...]]]:
    """The names of the columns of adjusted p-values and their cells; that of methods where any row knows it."""
    if all(row.get("method_p_holm") is None for row in rows):
        return (f"p (Holm), {trained}",), lambda row: (_starred(row["p_holm"]),)
    header = f"p (Holm), {trained}", "p (Holm), the methods"
    return header, lambda row: (_starred(row["p_holm"]), _starred(row.get("method_p_holm")))


def samples_text(sample: SideBySide) -> TableText:
    """Every answer to one prompt, and what it is worth to each preference that any of them was judged under."""
    names = sorted({name for answer in sample.answers for name in answer.utilities})
    return TableText(
        ("policy", "answer", *(f"{name} utility" for name in names)),
        tuple(
            (answer.label, answer.text, *(worded(answer.utilities.get(name), digits=2) for name in names))
            for answer in sample.answers
        ),
    )


def latents_text(latents: Mapping[str, LatentReport]) -> TableText:
    """The diagnostics of every method, one per column."""
    reports = list(latents.values())

    def line(name: str, values: Sequence[float | None], digits: int = 2) -> tuple[str, ...]:
        return (name, *(worded(value, digits=digits) for value in values))

    rows = (
        line("clients", [one.clients for one in reports], 0),
        line("active units (posterior mean varies)", [one.active_units for one in reports], 0),
        line("KL to N(0, I), nats", [one.kl for one in reports]),
        line("what z can tell of its client at most, nats", [one.information for one in reports]),
        line("silhouette of posterior means, true groups", [one.silhouette for one in reports]),
        line("adjusted Rand index, k-means and true groups", [one.posterior_ari for one in reports]),
        line("silhouette, prototype labels", [one.prototype_silhouette for one in reports]),
        line("adjusted Rand index, prototype labels and true groups", [one.prototype_ari for one in reports]),
        line("largest cosine between two prototypes", [_largest_cosine(one) for one in reports]),
        ("clients per prototype", *(_counts(one) for one in reports)),
        line("effective prior components", [one.prior_components for one in reports], 1),
    )
    return TableText(("", *latents), tuple(row for row in rows if any(cell != MISSING for cell in row[1:])))


def _estimate(value: Mapping[str, Any] | None) -> str:
    return MISSING if value is None else worded(value["mean"], value["ci95"], value.get("method_ci95"))


def _pair(row: Row) -> str:
    return f"{row['first']} − {row['second']}"


def _starred(p_value: float | None) -> str:
    if p_value is None:
        return MISSING
    words = "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
    return f"{words} *" if p_value < SIGNIFICANT else words


def _largest_cosine(latents: LatentReport) -> float | None:
    if latents.prototype_gram is None or len(latents.prototype_gram) < 2:
        return None
    size = len(latents.prototype_gram)
    return max(latents.prototype_gram[i][j] for i in range(size) for j in range(i))


def _counts(latents: LatentReport) -> str:
    return MISSING if latents.prototype_counts is None else " / ".join(map(str, latents.prototype_counts))
