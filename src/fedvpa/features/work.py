"""What is left to compute: distinct responses, so put together that a prompt is computed once where possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fedvpa.core.processes import current
from fedvpa.core.short_repr import short_repr
from fedvpa.features.backbone import Backbone
from fedvpa.features.forward import separate, shared
from fedvpa.features.records import Facts
from fedvpa.features.tokens import Row
from fedvpa.models.batching import batches_for
from fedvpa.models.tokens import Frame


@dataclass(frozen=True, slots=True, repr=False)
class Work:
    """Responses to compute.

    Attributes:
        rows: A prompt with one response or two.
        texts: The numbers of these responses; −1 where there is no second one.
        sharing: Rows that are computed by one sequence under a tree mask; the others hold one response each.
        frame: Special tokens of the model.
    """

    rows: list[Row]
    texts: Int[np.ndarray, "rows 2"]
    sharing: Bool[np.ndarray, " rows"]
    frame: Frame

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Padded tokens that each row occupies."""
        tail = len(self.frame.after)
        packed = np.array([row.packed for row in self.rows], dtype=np.int64)
        return np.where(self.sharing, packed, packed + tail)


def plan(
    rows: Sequence[Row],
    numbers: Int[np.ndarray, "pairs 2"],
    wanted: Bool[np.ndarray, " texts"],
    facts: Facts,
    frame: Frame,
) -> Work:
    """Put the wanted responses of pairs together, each once.

    Two responses to one prompt are computed together where the model allows it: the first pair's two, if both are
    wanted, and after that the next ones that follow the same tokens. What is left of a plan that was interrupted
    between two rows is planned as it was before.

    Args:
        rows: The tokens of each pair.
        numbers: The numbers of its chosen and of its rejected response; equal responses have one number.
        wanted: Whether a response is to be computed.
        facts: Of the model.
        frame: Its special tokens.
    """
    left = wanted.copy()
    planned: list[Row] = []
    texts: list[tuple[int, int]] = []
    sharing: list[bool] = []
    waiting: dict[bytes, int] = {}
    for row, pair in zip(rows, numbers.tolist(), strict=True):
        for text, response in zip(pair, (row.chosen, row.rejected), strict=True):
            if not left[text]:
                continue
            left[text] = False
            shares = facts.shares(len(row.prefix) + len(response))
            place = waiting.pop(row.prefix.tobytes(), None) if shares else None
            if place is None:
                if shares:
                    waiting[row.prefix.tobytes()] = len(planned)
                planned.append(Row(row.prefix, response, response[:0]))
                texts.append((text, -1))
                sharing.append(shares)
            else:
                planned[place] = Row(row.prefix, planned[place].chosen, response)
                texts[place] = texts[place][0], text
    return Work(planned, np.array(texts, dtype=np.int64).reshape(-1, 2), np.array(sharing, dtype=bool), frame)


def compute(
    work: Work, backbone: Backbone, tokens_per_batch: int
) -> Iterator[tuple[Int[np.ndarray, " texts"], Float[np.ndarray, "texts d"]]]:
    """Yield numbers of responses and their features in float32, batch by batch, longest first.

    Processes that are together share the batches out by turns, and all get those of all.

    Args:
        work: From :func:`plan`.
        backbone: The model.
        tokens_per_batch: Upper bound of padded tokens per batch.
    """
    team = current()
    whole = batches_for(team.count, work.lengths(), work.sharing, tokens_per_batch)
    for start in range(0, len(whole), team.count):
        own = [_computed(work, backbone, numbers) for numbers in team.share(whole[start : start + team.count])]
        yield from team.put_together(own)


def _computed(
    work: Work, backbone: Backbone, numbers: Int[np.ndarray, " batch"]
) -> tuple[Int[np.ndarray, " texts"], Float[np.ndarray, "texts d"]]:
    """Numbers of the responses of a batch, and their features."""
    rows = [work.rows[number] for number in numbers]
    together = work.sharing[numbers[0]]
    features = (shared(backbone, rows) if together else separate(backbone, work.frame, rows)).numpy()
    texts = work.texts[numbers]
    return texts[texts >= 0], features[texts >= 0]
