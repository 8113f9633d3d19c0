"""Training of a judge: a linear reward for each preference, on labelled pairs that no method sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from fedvpa.core.errors import DataError
from fedvpa.core.options import column_option
from fedvpa.data.reserve import pair_identity, words
from fedvpa.data.schema import Pair, PairTable
from fedvpa.data.text import plain_text
from fedvpa.evaluation.student import constant_interval, is_constant, t_interval
from fedvpa.evaluation.variance import Spread
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import load_features
from fedvpa.features.precision import settled
from fedvpa.models.locate import locate
from fedvpa.rewards.base import HeldOutAccuracy
from fedvpa.rewards.held_out import SURFACE, as_read
from fedvpa.rewards.held_out_files import SavedJudge
from fedvpa.rewards.linear import fit_linear

EVERYBODY = "all"
"""The preference of data that name no groups, as policies are judged under it."""

FEWEST_PROMPTS = 20
"""A preference with fewer prompts has no reward: an accuracy on so few says nothing. Chosen by us."""

TAIL = 0.025


def train_judge(table: PairTable, model: str, data: str, features: FeatureConfig | None = None) -> SavedJudge:
    """Train a reward for each group of the pairs.

    Args:
        table: Pairs that no method sees. If they name no groups, the one preference is ``all``.
        model: The language model that reads responses, a folder or a hub id.
        data: Where the pairs are from, in words.
        features: How it reads them; by default those of :class:`~fedvpa.features.config.FeatureConfig` and what can be
            counted in a response (:data:`~fedvpa.rewards.held_out.SURFACE`).

    Raises:
        DataError: If some pairs have a group and others none, or a group has too few prompts.
        ModelError: If the language model cannot be loaded.
    """
    config = (features or FeatureConfig(surface=SURFACE)).model_copy(update={"model": model})
    by_group = _by_group(table)
    read = as_read(table)
    config = settled(config, read)
    store = load_features(read, config)
    equal = set(store.report.equal_rows)
    weights, strengths, accuracy = dict[str, torch.Tensor](), dict[str, float](), dict[str, HeldOutAccuracy]()
    trained: set[int] = set()
    for name, all_rows in by_group.items():
        rows = [row for row in all_rows if row not in equal]
        pairs = [read.pairs[row] for row in rows]
        units = [words(pair.prompt) for pair in pairs]
        _check_enough(name, len(set(units)))
        fit = fit_linear(store.differences(rows), units)
        weights[name], strengths[name] = torch.from_numpy(fit.weights), fit.strength
        accuracy[name] = held_out_accuracy(fit.margins, pairs, units)
        trained |= {pair_identity(pair) for pair in pairs}
    return SavedJudge(config, locate(model).content(), weights, strengths, accuracy, frozenset(trained), data)


def held_out_accuracy(margins: Float[np.ndarray, " n"], pairs: Sequence[Pair], units: Sequence[str]) -> HeldOutAccuracy:
    """How often margins of pairs are above zero, with an interval over units.

    Args:
        margins: r(chosen) − r(rejected), of a reward that was not fitted to the pair.
        pairs: The pairs.
        units: The prompt of each.
    """
    right = (1.0 + np.sign(margins)) / 2
    return HeldOutAccuracy(
        value=float(right.mean()),
        ci95=_interval(right, units),
        pairs=len(right),
        prompts=len(set(units)),
        longer=float(longer_preferred(pairs).mean()),
    )


def longer_preferred(pairs: Sequence[Pair]) -> Float[np.ndarray, " n"]:
    """1 where the preferred response is the longer one, ½ where both are equally long, 0 elsewhere."""
    gaps = np.array([len(plain_text(pair.chosen)) - len(plain_text(pair.rejected)) for pair in pairs])
    return (1.0 + np.sign(gaps)) / 2


def _interval(right: Float[np.ndarray, " n"], units: Sequence[str]) -> tuple[float, float] | None:
    """Student's t on the logarithm of the odds; pairs of one prompt are not independent, so prompts are counted."""
    number = {unit: place for place, unit in enumerate(dict.fromkeys(units))}
    if len(number) < 2:
        return None
    mean = float(right.mean())
    if is_constant(right):
        return constant_interval(mean, (0.0, 1.0), len(number), TAIL)
    residuals = np.bincount([number[unit] for unit in units], right - mean)
    count = len(number)
    variance = float((residuals**2).sum()) * count / (count - 1) / len(right) ** 2
    return t_interval(mean, Spread(np.array([[variance]]), count - 1), (0.0, 1.0), TAIL)


def _by_group(table: PairTable) -> Mapping[str, list[int]]:
    """Group → rows, in sorted order."""
    names = [pair.group for pair in table.pairs]
    if not any(names):
        return {EVERYBODY: list(range(len(table)))}
    found: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name is None:
            raise DataError(
                "has no group, and others have one: a judge has a reward for each group.",
                fix=f"Give every pair a group, or name its column: {column_option('group')}.",
                where=table.pairs[row].place or f"pair {row}",
            )
        found.setdefault(name, []).append(row)
    return dict(sorted(found.items()))


def _check_enough(name: str, prompts: int) -> None:
    if prompts < FEWEST_PROMPTS:
        raise DataError(
            f"The preference {name!r} has pairs on {prompts} prompts, and a judge needs {FEWEST_PROMPTS} or more to "
            "know how good it is.",
            fix="Leave more prompts aside (data.reserved), or give more pairs.",
        )
