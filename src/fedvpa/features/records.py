"""What is known of each pair beside its features, and the report that a table of pairs makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedvpa.features.keys import KEY_BYTES
from fedvpa.features.store import FeatureReport
from fedvpa.features.tokens import NOTE
from fedvpa.models.architecture import Kind

PAIR = np.dtype(
    [("key", f"S{2 * KEY_BYTES}"), ("texts", "<i8", (2,)), ("reason", "<i4"), ("shares", "?"), *NOTE.descr],
)
"""One pair: its key, the places of its responses' features, why it cannot be read (0: it can; else the number of the
reason, counted from 1), whether its prompt may be computed once for both responses, and what its tokens lost."""

Records: TypeAlias = NDArray[Any]
"""A structured array of ``PAIR``."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a pair cannot be read, and what to do about it."""

    problem: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a language model is to extraction.

    Attributes:
        kind: ``causal`` or ``encoder``.
        dimension: Length of a feature vector.
        obstacle: Why no pair can compute its prompt once for both responses; empty if pairs can.
        window: The longest sequence that can share its prompt; None without a limit.
    """

    kind: Kind
    dimension: int
    obstacle: str
    window: int | None

    def shares(self, length: int) -> bool:
        """Whether a sequence of so many tokens can share its prompt with another."""
        return not self.obstacle and (self.window is None or length <= self.window)


def report_of(records: Records, reasons: Sequence[Reason], facts: Facts) -> FeatureReport:
    """The report of a table.

    Args:
        records: Of its pairs, in its order.
        reasons: Those that ``records`` number.
        facts: Of the language model.
    """
    unreadable = np.flatnonzero(records["reason"])
    beyond = 0 if facts.obstacle else int((~records["shares"]).sum())
    window = f"{beyond} pairs are longer than the attention window of {facts.window} tokens" if beyond else ""
    return FeatureReport(
        pairs=len(records),
        dimension=facts.dimension,
        kind=facts.kind,
        pairs_sharing_prompt=int(records["shares"].sum()),
        obstacle=facts.obstacle or window,
        prompt_tokens=int(records["prompt_tokens"].sum(dtype=np.int64)),
        response_tokens=int(records["response_tokens"].sum(dtype=np.int64)),
        prompts_truncated=int(records["prompt_cut"].sum()),
        responses_truncated=int(records["responses_cut"].sum(dtype=np.int64)),
        equal_rows=_rows(records["equal"]),
        spelling_rows=_rows(records["spells"]),
        unreadable_rows=tuple(unreadable.tolist()),
        unreadable_reasons=tuple(reasons[number - 1].problem for number in records["reason"][unreadable]),
        first_cut=(_first(records["prompt_cut"]), _first(records["responses_cut"])),
    )


def _rows(noted: NDArray[Any]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(noted).tolist())


def _first(noted: NDArray[Any]) -> int | None:
    return next(iter(np.flatnonzero(noted)[:1].tolist()), None)
