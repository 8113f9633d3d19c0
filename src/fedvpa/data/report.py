"""What of the data is left out, cut or changed, and why: one structure for all rooms, shown to the user at the end.

Nothing is dropped without a word. Who leaves out a row, a pair or a user, cuts a text, or changes one, adds a
:class:`Finding` to the :class:`DataReport` of the data: the sources while they read, the partition, and the rooms that
see more only after they rendered and tokenised. ``data`` in ``metrics.json`` is this report.

How a room adds to it::

    table = table.noting([3, 17], "both responses are equal once cut to 256 tokens")
    table = table.noting([5], "longer than 256 tokens", effect="cut", unit="response", count=2)

A room that holds pairs and no table starts a report of its own and hands it on; every pair knows its place::

    report = DataReport(strict=strict)
    for pair in pairs:
        if is_cut(pair):
            report = report.add("longer than 256 tokens", pair.place, effect="cut", unit="response")

Where it goes from there: ``train``, ``evaluate``, ``personalize`` and ``compare`` print and write the report of their
table (``Prepared.table.report``); ``align`` writes that of the run's pairs as ``data`` of ``policy/metrics.json``, and
a policy that rendered texts of its own puts ``"data": report.to_dict()`` into the notes that its job returns.

Under ``data.strict`` adding is the error: whoever adds needs no check of its own. ``noting`` does not take rows out of
the table, whose row numbers index features and users; who leaves rows out gives them to nobody. The first place is kept
by the order of adding, so add in the order of the rows. A cache that answers without reading the texts again keeps
the row numbers, and they are added when it is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fedvpa.core.errors import DataError
from fedvpa.core.progress import say

Effect = Literal["left out", "cut", "changed"]
"""What happened to it: it is not used, used in part, or used with another text."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is left out, cut or changed, how often, and where first.

    Attributes:
        effect: What happened to it.
        unit: What is counted, in the singular: ``row`` (of a file), ``pair``, ``user``, ``prompt``, ``response``,
            ``text``.
        reason: Why, in a few words that follow a colon.
        count: How many.
        first: The place of the first one, as ``file:row``; of the bundled world the name of a pair.
    """

    effect: Effect
    unit: str
    reason: str
    count: int
    first: str

    def __str__(self) -> str:
        plural = "" if self.count == 1 else "s"
        first = f" (first: {self.first})" if self.first else ""
        return f"{self.count:,} {self.unit}{plural} {self.effect}: {self.reason}{first}"


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was read, and what of it is not used as it was given.

    Attributes:
        read: Rows seen.
        strict: Whether adding a finding is an error (``data.strict``).
        findings: In the order in which each was first seen; one for each effect, unit and reason.
        counts: What ``read`` counts, in the singular: a row, or a pair where a row holds several.
    """

    read: int = 0
    strict: bool = False
    findings: tuple[Finding, ...] = ()
    counts: str = "row"

    def add(
        self,
        reason: str,
        first: str,
        *,
        effect: Effect = "left out",
        unit: str = "pair",
        count: int = 1,
        asked: bool = False,
    ) -> DataReport:
        """This report and one more finding. One of the same effect, unit and reason is counted on.

        Args:
            reason: Why, in a few words; the same words each time, without numbers that differ from row to row.
            first: The place.
            effect: What happened.
            unit: What is counted.
            count: How many; 0 adds nothing.
            asked: The configuration asks for it (``drop_small``), so it is no error under ``strict``.

        Raises:
            DataError: Under ``strict``, with the place.
        """
        return self.join([Finding(effect, unit, reason, count, first)], asked=asked)

    def join(self, findings: Iterable[Finding], *, asked: bool = False) -> DataReport:
        """This report and further findings. Arguments and errors as of :meth:`add`."""
        known = {(one.effect, one.unit, one.reason): one for one in self.findings}
        for finding in findings:
            if not finding.count:
                continue
            if self.strict and not asked:
                raise _refusal(finding)
            key = (finding.effect, finding.unit, finding.reason)
            known[key] = replace(known[key], count=known[key].count + finding.count) if key in known else finding
        return replace(self, findings=tuple(known.values()))

    @property
    def skipped(self) -> dict[str, int]:
        """Reason → rows and pairs left out for it."""
        counts = Counter[str]()
        for one in self._left_out:
            counts[one.reason] += one.count
        return dict(counts)

    @property
    def examples(self) -> dict[str, str]:
        """Reason → the first place of a row or pair that was left out for it."""
        return {one.reason: one.first for one in reversed(self._left_out)}

    @property
    def used(self) -> int:
        """Rows that were read and not left out."""
        return self.read - sum(self.skipped.values())

    def lines(self, what: str = "data") -> list[str]:
        """What the terminal shows: a line with the counts, one for each finding; nothing if there is none."""
        if not self.findings:
            return []
        return [
            f"{what}: {self.used:,} of {self.read:,} {self.counts}s used",
            *(f"  {finding}" for finding in self.findings),
        ]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: ``read``, ``used`` and ``findings``, each with the attributes of :class:`Finding`."""
        return {"read": self.read, "used": self.used, "findings": [asdict(finding) for finding in self.findings]}

    @property
    def _left_out(self) -> list[Finding]:
        return [one for one in self.findings if one.effect == "left out" and one.unit in ("row", "pair")]


def say_report(report: DataReport, what: str = "data") -> None:
    """Show a report on stderr; nothing if there is no finding.

    Args:
        report: What to show.
        what: What was read, such as a file.
    """
    for line in report.lines(what):
        say(line)


def _refusal(finding: Finding) -> DataError:
    """The error that stands for a finding under ``strict``."""
    if finding.effect == "left out":
        problem, fix = f"{finding.reason}.", "Repair the row, or leave such rows out with data.strict=false."
    else:
        problem = f"a {finding.unit} would be {finding.effect}: {finding.reason}."
        fix = "Repair it, or let fedvpa count such texts with data.strict=false."
    return DataError(problem, fix=fix, where=finding.first)
