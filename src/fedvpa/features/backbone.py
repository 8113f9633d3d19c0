"""The frozen language model: loaded, placed, and asked what it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from fedvpa.core.errors import ConfigError
from fedvpa.core.short_repr import short_repr
from fedvpa.features.config import FeatureConfig
from fedvpa.models.architecture import Kind, attention_window, kind_of, position_limit
from fedvpa.models.device import resolve_device, resolve_dtype
from fedvpa.models.load import LoadedModel, load_body, open_settings
from fedvpa.models.locate import ModelSource, locate


@dataclass(frozen=True, slots=True, repr=False)
class Backbone:
    """A frozen model and what extraction must know about it.

    Attributes:
        name: As the user gave it.
        model: The body without a head, in evaluation mode.
        tokenizer: Its fast tokenizer.
        kind: ``causal`` (decoder-only) or ``encoder`` (bidirectional).
        device: Where the model lies.
        dtype: Precision of the forward pass.
        layers: Which hidden states are pooled; their features lie side by side, in this order.
        positions: How many tokens a sequence may have; None if the architecture has no limit.
        window: The shortest attention window of any layer in tokens; None if every layer sees everything.
        frozen: Entered around every forward pass. A body that is also the base of a policy in training is its plain
            self only inside.
    """

    name: str
    model: Any
    tokenizer: Any
    kind: Kind
    device: torch.device
    dtype: torch.dtype
    layers: tuple[int, ...]
    positions: int | None
    window: int | None
    frozen: Callable[[], AbstractContextManager[object]] = nullcontext

    __repr__ = short_repr

    @property
    def pad_id(self) -> int:
        """The token that fills short rows; masked, so its value only matters to models that count it out."""
        return 0 if self.tokenizer.pad_token_id is None else int(self.tokenizer.pad_token_id)


def count_layers(source: ModelSource) -> int:
    """How many layers a model has; hidden states 0 are the embeddings. Raises ModelError if it cannot be read."""
    return int(open_settings(source).get_text_config().num_hidden_layers)


def load_backbone(config: FeatureConfig, source: ModelSource | None = None) -> Backbone:
    """Load the model and tokenizer that ``config.model`` names.

    Args:
        config: Names model, layer, dtype and device.
        source: The located model, if known already.

    Raises:
        ModelError: If the folder is incomplete, its architecture is unknown or neither decoder-only nor an encoder, or
            weights of the body are missing.
        ConfigError: If there is no such layer or device.
    """
    source = source or locate(config.named_model(), config.loading)
    device = resolve_device(config.device)
    return backbone_of(load_body(source, resolve_dtype(config.dtype, device), device), config)


def backbone_of(
    loaded: LoadedModel, config: FeatureConfig, frozen: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Backbone:
    """A body that is loaded already, as extraction reads it.

    Args:
        loaded: The body, in evaluation mode inside ``frozen``.
        config: Names model and layer.
        frozen: See :class:`Backbone`.

    Raises:
        ConfigError: If there is no such layer.
    """
    text = loaded.settings.get_text_config()
    layers = int(text.num_hidden_layers)
    _check_layers(config.layers, layers)
    return Backbone(
        name=config.model,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        kind=kind_of(loaded.settings),
        device=loaded.model.device,
        dtype=loaded.model.dtype,
        layers=config.layers,
        positions=position_limit(loaded.model, loaded.tokenizer),
        window=attention_window(text),
        frozen=frozen,
    )


def _check_layers(asked: tuple[int, ...], layers: int) -> None:
    """Raise ConfigError for a layer that a model with so many does not have, or one that is named in two ways."""
    named: dict[int, int] = {}
    for layer in asked:
        where = f"configuration key 'features.layer' = {list(asked) if len(asked) > 1 else layer}"
        if not -layers - 1 <= layer <= layers:
            raise ConfigError(
                f"The model has no layer {layer}: it has hidden states 0 (embeddings) to {layers}, which is -1.",
                fix="Name layers that it has.",
                where=where,
            )
        other = named.setdefault(layer % (layers + 1), layer)
        if other != layer:
            raise ConfigError(f"{other} and {layer} are the same layer.", fix="Name each layer once.", where=where)


class LoadedOnce:
    """Gives a language model: loaded at the first call, once in each process that this is sent to.

    Args:
        config: Names model, layer, dtype and device.
        here: Gives it in this process; :func:`load_backbone` unless given.
    """

    def __init__(self, config: FeatureConfig, here: Callable[[], Backbone] | None = None) -> None:
        self._config, self._here = config, here
        self._loaded: Backbone | None = None

    def __call__(self) -> Backbone:
        """The model. Raises as :func:`load_backbone`."""
        if self._loaded is None:
            self._loaded = load_backbone(self._config) if self._here is None else self._here()
        return self._loaded

    def __reduce__(self) -> tuple[type[LoadedOnce], tuple[FeatureConfig]]:
        """A model does not travel; what names it does."""
        return LoadedOnce, (self._config,)
