"""The clients of a run and their features, read when needed: memory follows the cohort, not the population."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.algorithms.base import FeatureSetting
from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.features.standardise import Moments, Standardiser
from fedvpa.features.store import FeatureStore, Side
from fedvpa.selector.config import Rotation
from fedvpa.selector.pairs import Pairs, pad
from fedvpa.selector.rotation import contributors, rotation_of, second_moment
from fedvpa.selector.scaling import Scaling

Split = Literal["train", "validation", "test"]

SLICE_ROWS = 4096
"""Rows that are read and scaled at a time, in float64: a client with very many pairs then needs little more memory than
its features. Chosen by us."""


@dataclass(frozen=True, repr=False)
class PublicScaling:
    """How features are scaled by what no user holds.

    Attributes:
        scaling: The scaling.
        spectrum: As of :class:`~fedvpa.algorithms.base.FeatureSetting`; empty where there are no public pairs.
    """

    scaling: Scaling
    spectrum: tuple[float, ...] = ()

    __repr__ = short_repr


@dataclass(frozen=True, repr=False)
class Federation:
    """Features, and who holds which.

    Attributes:
        store: Features of all pairs, memory-mapped.
        partition: Rows of each client.
        scaling: Fitted on the training pairs of the seen clients.
        weights: Importance weights of all pairs: 2 is the pair twice.
        spectrum: As of :class:`~fedvpa.algorithms.base.FeatureSetting`.
    """

    store: FeatureStore
    partition: Partition
    scaling: Scaling
    weights: NDArray[np.float32]
    spectrum: tuple[float, ...] = ()

    __repr__ = short_repr

    @property
    def dimension(self) -> int:
        """D, of scaled features."""
        return self.scaling.dimension

    @cached_property
    def client_ids(self) -> tuple[str, ...]:
        """The clients that train."""
        return tuple(client.client_id for client in self.partition.seen)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The distinct groups of all clients that have one."""
        return tuple(sorted({client.group for client in self.partition.clients if client.group is not None}))

    @property
    def moments(self) -> Moments:
        """Of the training pairs of the clients that train."""
        return sum_moments(self.store, self.partition, self.weights)

    def second_moment(self, client_ids: Sequence[str]) -> NDArray[np.float64]:
        """Of the differences of some clients' training pairs, added up; see :mod:`fedvpa.selector.rotation`.

        Features are scaled as ``scaling`` says, and not turned. Streamed: memory holds a slice of rows, and [d, d].
        """
        store, exact = self.store, self.scaling.exact
        total = np.zeros((store.chosen.shape[1], store.chosen.shape[1]))
        for name in client_ids:
            for rows in _slices(self.partition.by_id[name].train):
                chosen, rejected = exact(np.asarray(store.chosen[rows])), exact(np.asarray(store.rejected[rows]))
                total += second_moment(chosen, rejected, self.weights[rows])
        return total

    @property
    def setting(self) -> FeatureSetting:
        """What a method has to know before the first round."""
        return FeatureSetting(self.dimension, self.groups, len(self.client_ids), self.spectrum)

    def size(self, client_id: str) -> int:
        """How many training pairs a client holds."""
        return len(self.partition.by_id[client_id].train)

    def held(self, client_id: str) -> Pairs:
        """The scaled features of a client's training pairs."""
        return self.pairs(client_id, "train")

    def pairs(self, client_id: str, split: Split) -> Pairs:
        """The scaled features of one client's pairs."""
        return self.read(getattr(self.partition.by_id[client_id], split))

    def cohort(self, client_ids: Sequence[str], split: Split) -> Pairs:
        """The same for several clients, stacked and padded. One read for all of them; a single client is not copied."""
        sizes = [len(getattr(self.partition.by_id[name], split)) for name in client_ids]
        together = self.read(np.concatenate([getattr(self.partition.by_id[name], split) for name in client_ids]))
        if len(sizes) == 1 and sizes[0]:
            return together.stacked()
        ends = np.cumsum(sizes)
        return pad([together.between(int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True)])

    def read(self, rows: NDArray[np.int64]) -> Pairs:
        """The scaled features of the given rows of the table."""
        chosen, rejected = (self._scaled(side, rows) for side in (self.store.chosen, self.store.rejected))
        slot = torch.from_numpy(1.0 - 2.0 * (rows % 2)).float()
        return Pairs(chosen, rejected, torch.from_numpy(self.weights[rows]), slot)

    def _scaled(self, side: Side, rows: NDArray[np.int64]) -> Tensor:
        if len(rows) <= SLICE_ROWS:
            return self.scaling(np.asarray(side[rows]))
        scaled = torch.empty(len(rows), self.dimension)
        for part, into in zip(_slices(rows), scaled.split(SLICE_ROWS), strict=True):
            into.copy_(self.scaling(np.asarray(side[part])))
        return scaled

    def group_one_hot(self, client_ids: Sequence[str]) -> Tensor:
        """True groups, one-hot, shape [clients, groups]: for the yardsticks and for evaluation.

        Raises:
            DataError: If a client has no single group.
        """
        one_hot = torch.zeros(len(client_ids), len(self.groups))
        for position, name in enumerate(client_ids):
            group = self.partition.by_id[name].group
            if group is None:
                raise DataError(
                    f"Client {name!r} holds pairs of no single group, so methods that read groups are not defined.",
                    fix="Leave oracle, informed and fedgd out of the methods, or partition by group.",
                )
            one_hot[position, self.groups.index(group)] = 1.0
        return one_hot


def federate(
    store: FeatureStore,
    partition: Partition,
    *,
    rms: bool,
    weights: NDArray[np.float32] | None = None,
    rotation: Rotation = "none",
    blocks: tuple[int, ...] = (),
    public: PublicScaling | None = None,
) -> Federation:
    """Fit the scaling and put the clients together.

    Standardiser and rotation come from sums that each seen client computes on its own training pairs and the server
    adds; see ``features/standardise.py`` and ``selector/rotation.py``.

    Args:
        store: Features of all pairs.
        partition: The clients.
        rms: Whether responses are brought to the same norm (``selector.normalise``).
        weights: Importance weights of all pairs; 1 if not given.
        rotation: Whether scaled features are turned (``selector.rotation``).
        blocks: How many dimensions each layer has; empty for a single one.
        public: Scaling and spectrum from elsewhere, so that no sum over users enters them; ``rms``, ``rotation`` and
            ``blocks`` are not read then.

    Raises:
        DataError: If no seen client holds a pair, or a rotation is asked for and no two responses differ.
    """
    if weights is None:
        weights = np.ones(len(store.chosen), dtype=np.float32)
    if public is not None:
        return Federation(store, partition, public.scaling, weights, public.spectrum)
    scaling = Scaling(Standardiser.from_moments(sum_moments(store, partition, weights)), rms, blocks=blocks)
    plain = Federation(store, partition, scaling, weights)
    if rotation == "none":
        return plain
    moment = plain.second_moment(contributors(plain.client_ids))
    return replace(plain, scaling=replace(scaling, rotation=rotation_of(moment, rotation, scaling.beside)))


def sum_moments(store: FeatureStore, partition: Partition, weights: NDArray[np.float32]) -> Moments:
    """The moments of the training pairs of the seen clients, added up, each pair as often as it weighs."""
    return reduce(Moments.__add__, (_moments(store, client, weights) for client in partition.seen))


def _moments(store: FeatureStore, client: ClientRows, weights: NDArray[np.float32]) -> Moments:
    sides, slices = (store.chosen, store.rejected), _slices(client.train)
    parts = (Moments.of(np.asarray(side[rows]), weights[rows]) for side in sides for rows in slices)
    return reduce(Moments.__add__, parts)


def _slices(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """``SLICE_ROWS`` rows at a time; one slice of no rows for a client without pairs."""
    return [rows[start : start + SLICE_ROWS] for start in range(0, max(len(rows), 1), SLICE_ROWS)]
