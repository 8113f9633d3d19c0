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

from fedvpa.core.config import flat
from fedvpa.core.files import write_text
from fedvpa.evaluation.judge_bias import bias_warnings, judge_lines
from fedvpa.evaluation.latents import LatentReport
from fedvpa.evaluation.report.audit_table import audit_text
from fedvpa.evaluation.report.cells import TableText
from fedvpa.evaluation.report.data_tables import counts_text, privacy_text, unused_text
from fedvpa.evaluation.report.detail_tables import (
    controls_text,
    differences_text,
    latents_text,
    policy_differences_text,
    samples_text,
)
from fedvpa.evaluation.report.protocol_tables import protocol_tables
from fedvpa.evaluation.report.stage2 import labels_text, left_out_text, looks_text, policies_text
from fedvpa.evaluation.report.style import figure_uri
from fedvpa.evaluation.report.tables import interval_key, policy_summary_text, summary_text
from fedvpa.evaluation.samples import SideBySide
from fedvpa.privacy.statement import SIMULATION


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
        command: The commands that make the run or comparison again, one a line.
        comparison: What :func:`fedvpa.evaluation.accuracy_tables.comparison` returned, as JSON.
        figures: In the order of the page.
        latents: Method → its latent diagnostics.
        configuration: The resolved configuration, nested as it is.
        environment: Versions, hardware, seed, commit.
        notes: What a reader has to know to judge the numbers, one paragraph each.
        policies: What :func:`fedvpa.evaluation.win_rates.policy_comparison` returned, as JSON.
        policy_figures: Figures on policies, in the order of the page.
        stage2: What ``policy/metrics.json`` of a run holds.
        steps: Name of a policy → the lines of its history.
        objectives: What training towards several objectives came to.
        audit: What ``audit.json`` of a run holds.
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
    stage2: Mapping[str, Any] | None = None
    steps: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    objectives: TableText | None = None
    audit: Mapping[str, Any] | None = None
    samples: Sequence[SideBySide] = ()


def embedded(title: str, figure: Figure, caption: str) -> ReportFigure:
    """A matplotlib figure, ready for the page."""
    return ReportFigure(title, figure_uri(figure, "svg"), caption)


def render_report(report: Report) -> str:
    """The report as one HTML page."""
    compared, policies = report.comparison, report.policies
    trained = [] if report.stage2 is None else list(report.stage2["policies"].values())
    return _template().render(
        report=report,
        summary=None if compared is None else summary_text(compared),
        interval_key=None if compared is None else interval_key(compared["summary"], "models"),
        counts=None if compared is None else counts_text(compared),
        unused=None if compared is None else unused_text(compared),
        privacy=None if compared is None else privacy_text(compared),
        audit=audit_text(report.audit),
        simulation=SIMULATION if compared is not None and (compared.get("privacy") or {}).get("seeded") else "",
        further=[] if compared is None else protocol_tables(compared),
        controls=None if compared is None else controls_text(compared),
        differences=None if compared is None else differences_text(compared),
        policies=None if policies is None else policy_summary_text(policies),
        policy_key=None if policies is None else interval_key(policies["policy_summary"], "policies"),
        judges=[] if policies is None else judge_lines(policies.get("policy_judges", [])),
        warnings=[] if policies is None else bias_warnings(policies.get("policy_judges", [])),
        stage2=None if report.stage2 is None else policies_text(report.stage2),
        objectives=report.objectives,
        labels=None if report.stage2 is None else labels_text(report.stage2),
        looks={name or "all users": looks_text(lines) for name, lines in report.steps.items()},
        stage2_privacy=[privacy_text(notes) for notes in trained],
        stage2_simulation=SIMULATION if any((one.get("privacy") or {}).get("seeded") for one in trained) else "",
        stage2_pairs=None if report.stage2 is None else left_out_text(report.stage2),
        policy_differences=None if policies is None else policy_differences_text(policies),
        samples=[(sample.prompt, samples_text(sample)) for sample in report.samples],
        latents=None if not report.latents else latents_text(report.latents),
        alarms={name: latents.alarms for name, latents in report.latents.items() if latents.alarms},
        configuration=flat(report.configuration),
        environment=flat(report.environment),
    )


def save_report(path: Path, report: Report) -> None:
    """Write the page to ``path``, atomically."""
    write_text(path, render_report(report))


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
