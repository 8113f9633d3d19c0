"""On what terms a server runs a federation: for how many nodes it waits, how long, and who must answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from fedvpa.core.config import Config
from fedvpa.core.numbers import Between

LONGEST_SECONDS = 30 * 24 * 3600
"""The longest deadline. Chosen by us: a month, so that a slip of units is noticed."""

Deadline = Annotated[
    float,
    AfterValidator(Between(1, LONGEST_SECONDS, "it is the time in seconds that nodes have to train and to answer")),
]
Quorum = Annotated[
    float,
    AfterValidator(Between(0.01, 1, "it is the share of the clients asked that must answer: half of them is 0.5")),
]


class Terms(Config):
    """Checked when an app is exported, and again by its server, whose run configuration anyone can edit.

    Attributes:
        nodes: Nodes that the server waits for.
        deadline: Seconds that it waits, for them and in each round.
        quorum: Share of the clients asked that must answer, and of the nodes that must be able to take part.
    """

    nodes: int = Field(default=2, ge=1, le=100_000)
    deadline: Deadline = 600.0
    quorum: Quorum = 0.5
