"""Scores of a selector on clients: z from their training pairs, accuracy on pairs that z never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.errors import TrainingError
from fedvpa.core.seeds import numpy_generator
from fedvpa.data.partition import ClientRows
from fedvpa.engines.federation import Federation, Split
from fedvpa.evaluation.scores import (
    PERMUTED_CONTEXTS,
    PRIOR_MEAN_Z,
    SWAPPED_Z,
    ClientScore,
    control_name,
    results_by_item,
)
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector

Members = Callable[[Sequence[str], Pairs], Posterior]
"""(client ids, their labelled pairs) → what is inferred of them."""

BATCH_FLOATS = 1 << 24
"""Most numbers (64 MiB) that one padded batch of clients, or its curvature matrices, may hold: bounds memory whatever
the population and however large a single client. Chosen by us."""


def infer_clients(
    selector: Selector,
    federation: Federation,
    clients: Sequence[ClientRows],
    *,
    by_group: bool = False,
    members: Members | None = None,
    shots: int | None = None,
) -> Posterior:
    """The posterior of each client from its training pairs.

    Args:
        selector: The trained selector.
        federation: Who holds what.
        clients: Whose posteriors.
        by_group: Put each client on the prototype of its true group: the oracle.
        members: Infers in place of the selector; see :class:`fedvpa.algorithms.base.InfersMembers`.
        shots: Use only the first so many pairs of each client.
    """
    parts = []
    for rows in _batches(selector, federation, clients, "train"):
        batch = clients[rows]
        names = [client.client_id for client in batch]
        if by_group:
            parts.append(selector.at_prototype(federation.group_one_hot(names).argmax(-1)))
            continue
        context = federation.cohort(names, "train")
        if shots is not None:
            context = context.between(0, shots)
        parts.append(selector.infer(context) if members is None else members(names, context))
    return Posterior(
        torch.cat([part.weights for part in parts]),
        torch.cat([part.means for part in parts]),
        torch.cat([part.log_vars for part in parts]),
    )


def score_clients(
    selector: Selector,
    federation: Federation,
    clients: Sequence[ClientRows],
    posterior: Posterior,
    *,
    method: str,
    seed: int,
    split: Split = "test",
    holdout: Mapping[str, Pairs] | None = None,
    items: Sequence[str] | None = None,
    holdout_items: Mapping[str, Sequence[str]] | None = None,
) -> list[ClientScore]:
    """How many of each client's pairs the selector orders as the client did; a tie counts one half.

    Args:
        selector: The trained selector.
        federation: Who holds what.
        clients: The clients, in the order of ``posterior``.
        posterior: Their posteriors.
        method: The name to score under.
        seed: The run's seed.
        split: Which of their own pairs. Clients without any have no score.
        holdout: Group → further pairs, scaled; every client is scored on those of its own group.
        items: What each row of the table is about (see :func:`fedvpa.evaluation.scores.item_name`), so that intervals
            know the pairs that seeds deal anew. Without it, each client's pairs are taken as its own.
        holdout_items: Group → the same for its further pairs; without it, each of those is about something else.
    """
    scores = []
    for rows in _batches(selector, federation, clients, split):
        own, batch = posterior[rows], clients[rows]
        pairs = federation.cohort([client.client_id for client in batch], split)
        correct = _correct(selector, own, pairs).tolist()
        further = _holdout_correct(selector, own, batch, holdout or {})
        for row, client in enumerate(batch):
            tested = getattr(client, split)
            if not len(tested):
                continue
            right = [_half(value) for value in correct[row][: len(tested)]]
            words, names = (None, None) if items is None else results_by_item(right, [items[pair] for pair in tested])
            held = further.get(row)
            known = (holdout_items or {}).get(str(client.group))
            about = [str(pair) for pair in range(len(held or ()))] if known is None else known
            scores.append(
                ClientScore(
                    method,
                    len(federation.client_ids),
                    seed,
                    client.client_id,
                    client.group,
                    client.seen,
                    correct=sum(right),
                    total=len(tested),
                    holdout_correct=None if held is None else sum(held),
                    holdout_total=None if held is None else len(held),
                    results=words,
                    items=names,
                    holdout_results=None if held is None else results_by_item(held, about)[0],
                )
            )
    return scores


def control_scores(
    selector: Selector,
    federation: Federation,
    clients: Sequence[ClientRows],
    posterior: Posterior,
    *,
    method: str,
    seed: int,
    items: Sequence[str] | None = None,
) -> list[ClientScore]:
    """The controls of the evaluation protocol: another group's z, the prior's mean, another client's context.

    Arguments are as of :func:`score_clients`. Clients without a single group, or without a second group, have no
    ``swapped_z``.
    """
    orders = {PERMUTED_CONTEXTS: _derangement(len(clients), seed)}
    swapped = _other_group(clients)
    if swapped is not None:
        orders[SWAPPED_Z] = swapped
    found = []
    for control, order in orders.items():
        moved = posterior[torch.from_numpy(order)]
        name = control_name(method, control)
        found += score_clients(selector, federation, clients, moved, method=name, seed=seed, items=items)
    mean = selector.prior_mean((len(clients),))
    name = control_name(method, PRIOR_MEAN_Z)
    return found + score_clients(selector, federation, clients, mean, method=name, seed=seed, items=items)


def mark_pairs(selector: Selector, posterior: Posterior, pairs: Pairs) -> list[list[float]]:
    """For each posterior 1, ½ or 0 of each pair, the same pairs for all: right, a tie, wrong.

    Args:
        selector: The trained selector.
        posterior: One for each client, along a leading axis.
        pairs: Scaled features, without a client axis.

    Raises:
        TrainingError: If a reward is no finite number.
    """
    return [[_half(value) for value in row] for row in _correct(selector, posterior, pairs).tolist()]


def _correct(selector: Selector, posterior: Posterior, pairs: Pairs) -> Float[Tensor, "clients n"]:
    """1, ½ or 0 per pair; a head that looks at the answer's position is asked in both orders.

    Raises:
        TrainingError: If a reward is no finite number: such a margin is neither right, wrong nor a tie.
    """
    orders = [pairs]
    if selector.head.linear is None:
        other = Pairs(pairs.chosen, pairs.rejected, pairs.weight, -pairs.slot)
        orders.append(other)
    total = torch.zeros(1)
    for order in orders:
        margin = selector.margins(posterior, order)
        if not torch.where(pairs.weight > 0, margin, 0.0).isfinite().all():
            raise TrainingError(
                "The selector gives rewards that are no finite numbers, so there is no accuracy: its training has "
                "diverged. Lower local.head_lr or local.encoder_lr, and train again."
            )
        total = total + ((margin > 0).float() + 0.5 * (margin == 0).float()) / len(orders)
    return total * (pairs.weight > 0)


def _half(value: float) -> float:
    """1, ½ or 0: a tie in only one order of a positional head counts as what the other order says."""
    return round(2 * value) / 2


def _holdout_correct(
    selector: Selector, posterior: Posterior, clients: Sequence[ClientRows], holdout: Mapping[str, Pairs]
) -> dict[int, list[float]]:
    """Row of the client → 1, ½ or 0 for each pair of its group's hold-out."""
    found: dict[int, list[float]] = {}
    for group, pairs in holdout.items():
        rows = [row for row, client in enumerate(clients) if client.group == group]
        if rows:
            correct = mark_pairs(selector, posterior[torch.tensor(rows)], pairs)
            found |= dict(zip(rows, correct, strict=True))
    return found


def _derangement(count: int, seed: int) -> np.ndarray:
    """A random cyclic order: nobody keeps its own place, unless there is only one."""
    order = numpy_generator(seed, "permuted-contexts").permutation(count)
    moved = np.empty(count, dtype=np.int64)
    moved[order] = np.roll(order, 1)
    return moved


def _other_group(clients: Sequence[ClientRows]) -> np.ndarray | None:
    """For each client the position of one in the next group; None if groups are unknown or there is one only."""
    groups = sorted({client.group for client in clients if client.group is not None})
    if len(groups) < 2 or any(client.group is None for client in clients):
        return None
    members = {name: [row for row, client in enumerate(clients) if client.group == name] for name in groups}
    following = dict(zip(groups, groups[1:] + groups[:1], strict=True))
    rank = dict.fromkeys(groups, 0)
    order = []
    for group in (client.group for client in clients if client.group is not None):
        others = members[following[group]]
        order.append(others[rank[group] % len(others)])
        rank[group] += 1
    return np.array(order)


def _batches(
    selector: Selector, federation: Federation, clients: Sequence[ClientRows], split: Split
) -> Iterator[slice]:
    """Consecutive clients whose features, padded to the longest, and whose Newton steps fit into ``BATCH_FLOATS``."""
    prototypes, latent = selector.prototypes.shape
    systems = prototypes if selector.way.newton else 0
    start = longest = 0
    for row, client in enumerate(clients):
        size = max(len(getattr(client, split)), 1)
        pairs = max(longest, size)
        each = max(2 * federation.dimension * pairs, systems * pairs * latent)
        if row > start and (row + 1 - start) * each > BATCH_FLOATS:
            yield slice(start, row)
            start, longest = row, 0
        longest = max(longest, size)
    if start < len(clients):
        yield slice(start, len(clients))
