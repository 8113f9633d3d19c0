"""One self-contained HTML page that says what was run, what came out and how sure it is.

The page embeds its figures, loads nothing and runs no script; it is readable on a phone and in the dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from matplotlib.figure import Figure

from fedvpa.core.files import write_text
from fedvpa.evaluation.latents import LatentReport
from fedvpa.evaluation.report.style import figure_uri
from fedvpa.evaluation.report.tables import MISSING, TableText, policy_summary_text, summary_text, worded
from fedvpa.evaluation.samples import SideBySide
from fedvpa.evaluation.scores import CONTROLS

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """A figure of the report.

    Attributes:
        title: Its heading.
        image: A data URI; see :func:`embedded`.
        caption: What it shows and how to read it.
    """

    title: str
    image: str
    caption: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says. Everything but the title may be empty, and is then left out of the page.

    Attributes:
        title: The page's heading.
        lead: What came out, in a sentence or two.
        command: The command that makes this report again.
        comparison: What :func:`fedvpa.evaluation.accuracy_tables.comparison` returned.
        figures: In the order of the page.
        latents: Method → its latent diagnostics.
        configuration: The resolved configuration, nested as it is.
        environment: Versions, hardware, seed, commit.
        notes: What a reader has to know to judge the numbers, one paragraph each.
        policies: What :func:`fedvpa.evaluation.win_rates.policy_comparison` returned.
        policy_figures: Figures on policies, in the order of the page.
        samples: Answers of the base policy and of others, or of several latents, side by side.
    """

    title: str
    lead: str = ""
    command: str = ""
    comparison: Mapping[str, Any] | None = None
    figures: Sequence[ReportFigure] = ()
    latents: Mapping[str, LatentReport] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    policies: Mapping[str, Any] | None = None
    policy_figures: Sequence[ReportFigure] = ()
    samples: Sequence[SideBySide] = ()


def embedded(title: str, figure: Figure, caption: str) -> ReportFigure:
    """A matplotlib figure, ready for the page."""
    return ReportFigure(title, figure_uri(figure, "svg"), caption)


def render_report(report: Report) -> str:
    """The report as one HTML page."""
    compared, policies = report.comparison, report.policies
    return _template().render(
        report=report,
        summary=None if compared is None else summary_text(compared),
        resamples=None if compared is None else compared["bootstrap"]["resamples"],
        controls=None if compared is None else controls_text(compared),
        differences=None if compared is None else differences_text(compared),
        policies=None if policies is None else policy_summary_text(policies),
        policy_resamples=None if policies is None else policies["policy_bootstrap"]["resamples"],
        policy_differences=None if policies is None else policy_differences_text(policies),
        samples=[(sample.prompt, samples_text(sample)) for sample in report.samples],
        latents=None if not report.latents else latents_text(report.latents),
        alarms={name: found.alarms for name, found in report.latents.items() if found.alarms},
        configuration=flat(report.configuration),
        environment=flat(report.environment),
    )


def save_report(path: Path, report: Report) -> None:
    """Write the page to ``path``, atomically."""
    write_text(path, render_report(report))


def controls_text(compared: Mapping[str, Any]) -> TableText:
    """The controls beside what a sound method shows under each."""
    return TableText(
        ("N", "method", "control", "accuracy", "change", "expected"),
        tuple(
            (
                str(row["n_clients"]),
                row["method"],
                row["control"].replace("_", " "),
                worded(row["mean"], row["ci95"]),
                _estimate(row["difference"]),
                CONTROLS.get(row["control"], MISSING),
            )
            for row in compared["controls"]
        ),
    )


def differences_text(compared: Mapping[str, Any]) -> TableText:
    """Paired differences, a star where Holm's adjusted p is below 0.05."""
    return TableText(
        ("N", "difference", "accuracy", "p (Holm)"),
        tuple(
            (
                str(row["n_clients"]),
                f"{row['first']} − {row['second']}",
                worded(row["mean"], row["ci95"]),
                _starred(row["p_holm"]),
            )
            for row in compared["differences"]
        ),
    )


def policy_differences_text(policies: Mapping[str, Any]) -> TableText:
    """Paired differences of win rates, a star where Holm's adjusted p is below 0.05."""
    return TableText(
        ("N", "difference", "preference", "win rate", "p (Holm)"),
        tuple(
            (
                str(row["n_clients"]),
                f"{row['first']} − {row['second']}",
                row["preference"],
                worded(row["mean"], row["ci95"]),
                _starred(row["p_holm"]),
            )
            for row in policies["policy_differences"]
        ),
    )


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
        line("clients", [found.clients for found in reports], 0),
        line("active units (posterior mean varies)", [found.active_units for found in reports], 0),
        line("KL to N(0, I), nats", [found.kl for found in reports]),
        line("what z can tell of its client at most, nats", [found.information for found in reports]),
        line("silhouette of posterior means, true groups", [found.silhouette for found in reports]),
        line("adjusted Rand index, k-means and true groups", [found.posterior_ari for found in reports]),
        line("silhouette, prototype labels", [found.prototype_silhouette for found in reports]),
        line("adjusted Rand index, prototype labels and true groups", [found.prototype_ari for found in reports]),
        line("largest cosine between two prototypes", [_largest_cosine(found) for found in reports]),
        ("clients per prototype", *(_counts(found) for found in reports)),
        line("effective prior components", [found.prior_components for found in reports], 1),
    )
    return TableText(("", *latents), tuple(row for row in rows if any(cell != MISSING for cell in row[1:])))


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested sections as (dotted key, value in words), in their order."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        pairs.extend(flat(value, f"{key}.") if isinstance(value, Mapping) and value else [(key, _plain(value))])
    return pairs


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("fedvpa.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _plain(value: Any) -> str:
    if value is None or value == {} or value == [] or value == ():
        return MISSING
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _estimate(value: Mapping[str, Any] | None) -> str:
    return MISSING if value is None else worded(value["mean"], value["ci95"])


def _starred(p_value: float) -> str:
    words = "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
    return f"{words} *" if p_value < SIGNIFICANT else words


def _largest_cosine(found: LatentReport) -> float | None:
    if found.prototype_gram is None or len(found.prototype_gram) < 2:
        return None
    size = len(found.prototype_gram)
    return max(found.prototype_gram[i][j] for i in range(size) for j in range(i))


def _counts(found: LatentReport) -> str:
    return MISSING if found.prototype_counts is None else " / ".join(map(str, found.prototype_counts))
