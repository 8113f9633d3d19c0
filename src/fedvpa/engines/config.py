"""How a run is executed, apart from what it computes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedvpa.core.config import Config

Codec = Literal["fp32", "fp16", "int8"]


class EngineConfig(Config):
    """Who runs the clients.

    Attributes:
        name: ``vectorised`` (a cohort as one batched program), ``loop`` (one client after the other; the readable
            reference) or ``flower`` (Flower's simulation; ``pip install 'fedvpa[flower]'``).
        cohort: Clients per round, never more than there are. By default half of them, ten at most: the paper's 5 of 10,
            10 of 50 and 10 of 100.
        dropout: Probability that a client of the cohort falls silent in a round: a fault to rehearse, 0 by default.
        workers: Threads of the vectorised engine that each batch a share of the cohort; 0 means one per core, four at
            most.
        codec: How weights travel, in both directions: ``fp32``, ``fp16`` or ``int8``; see ``engines/codecs.py``. Every
            engine rounds as the codec does, so that its cost in accuracy can be measured on one machine.
        checkpoint_every: Rounds between checkpoints; 0 for none but the last.
        secure_aggregation: Whether the server sees the sum over the nodes of a round alone, and of no node its update
            (:mod:`fedvpa.privacy.secure_sum`). With ``flower`` and in a deployment; it needs numbers for
            ``server.clip_norm`` and ``server.max_weight``.
        secure_share: More than this share of a round's nodes must stay to its end, three at least; otherwise nothing of
            it can be read. With two thirds, which Bonawitz et al. (CCS 2017, section 6.2) want, 3 of 10 may drop out.
    """

    name: Literal["vectorised", "loop", "flower"] = "vectorised"
    cohort: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    workers: int = Field(default=0, ge=0, le=1024)
    codec: Codec = "fp32"
    checkpoint_every: int = Field(default=50, ge=0)
    secure_aggregation: bool = False
    secure_share: float = Field(default=2 / 3, ge=0.5, lt=1)

    def cohort_of(self, clients: int) -> int:
        """The size of a cohort of so many clients."""
        return min(clients, self.cohort or min(10, -(-clients // 2)))
