"""How a language model is fetched and loaded: one section for features and for policies."""

from __future__ import annotations

import os
import re
from typing import Literal

from pydantic import field_validator

from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
"""What the name of an environment variable looks like. No token of the hub does: those begin with ``hf_``."""


class LoadingConfig(Config):
    """How a language model is fetched from the hub, and how transformers loads it.

    Attributes:
        revision: A branch, tag or commit of a hub model; None for its main branch. A run keeps the commit that it was
            trained with. Folders and GGUF files have none.
        token_env: The name of the environment variable that holds a token of the hub, for private and gated models;
            None for what ``hf auth login`` or ``HF_TOKEN`` say. The token itself is in no configuration, so that it is
            written into no run and no log.
        attn_implementation: transformers' name of an implementation of attention (``eager``, ``sdpa``,
            ``flash_attention_2`` …); None for its own choice. It only moves rounding.
        trust_remote_code: Whether Python code that lies beside the weights may run. Off, as in transformers: it may do
            anything with this machine.
        quantization: ``nf4`` keeps the frozen weights in four bits (QLoRA, Dettmers et al., arXiv 2305.14314: the type
            NF4, with the scales quantised again), which needs bitsandbytes. None for the weights as they are.
    """

    revision: str | None = None
    token_env: str | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    quantization: Literal["nf4"] | None = None

    @field_validator("token_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not VARIABLE.fullmatch(value):
            raise ConfigError(  # without the value: it may be a token
                "is no name of an environment variable, in capital letters.",
                fix="Put the token into a variable and give its name: export HF_TOKEN=…, then token_env=HF_TOKEN.",
            )
        return value

    def token(self) -> str | None:
        """The token of the hub; None for what the hub's own library finds.

        Raises:
            ConfigError: If the environment does not have it.
        """
        if self.token_env is None:
            return None
        found = os.environ.get(self.token_env, "").strip()
        if not found:
            raise ConfigError(
                f"The environment variable {self.token_env} holds no token of the hub.",
                fix="Set it, or leave token_env out.",
                where="configuration key 'loading.token_env'",
            )
        return found


DEFAULT = LoadingConfig()
"""The main branch, transformers' own attention, no code of others, the weights as they are."""
