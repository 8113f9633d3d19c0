"""Whether bfloat16 gives the features of some texts faster than float32 on this machine, and near enough: measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fedvpa.data.schema import Pair
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.reader import Reader
from fedvpa.features.work import compute
from fedvpa.models.locate import ModelSource

PAIRS = 32
"""So many pairs are computed both ways. Chosen by us: three timed parts of about one batch each, and one to warm up."""

PARTS = 4
"""The first part warms up, since libraries prepare their products at the first call; the others are timed."""

MARGIN = 1.25
"""bfloat16 is taken if it is so many times as fast in each timed part. Chosen by us: where it pays, it was 1.7 times as
fast; less than a quarter is not worth other features."""

HOPELESS = 0.5
"""Nothing more is tried if the warming part is that slow. Chosen by us: on some processors bfloat16 was five times
slower, and preparing products does not take as long as the products."""

LIMIT = 0.02
"""How far the differences of pairs may be off: ‖error‖ / ‖differences‖ over all pairs, of the layer that is worst.
Chosen by us: it was 1.6% with SmolLM2, and a preference label carries far less than that."""


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        speed: How many times as fast bfloat16 was as float32, in the timed part where it was the least.
        error: How far it moves the differences of pairs, see ``LIMIT``; None if that was not computed, as it was slow.
        problem: Why it cannot be compared; empty if it can.
    """

    speed: float
    error: float | None = None
    problem: str = ""

    @property
    def dtype(self) -> str:
        """The precision to take."""
        near = self.error is not None and self.error <= LIMIT
        return "bfloat16" if self.speed >= MARGIN and near and not self.problem else "float32"

    def __str__(self) -> str:
        if self.problem:
            return f"float32, since bfloat16 cannot be compared ({self.problem})"
        if self.speed < MARGIN or self.error is None:
            return f"float32, since bfloat16 is {self.speed:.2f} times as fast here, and {MARGIN} is asked for"
        off = f"differences of a pair's features are off by {self.error:.1%}"
        if self.dtype == "float32":
            return f"float32, since in bfloat16 {off}, and {LIMIT:.0%} is allowed"
        return f"bfloat16, {self.speed:.2f} times as fast here as float32; {off}"


def calibrate(pairs: Sequence[Pair], config: FeatureConfig, source: ModelSource) -> Calibration:
    """Compute the features of pairs in float32, then in bfloat16.

    One model is in memory at a time. Processor time is compared, so that other programs beside do not decide.

    Args:
        pairs: At least ``PARTS`` of those whose features are wanted.
        config: The model and how to read it.
        source: The located model.

    Raises:
        ModelError: If the model cannot be used in float32 either.
    """
    parts = [pairs[number::PARTS] for number in range(PARTS)]
    exact, times = [], []
    reader = _reader(config, source, "float32")
    for part in parts:
        seconds, differences = _timed(reader, part, config)
        times.append(seconds)
        exact.append(differences)
    del reader
    half, ratios = [], []
    try:
        reader = _reader(config, source, "bfloat16")
        for part, theirs in zip(parts, times, strict=True):
            seconds, differences = _timed(reader, part, config)
            half.append(differences)
            ratios.append(theirs / seconds)
            if _too_slow(ratios):
                return Calibration(_speed(ratios))
    except RuntimeError as error:  # what torch raises without a kernel; NotImplementedError is one too
        return Calibration(0.0, problem=type(error).__name__)
    off = furthest(np.concatenate(half), np.concatenate(exact), len(config.layers))
    if not np.isfinite(off):
        return Calibration(_speed(ratios), problem="its features are not finite, or no pair has two responses")
    return Calibration(_speed(ratios), off)


def furthest(found: Float[np.ndarray, "n d"], exact: Float[np.ndarray, "n d"], layers: int) -> float:
    """‖found − exact‖ / ‖exact‖ of the layer where that is the most; not finite where all differences are zero.

    Args:
        found: Differences of pairs, layer beside layer.
        exact: The same.
        layers: How many layers there are.
    """
    off = [np.linalg.norm(part) for part in np.split(found - exact, layers, axis=1)]
    size = [np.linalg.norm(part) for part in np.split(exact, layers, axis=1)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.max(np.divide(off, size)))


def _speed(ratios: Sequence[float]) -> float:
    return min(ratios[1:] or ratios)


def _too_slow(ratios: Sequence[float]) -> bool:
    return _speed(ratios) < (MARGIN if len(ratios) > 1 else HOPELESS)


def _reader(config: FeatureConfig, source: ModelSource, dtype: str) -> Reader:
    exact = config.model_copy(update={"dtype": dtype})
    return Reader.of(load_backbone(exact, source), exact)


def _timed(reader: Reader, pairs: Sequence[Pair], config: FeatureConfig) -> tuple[float, Float[np.ndarray, "n d"]]:
    """Seconds of processor time for the features of pairs, and their differences; 0 for a pair that cannot be read."""
    read = reader.read(pairs)
    vectors = np.zeros((len(read.keys), reader.facts.dimension), np.float32)
    began = time.process_time()
    for texts, features in compute(reader.plan(read), reader.backbone, config.batch_budget("cpu")):
        vectors[texts] = features
    seconds = time.process_time() - began
    chosen, rejected = (vectors[read.records["texts"][:, side]] for side in (0, 1))
    return seconds, chosen - rejected
