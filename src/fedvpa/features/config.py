"""What decides the features of a pair, and where they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from fedvpa.core.cache import cache_base
from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError
from fedvpa.models.budget import token_budget
from fedvpa.models.loading_config import DEFAULT, LoadingConfig
from fedvpa.models.template_config import TemplateArguments, TemplateKind

Layers = int | tuple[int, ...] | Literal["auto"]
"""Which hidden states are pooled: one layer, or several, whose features are put side by side, or yet to be chosen."""


SurfaceName = Literal["log_length", "sentences", "questions", "list_items"]
"""What can be counted in the text of a response; see :mod:`fedvpa.features.surface`."""


class FeatureConfig(Config):
    """How responses become feature vectors.

    Neither the paper nor its released notes give lengths or precision, so every default here is chosen by us.

    A model with fewer positions than prompt and response need cuts more: see :class:`~fedvpa.models.tokens.Limits`.

    Attributes:
        model: A local folder, a ``.gguf`` file or a hub id; ``bundled`` is the tiny language model of the bundled
            world, which is the default on that world's data. Empty for none: own data have no default, since no
            language model is right for all of them.
        loading: How it is fetched and loaded; see :class:`~fedvpa.models.loading_config.LoadingConfig`.
        max_prompt_tokens: Longer prompts lose tokens on the left, where the oldest turns are. 512 keeps 99% of the
            prompts of HH-RLHF whole.
        max_response_tokens: Longer responses lose tokens on the right. 256 keeps 97% of the responses of HH-RLHF whole.
        layer: Which hidden states are pooled: -1 is the last layer after its final norm, 0 the embeddings. A list, such
            as ``[0, 12, 30]``, gives the features of several layers side by side, from one forward pass; a selector
            standardises each of them, and brings each to the same norm, on its own. ``auto`` chooses them when a run
            is trained, by pairs that do not test (:mod:`fedvpa.runs.layers`); the run then names what was chosen.
        surface: Numbers counted in the text of a response that stand behind its features, such as ``[log_length]``;
            see :mod:`fedvpa.features.surface`. They are standardised, and take no part in the norm of a layer. Off by
            default, since a policy that is trained by them learns length: the reward of stage 2 leaves them out unless
            ``policy.preferences.surface`` is on.
        template: How strings are read. ``plain``: as text. ``chat``: a prompt as one user message, a response as one
            assistant message. ``rendered``: as text that a chat template wrote already; only there are control tokens
            in a string control tokens. Conversations always go through the tokenizer's chat template; where most
            prompts of a run's data are conversations, training sets ``chat``, so that strings that come later are
            read as they are.
        template_arguments: Further arguments of the chat template, such as ``enable_thinking: false``. ``today``
            (2024-07-26 unless given) is the day that the template believes to have.
        dtype: Precision of the forward pass; ``auto`` is bfloat16 on a GPU and float32 elsewhere. ``calibrated`` tries
            on a CPU, before much is computed, whether bfloat16 is faster and near enough; the run then names what was
            taken, see :mod:`fedvpa.features.precision`.
        device: ``auto`` (a GPU if there is one), or any torch device.
        tokens_per_batch: Upper bound of rows × longest row, so that memory is bounded whatever the lengths; a single
            longer pair makes a batch of its own. None for the device's default:
            :func:`~fedvpa.models.budget.token_budget`.
        storage: Precision on disk. float16 keeps three decimal digits: far more than a preference label carries.
        cache_dir: Where features are kept; None means ``$FEDVPA_CACHE/features``, else ``~/.cache/fedvpa/features``.
    """

    model: str = ""
    loading: LoadingConfig = DEFAULT
    max_prompt_tokens: int = Field(default=512, ge=1)
    max_response_tokens: int = Field(default=256, ge=1)
    layer: Layers = -1
    surface: tuple[SurfaceName, ...] = ()
    template: TemplateKind = "plain"
    template_arguments: TemplateArguments = Field(default_factory=dict)
    dtype: Literal["auto", "calibrated", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    tokens_per_batch: int | None = Field(default=None, ge=1)
    storage: Literal["float16", "float32"] = "float16"
    cache_dir: Path | None = None

    @field_validator("layer", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """A layer, or different layers, or ``auto``; a list of one is that layer."""
        if value == "auto":
            return value
        several = list(value) if isinstance(value, list | tuple) else [value]
        if not several or not all(isinstance(one, int) and not isinstance(one, bool) for one in several):
            raise ConfigError(
                f"{value!r} names no layers.", fix="Give one number, a list such as [0, 12, -1], or auto."
            )
        if twice := sorted(one for one in set(several) if several.count(one) > 1):
            raise ConfigError(f"layer {twice[0]} is named twice.", fix="Name each layer once.")
        return tuple(several) if len(several) > 1 else several[0]

    @field_validator("surface")
    @classmethod
    def _each_once(cls, value: tuple[SurfaceName, ...]) -> tuple[SurfaceName, ...]:
        if twice := [name for name in dict.fromkeys(value) if value.count(name) > 1]:
            raise ConfigError(f"{twice[0]} is named twice.", fix="Name each once.")
        return value

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are pooled, in the order of their columns.

        Raises:
            ConfigError: If they are yet to be chosen.
        """
        if self.layer == "auto":
            raise ConfigError(
                "auto is chosen where a run is trained, and this step needs the layers.",
                fix="Name them: fedvpa train says what it chose. For example, features.layer=[0, -1].",
                where="configuration key 'features.layer'",
            )
        return (self.layer,) if isinstance(self.layer, int) else self.layer

    def widths(self, dimension: int) -> tuple[int, ...]:
        """How many of the ``dimension`` columns of a feature vector each layer has; surface features stand behind."""
        return ((dimension - len(self.surface)) // len(self.layers),) * len(self.layers)

    def named_model(self) -> str:
        """``model``.

        Raises:
            ConfigError: If none is named.
        """
        if not self.model:
            raise ConfigError(
                "No language model is named, and only the bundled world has one of its own.",
                fix="Name the one that reads your data, a folder, a .gguf file or a hub id: features.model=PATH. "
                "(features.model=bundled is the toy model of the bundled world, which knows no other language.)",
                where="configuration key 'features.model'",
            )
        return self.model

    def batch_budget(self, device_type: str) -> int:
        """``tokens_per_batch``, or its default for a type of device (``cpu``, ``cuda``)."""
        return token_budget(self.tokens_per_batch, device_type)

    def cache_root(self) -> Path:
        """The folder that holds one folder for each way of reading texts."""
        if self.cache_dir is not None:
            return self.cache_dir.expanduser()
        return cache_base() / "features"
