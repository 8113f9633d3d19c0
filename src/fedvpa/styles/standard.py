"""What is usual for a base model: the scale on which properties of texts are weighed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from fedvpa.core.errors import ConfigError
from fedvpa.styles.fluency import MEASURES, Fluency
from fedvpa.styles.properties import NAMES, measure

LEAST_DIFFERING = 0.2
"""A property varies if so large a share of pairs of samples of one prompt differs in it. Chosen by us: below it, four
labels in five say nothing about the property, and DPO finds no text that has more of it."""

EQUAL = 1e-9
"""Values of a property that are no further apart are equal."""


@dataclass(frozen=True)
class Spread:
    """How one property is distributed over the samples of a base model.

    Attributes:
        mean: Over all samples.
        deviation: The standard deviation over all samples.
        within: The root of the mean variance among the samples of one prompt: all that a label can be about.
        differing: The share of pairs of samples of one prompt that differ in it.
    """

    mean: float
    deviation: float
    within: float
    differing: float

    @property
    def varies(self) -> bool:
        """Whether labels can be about it."""
        return self.deviation > EQUAL and self.differing >= LEAST_DIFFERING


@dataclass(frozen=True)
class Standard:
    """The scale of a base model.

    Attributes:
        spreads: Property → its spread.
        fluency: What nearly all samples reach.
    """

    spreads: Mapping[str, Spread]
    fluency: Fluency

    @classmethod
    def of(cls, samples: Sequence[Sequence[str]]) -> Standard:
        """The scale of some samples.

        Args:
            samples: For each prompt its samples, two or more.
        """
        values = [measure(own) for own in samples]
        flat = np.concatenate(values)
        deviation = flat.std(axis=0, ddof=1)
        within = np.sqrt(np.mean([own.var(axis=0, ddof=1) for own in values], axis=0))
        differing = np.concatenate([np.abs(_gaps(own)) > EQUAL for own in values]).mean(axis=0)
        rows = zip(flat.mean(axis=0), deviation, within, differing, strict=True)
        spreads = {name: Spread(*map(float, row)) for name, row in zip(NAMES, rows, strict=True)}
        return cls(spreads, Fluency.of([text for own in samples for text in own]))

    def tastes(self, texts: Sequence[str]) -> Float[np.ndarray, "texts properties"]:
        """What is weighed of texts: tanh((x − mean)/deviation) of each property x, in (−1, 1); 0 of one without spread.

        The tanh keeps a text from winning by ever more of one thing.
        """
        mean = np.array([self.spreads[name].mean for name in NAMES])
        deviation = np.array([self.spreads[name].deviation for name in NAMES])
        usable = deviation > EQUAL
        scaled = (measure(texts) - mean) / np.where(usable, deviation, 1.0)
        return np.where(usable, np.tanh(scaled), 0.0)

    def check_varies(self, weights: Mapping[str, Mapping[str, float]], what: str) -> None:
        """Refuse weights of properties that labels of these samples cannot be about.

        Args:
            weights: Name of a taste → property → its weight.
            what: Whose they are, for the message.

        Raises:
            ConfigError: Naming all such properties.
        """
        weighed = [name for name in NAMES if any(own.get(name) for own in weights.values())]
        constant = [name for name in weighed if not self.spreads[name].varies]
        if not constant:
            return
        named = ", ".join(f"{name} (differs in {self.spreads[name].differing:.0%} of pairs)" for name in constant)
        varying = ", ".join(name for name, spread in self.spreads.items() if spread.varies) or "none"
        raise ConfigError(
            f"{what} weighs properties that hardly vary among the model's samples of one prompt: {named}; needed are "
            f"{LEAST_DIFFERING:.0%}.",
            fix=f"Take another population, or give a file of weights over properties that vary: {varying}. More tokens "
            "(--max-new-tokens) or a higher --temperature make samples differ more.",
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "properties": {
                name: {
                    "mean": spread.mean,
                    "deviation": spread.deviation,
                    "within_prompt": spread.within,
                    "differing": spread.differing,
                }
                for name, spread in self.spreads.items()
            },
            "fluency": {
                "function_words": self.fluency.usual,
                "floors": dict(zip(MEASURES, self.fluency.floors, strict=True)),
            },
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Standard:
        """What :meth:`to_dict` gave. Raises KeyError, TypeError or ValueError if it is something else."""
        spreads = {
            name: Spread(
                *(float(saved["properties"][name][key]) for key in ("mean", "deviation", "within_prompt", "differing"))
            )
            for name in NAMES
        }
        fluency = saved["fluency"]
        floors = tuple(float(fluency["floors"][name]) for name in MEASURES)
        return cls(spreads, Fluency(float(fluency["function_words"]), floors))


def _gaps(values: Float[np.ndarray, "samples properties"]) -> Float[np.ndarray, "pairs properties"]:
    """The differences of all pairs of samples of one prompt."""
    first, second = np.triu_indices(len(values), k=1)
    return values[first] - values[second]
