"""What a comparison says, as frozen results; their JSON is ``comparison.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedvpa.core.short_repr import short_repr
from fedvpa.evaluation.accuracy_results import AccuracyComparison
from fedvpa.evaluation.bayes_rows import BayesRow
from fedvpa.evaluation.policy_results import PolicyComparison
from fedvpa.evaluation.privacy_rows import PrivacyRow
from fedvpa.evaluation.samples import SideBySide
from fedvpa.evaluation.summaries import JsonResult
from fedvpa.evaluation.switching import SwitchingCurve
from fedvpa.runs.scores import ConflictRow


@dataclass(frozen=True, repr=False)
class SelectorComparison:
    """Accuracy of the methods' selectors.

    Attributes:
        accuracy: Rows, summary, controls and differences.
        conflicting: Accuracy on the test pairs that the bundled world's groups order in different ways.
        data: What was read, and what of it was left out, cut or changed, as JSON: in the first run, and in the
            hold-out, whose key is there only where there is one. None of runs that did not keep it.
        bayes: Methods beside whoever knows each user's true utility; on the bundled world only.
        views: What else the runs were scored on: ``ablations``, ``shots`` and ``four_way``, where they were asked for.
        privacy: What each method or variant with noise costs.
    """

    accuracy: AccuracyComparison
    conflicting: tuple[ConflictRow, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    bayes: tuple[BayesRow, ...] = ()
    views: Mapping[str, tuple[JsonResult, ...]] = field(default_factory=dict)
    privacy: tuple[PrivacyRow, ...] = ()

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``comparison.json`` that are about selectors."""
        rows = {"bayes_rows": [row.to_dict() for row in self.bayes]} if self.bayes else {}
        rows |= {"privacy_rows": [row.to_dict() for row in self.privacy]} if self.privacy else {}
        return self.accuracy.to_dict() | {
            "conflicting": [row.to_dict() for row in self.conflicting],
            **rows,
            **{name: [row.to_dict() for row in found] for name, found in self.views.items()},
            **self.data,
        }


@dataclass(frozen=True, repr=False)
class PoliciesComparison:
    """Win rates of the methods' policies.

    Attributes:
        win_rates: Rows, summary and differences.
        switching: How utilities move with z; None where no method with a latent was compared.
        samples: Prompts answered along the way from one preference to the other.
        notes: What is not judged, and why, in sentences.
        accuracy: Of a judge that was trained on labelled pairs: preference → its accuracy on held-out ones, as JSON.
    """

    win_rates: PolicyComparison
    switching: SwitchingCurve | None
    samples: tuple[SideBySide, ...]
    notes: tuple[str, ...] = ()
    accuracy: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``comparison.json`` that are about policies."""
        found = self.win_rates.to_dict() | {"policy_notes": list(self.notes)}
        if self.accuracy:
            found["policy_judge_accuracy"] = {name: dict(value) for name, value in sorted(self.accuracy.items())}
        if self.switching is None:
            return found
        samples = [sample.to_dict() for sample in self.samples]
        return found | {"switching": self.switching.to_dict(), "policy_samples": samples}


@dataclass(frozen=True, repr=False)
class ComparisonResult:
    """A finished comparison.

    Attributes:
        out: Its folder.
        selectors: Of stage 1.
        policies: Of stage 2; None where it was not compared.
        page: What a report shows beside these, and they do not know: the command that made the comparison
            (``command``), and of the demo its ``title``, ``few_shot``, ``latent_map`` and ``bayes``.
    """

    out: Path
    selectors: SelectorComparison
    policies: PoliciesComparison | None = None
    page: Mapping[str, Any] = field(default_factory=dict, repr=False)

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """What ``comparison.json`` holds."""
        policies = {} if self.policies is None else self.policies.to_dict()
        return self.selectors.to_dict() | policies | dict(self.page)
