"""The configuration of a partition."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError
from fedvpa.core.numbers import Concentration, Count, LogDeviation, Scale
from fedvpa.data.schema import Unit
from fedvpa.data.unread import check_unread

Kind = Literal["group", "dirichlet", "topics", "natural"]

DEFAULT_CLIENTS = 10
"""The smallest population of FedVPA-GP's protocol (arXiv 2605.30873: N = 10, 50, 100)."""

_DEALT = {"clients", "unseen", "sizes", "sigma"}
_READ: dict[Kind, set[str]] = {
    "group": {"shares", *_DEALT},
    "dirichlet": {"alpha", *_DEALT},
    "topics": {"alpha", "topics", *_DEALT},
    "natural": {"clients", "unseen", "drop_small"},
}
_ALWAYS_READ = {
    "kind",
    "unit",
    "test_fraction",
    "validation_fraction",
    "pairs_per_client",
    "unseen_pairs",
    "min_train",
    "min_test",
}


class PartitionConfig(Config):
    """How pairs are dealt to clients and split.

    Attributes:
        kind: ``group``: every client holds pairs of one group (FedVPA-GP's strict non-IID protocol). ``dirichlet``:
            every client holds a mixture of groups drawn from Dirichlet(alpha). ``topics``: every client holds a mixture
            of topics of prompts drawn from Dirichlet(alpha), whoever labelled them: prompts differ between clients,
            preferences do not. ``natural``: a client is a user.
        clients: Seen clients. Default: 10 where pairs are dealt, all users (but the unseen ones) for ``natural``.
        unseen: Further clients that never train, as evenly over the groups as can be.
        shares: ``group`` only: group → its share of the seen clients, in any unit; groups left out get no client.
            With shares, sizes are comparable across groups too, and pairs left over in a group are unused. Default:
            equal shares of all groups, and all pairs used.
        alpha: ``dirichlet`` and ``topics`` only: the concentration; small is far from IID. Default: 0.3, as FedBiscuit
            on SHP (arXiv 2407.03038) and FedCMOO (arXiv 2410.16398).
        topics: ``topics`` only: how many clusters the prompts fall into; see :mod:`fedvpa.data.topics`. Default: 8,
            chosen by us: at ``alpha`` 0.3 a client then has two or three main topics.
        sizes: ``equal``: the numbers of pairs differ by one at most within a group, and with ``shares`` across groups;
            ``dirichlet`` and ``topics`` come as near as the totals of the groups (of the topics) allow. ``log-normal``:
            a client's size is proportional to exp(sigma · N(0, 1)).
        sigma: ``log-normal`` only: the standard deviation of the log size. Default: 1.0, chosen by us because the
            largest tenth of the clients then holds about four tenths of the pairs.
        pairs_per_client: Most train pairs of a client; the ones above it are left unused.
        unseen_pairs: Most context pairs of an unseen client; the ones above it are left unused. Default: as for seen
            clients.
        unit: What is held out as a whole, over all clients and before they are split: ``prompt`` (a prompt in one
            user's test is in nobody's training), ``pair`` (the unordered two responses with their prompt: for data
            whose users judge the same few prompts), or ``split`` (what the data's own column says). Default:
            ``split`` where every pair says its split, else ``prompt``.
        test_fraction: Share of the units that tests, by their hash. Default: 0.2, FedVPA-GP's protocol as reported
            here.
        validation_fraction: Share of the units that validates.
        min_train: Fewest train pairs of a client. Default: 2, because a training step splits them again into context
            and target.
        min_test: Fewest test pairs of a client. Default: 0: what tests is held out over all clients, so that a small
            client may have none. It trains, and its accuracy is not measured.
        drop_small: ``natural`` only: leave out users who keep fewer than ``min_train`` train pairs or ``min_test`` test
            pairs once what tests is held out, instead of calling them an error. They are counted.
    """

    kind: Kind = "group"
    unit: Unit | None = None
    clients: Count | None = None
    unseen: int = Field(default=0, ge=0, le=10_000_000)
    shares: dict[str, Scale] = Field(default_factory=dict)
    alpha: Concentration = 0.3
    topics: int = Field(default=8, ge=2, le=10_000)
    sizes: Literal["equal", "log-normal"] = "equal"
    sigma: LogDeviation = 1.0
    pairs_per_client: int | None = Field(default=None, ge=1)
    unseen_pairs: int | None = Field(default=None, ge=0)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    min_train: int = Field(default=2, ge=1)
    min_test: int = Field(default=0, ge=0)
    drop_small: bool = False

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        read = _READ[self.kind] | _ALWAYS_READ
        if self.sizes == "equal":
            read = read - {"sigma"}
        check_unread(self, read, f"a partition of kind {self.kind!r} and {self.sizes} sizes")
        if self.test_fraction + self.validation_fraction >= 1:
            raise ConfigError(
                f"test_fraction {self.test_fraction} and validation_fraction {self.validation_fraction} leave nothing "
                "to train on.",
                fix="Keep their sum below 1.",
            )
        if self.pairs_per_client is not None and self.pairs_per_client < self.min_train:
            raise ConfigError(
                f"pairs_per_client {self.pairs_per_client} is below min_train {self.min_train}.",
                fix="Raise the one or lower the other.",
            )
        return self

    @property
    def dealt_clients(self) -> int:
        """Seen clients of a partition that deals pairs out: as configured, or the default."""
        return DEFAULT_CLIENTS if self.clients is None else self.clients
