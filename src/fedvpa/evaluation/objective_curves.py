"""How a training towards several objectives went, from its history: rewards, weights λ, disagreement, drift, bytes.

The keys are those that ``firm`` and its yardsticks write to ``policy/history.jsonl``: ``reward.after.NAME`` and
``lambda.NAME`` of each objective, ``disagreement`` D_λ = mean over clients of ‖λ_i − λ̄‖, ``drift`` D_θ, ``vertex`` (the
share of local steps in which one objective has all the weight), ``kl``, ``uplink_bytes`` and ``downlink_bytes``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedvpa.evaluation.reward_curves import roughness
from fedvpa.evaluation.summaries import JsonResult

REWARD, WEIGHT = "reward.after.", "lambda."
FIRST_REWARD = "reward.before."
MEANS = ("disagreement", "drift", "vertex")
"""Of several clients or steps; what they say is their mean over rounds."""

Lines = Sequence[Mapping[str, Any]]
"""Of one ``history.jsonl``, in the order of the rounds."""


@dataclass(frozen=True, slots=True)
class ObjectiveCurve(JsonResult):
    """One objective over the rounds of a training.

    Attributes:
        first: Mean reward of the samples of the first round's first local step: those of the base policy.
        last: Mean reward of the samples of the last round's last local step.
        roughness: Of the curve; see :func:`fedvpa.evaluation.reward_curves.roughness`.
        weight: Mean λ over rounds; None where the method has none.
    """

    first: float | None
    last: float
    roughness: float | None
    weight: float | None


@dataclass(frozen=True, slots=True)
class ObjectiveSummary(JsonResult):
    """A training towards several objectives.

    Attributes:
        objectives: Objective → its curve.
        disagreement: D_λ, mean over rounds; None where it is not told.
        drift: D_θ, mean over rounds.
        vertex: Share of local steps at a vertex, mean over rounds.
        kl: To the base policy at the end, in nats.
        uplink_bytes: Of all rounds, sent by clients.
        downlink_bytes: Of all rounds, sent to clients.
        rounds: How many.
    """

    objectives: Mapping[str, ObjectiveCurve]
    disagreement: float | None
    drift: float | None
    vertex: float | None
    kl: float | None
    uplink_bytes: int
    downlink_bytes: int
    rounds: int


def objectives_of(lines: Lines) -> list[str]:
    """The objectives that a history tells of, in its order; none of a training towards one loss."""
    return list(dict.fromkeys(key.removeprefix(REWARD) for line in lines for key in line if key.startswith(REWARD)))


def curve(lines: Lines, key: str) -> tuple[list[int], list[float]]:
    """Rounds that have a value under a key, and the values."""
    known = [(int(line["round"]), float(line[key])) for line in lines if line.get(key) is not None]
    return [round_ for round_, _ in known], [value for _, value in known]


def summarise_objectives(lines: Lines) -> ObjectiveSummary | None:
    """What a history tells of its objectives; None where it tells of none."""
    names = objectives_of(lines)
    if not names:
        return None
    means = {key: _mean(lines, key) for key in MEANS}
    kl = curve(lines, "kl")[1]
    return ObjectiveSummary(
        objectives={name: _objective(lines, name) for name in names},
        **means,
        kl=kl[-1] if kl else None,
        uplink_bytes=sum(int(line["uplink_bytes"]) for line in lines),
        downlink_bytes=sum(int(line["downlink_bytes"]) for line in lines),
        rounds=len(lines),
    )


def _objective(lines: Lines, name: str) -> ObjectiveCurve:
    values, before = curve(lines, REWARD + name)[1], curve(lines, FIRST_REWARD + name)[1]
    first = before[0] if before else None
    return ObjectiveCurve(first, values[-1], roughness(values), _mean(lines, WEIGHT + name))


def _mean(lines: Lines, key: str) -> float | None:
    values = curve(lines, key)[1]
    return float(np.mean(values)) if values else None
