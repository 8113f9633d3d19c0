"""A node of a deployment whose users train a language model: their texts, and the model on the node's own disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from fedvpa.algorithms.client.text_client import AdapterSetting, TextClient
from fedvpa.algorithms.policy_method import PolicyMethod, PolicyTask
from fedvpa.algorithms.registry import POLICY_METHODS
from fedvpa.alignment.federated_job import fresh_policy, prompts_of
from fedvpa.core.errors import ConfigError
from fedvpa.core.short_repr import short_repr
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.data.schema import Pair
from fedvpa.data.unused import note_unused
from fedvpa.engines.flower import client as node_side
from fedvpa.features.identity import rendering_content
from fedvpa.models.loading_config import DEFAULT
from fedvpa.models.locate import ModelSource, locate
from fedvpa.policy.policy import Policy
from fedvpa.policy.templates import with_base, with_template
from fedvpa.runs.config import RunConfig
from fedvpa.runs.policy_task import task_of_config
from fedvpa.runs.prepare import check_reader, read_as


@dataclass(frozen=True, repr=False)
class NodeTexts:
    """The users of a node: a holder of clients (``engines/runner.py``) that reads only what a round asks for.

    Flower starts a process for each message, so the language model is loaded, and the pairs of the users that are asked
    are tokenised, once in each round.

    Attributes:
        entry: The method.
        task: The run.
        pairs: Client id → the pairs on which it may train.
        strict: Whether a pair that is left out is an error (``data.strict``).
    """

    entry: PolicyMethod
    task: PolicyTask
    pairs: Mapping[str, Sequence[Pair]]
    strict: bool

    __repr__ = short_repr

    @property
    def client_ids(self) -> tuple[str, ...]:
        """The users."""
        return tuple(self.pairs)

    @cached_property
    def policy(self) -> Policy:
        """The node's language model, with the initial adapter."""
        return fresh_policy(self.task)

    @property
    def setting(self) -> AdapterSetting:
        """The adapter as it starts on every node."""
        return AdapterSetting.of(self.policy)

    @cached_property
    def _held(self) -> dict[str, TextClient[Any]]:
        return {}

    def held(self, client_id: str) -> TextClient[Any]:
        """What one of them trains on, and the language model."""
        if client_id not in self._held:
            own = self.entry.clients(self.task, self.policy, {client_id: self.pairs[client_id]}, strict=self.strict)
            self._held[client_id] = TextClient(self.policy, own.data[client_id])
        return self._held[client_id]

    def size(self, client_id: str) -> int:
        """How many pairs or prompts that is."""
        return len(self.held(client_id))

    def group_one_hot(self, client_ids: Sequence[str]) -> Tensor:
        """Nobody on a node knows true groups.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("A method that reads true groups cannot be deployed.")


def load_text_node(config: RunConfig, method: str, devices: node_side.Devices) -> node_side.Node:
    """A node that is ready to train a language model. Its model is found, and not loaded yet.

    Args:
        config: The run as the node reads it: its own pairs and model.
        method: Its name in ``POLICY_METHODS``.
        devices: Where private state is kept.

    Raises:
        InputError: If the pairs cannot be used, no user has enough of them, or the language model is not here.
    """
    table = load(config.resolved_data())
    config = config.model_copy(update={"features": read_as(table, config.features)})
    clients = partition(table, config.partition, config.seed)
    table = note_unused(table, clients, config.partition)
    check_reader(reading_model(config, base_model(config)), table)
    pairs = {name: own for name, own in ClientPairs(table, clients).policy_training().items() if own}
    users = {pair.user_id for pair in table.pairs if pair.user_id is not None}
    task, entry = task_of_config(config), POLICY_METHODS.get(method)
    holder = NodeTexts(entry, task, pairs, table.report.strict)
    return node_side.Node(
        entry.algorithm(task),
        holder,
        devices,
        tuple(sorted(users - pairs.keys())),
        table.report,
        reads=text_reading(config),
        pairs={name: len(own) for name, own in pairs.items()},
        check=lambda: entry.check(task, lambda: holder.policy, prompts_of(pairs)),
    )


def base_model(config: RunConfig) -> str:
    """The language model that clients train, as this machine names it."""
    return config.policy.model or config.features.named_model()


def base_source(config: RunConfig) -> ModelSource:
    """:func:`base_model`, found. Raises ModelError if it is not here."""
    base = with_base(config.policy, config.features)
    return locate(base_model(config), base.loading or DEFAULT)


def reading_model(config: RunConfig, model: str) -> RunConfig:
    """The run with the base model as the language model of the features."""
    loading = with_base(config.policy, config.features).loading
    features = config.features.model_copy(update={"model": model, "loading": loading})
    return config.model_copy(update={"features": features})


def text_reading(config: RunConfig) -> str:
    """What decides the tokens of a text and what a language model makes of them, as JSON: the same on every node.

    Raises:
        ModelError: If the language model is not here.
    """
    settings, source = with_template(config.policy, config.features), base_source(config)
    return json.dumps(
        {
            "model": source.content(),
            "rendering": rendering_content(source, settings.template_arguments or {}),
            "template": settings.template,
        },
        sort_keys=True,
    )
