"""What decides the features of a text, and the folder in which they are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fedvpa.features.cache import CacheFolder
from fedvpa.features.config import FeatureConfig
from fedvpa.models.chat_template import template_fingerprint
from fedvpa.models.device import resolve_device, resolve_dtype
from fedvpa.models.load import open_tokenizer
from fedvpa.models.locate import ModelSource

POOLING = "mean over response tokens"


def cache_key(config: FeatureConfig, source: ModelSource) -> dict[str, Any]:
    """Everything that decides the features of a text, in clear.

    Batch size and device only move rounding: they are no part. The language model is named by its content, since each
    machine may have it from elsewhere. What the chat template writes for a probe is a part, since more than the
    tokenizer's files decides it.
    """
    rounded = {} if source.loading.quantization is None else {"quantization": source.loading.quantization}
    return {
        "model": source.content(),
        **rounded,
        "tokenizer": source.tokenizer_hash(),
        "rendering": rendering_content(source, config.template_arguments),
        "layer": list(config.layers) if len(config.layers) > 1 else config.layers[0],
        "pooling": POOLING,
        "template": config.template,
        "max_prompt_tokens": config.max_prompt_tokens,
        "max_response_tokens": config.max_response_tokens,
        "dtype": str(resolve_dtype(config.dtype, resolve_device(config.device))).removeprefix("torch."),
        "storage": config.storage,
    }


def rendering_content(source: ModelSource, arguments: Mapping[str, Any]) -> str:
    """What a model's chat template writes for fixed probes, as a hash: more than the tokenizer's files decides it."""
    return _rendering(source, source.tokenizer_hash(), json.dumps(arguments, sort_keys=True))


@lru_cache(maxsize=8)
def _rendering(source: ModelSource, tokenizer_hash: str, arguments: str) -> str:
    """The fingerprint of a model's chat template; the tokenizer's content is a part of the cache's key."""
    return template_fingerprint(open_tokenizer(source), json.loads(arguments))


def folder_for(config: FeatureConfig, source: ModelSource) -> CacheFolder:
    """Where features that are read in this way are kept."""
    return CacheFolder.of(config.cache_root(), cache_key(config, source))
